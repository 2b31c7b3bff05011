//! Test support: servers with the module, their clients, workloads and generators, for the tests and the benchmarks.
//!
//! | modules | purpose |
//! | --- | --- |
//! | [`server`], [`cluster`] | start, stop and connect real servers |
//! | [`network`] | hosts that can be cut off from each other |
//! | [`client`], [`reply`], [`subscriber`] | the ordinary client of the tests, over the `redis` crate |
//! | [`resp`], [`replication`] | the protocol itself: pipelines, replication streams, a scripted primary |
//! | [`wait`], [`options`] | polling with a deadline; what the environment asks of a test run |
//! | [`fixtures`], [`rollout`], [`workload`], [`rng`] | manifests, records in mid rollout, random commands |
//! | [`processes`], [`sample`], [`terminal`], [`payload`] | coordinators and agents, the sample configuration, `redis-cli`, DUMP payloads |
//! | `scenario`, `manifests`, `arbitrary`, `golden` | the engine without a server (feature `engine`) |

pub mod client;
pub mod cluster;
pub mod fixtures;
pub mod network;
pub mod options;
pub mod payload;
pub mod processes;
pub mod replication;
pub mod reply;
pub mod resp;
pub mod rng;
pub mod rollout;
pub mod sample;
pub mod server;
pub mod subscriber;
pub mod terminal;
pub mod wait;
pub mod workload;

#[cfg(feature = "engine")]
pub mod arbitrary;
#[cfg(feature = "engine")]
pub mod golden;
#[cfg(feature = "engine")]
pub mod manifests;
#[cfg(feature = "engine")]
pub mod scenario;

pub use options::{is_long_run, skip, updates_golden};

/// The engine under the name that [`golden`] and [`arbitrary`] use: `tests/codec_memory.rs` compiles both with an
/// engine of its own.
#[cfg(feature = "engine")]
pub use redis_deploy::engine;

/// Imports of nearly every test that talks to a server.
pub mod prelude {
    pub use crate::client::*;
    pub use crate::fixtures::*;
    pub use crate::options::*;
    pub use crate::reply::*;
    pub use crate::server::*;
    pub use crate::subscriber::*;
    pub use crate::wait::*;
}

/// The root of the repository.
pub(crate) fn repository() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("tests/support is in it")
}

/// Returns all Rust files of a folder and the folders in it.
pub fn rust_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a file").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

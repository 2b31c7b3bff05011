//! Who is who: instances, and the places where they run.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where an agent runs at most once: within a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlaceId {
    pub key: String,
    pub agent: String,
    pub job: String,
}

/// An instance: an agent at one version in one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    pub key: String,
    pub agent: String,
    pub job: String,
    pub version: u64,
    /// When the version was submitted, unix ms: a key that was deleted and deployed anew uses the same numbers again.
    pub submitted_at: u64,
}

impl Id {
    pub fn place(&self) -> PlaceId {
        PlaceId { key: self.key.clone(), agent: self.agent.clone(), job: self.job.clone() }
    }

    /// The id under which a service of it is registered.
    pub fn service_instance(&self, service: &str) -> String {
        shortened(format!("{}/{}/v{}/{service}", self.job, self.agent, self.version), 250)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} v{} in {}", self.key, self.agent, self.version, self.job)
    }
}

impl PlaceId {
    /// A file's name.
    pub fn file_name(&self) -> String {
        file_name(&[&self.key, &self.job, &self.agent])
    }
}

/// The parts joined by `~`; what is no plain character is written as `%xx`, and what is too long ends in a hash.
pub fn file_name(parts: &[&str]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
    let escaped = |part: &&str| -> String {
        let of_byte = |byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02x}") };
        part.bytes().map(of_byte).collect()
    };
    shortened(parts.iter().map(escaped).collect::<Vec<_>>().join("~"), 200)
}

fn shortened(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    // FNV-1a: the same in every build, which the standard library's hash is not.
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let end = (0..=max - 17).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}~{hash:016x}", &text[..end])
}

//! State directory: the files by which a coordinator recovers its agents after it was killed.
//!
//! ```text
//! lock           locked while a coordinator uses the directory
//! id             id of the coordinator
//! agents/*.json  state of an instance: written before its process is started, and again with the process id afterwards
//! slots/*        lock of a slot, held by the process that runs in it (its standard input)
//! logs/*.log     output of the agents
//! ```
//!
//! State files are replaced atomically, by a rename. They are not synced to disk: a power failure that loses them also
//! ends the processes.

use crate::identity::{file_name, Id, SlotId};
use crate::restart::Restarts;
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Time for which it waits for the lock of its directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// An open state directory, locked by this coordinator.
pub struct StateDir {
    /// Absolute path.
    pub path: PathBuf,
    /// Id of the coordinator: the name of its host, and a random part.
    pub coordinator: String,
    /// Boot id of the system.
    boot: String,
    _lock: File,
}

/// Content of a state file.
#[derive(Serialize, Deserialize)]
struct StateFile {
    /// Boot id at the time of writing. Process ids of another boot are meaningless.
    boot: String,
    #[serde(flatten)]
    saved: SavedInstance,
}

/// State of an instance that survives the coordinator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedInstance {
    pub id: Id,
    /// Attempt that runs or was about to be started; 0 if there was none.
    pub attempt: u32,
    /// Process id and start time of the group leader; None if it was not started yet or is known to have ended.
    pub process: Option<(i32, u64)>,
    pub ports: BTreeMap<String, u16>,
    pub restarts: Restarts,
    /// Reason why it is not started again: its restart policy is exhausted.
    pub failed: Option<String>,
    /// Set once the process was told to drain.
    #[serde(default)]
    pub told_to_drain: bool,
}

/// Opens and locks a file; None if another process holds the lock.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Locks a file as [`lock`] does, and waits a moment for it. The lock belongs to the open file, which exec closes: a
/// child of a killed coordinator holds it between fork and exec. That is of use: before its exec such a child cannot be
/// told from other processes, and whoever has the lock finds it by its environment. (A lock of `fcntl` would be free at
/// once.)
fn lock_soon(path: &Path) -> io::Result<Option<File>> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock(path)? {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            outcome => return Ok(outcome),
        }
    }
}

/// Reads the id of the coordinator, which is made when the directory is used for the first time.
fn coordinator_id(path: &Path) -> io::Result<String> {
    let saved = fs::read_to_string(path).unwrap_or_default();
    if !saved.trim().is_empty() {
        return Ok(saved.trim().to_string());
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let host: String =
        host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(64).collect();
    let random: String = fs::read_to_string("/proc/sys/kernel/random/uuid")?.chars().take(8).collect();
    let id = format!("{host}-{random}");
    let new = path.with_extension("new");
    fs::write(&new, &id)?;
    fs::rename(&new, path)?;
    Ok(id)
}

impl StateDir {
    /// Creates the directory where it does not exist, and locks it.
    pub fn open(path: &Path) -> Result<StateDir, String> {
        let shown = path.display();
        for name in ["agents", "slots", "logs"] {
            fs::create_dir_all(path.join(name)).map_err(|error| format!("{shown}: {error}"))?;
        }
        let path = path.canonicalize().map_err(|error| format!("{shown}: {error}"))?;
        if path.to_str().is_none() {
            return Err(format!("{shown}: its path must be UTF-8"));
        }
        match lock_soon(&path.join("lock")) {
            Ok(Some(lock)) => {
                let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
                let coordinator = coordinator_id(&path.join("id")).map_err(|error| format!("{shown}/id: {error}"))?;
                Ok(StateDir { path, coordinator, boot: boot.trim().to_string(), _lock: lock })
            }
            Ok(None) => Err(format!("{shown} is in use by another coordinator")),
            Err(error) => Err(format!("{shown}/lock: {error}")),
        }
    }

    /// Returns the path of an instance's state file.
    fn file_path(&self, id: &Id) -> PathBuf {
        let version = format!("v{}", id.version);
        self.path.join("agents").join(file_name(&[&id.key, &id.job, &id.agent, &version]) + ".json")
    }

    /// Writes an instance's state file.
    pub fn save(&self, saved: &SavedInstance) -> io::Result<()> {
        let path = self.file_path(&saved.id);
        let new = path.with_extension("new");
        let file = StateFile { boot: self.boot.clone(), saved: saved.clone() };
        fs::write(&new, serde_json::to_vec_pretty(&file)?)?;
        fs::rename(&new, &path)
    }

    /// Removes an instance's state file.
    pub fn remove(&self, id: &Id) {
        // The file may belong to an instance of a later record of the same name.
        if self.read(&self.file_path(id)).is_some_and(|saved| saved.id == *id) {
            let _ = fs::remove_file(self.file_path(id));
        }
    }

    /// Reads an instance's state file, if there is one.
    pub fn load(&self, id: &Id) -> Option<SavedInstance> {
        self.read(&self.file_path(id)).filter(|saved| saved.id == *id)
    }

    /// Reads a state file. The process of an earlier boot is left out.
    fn read(&self, path: &Path) -> Option<SavedInstance> {
        let StateFile { boot, mut saved } = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        if boot != self.boot {
            saved.process = None; // it ended with the system, and did not fail
        }
        Some(saved)
    }

    /// Reads all state files.
    pub fn load_all(&self) -> Vec<SavedInstance> {
        let entries = fs::read_dir(self.path.join("agents")).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "json"));
        paths.filter_map(|path| self.read(&path)).collect()
    }

    /// Takes the lock of a slot, to be passed to the process that is started there. None while another process holds
    /// it.
    pub fn lock_slot(&self, slot: &SlotId) -> io::Result<Option<File>> {
        lock(&self.path.join("slots").join(slot.file_name()))
    }

    /// Opens the log to which the agent of a slot writes.
    pub fn open_log(&self, slot: &SlotId) -> io::Result<File> {
        let name = slot.file_name() + ".log";
        OpenOptions::new().create(true).append(true).open(self.path.join("logs").join(name))
    }
}

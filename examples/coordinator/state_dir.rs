//! The state directory: what a coordinator has to know of its agents after it was killed.
//!
//! ```text
//! lock           locked while a coordinator uses the directory
//! agents/*.json  a note for each instance: written before its process is started, and again with its process id after
//! places/*       a lock for each place, held by the process that runs there (its standard input)
//! logs/*.log     what the agents write
//! ```
//!
//! Notes are replaced whole, by a rename. They are not flushed to the disk: what a power cut loses, it loses together
//! with the processes.

use crate::identity::{file_name, Id, PlaceId};
use crate::restart::Restarts;
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

pub struct Store {
    pub folder: PathBuf,
    /// Which start of the system this is.
    boot: String,
    _lock: File,
}

/// A note as it is written.
#[derive(Serialize, Deserialize)]
struct Sheet {
    /// The start of the system at which it was written: process ids of another one mean nothing.
    boot: String,
    #[serde(flatten)]
    note: Note,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Note {
    pub id: Id,
    /// The attempt that runs, or was about to; 0 where there was none.
    pub attempt: u32,
    /// The leader of its process group, and when that started; None where none was started yet, or its end is known.
    pub process: Option<(i32, u64)>,
    pub ports: BTreeMap<String, u16>,
    pub restarts: Restarts,
    /// Why it is not to be started again: its restart policy is exhausted.
    pub failed: Option<String>,
}

/// None where somebody else has the lock.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Store {
    pub fn open(folder: &Path) -> Result<Store, String> {
        let shown = folder.display();
        for name in ["agents", "places", "logs"] {
            fs::create_dir_all(folder.join(name)).map_err(|error| format!("{shown}: {error}"))?;
        }
        let folder = folder.canonicalize().map_err(|error| format!("{shown}: {error}"))?;
        if folder.to_str().is_none() {
            return Err(format!("{shown}: its path must be UTF-8"));
        }
        match lock(&folder.join("lock")) {
            Ok(Some(lock)) => {
                let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
                Ok(Store { folder, boot: boot.trim().to_string(), _lock: lock })
            }
            Ok(None) => Err(format!("{shown} is in use by another coordinator")),
            Err(error) => Err(format!("{shown}/lock: {error}")),
        }
    }

    fn note_path(&self, id: &Id) -> PathBuf {
        let version = format!("v{}", id.version);
        self.folder.join("agents").join(file_name(&[&id.key, &id.job, &id.agent, &version]) + ".json")
    }

    pub fn write(&self, note: &Note) -> io::Result<()> {
        let path = self.note_path(&note.id);
        let new = path.with_extension("new");
        let sheet = Sheet { boot: self.boot.clone(), note: note.clone() };
        fs::write(&new, serde_json::to_vec_pretty(&sheet)?)?;
        fs::rename(&new, &path)
    }

    pub fn forget(&self, id: &Id) {
        // A note of another record under the same name is not ours to take away.
        if self.read(&self.note_path(id)).is_some_and(|note| note.id == *id) {
            let _ = fs::remove_file(self.note_path(id));
        }
    }

    pub fn note_of(&self, id: &Id) -> Option<Note> {
        self.read(&self.note_path(id)).filter(|note| note.id == *id)
    }

    fn read(&self, path: &Path) -> Option<Note> {
        let Sheet { boot, mut note } = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        if boot != self.boot {
            note.process = None; // it ended with the system, which is no fault of its own
        }
        Some(note)
    }

    pub fn notes(&self) -> Vec<Note> {
        let entries = fs::read_dir(self.folder.join("agents")).into_iter().flatten().flatten();
        let notes = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "json"));
        notes.filter_map(|path| self.read(&path)).collect()
    }

    /// The lock of a place, to be handed to the process that is to run there. None while a process has it.
    pub fn take_place(&self, place: &PlaceId) -> io::Result<Option<File>> {
        lock(&self.folder.join("places").join(place.file_name()))
    }

    /// Where the agent of a place writes.
    pub fn log_of(&self, place: &PlaceId) -> io::Result<File> {
        let name = place.file_name() + ".log";
        OpenOptions::new().create(true).append(true).open(self.folder.join("logs").join(name))
    }
}

//! Identifiers of instances and of the slots in which they run.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Slot: an agent in a job. At most one process runs in a slot at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId {
    pub key: String,
    pub agent: String,
    pub job: String,
}

/// An instance: an agent at one version in one job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    pub key: String,
    pub agent: String,
    pub job: String,
    pub version: u64,
    /// Submission time of the version, Unix ms. A key that is deleted and deployed again reuses the version numbers.
    pub submitted_at: u64,
}

impl Id {
    /// Returns the slot in which the instance runs.
    pub fn slot(&self) -> SlotId {
        SlotId { key: self.key.clone(), agent: self.agent.clone(), job: self.job.clone() }
    }

    /// Returns the id under which `service` of this instance is registered.
    pub fn service_instance(&self, service: &str) -> String {
        truncate_with_hash(format!("{}/{}/v{}/{service}", self.job, self.agent, self.version), 250)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} v{} in {}", self.key, self.agent, self.version, self.job)
    }
}

impl SlotId {
    /// Returns a file name that is unique to the slot.
    pub fn file_name(&self) -> String {
        file_name(&[&self.key, &self.job, &self.agent])
    }
}

/// Joins the parts with `~` into a file name. Other than plain characters are escaped as `%xx`; a name that would be
/// too long is truncated and ends in a hash.
pub fn file_name(parts: &[&str]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
    let escaped = |part: &&str| -> String {
        let of_byte = |byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02x}") };
        part.bytes().map(of_byte).collect()
    };
    truncate_with_hash(parts.iter().map(escaped).collect::<Vec<_>>().join("~"), 200)
}

/// Truncates a text to `max` bytes, its end replaced by a hash of the whole.
fn truncate_with_hash(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    // FNV-1a is stable across builds; the hash of the standard library is not.
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let end = (0..=max - 17).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}~{hash:016x}", &text[..end])
}

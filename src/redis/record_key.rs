//! A key of this module: opening it, decoding its record on demand, modifying and replacing it.

use super::ffi::{self, Ctx, KeyValue, RStr, ValueType};
use super::stored::{IndexEntry, Stored};
use super::{idle_queue, index};
use crate::engine::rejection::ReadOnlyReason;
use crate::engine::{Record, Rejection};

/// The data type `deploymnt`, set by [`callbacks`](super::callbacks) when it is registered.
pub static RECORD_TYPE: ValueType<KeyCell> = ValueType::new();

/// The heap cell that the server stores as the key's value.
pub struct KeyCell {
    pub stored: Stored,
    /// The record was accessed since the idle queue last visited it.
    accessed: bool,
    /// The key is in the idle queue.
    queued: bool,
}

impl KeyCell {
    pub fn new(stored: Stored) -> KeyCell {
        KeyCell { stored, accessed: true, queued: false }
    }
}

/// Returns the name of a key as the engine knows it: UTF-8, and not empty. A key that is neither is no deployment's
/// (rule 8 "Codes").
pub fn key_name(key: &RStr) -> Option<&str> {
    std::str::from_utf8(key.as_slice()).ok().filter(|name| !name.is_empty())
}

/// Returns the rejection for a key that does not exist.
pub fn no_such_key(key: &RStr) -> Rejection {
    Rejection::NoSuchKey(key.to_string_lossy())
}

/// An open key, closed when dropped.
pub struct Key(ffi::Key<KeyCell>);

impl Key {
    pub fn read(ctx: Ctx, name: &RStr) -> Key {
        Key(ffi::Key::read(ctx, name, &RECORD_TYPE))
    }

    /// Opens for reading without side effects: no LRU touch, no hit or miss, no expiry.
    pub fn peek(ctx: Ctx, name: &RStr) -> Key {
        Key(ffi::Key::peek(ctx, name, &RECORD_TYPE))
    }

    pub fn write(ctx: Ctx, name: &RStr) -> Key {
        Key(ffi::Key::write(ctx, name, &RECORD_TYPE))
    }

    /// Returns the address of the key's value; None where it has none of ours.
    pub fn address(&self) -> Option<usize> {
        self.0.address()
    }

    /// Returns the key's database.
    pub fn db(&self) -> i32 {
        self.0.db()
    }

    /// Returns the value as it is stored; a record may be encoded: see [`Key::record`].
    pub fn stored(&self) -> KeyValue<&Stored> {
        match self.0.value() {
            KeyValue::Empty => KeyValue::Empty,
            KeyValue::Foreign => KeyValue::Foreign,
            KeyValue::Ours(cell) => KeyValue::Ours(&cell.stored),
        }
    }

    /// Returns the record, decoded; None where there is no key. The one place that decodes.
    ///
    /// # Errors
    /// `WRONGTYPE` for a value of another type, `BADSTATE` for a read-only record.
    pub fn record(&mut self) -> Result<Option<&Record>, Rejection> {
        self.decoded().map(|record| record.map(|record| &*record))
    }

    /// Returns the record, decoded, to be modified in place; None where there is no key. Nothing is signalled: see
    /// [`Ctx::signal_modified`].
    pub fn record_mut(&mut self) -> Result<Option<&mut Record>, Rejection> {
        self.decoded()
    }

    fn decoded(&mut self) -> Result<Option<&mut Record>, Rejection> {
        match self.0.value() {
            KeyValue::Empty => return Ok(None),
            KeyValue::Foreign => return Err(Rejection::WrongType),
            KeyValue::Ours(KeyCell { stored: Stored::Encoded(_), .. }) => self.decode(),
            KeyValue::Ours(_) => {}
        }
        let Some(cell) = self.0.value_mut() else { return Ok(None) };
        cell.accessed = true;
        match &mut cell.stored {
            Stored::Record(record) => Ok(Some(record)),
            Stored::Opaque { reason, .. } => Err(Rejection::ReadOnlyRecord(*reason)),
            Stored::Encoded(_) => Err(Rejection::ReadOnlyRecord(ReadOnlyReason::Damaged)),
        }
    }

    /// Decodes the record. The index had its summary: what the record says otherwise, the index says from here on, so
    /// that a deadline is met, and an unreadable record leaves the timers.
    fn decode(&mut self) {
        let name = self.0.name();
        let Some(cell) = self.0.value_mut() else { return };
        let known = IndexEntry::of(&cell.stored);
        cell.stored.decode(&name);
        let found = IndexEntry::of(&cell.stored);
        if found != known {
            index::set(self.0.db(), &name, found);
        }
        self.enqueue_if_finished();
    }

    /// Queues a finished record for encoding, unless it is queued or encoded already.
    pub fn enqueue_if_finished(&mut self) {
        let may_be_queued = |cell: &mut KeyCell| {
            let is_decoded = matches!(cell.stored, Stored::Record(_));
            is_decoded && !cell.queued && IndexEntry::of(&cell.stored).is_finished()
        };
        if self.0.value_mut().is_some_and(may_be_queued) {
            let queued = idle_queue::enqueue(self.0.db(), &self.0.name());
            if let Some(cell) = self.0.value_mut() {
                cell.queued = queued;
            }
        }
    }

    /// Queues a record that has another name than when it was queued.
    pub fn requeue_if_finished(&mut self) {
        if let Some(cell) = self.0.value_mut() {
            cell.queued = false;
        }
        self.enqueue_if_finished();
    }

    /// Encodes a finished record that was not accessed since the last call. Returns true where it stays queued.
    pub fn encode_if_idle(&mut self) -> bool {
        let Some(cell) = self.0.value_mut() else { return false };
        let is_finished = IndexEntry::of(&cell.stored).is_finished();
        cell.queued = is_finished && std::mem::take(&mut cell.accessed);
        if is_finished && !cell.queued {
            cell.stored.encode();
        }
        cell.queued
    }

    /// Stores a value in the place of ours, and keeps the key's TTL. A key without one of ours gets one. False where
    /// the server refuses it.
    #[must_use]
    pub fn put(&mut self, stored: Stored) -> bool {
        match self.0.value_mut() {
            Some(cell) => {
                *cell = KeyCell::new(stored);
                true
            }
            None => self.replace(stored),
        }
    }

    /// Deletes what is at the key, with its TTL, and stores a value. False where the server refuses it.
    #[must_use]
    pub fn replace(&mut self, stored: Stored) -> bool {
        self.0.replace(KeyCell::new(stored))
    }
}

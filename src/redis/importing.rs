//! Slots that another node is moving to this one, and the deployments that have arrived in them.
//!
//! Until the move is completed the other node serves them: they are in no list and no count here, and no timer visits
//! them. So they stay out of the index until then.

use super::ffi::SlotRanges;
use super::slot::slot_of;
use super::stored::DbKey;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Importing {
    slots: BTreeSet<u16>,
    arrived: BTreeSet<(u16, DbKey)>,
}

static IMPORTING: Mutex<Importing> = Mutex::new(Importing { slots: BTreeSet::new(), arrived: BTreeSet::new() });

/// True while slots are imported: at nearly every change none is, and nothing else is looked up.
static IS_IMPORTING: AtomicBool = AtomicBool::new(false);

fn importing() -> MutexGuard<'static, Importing> {
    IMPORTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins the import of slots.
pub fn begin(ranges: &SlotRanges) {
    importing().slots.extend(ranges.iter().cloned().flatten());
    IS_IMPORTING.store(true, Ordering::Relaxed);
}

/// Returns true for a key that belongs to another node yet, and notes that it has arrived. The index asks it.
pub fn defer(db: i32, key: &str) -> bool {
    if !IS_IMPORTING.load(Ordering::Relaxed) {
        return false;
    }
    let slot = slot_of(key.as_bytes());
    let mut importing = importing();
    let is_imported = importing.slots.contains(&slot);
    if is_imported {
        importing.arrived.insert((slot, DbKey { db, key: key.into() }));
    }
    is_imported
}

/// Ends the import of slots, and returns the keys that have arrived in them. They may be gone again.
pub fn end(ranges: &SlotRanges) -> Vec<DbKey> {
    let mut importing = importing();
    let is_over = |slot: &u16| ranges.iter().any(|range| range.contains(slot));
    importing.slots.retain(|slot| !is_over(slot));
    IS_IMPORTING.store(!importing.slots.is_empty(), Ordering::Relaxed);
    let arrived = std::mem::take(&mut importing.arrived);
    let (over, rest) = arrived.into_iter().partition(|(slot, _)| is_over(slot));
    importing.arrived = rest;
    let over: BTreeSet<(u16, DbKey)> = over;
    over.into_iter().map(|(_, key)| key).collect()
}

/// Ends all imports: the data set is replaced by a primary's, or this node has another role and will not hear how they
/// end. Returns the keys that have arrived.
pub fn end_all() -> Vec<DbKey> {
    end(&vec![0..=u16::MAX])
}

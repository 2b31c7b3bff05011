//! Slots of a cluster: what the server tells about those that it moves by itself (since Redis 8.4 and Valkey 9.0).

use super::server::{is_valkey, version};
use redis_module::raw;
use std::ffi::{c_char, c_int, c_void};
use std::ops::RangeInclusive;

/// Ranges of slots.
pub type SlotRanges = Vec<RangeInclusive<u16>>;

/// A step of a move of slots, as this node or its primary sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotMove {
    /// Keys arrive from here on. They are another node's until the import is completed.
    ImportStarted,
    ImportFailed,
    ImportCompleted,
    /// Another node serves the slots. Their keys are deleted later.
    ExportCompleted,
    /// The keys of the slots are deleted, all at once and without a callback for each.
    Trimmed,
}

/// Valkey's event about slots. On Redis the same number is that of the trim event.
const VALKEY_SLOT_MIGRATION: u64 = 19;

/// The slots in the data of Valkey's event, which the bindings do not have.
#[repr(C)]
struct ValkeySlotMigrationInfo {
    version: u64,
    job_name: [c_char; 41],
    ranges: *const ValkeySlotRange,
    range_count: u32,
}

#[repr(C)]
struct ValkeySlotRange {
    first: c_int,
    last: c_int,
}

/// Returns the ids of the events that tell of slots, none where the server moves no slots by itself. The brands use
/// the same numbers for different events.
pub fn slot_events() -> &'static [u64] {
    match is_valkey() {
        true if version() >= 0x09_00_00 => &[VALKEY_SLOT_MIGRATION],
        false if version() >= 0x08_04_00 => {
            &[raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION, raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION_TRIM]
        }
        _ => &[],
    }
}

/// Returns what an event of [`slot_events`] says; None for any other event, and for steps that change nothing here.
///
/// # Safety
/// The arguments are those of a server event, and `data` is valid for this call.
pub unsafe fn slot_move(event: u64, sub: u64, data: *const c_void) -> Option<(SlotMove, SlotRanges)> {
    if !slot_events().contains(&event) {
        return None;
    }
    if is_valkey() {
        let step = match sub {
            0 => SlotMove::ImportStarted,
            2 => SlotMove::ImportFailed,
            4 => SlotMove::ImportCompleted,
            5 => SlotMove::ExportCompleted,
            _ => return None,
        };
        // SAFETY: this event carries this structure, and as many ranges as it says.
        let ranges = unsafe {
            let info = data.cast::<ValkeySlotMigrationInfo>().as_ref()?;
            slice(info.ranges, info.range_count as usize)
        };
        let slot = |number: c_int| u16::try_from(number).unwrap_or(u16::MAX);
        return Some((step, ranges.iter().map(|range| slot(range.first)..=slot(range.last)).collect()));
    }
    let (step, slots) = if event == raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION {
        let step = match sub {
            raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_IMPORT_STARTED => SlotMove::ImportStarted,
            raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_IMPORT_FAILED => SlotMove::ImportFailed,
            raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_IMPORT_COMPLETED => SlotMove::ImportCompleted,
            raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_MIGRATE_COMPLETED => SlotMove::ExportCompleted,
            _ => return None,
        };
        // SAFETY: this event carries this structure.
        (step, unsafe { data.cast::<raw::RedisModuleClusterSlotMigrationInfo>().as_ref() }?.slots)
    } else if sub == raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_TRIM_BACKGROUND {
        // SAFETY: this event carries this structure.
        (SlotMove::Trimmed, unsafe { data.cast::<raw::RedisModuleClusterSlotMigrationTrimInfo>().as_ref() }?.slots)
    } else {
        // Trimmed key by key: each is unlinked as by DEL.
        return None;
    };
    // SAFETY: an array with as many ranges as it says.
    let ranges = unsafe {
        let slots = slots.as_ref()?;
        slice(slots.ranges.as_ptr(), usize::try_from(slots.num_ranges).unwrap_or(0))
    };
    Some((step, ranges.iter().map(|range| range.start..=range.end).collect()))
}

/// # Safety
/// `start` points to `count` values that outlive the borrow, or is null.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    match start.is_null() {
        true => &[],
        // SAFETY: the caller's promise.
        false => unsafe { std::slice::from_raw_parts(start, count) },
    }
}

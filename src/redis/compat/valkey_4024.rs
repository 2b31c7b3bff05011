//! A workaround for valkey#4024, a fault of Valkey 8.1 to 9.1.1: a module that subscribes to keyspace notifications
//! leaves the calling client on the database of the notification, which for MOVE and COPY … DB is not its own. The
//! client, or a script or transaction, would go on there, and a replica would apply what follows to the wrong database.
//!
//! So the module does not subscribe there, and learns of new keys in other ways:
//!
//! - RESTORE loads the value, and COPY copies it: both callbacks name the key.
//! - RENAME and MOVE remove a value from a key and do not free it. When the command has ended, the value is looked for
//!   where a command filter has seen that such a command would take it, and else among all keys.

use crate::redis::ffi::{has_db_switch_bug, run_in_next_turn, Ctx, RString, Unavailable};
use crate::redis::keyspace;
use crate::redis::record_key::{Key, RECORD_TYPE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of targets of commands that are remembered. Beyond it, a value is looked for among all keys.
const MAX_TARGETS: usize = 1_000;

/// The server has the fault.
static IS_FAULTY: AtomicBool = AtomicBool::new(false);

/// The values that commands have taken from their keys, and where they may be.
struct Moved {
    /// The database that each value was removed from, by the address of the value.
    values: BTreeMap<usize, i32>,
    /// The keys that commands would take a value to; None: in the database that it comes from.
    targets: BTreeSet<(Vec<u8>, Option<i32>)>,
    /// The keys that were restored or copied to.
    created: BTreeSet<(i32, Vec<u8>)>,
    is_scheduled: bool,
}

static MOVED: Mutex<Moved> = Mutex::new(Moved {
    values: BTreeMap::new(),
    targets: BTreeSet::new(),
    created: BTreeSet::new(),
    is_scheduled: false,
});

fn moved() -> MutexGuard<'static, Moved> {
    MOVED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_faulty() -> bool {
    IS_FAULTY.load(Ordering::Relaxed)
}

/// Subscribes to keyspace notifications by `subscribe`, except on a faulty server. Returns true where the server is
/// faulty, and needs the command filter.
pub fn subscribe(ctx: Ctx, subscribe: fn(Ctx) -> Result<(), Unavailable>) -> Result<bool, Unavailable> {
    IS_FAULTY.store(has_db_switch_bug(), Ordering::Relaxed);
    match is_faulty() {
        true => Ok(true),
        false => subscribe(ctx).map(|()| false),
    }
}

/// Notes the target of a command that may take a value from one key to another.
pub fn on_command(arguments: &[&[u8]]) {
    let target = match arguments {
        [name, _, target] if name.eq_ignore_ascii_case(b"rename") || name.eq_ignore_ascii_case(b"renamenx") => {
            (target.to_vec(), None)
        }
        [name, key, db] if name.eq_ignore_ascii_case(b"move") => {
            let Some(db) = std::str::from_utf8(db).ok().and_then(|db| db.parse().ok()) else { return };
            (key.to_vec(), Some(db))
        }
        _ => return,
    };
    let mut moved = moved();
    if moved.targets.len() < MAX_TARGETS {
        moved.targets.insert(target);
    }
}

/// Notes that a value was removed from its key. It is at another one, unless it is freed before the command has ended.
pub fn on_unlinked(db: i32, value: usize) {
    if is_faulty() {
        moved().values.insert(value, db);
        schedule();
    }
}

/// Notes that a value was freed. It may be called on another thread.
pub fn on_freed(value: usize) {
    if is_faulty() {
        moved().values.remove(&value);
    }
}

/// Notes a key that is about to get a value: by RESTORE, which deletes the old value after it has loaded the new one, or
/// by COPY.
pub fn on_created(db: i32, key: &[u8]) {
    if is_faulty() {
        moved().created.insert((db, key.to_vec()));
        schedule();
    }
}

fn schedule() {
    let is_scheduled = std::mem::replace(&mut moved().is_scheduled, true);
    if !is_scheduled && !run_in_next_turn(find_moved) {
        moved().is_scheduled = false;
    }
}

/// Brings restored, copied and moved values into the index.
fn find_moved(ctx: Ctx) {
    let (mut values, targets, created) = {
        let mut moved = moved();
        moved.is_scheduled = false;
        let values = std::mem::take(&mut moved.values);
        // What a queued command will do yet is looked for among all keys, should something else be moved before.
        let targets = if values.is_empty() { BTreeSet::new() } else { std::mem::take(&mut moved.targets) };
        (values, targets, std::mem::take(&mut moved.created))
    };
    for (db, key) in created {
        visit(ctx, db, &key);
    }
    let sources: BTreeSet<i32> = values.values().copied().collect();
    for (key, db) in &targets {
        for db in db.map_or_else(|| sources.clone(), |db| BTreeSet::from([db])) {
            if let Some(value) = visit(ctx, db, key) {
                values.remove(&value);
            }
        }
    }
    if values.is_empty() {
        return;
    }
    for db in (0..).take_while(|db| ctx.select_db(*db)) {
        for key in ctx.scan(&RECORD_TYPE) {
            visit(ctx, db, &key);
        }
    }
}

/// Brings a key into the index, and returns the address of its value.
fn visit(ctx: Ctx, db: i32, key: &[u8]) -> Option<usize> {
    if !ctx.select_db(db) {
        return None;
    }
    let name = RString::new(key);
    keyspace::on_new_key(ctx, &name);
    Key::peek(ctx, &name).address()
}

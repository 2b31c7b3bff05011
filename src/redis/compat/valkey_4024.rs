//! A workaround for valkey#4024, a fault of Valkey 8.1 to 9.1.1: a module that subscribes to keyspace notifications
//! leaves the calling client on the database of the notification, which for MOVE and COPY … DB is not its own. The
//! client would go on there, and a replica would apply what follows to the wrong database.
//!
//! So the database that the client came from is determined, and selected again. Where the server restores it by itself,
//! or has a client of its own for the notification, selecting it changes nothing.
//!
//! - MOVE notifies `move_from`, on the client's own database, before `move_to`.
//! - COPY notifies the target alone. A command filter saves the client's database before the command runs. It cannot
//!   see a script's own client, nor a SELECT that was queued before: a script that uses COPY … DB should SELECT again.
//! - While an AOF is replayed, the server runs no filter. There the module does not subscribe: it does so at the first
//!   run of the timer, which comes after, and then rescans for keys that a RENAME, MOVE or COPY in the AOF made.

use crate::redis::ffi::{has_db_switch_bug, Ctx, LogLevel, RString, Unavailable};
use crate::redis::keyspace;
use crate::redis::record_key::RECORD_TYPE;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The number of clients whose database is saved: more than there will be open transactions with a COPY … DB.
const MAX_CLIENTS: usize = 1_000;

/// The databases that clients came from.
struct SavedDbs {
    moved_from: Option<i32>,
    copied_from: BTreeMap<u64, i32>,
}

static SAVED_DBS: Mutex<SavedDbs> = Mutex::new(SavedDbs { moved_from: None, copied_from: BTreeMap::new() });

/// The keyspace subscription was deferred until after AOF loading.
static SUBSCRIPTION_DEFERRED: AtomicBool = AtomicBool::new(false);
/// While it was deferred, a record was removed or copied, and may exist under another name.
static RESCAN_NEEDED: AtomicBool = AtomicBool::new(false);

fn saved_dbs() -> MutexGuard<'static, SavedDbs> {
    SAVED_DBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The function that subscribes to keyspace notifications, once it was deferred.
static SUBSCRIBE: OnceLock<fn(Ctx) -> Result<(), Unavailable>> = OnceLock::new();

/// Subscribes to keyspace notifications by `subscribe`: now, or on a faulty server once it has loaded its data. Returns
/// true where the server is faulty, and needs the command filter.
pub fn subscribe(ctx: Ctx, subscribe: fn(Ctx) -> Result<(), Unavailable>) -> Result<bool, Unavailable> {
    if has_db_switch_bug() {
        // It is set already where the module was loaded before: by the same function.
        SUBSCRIBE.get_or_init(|| subscribe);
        SUBSCRIPTION_DEFERRED.store(true, Ordering::Relaxed);
        return Ok(true);
    }
    subscribe(ctx).map(|()| false)
}

/// Marks that a record was removed or copied. Called for each of them, on every server, so it only sets a flag.
pub fn mark_rescan() {
    RESCAN_NEEDED.store(true, Ordering::Relaxed);
}

/// Makes up for a deferred subscription, at the first run of the timer: it comes after what the server loads at start.
pub fn subscribe_deferred(ctx: Ctx) {
    if !SUBSCRIPTION_DEFERRED.swap(false, Ordering::Relaxed) {
        return;
    }
    if SUBSCRIBE.get().is_none_or(|subscribe| subscribe(ctx).is_err()) {
        let text = "no keyspace notifications: a renamed or moved deployment waits for a restart";
        ctx.log(LogLevel::Warning, text);
    }
    if !RESCAN_NEEDED.load(Ordering::Relaxed) {
        return;
    }
    let selected_db = ctx.selected_db();
    for _db in (0..).take_while(|db| ctx.select_db(*db)) {
        ctx.scan(&RECORD_TYPE).iter().for_each(|name| keyspace::refresh(ctx, &RString::new(name)));
    }
    ctx.select_db(selected_db);
}

/// Returns true for a command whose notification does not tell the database that it came from.
pub fn is_copy(command: &[u8]) -> bool {
    command.eq_ignore_ascii_case(b"copy")
}

/// Saves the database of a client that is about to call COPY, or to queue it. Only `COPY a b DB n` leaves the database.
pub fn save_db(client: u64, db: i32, arguments: i32) {
    let mut saved = saved_dbs();
    if arguments < 5 {
        saved.copied_from.remove(&client);
        return;
    }
    if saved.copied_from.len() >= MAX_CLIENTS {
        saved.copied_from.clear();
    }
    saved.copied_from.insert(client, db);
}

/// Selects the client's own database again, after a notification was handled.
pub fn restore_db(ctx: Ctx, event: &[u8]) {
    let saved = match event {
        b"move_from" => {
            saved_dbs().moved_from = Some(ctx.selected_db());
            return;
        }
        b"move_to" => saved_dbs().moved_from.take(),
        // A transaction may have several, and all of them were saved when they were queued.
        b"copy_to" if ctx.flags().is_in_script_or_multi() => saved_dbs().copied_from.get(&ctx.client_id()).copied(),
        b"copy_to" => saved_dbs().copied_from.remove(&ctx.client_id()),
        _ => return,
    };
    if let Some(db) = saved.filter(|db| *db != ctx.selected_db()) {
        ctx.select_db(db);
    }
}

//! A way around a fault of Valkey 8.1 up to 9.1.1 (valkey#4024): a module that subscribes to keyspace notifications has
//! the calling client left on the database of the notification, which for MOVE and COPY … DB is not its own. A client
//! would go on there without knowing, and a replica would apply what follows to the wrong database.
//!
//! So the database that the client came from is found out, and selected again. Where the server does that by itself, or
//! has the notification on a client of its own, it changes nothing.
//!
//! - MOVE notifies `move_from`, on the client's own database, before `move_to`.
//! - COPY notifies the target alone. There a command filter notes where the client is before the command runs. What it
//!   cannot see is a script's own client, and a SELECT queued before: a script that uses COPY … DB had better SELECT
//!   again.
//! - Replaying an AOF, the server asks no filter. There the module does not listen at all: it subscribes at the first
//!   turn of the timer, which comes after, and looks for what a RENAME, MOVE or COPY in the AOF made.

use super::ffi::{self, Ctx, LogLevel, Unavailable};
use super::index;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many clients' databases are kept: more than transactions with a COPY … DB in them will ever be open at a time.
const CLIENTS_MAX: usize = 1_000;

struct Homes {
    moved_from: Option<i32>,
    copied_from: BTreeMap<u64, i32>,
}

static HOMES: Mutex<Homes> = Mutex::new(Homes { moved_from: None, copied_from: BTreeMap::new() });

/// The subscription is still to come.
static IS_DEAF: AtomicBool = AtomicBool::new(false);
/// While it was to come, a record went or was copied; maybe it is somewhere else now.
static HAS_LOST: AtomicBool = AtomicBool::new(false);

fn homes() -> MutexGuard<'static, Homes> {
    HOMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens to what generic commands do to keys, from now on or as soon as that does no harm.
pub fn listen(ctx: Ctx) -> Result<(), Unavailable> {
    if ffi::leaves_clients_astray() {
        ffi::filter_commands(ctx);
        IS_DEAF.store(true, Ordering::Relaxed);
        return Ok(());
    }
    ffi::subscribe_to_keys(ctx)
}

/// A record went or was copied. Called for each of them, on every server, so it does no more than set a flag.
pub fn note_lost() {
    HAS_LOST.store(true, Ordering::Relaxed);
}

/// At each turn of the timer: the first one comes after what the server loads when it starts.
pub fn listen_late(ctx: Ctx) {
    if !IS_DEAF.swap(false, Ordering::Relaxed) {
        return;
    }
    if ffi::subscribe_to_keys(ctx).is_err() {
        let text = "no keyspace notifications: a renamed or moved deployment waits for a restart";
        ctx.log(LogLevel::Warning, text);
    }
    if !HAS_LOST.load(Ordering::Relaxed) {
        return;
    }
    let home = ctx.selected_db();
    for _db in (0..).take_while(|db| ctx.select_db(*db)) {
        ctx.scan().iter().for_each(|name| index::look(ctx, name));
    }
    ctx.select_db(home);
}

/// Whether a command may notify another database without saying which one it came from.
pub fn is_of_interest(command: &[u8]) -> bool {
    command.eq_ignore_ascii_case(b"copy")
}

/// A client on this database is about to call COPY, or to have it queued. Only `COPY a b DB n` leaves the database.
pub fn note(client: u64, db: i32, arguments: i32) {
    let mut homes = homes();
    if arguments < 5 {
        homes.copied_from.remove(&client);
        return;
    }
    if homes.copied_from.len() >= CLIENTS_MAX {
        homes.copied_from.clear();
    }
    homes.copied_from.insert(client, db);
}

/// After a notification was taken care of.
pub fn after(ctx: Ctx, event: &[u8]) {
    let home = match event {
        b"move_from" => {
            homes().moved_from = Some(ctx.selected_db());
            return;
        }
        b"move_to" => homes().moved_from.take(),
        // A transaction may have several, and all of them were noted when they were queued.
        b"copy_to" if ctx.flags().is_in_unit() => homes().copied_from.get(&ctx.client_id()).copied(),
        b"copy_to" => homes().copied_from.remove(&ctx.client_id()),
        _ => return,
    };
    if let Some(db) = home.filter(|db| *db != ctx.selected_db()) {
        ctx.select_db(db);
    }
}

//! DEPLOY.SHOW: the page of a deployment, or of the selected database.

use crate::engine::deployment::Status;
use crate::engine::Record;
use crate::redis::args::{unknown, Args};
use crate::redis::call::Call;
use crate::redis::clock;
use crate::redis::error::CommandError;
use crate::redis::ffi::{Ctx, KeyValue, RStr, RString, Rights};
use crate::redis::index::{self, Section};
use crate::redis::read_path::with_record;
use crate::redis::record_key::Key;
use crate::redis::reply::Answered;
use crate::redis::stored::Stored;
use crate::view;

/// The most keys of a section that are looked at for those that the caller may read.
const MAX_VISITED: usize = 1_000;

/// Returns whether the first argument is a key: it is not where it is the `WIDTH` of `WIDTH n`. A key of that name is
/// shown by `DEPLOY.SHOW WIDTH` and `DEPLOY.SHOW WIDTH WIDTH n`.
pub fn has_key(arguments: &[RStr]) -> bool {
    match arguments {
        [] => false,
        [option, _] => !option.as_slice().eq_ignore_ascii_case(b"WIDTH"),
        _ => true,
    }
}

/// `DEPLOY.SHOW [key] [WIDTH n]`
pub fn show(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = if has_key(args.as_slice()) { Some(args.key()?) } else { None };
    let mut width = view::DEFAULT_WIDTH;
    while let Some(option) = args.option()? {
        match &*option {
            b"WIDTH" => {
                width = args.value_between("WIDTH", view::MIN_WIDTH as u64, view::MAX_WIDTH as u64)? as usize;
            }
            _ => return Err(unknown(&option)),
        }
    }
    let now = clock::now(call.ctx());
    match key {
        Some(key) => with_record(call, key, |record, name| Ok(call.reply_page(&view::show(record, name, now, width)))),
        None => Ok(call.reply_page(&view::show_database(&database(call.ctx(), now), now, width))),
    }
}

/// Collects what the page of the selected database shows. It costs what the records cost that it names: what has ended
/// otherwise than by a failure is only counted.
fn database(ctx: Ctx, now: u64) -> view::DatabasePage {
    let db = ctx.selected_db();
    let rights = Rights::of_caller(ctx);
    let rows = |section: Section, mut add: &mut dyn FnMut(&Record, &str) -> bool| {
        for key in index::shown(db, section, MAX_VISITED) {
            let name = RString::new(key.as_bytes());
            if rights.may_read(&name) && !visit(ctx, db, &key, &name, &mut add) {
                break;
            }
        }
    };
    let (mut waiting, mut running, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    rows(Section::Waiting, &mut |record, key| view::add_waiting(&mut waiting, record, key, now));
    rows(Section::Running, &mut |record, key| view::add_running(&mut running, record, key, now));
    rows(Section::Failed, &mut |record, key| view::add_failed(&mut failed, record, key));
    let counts = index::counts_of(db);
    view::DatabasePage {
        db,
        by_status: Status::ALL.into_iter().zip(counts.by_status).collect(),
        tasks: counts.tasks,
        draining: counts.draining,
        standby: counts.standby,
        unreadable: counts.unreadable,
        waiting,
        running,
        failed,
    }
}

/// Calls `add` with the record at a key. The index is a hint, so the key is opened. Of a failed one that is encoded, the
/// lists are not read. Returns what `add` returns: false once no more are wanted.
fn visit(ctx: Ctx, db: i32, key: &str, name: &RStr, add: &mut dyn FnMut(&Record, &str) -> bool) -> bool {
    let mut open = Key::peek(ctx, name);
    match open.stored() {
        KeyValue::Ours(Stored::Encoded(encoded)) => {
            if let Some(header) = encoded.header().filter(|header| !header.is_active()) {
                return add(&header, key);
            }
        }
        KeyValue::Ours(_) => {}
        KeyValue::Empty | KeyValue::Foreign => {
            index::remove(db, key.as_bytes());
            return true;
        }
    }
    match open.record() {
        Ok(Some(record)) => add(record, key),
        _ => true,
    }
}

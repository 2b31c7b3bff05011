//! Point 5, second half: saving and loading, against as many strings of the same bytes.

use super::crowd::finished;
use super::memory::full_record;
use crate::contest::median;
use crate::resp::{put, Conn};
use crate::server::Server;
use crate::table::Goal;
use crate::Bench;
use serde_json::json;
use std::time::Instant;

pub fn saving(bench: &mut Bench) {
    let (small, full) = if bench.quick { (10_000, 200) } else { (50_000, 2_000) };
    let what = format!("{small} records of one agent");
    compare(bench, &what, "small", small, |conn, count| finished(conn, "app", count));
    let what = format!("{full} records of 5 agents and a full log");
    compare(bench, &what, "full", full, |conn, count| (0..count).for_each(|n| full_record(conn, &format!("app-{n}"))));
}

fn compare(bench: &mut Bench, what: &str, name: &str, count: usize, make: impl Fn(&mut Conn, usize)) {
    let (mut ours, mut theirs) = (Server::start(&[]), Server::start(&[]));
    let mut conn = ours.conn();
    make(&mut conn, count);
    let bytes = copy_as_strings(&mut conn, &mut theirs.conn());
    let size = bytes as f64 / count as f64;
    let at_rest = |conn: &mut Conn| conn.info("deploy", "deploy_records_at_rest");
    let note = |pairs: &[(f64, f64)]| {
        let ms = |pick: fn(&(f64, f64)) -> f64| median(pairs.iter().map(pick).collect()) * 1e3;
        format!("{:.0} ms against {:.0} ms; {size:.0} bytes each", ms(|pair| pair.0), ms(|pair| pair.1))
    };

    let saves = saves(bench, &ours, &theirs);
    assert_eq!(at_rest(&mut conn), 0.0, "all of them have just changed");
    let saving = format!("SAVE of {what}, all of them just changed, against strings");
    bench.results.add(5, &saving, ratio(&saves), "×", Goal::AtMost(1.5), note(&saves));

    let loads: Vec<_> = (0..bench.rounds.min(3)).map(|_| (load(&mut ours), load(&mut theirs))).collect();
    let mut conn = ours.conn();
    assert_eq!(conn.run("DBSIZE").int(), count as i64, "all of them were loaded");
    bench.results.add(5, "loading them", ratio(&loads), "×", Goal::AtMost(2.0), note(&loads));

    // As they are a while after they ended, and whenever nobody has asked since the start.
    assert_eq!(at_rest(&mut conn), count as f64, "nobody has asked for any");
    let resting = self::saves(bench, &ours, &theirs);
    bench.results.add(5, "SAVE of them at rest", ratio(&resting), "×", Goal::AtMost(1.5), note(&resting));
    bench.results.detail(
        &format!("saving_{name}"),
        json!({ "bytes": size, "saves_s": saves, "saves_at_rest_s": resting, "loads_s": loads }),
    );
}

fn ratio(pairs: &[(f64, f64)]) -> f64 {
    median(pairs.iter().map(|(a, b)| a / b).collect())
}

/// Both save in turn.
fn saves(bench: &Bench, ours: &Server, theirs: &Server) -> Vec<(f64, f64)> {
    let pairs = (0..=bench.rounds).map(|_| (save(ours), save(theirs)));
    // The first of all writes a file anew.
    pairs.skip(1).collect()
}

fn save(server: &Server) -> f64 {
    let mut conn = server.conn();
    let start = Instant::now();
    conn.run("SAVE");
    start.elapsed().as_secs_f64()
}

/// How long loading took by the server's own word.
fn load(server: &mut Server) -> f64 {
    server.restart();
    let log = server.log();
    let told = log.lines().rev().find_map(|line| line.split_once("DB loaded from disk: "));
    let seconds = told.and_then(|(_, rest)| rest.split_whitespace().next()).and_then(|text| text.parse().ok());
    seconds.expect("the server logs how long it loaded")
}

/// Sets a string for each record, of the bytes that the record is saved as; how many bytes these are together.
fn copy_as_strings(from: &mut Conn, to: &mut Conn) -> usize {
    from.run("CONFIG SET rdbcompression no");
    let (mut cursor, mut bytes) = ("0".to_string(), 0);
    loop {
        let mut page = from.call(&["SCAN", &cursor, "COUNT", "500"]).array().into_iter();
        let (next, keys) = (page.next().expect("a cursor").text(), page.next().expect("keys").array());
        let keys: Vec<String> = keys.iter().map(|key| key.text()).collect();
        let mut out = Vec::new();
        keys.iter().for_each(|key| put(&mut out, &["DUMP", key]));
        from.send(&out);
        let payloads: Vec<Vec<u8>> = keys.iter().map(|_| from.reply().bytes()).collect();
        to.many(keys.len(), |n, out| {
            let record = saved_as(&payloads[n]);
            bytes += record.len();
            put(out, &[b"SET", keys[n].as_bytes(), record]);
        });
        if next == "0" {
            break;
        }
        cursor = next;
    }
    from.run("CONFIG SET rdbcompression yes");
    bytes
}

/// The one string that a record is, out of an uncompressed DUMP of it: a byte for "module", nine for which, one for "a
/// string follows", its length and bytes, one for the end, and ten of version and checksum.
fn saved_as(dump: &[u8]) -> &[u8] {
    let rest = dump.get(11..dump.len() - 11).expect("a payload of a module's value");
    let (length, start) = match rest[0] >> 6 {
        0 => (usize::from(rest[0]), 1),
        1 => (usize::from(rest[0] & 0x3f) << 8 | usize::from(rest[1]), 2),
        _ => (u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize, 5),
    };
    assert_eq!(start + length, rest.len(), "one string");
    &rest[start..]
}

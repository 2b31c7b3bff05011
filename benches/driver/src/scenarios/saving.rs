//! SAVE and load of records, compared with strings of the same bytes.

use super::memory::full_record;
use super::scale::finished;
use crate::compare::median;
use crate::resp::{put, Conn};
use crate::rollout::RECORDS_ENCODED;
use crate::server::Server;
use crate::table::Goal;
use crate::Bench;
use serde_json::json;
use std::time::Instant;

/// Measures small and full records.
pub fn saving(bench: &mut Bench) {
    let (small, full) = if bench.quick { (10_000, 200) } else { (50_000, 2_000) };
    let what = format!("{small} records of one agent");
    compare(bench, &what, "small", small, |conn, count| finished(conn, "app", count));
    let what = format!("{full} records of 5 agents and a full log");
    compare(bench, &what, "full", full, |conn, count| (0..count).for_each(|n| full_record(conn, &format!("app-{n}"))));
}

/// Measures SAVE and load of records made by `make`.
fn compare(bench: &mut Bench, what: &str, name: &str, count: usize, make: impl Fn(&mut Conn, usize)) {
    let (mut ours, mut theirs) = (Server::start(&[]), Server::start(&[]));
    let mut conn = ours.conn();
    make(&mut conn, count);
    let bytes = copy_as_strings(&mut conn, &mut theirs.conn());
    let size = bytes as f64 / count as f64;
    let encoded = |conn: &mut Conn| conn.info("deploy", RECORDS_ENCODED);
    let note = |pairs: &[(f64, f64)]| {
        let ms = |pick: fn(&(f64, f64)) -> f64| median(pairs.iter().map(pick).collect()) * 1e3;
        format!("{:.0} ms against {:.0} ms; {size:.0} bytes each", ms(|pair| pair.0), ms(|pair| pair.1))
    };

    let saves = saves(bench, &ours, &theirs);
    assert_eq!(encoded(&mut conn), 0.0, "no record is encoded");
    let saving = format!("SAVE of {what}, just changed, against strings");
    bench.results.add("saving", &saving, ratio(&saves), "×", Goal::AtMost(1.5), note(&saves));

    let loads: Vec<_> = (0..bench.rounds.min(3)).map(|_| (load(&mut ours), load(&mut theirs))).collect();
    let mut conn = ours.conn();
    assert_eq!(conn.run("DBSIZE").int(), count as i64, "all of them were loaded");
    bench.results.add("saving", "loading them", ratio(&loads), "×", Goal::AtMost(2.0), note(&loads));

    // Records are kept encoded after a load until they are accessed.
    assert_eq!(encoded(&mut conn), count as f64, "all records are encoded");
    let encoded = self::saves(bench, &ours, &theirs);
    bench.results.add("saving", "SAVE of them, kept encoded", ratio(&encoded), "×", Goal::AtMost(1.5), note(&encoded));
    bench.results.detail(
        &format!("saving_{name}"),
        json!({ "bytes": size, "saves_s": saves, "saves_encoded_s": encoded, "loads_s": loads }),
    );
}

/// Returns the median ratio of pairs.
fn ratio(pairs: &[(f64, f64)]) -> f64 {
    median(pairs.iter().map(|(a, b)| a / b).collect())
}

/// Measures SAVE on both servers alternately.
fn saves(bench: &Bench, ours: &Server, theirs: &Server) -> Vec<(f64, f64)> {
    let pairs = (0..=bench.rounds).map(|_| (save(ours), save(theirs)));
    // The first SAVE is not measured, since it creates the file.
    pairs.skip(1).collect()
}

/// Returns the time of SAVE.
fn save(server: &Server) -> f64 {
    let mut conn = server.conn();
    let start = Instant::now();
    conn.run("SAVE");
    start.elapsed().as_secs_f64()
}

/// Restarts the server and returns the load time from its log.
fn load(server: &mut Server) -> f64 {
    server.restart();
    let log = server.log();
    let message = log.lines().rev().find_map(|line| line.split_once("DB loaded from disk: "));
    let seconds = message.and_then(|(_, rest)| rest.split_whitespace().next()).and_then(|text| text.parse().ok());
    seconds.expect("the server logs its load time")
}

/// Copies each record as a string of its saved bytes. Returns the total number of bytes.
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

/// Returns the string in an uncompressed DUMP of a record: a byte for the type, nine for the module id, one opcode,
/// length and bytes of the string, one end opcode, and ten bytes of version and checksum.
fn saved_as(dump: &[u8]) -> &[u8] {
    let rest = dump.get(11..dump.len() - 11).expect("a module payload");
    let (length, start) = match rest[0] >> 6 {
        0 => (usize::from(rest[0]), 1),
        1 => (usize::from(rest[0] & 0x3f) << 8 | usize::from(rest[1]), 2),
        _ => (u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize, 5),
    };
    assert_eq!(start + length, rest.len(), "one string");
    &rest[start..]
}

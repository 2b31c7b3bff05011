//! Bytes of a report in the replication stream and in the AOF.

use super::reports::append_only;
use crate::rollout::Rollout;
use crate::server::Server;
use crate::stream::ReplicationStream;
use crate::table::Goal;
use crate::variants::AGENTS;
use crate::Bench;
use serde_json::json;

const REPORTS: usize = 2_000;

/// Measures reports by the primary's offsets and the size of the AOF.
pub fn wire(bench: &mut Bench) {
    let server = Server::start(&[]);
    let mut conn = server.conn();
    let rollout = Rollout::begin(&mut conn, "bench", AGENTS);
    let mut reports = rollout.reports();
    let mut stream = ReplicationStream::of(server.target);
    let mut offsets = (0.0, 0.0);
    let tallies = stream.tally(server.target, |conn| {
        // The first command of a stream is preceded by SELECT.
        conn.many(2, |n, out| reports(None, n as u64, out));
        offsets.0 = conn.info("replication", "master_repl_offset");
        conn.many(REPORTS, |n, out| reports(None, n as u64, out));
        offsets.1 = conn.info("replication", "master_repl_offset");
    });
    let on_wire = (offsets.1 - offsets.0) / REPORTS as f64;
    let part = |name: &str| tallies.get(name).map_or(0.0, |tally| tally.bytes as f64 / (REPORTS + 2) as f64);
    let note = format!("by master_repl_offset: the change {:.0}, no other command", part("DEPLOY.APPLY"));
    bench.results.add("wire", "bytes of a report to a replica", on_wire, "bytes", Goal::AtMost(200.0), note);
    let names: Vec<_> = tallies.iter().map(|(name, tally)| json!([name, tally.commands, tally.bytes])).collect();
    bench.results.detail("wire", json!({ "per_report": on_wire, "commands": names }));

    append_only(&server);
    let before = conn.info("persistence", "aof_current_size");
    conn.many(REPORTS, |n, out| reports(None, n as u64, out));
    let in_aof = (conn.info("persistence", "aof_current_size") - before) / REPORTS as f64;
    bench.results.add(
        "wire",
        "bytes of a report in the AOF",
        in_aof,
        "bytes",
        Goal::AtMost(200.0),
        "by aof_current_size",
    );
}

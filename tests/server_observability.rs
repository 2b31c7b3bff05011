//! Observability by the server's own means (INFO, the log, SLOWLOG, LATENCY, MONITOR, command statistics), at a cost
//! and a length that do not grow with the number of deployments.

use serde_json::{json, Value as Json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use test_support::payload::{of_newer_format, Dump};
use test_support::prelude::*;

const KEY: &str = "agent-api";

/// Rule 8 "INFO", in its order.
const FIELDS: [&str; 32] = [
    "deploy_deployments_running",
    "deploy_deployments_awaiting_promotion",
    "deploy_deployments_paused",
    "deploy_deployments_successful",
    "deploy_deployments_failed",
    "deploy_deployments_cancelled",
    "deploy_deployments_version_recorded",
    "deploy_timers_armed",
    "deploy_timers_fired",
    "deploy_timer_lag_p50_us",
    "deploy_timer_lag_p99_us",
    "deploy_timer_lag_max_us",
    "deploy_events_published",
    "deploy_tasks_outstanding",
    "deploy_instances_draining",
    "deploy_instances_standby",
    "deploy_records_unreadable",
    "deploy_records_encoded",
    "deploy_refused_err",
    "deploy_refused_wrongtype",
    "deploy_refused_notfound",
    "deploy_refused_invalid",
    "deploy_refused_badstate",
    "deploy_refused_unhealthy",
    "deploy_refused_conflict",
    "deploy_refused_limit",
    "deploy_rollouts_started_total",
    "deploy_rollouts_successful_total",
    "deploy_rollouts_failed_total",
    "deploy_rollouts_reverted_total",
    "deploy_rollouts_cancelled_total",
    "deploy_panics_caught",
];

fn fields_of(section: &str) -> Vec<(String, u64)> {
    let fields = section.lines().filter_map(|line| line.strip_suffix('\r').unwrap_or(line).split_once(':'));
    fields
        .filter(|(name, _)| name.starts_with("deploy_"))
        .map(|(n, v)| (n.to_string(), v.parse().expect("a number")))
        .collect()
}

#[test]
fn info_fields_are_complete_and_correct() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let info = |section: &str| text(&server.client().call(&["INFO", section]));
        let value = |name: &str| fields_of(&info("deploy")).into_iter().find(|(n, _)| n == name).expect("a field").1;
        let names: Vec<String> = fields_of(&info("deploy")).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, FIELDS);
        for section in ["modules", "everything"] {
            assert_eq!(fields_of(&info(section)).len(), FIELDS.len(), "in INFO {section}");
        }
        assert!(fields_of(&info("default")).is_empty(), "INFO by itself stays as short as it was");

        // One refusal of each code; and whoever only asks counts nothing.
        let quick = ["MIN_HEALTHY_MS", "0"];
        client.deploy(KEY, &manifest(&AGENTS, "small"), &quick);
        client.carry_out_until(KEY, "successful");
        client.call(&["SET", "text", "x"]);
        client.deploy("waits", &manifest(&AGENTS, "small"), &quick);
        client.carry_out_until("waits", "successful");
        client.deploy("waits", &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", "200000", "CANARY", "1"]);
        client.call(&["CONFIG", "SET", "deploy.agents-max", "3"]);
        let four = manifest(&["a", "b", "c", "d"], "small");
        for (code, words) in [
            ("err", &["DEPLOY.STATUS", KEY, "LOUD"][..]),
            ("wrongtype", &["DEPLOY.STATUS", "text"]),
            ("notfound", &["DEPLOY.STATUS", "nothing"]),
            ("invalid", &["DEPLOY.DEPLOY", KEY, "MANIFEST", "[]"]),
            ("badstate", &["DEPLOY.PAUSE", KEY]),
            ("unhealthy", &["DEPLOY.PROMOTE", "waits"]),
            ("conflict", &["DEPLOY.STOP", KEY, "ID", "dep_other_1"]),
            ("limit", &["DEPLOY.DEPLOY", KEY, "MANIFEST", &four]),
        ] {
            let error = client.refused(words);
            assert_eq!(error.split(' ').next().unwrap_or_default().to_lowercase(), code, "{error}");
            assert_eq!(value(&format!("deploy_refused_{code}")), 1, "{code}");
        }
        let refused: u64 =
            fields_of(&info("deploy")).iter().filter(|(n, _)| n.starts_with("deploy_refused_")).map(|(_, v)| v).sum();
        assert_eq!(refused, 8);

        assert_eq!((value("deploy_deployments_successful"), value("deploy_deployments_running")), (1, 1));
        assert_eq!(value("deploy_timers_armed"), 1, "of the one that runs");
        assert_eq!(value("deploy_tasks_outstanding"), client.tasks("waits").len() as u64);
        let logged = number(&client.status(KEY)["revision"]) + number(&client.status("waits")["revision"]);
        assert_eq!(value("deploy_events_published"), logged);
        client.deploy("soon", &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "1"]);
        client.carry_out_until("soon", "successful");
        assert!(value("deploy_timers_fired") > 0);
        let lag: Vec<u64> = ["p50", "p99", "max"].iter().map(|p| value(&format!("deploy_timer_lag_{p}_us"))).collect();
        assert!(lag.is_sorted() && lag[2] > 0, "{lag:?}");
        assert_eq!(value("deploy_panics_caught"), 0);
    });
}

/// The five counters of rollouts: started, successful, failed, reverted, cancelled.
fn rollouts(client: &mut Client) -> [u64; 5] {
    ["started", "successful", "failed", "reverted", "cancelled"]
        .map(|what| client.info("deploy", &format!("deploy_rollouts_{what}_total")).parse().expect("a number"))
}

#[test]
fn rollouts_are_counted_where_they_are_decided() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &["--appendonly", "yes"]);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        let mut client = server.client();
        let quick = ["MIN_HEALTHY_MS", "0", "MAX_PARALLEL", "100%"];
        assert_eq!(rollouts(&mut client), [0; 5]);
        client.deploy(KEY, &manifest(&AGENTS, "small"), &quick);
        assert_eq!(rollouts(&mut client), [1, 0, 0, 0, 0]);
        client.carry_out_until(KEY, "successful");
        assert_eq!(rollouts(&mut client), [1, 1, 0, 0, 0]);
        // Nothing to roll out, and nothing that counts.
        client.deploy(KEY, &manifest(&AGENTS, "small"), &quick);
        let noop = client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0"]);
        assert_eq!(noop.text("mode"), "noop");
        client.deploy("batch", r#"{"type":"batch","nodes":[{"node_id":"a"}]}"#, &[]);
        client.refused(&["DEPLOY.FAIL", KEY]);
        client.call(&["DEPLOY.PLAN", KEY, "MANIFEST", &manifest(&AGENTS, "large")]);
        assert_eq!(rollouts(&mut client), [1, 1, 0, 0, 0]);
        // One that fails and is reverted, which is a rollout as well.
        client.deploy(KEY, &manifest(&AGENTS, "large"), &[&quick[..], &["AUTO_REVERT", "true"]].concat());
        client.call(&["DEPLOY.REPORT", KEY, "agent-1", "failed"]);
        assert_eq!(rollouts(&mut client), [3, 1, 1, 1, 0]);
        client.carry_out_until(KEY, "successful");
        assert_eq!(rollouts(&mut client), [3, 2, 1, 1, 0]);
        // A person's rollback is no revert, and here nothing was taken up, so it changes nothing; what it takes the place
        // of is cancelled.
        client.call(&["MULTI"]);
        client.call(&["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest(&AGENTS, "huge"), "MIN_HEALTHY_MS", "0"]);
        client.call(&["DEPLOY.ROLLBACK", KEY]);
        client.call(&["EXEC"]);
        let after = rollouts(&mut client);
        assert_eq!((after[0], after[3], after[4]), (4, 1, 1), "{after:?}");
        client.call(&["DEPLOY.STOP", KEY]);

        // A replica and a load decide nothing; a promoted replica counts what it decides.
        replica.catch_up_with(&server);
        let mut theirs = replica.client();
        assert_eq!(rollouts(&mut theirs), [0; 5]);
        theirs.call(&["REPLICAOF", "NO", "ONE"]);
        theirs.deploy("new", &manifest(&AGENTS, "small"), &quick);
        assert_eq!(rollouts(&mut theirs), [1, 0, 0, 0, 0]);
        server.restart(End::NoSave);
        assert_eq!(rollouts(&mut server.client()), [0; 5]);
    });
}

#[test]
fn info_cost_is_independent_of_the_number_of_deployments() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    // The least of several rounds: what else the machine does only adds to it.
    let mut cost = || {
        let round = |_| {
            client.call(&["CONFIG", "RESETSTAT"]);
            (0..50).for_each(|_| drop(client.call(&["INFO", "deploy"])));
            let stats = client.info("commandstats", "cmdstat_info");
            let per_call = stats.split(',').find_map(|field| field.strip_prefix("usec_per_call=")).expect("a field");
            per_call.parse::<f64>().expect("a number")
        };
        (0..10).map(round).fold(f64::MAX, f64::min)
    };
    let of_none = cost();
    let fill = "for i = 1, 40000 do redis.call('DEPLOY.DEPLOY', 'agent-' .. i, 'MANIFEST', ARGV[1]) end";
    server.client().call(&["EVAL", fill, "0", &manifest(&["a"], "small")]);
    let of_many = cost();
    assert_eq!(server.client().info("deploy", "deploy_deployments_running"), "40000");
    // Looking at each would take some hundreds of µs more.
    assert!(of_many < of_none * 2.0 + 20.0, "{of_none} µs with none, {of_many} µs with forty thousand");
}

#[test]
fn start_loads_and_delays_are_logged() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &[]);
        let line = |log: &str, part: &str| log.lines().find(|line| line.contains(part)).map(str::to_string);
        let start = line(&server.log(), "<deploy> version ").expect("a line about the start");
        assert!(start.contains(" * ") && start.contains("events-max 100"), "a notice: {start}");
        assert_eq!(line(&server.log(), "deployments loaded"), None, "there was nothing");

        let mut client = server.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &SLOW);
        client.deploy("other", &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "300"]);
        client.carry_out_tasks("other");
        let due = unix_ms() + 300;
        server.restart_after(End::Save, || wait_past(due + 1_200));
        let loaded = line(&server.log(), "deployments loaded").expect("a line about what was loaded");
        assert!(loaded.contains("2 deployments loaded, 2 wait for a time, 3 tasks are open"), "{loaded}");

        // It stands still: the timer says so, once it is back.
        let mut client = server.client();
        client.wait_for_status("other", "successful");
        assert_eq!(line(&server.log(), "ms late"), None, "what fell due while it was down is not late");
        client.call(&["DEBUG", "SLEEP", "1.3"]);
        let late = wait_for("a line about the delay", || line(&server.log(), "ms late"));
        assert!(late.contains(" # ") && late.contains("the server stood still"), "a warning: {late}");
    });
}

#[test]
fn client_errors_are_logged_at_a_limited_rate() {
    on_each_server(|kind| {
        let server = Server::start(kind, &["--rdbcompression", "no"]);
        let mut client = server.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &SLOW);
        let redis::Value::BulkString(payload) = client.call(&["DUMP", KEY]) else { panic!("DUMP replies bytes") };
        // A record that is none, in a payload whose checksum is right.
        let dump = Dump::parse(&payload);
        let broken = dump.of(&of_newer_format(&dump.envelope));
        for round in 0..200 {
            let error = client.refused(&[&b"RESTORE"[..], format!("new-{round}").as_bytes(), b"0", &broken]);
            assert!(error.starts_with("ERR Bad data format"), "{error}");
        }
        let refused: Vec<String> =
            server.log().lines().filter(|l| l.contains("' refused: ")).map(str::to_string).collect();
        // Five in ten seconds; a slow machine may take more than one such time.
        assert!((1..=20).contains(&refused.len()), "{} lines: {:?}", refused.len(), refused.first());
        assert!(
            refused.iter().all(|line| line.contains(" * ")),
            "a client was refused, which is no warning: {refused:?}"
        );
        assert!(refused[4].contains("further lines like this are left out"), "{refused:?}");
    });
}

/// The lines of MONITOR, as they come.
fn monitor(server: &Server) -> Arc<Mutex<Vec<String>>> {
    let mut connection = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
    connection.write_all(b"MONITOR\r\n").expect("sent");
    let mut lines = BufReader::new(connection).lines();
    assert_eq!(lines.next().expect("a reply").expect("a line"), "+OK");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = heard.clone();
    std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|line| into.lock().expect("no holder panics").push(line));
    });
    heard
}

#[test]
fn slowlog_latency_and_monitor_show_shortened_commands() {
    on_each_server(|kind| {
        let server = Server::start(kind, &["--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000"]);
        let mut client = server.client();
        client.call(&["CONFIG", "SET", "latency-monitor-threshold", "1"]);
        let heard = monitor(&server);
        let published = Subscriber::start(&server, "deploy:events:*");
        // A large manifest: half of it in one text, half in many nodes.
        let mut large: Json = serde_json::from_str(&manifest(&["a"], &"x".repeat(300_000))).expect("JSON");
        let nodes = (0..3000).map(|n| json!({ "node_id": format!("node-{n}"), "config": { "text": "y".repeat(80) } }));
        large["extra_nodes"] = nodes.collect();
        let large = large.to_string();
        assert!(large.len() > 600_000);
        client.deploy(KEY, &large, &["AGENTS", "1", "a", "MIN_HEALTHY_MS", "50", "REASON", "large"]);
        client.carry_out_until(KEY, "successful");

        // Events: nothing of the manifest in them.
        let events = published.events_until_now(&mut client, "deploy:events:marks");
        assert!(events.len() > 5);
        for event in events.iter().chain(&client.events_after(KEY, 0)) {
            assert!(event.to_string().len() < 2_000 && !event.to_string().contains("xxxx"), "{event}");
        }
        // MONITOR: the client's own command in full, as the server shows each; and what the module does in few words.
        client.call(&["ECHO", "the end"]);
        wait_until("the end to be heard", || {
            heard.lock().expect("no holder panics").iter().any(|line| line.contains("the end"))
        });
        let heard = heard.lock().expect("no holder panics").clone();
        let (long, short): (Vec<&String>, Vec<&String>) = heard.iter().partition(|line| line.len() > 4_000);
        assert_eq!(long.len(), 1, "{:?}", long.iter().map(|line| &line[..100]).collect::<Vec<_>>());
        assert!(long[0].contains("\"DEPLOY.DEPLOY\" \"agent-api\" \"MANIFEST\""));
        assert!(
            !short.iter().any(|line| line.contains("PUBLISH") && line.contains("agent-api")),
            "it publishes by itself"
        );
        assert!(short.iter().any(|line| line.contains("\"DEPLOY.TICK\" \"agent-api\"")), "the timer's verdict");

        // The slow log: which command on which key, cut short as the server does it.
        let slow: Vec<Vec<String>> = items(&client.call(&["SLOWLOG", "GET", "10000"]))
            .iter()
            .map(|entry| items(&items(entry)[3]).iter().map(text).collect())
            .collect();
        let deploy = slow.iter().find(|words| words[0] == "DEPLOY.DEPLOY").expect("the deploy was noted");
        assert_eq!(deploy[1..3], [KEY, "MANIFEST"]);
        assert!(deploy[3].len() < 200 && deploy[3].contains("more bytes"), "{}", deploy[3]);
        assert!(slow.iter().any(|words| *words == ["DEPLOY.TICK", KEY]));
        assert!(slow.iter().flatten().all(|word| word.len() < 200));

        // Latency: as a command, and in the histogram by its name.
        let latest = client.call(&["LATENCY", "LATEST"]);
        assert!(items(&latest).iter().any(|event| text(&items(event)[0]) == "command"), "{latest:?}");
        let histogram = format!("{:?}", client.call(&["LATENCY", "HISTOGRAM", "deploy.deploy", "deploy.report"]));
        assert!(histogram.contains("deploy.deploy") && histogram.contains("deploy.report"), "{histogram}");

        // Whoever waits costs nothing while he waits.
        client.call(&["CONFIG", "RESETSTAT"]);
        client.call(&["SLOWLOG", "RESET"]);
        client.call(&["DEPLOY.EVENTS", KEY, "AFTER", "1000000", "BLOCK", "400"]);
        let stats = client.info("commandstats", "cmdstat_deploy.events");
        let took = stats.split(',').find_map(|field| field.strip_prefix("usec=")).expect("a field").to_string();
        assert!(stats.starts_with("calls=1,") && took.parse::<u64>().expect("a number") < 200_000, "{stats}");
        let slow = client.call(&["SLOWLOG", "GET", "10000"]);
        let waited = items(&slow).iter().find(|entry| text(&items(&items(entry)[3])[0]) == "DEPLOY.EVENTS");
        assert!(waited.is_none_or(|entry| int(&items(entry)[2]) < 200_000), "{waited:?}");

        client.refused(&["DEPLOY.STATUS", "nothing"]);
        assert_eq!(client.info("errorstats", "errorstat_NOTFOUND"), "count=1");
        assert!(client.info("commandstats", "cmdstat_deploy.status").contains("failed_calls=1"));
    });
}

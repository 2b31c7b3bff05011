//! The sample configuration fits together: completed as its first lines say, it runs a server, a replica and a sentinel,
//! and each of its users can do its job and no other's. The reference coordinator runs as the user that the sample has
//! for it, through a rollout and a failover.

use std::path::Path;
use std::process::Command;
use test_support::prelude::*;
use test_support::processes::{App, Coordinator, Host, BRISK};
use test_support::sample::{Sample, SampleServer};

const KEY: &str = "agent-api";
const PAIR: [&str; 2] = ["web-1", "web-2"];

/// Commands, and the users that may call them. The administrator may call all of them.
const RIGHTS: [(&str, &str); 41] = [
    ("DEPLOY.DEPLOY agent-api MANIFEST {}", "operator"),
    ("DEPLOY.DEPLOY other MANIFEST {}", ""),
    ("DEPLOY.PROMOTE agent-api", "operator"),
    ("DEPLOY.ROLLBACK agent-api", "operator"),
    ("DEPLOY.STOP agent-api", "operator"),
    ("DEPLOY.DRAIN agent-api VERSION 1 NOW", "operator"),
    ("DEPLOY.PLAN agent-api MANIFEST {}", "operator reader"),
    ("DEPLOY.SHOW agent-api", "operator reader"),
    ("DEPLOY.SHOW other", "reader"),
    ("DEPLOY.LIST", "operator coordinator reader"),
    ("DEPLOY.STATUS agent-api", "operator coordinator reader"),
    ("DEPLOY.STATUS other", "reader"),
    ("DEPLOY.TASKS agent-api", "operator coordinator reader"),
    ("DEPLOY.REPORT agent-api web-1 ready", "coordinator"),
    ("DEPLOY.REPORT other web-1 ready", ""),
    ("DEPLOY.REGISTER agent-api web-1 web INSTANCE i ADDRESS h PORT 1", "coordinator"),
    ("DEPLOY.CHECK agent-api i passing", "coordinator"),
    ("DEPLOY.RESOLVE agent-api", "operator coordinator caller reader"),
    ("DEPLOY.RESOLVE other", "reader"),
    ("DEPLOY.APPLY agent-api x", ""),
    ("DEPLOY.TICK agent-api", ""),
    ("SUBSCRIBE deploy:events:agent-api", "operator coordinator reader"),
    ("SUBSCRIBE deploy:events:other", "reader"),
    ("PUBLISH deploy:events:agent-api x", ""),
    ("PUBLISH __sentinel__:hello x", "sentinel"),
    ("SUBSCRIBE __sentinel__:hello", "sentinel"),
    ("ROLE", "coordinator sentinel"),
    ("MULTI", "coordinator sentinel"),
    ("PSYNC ? -1", "replica"),
    ("REPLCONF listening-port 1", "replica"),
    ("SLAVEOF NO ONE", "sentinel"),
    ("CONFIG REWRITE", "sentinel"),
    ("CONFIG GET masterauth", ""),
    ("CONFIG SET maxmemory 0", ""),
    ("INFO deploy", "monitoring sentinel"),
    ("SLOWLOG GET", "monitoring"),
    ("LATENCY LATEST", "monitoring"),
    ("EVAL return 0", ""),
    ("SHUTDOWN NOSAVE", ""),
    ("ACL LIST", ""),
    ("DEL agent-api", ""),
];

#[test]
fn sample_users_have_the_rights_of_their_jobs_alone() {
    let sample = Sample::of_repository();
    on_each_server(|kind| {
        let server = sample.server(kind);
        let mut admin = sample.log_in("admin", server.port);
        for (command, users) in RIGHTS {
            for user in sample.users() {
                let dry_run = ["ACL", "DRYRUN", user].into_iter().chain(command.split(' ')).collect::<Vec<_>>();
                let reply = text(&admin.call(&dry_run));
                let may = user == "admin" || users.split(' ').any(|listed| listed == user);
                assert_eq!(reply == "OK", may, "{user}: {command}: {reply}");
            }
        }
        let refused = connect(server.port).expect("a server").refused(&["PING"]);
        assert!(refused.starts_with("NOAUTH"), "without a user: {refused}");
    });
    std::fs::remove_dir_all(&sample.folder).expect("our own folder");
}

/// As shipped, the configuration starts no server, and once the path is set, nobody can log in.
#[test]
fn sample_has_no_usable_password() {
    let sample = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/redis-deploy.conf"));
    let sample = sample.expect("the sample");
    let users: Vec<Vec<&str>> =
        sample.lines().filter(|line| line.starts_with("user ")).map(|line| line.split(' ').collect()).collect();
    assert_eq!(users.len(), 9);
    for user in users {
        assert!(user.iter().all(|word| !word.starts_with(['>', '#']) && *word != "nopass"), "{user:?}");
    }
    for setting in ["masterauth ", "requirepass "] {
        assert!(!sample.lines().any(|line| line.starts_with(setting)), "{setting}");
    }
    // What prepare makes differs from run to run, and is readable by its owner alone.
    let two = [Sample::of_repository(), Sample::of_repository()];
    assert_eq!(two[0].users(), two[1].users());
    for user in two[0].users() {
        assert_ne!(two[0].password(user), two[1].password(user));
    }
    for sample in two {
        for file in ["passwords", "redis-deploy.conf", "sentinel.conf"] {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &sample.folder.join(file).metadata().expect("a file").permissions(),
            );
            assert_eq!(mode & 0o77, 0, "{file}: {mode:o}");
        }
        // Run again, it leaves what it has made as it is.
        let before = std::fs::read(sample.folder.join("redis-deploy.conf")).expect("a file");
        let again = Sample::complete(&sample.folder);
        assert_eq!(std::fs::read(sample.folder.join("redis-deploy.conf")).expect("a file"), before);
        assert_eq!(again.password("admin"), sample.password("admin"));
        std::fs::remove_dir_all(&sample.folder).expect("our own folder");
    }
}

/// A field of INFO replication; empty where no answer can be had, since Sentinel cuts off the clients of a server that
/// it gives another role.
fn replication(sample: &Sample, server: &SampleServer, field: &str) -> String {
    let info = sample.try_log_in("monitoring", server.port);
    let info = info.and_then(|mut client| client.try_call(&["INFO", "replication"]).ok()).map(|info| text(&info));
    let line = info.and_then(|info| info.lines().find_map(|line| Some(line.strip_prefix(field)?.to_string())));
    line.and_then(|line| line.strip_prefix(':').map(|value| value.trim().to_string())).unwrap_or_default()
}

/// Asserts that a server has refused nobody anything.
fn assert_nothing_refused(sample: &Sample, server: &SampleServer) {
    let refused = sample.log_in("admin", server.port).call(&["ACL", "LOG"]);
    assert_eq!(items(&refused), [], "refused on port {}", server.port);
}

#[test]
fn sample_users_carry_out_a_rollout_and_a_failover() {
    let sample = Sample::of_repository();
    on_each_server(|kind| {
        let (mut first, second) = (sample.server(kind), sample.server(kind));
        for server in [&first, &second] {
            // A primary waits for further replicas otherwise, before it begins.
            sample.log_in("admin", server.port).call(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        }
        sample.log_in("admin", second.port).call(&["REPLICAOF", "127.0.0.1", &first.port.to_string()]);
        wait_until("the replica to be in sync", || replication(&sample, &second, "master_link_status") == "up");
        let sentinel = sample.sentinel(kind, first.port);
        wait_until("the sentinel to know the replica", || {
            let known = connect(sentinel.port).and_then(|mut c| c.try_call(&["SENTINEL", "MASTER", "deploy"]).ok());
            known.is_some_and(|known| {
                let known = Fields::of(&known);
                (known.text("num-slaves"), known.text("flags")) == ("1".to_string(), "master".to_string())
            })
        });

        let wait_for_replica = |first: &SampleServer, second: &SampleServer| {
            wait_until("the replica to have it", || {
                let offsets = [first, second].map(|server| replication(&sample, server, "master_repl_offset"));
                offsets[0] == offsets[1] && !offsets[0].is_empty()
            });
        };

        let host = Host::new();
        let urls = [&first, &second].map(|server| sample.url("coordinator", server.port));
        let coordinator = Coordinator::start(&host, "one", &urls, &["--match", "agent-*"]);
        let mut operator = sample.log_in("operator", first.port);
        operator.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("first"), &BRISK);
        operator.wait_for_status(KEY, "successful");
        let resolved = sample.log_in("caller", first.port).json(&["DEPLOY.RESOLVE", KEY, "JSON"]);
        assert_eq!(array(&resolved).len(), 2);
        wait_for_replica(&first, &second);
        assert_eq!(sample.log_in("reader", second.port).status(KEY)["by"], "operator");
        // As node_exporter has it.
        let metrics = Command::new(sample.folder.join("prometheus.sh"))
            .args(["--user", "monitoring", "-p", &first.port.to_string()])
            .env("REDISCLI_AUTH", sample.password("monitoring"))
            .output()
            .expect("a shell");
        let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
        assert!(metrics.lines().any(|line| line == "redis_deploy_deployments_successful 1"), "{metrics}");
        let info = text(&sample.log_in("monitoring", first.port).call(&["INFO", "deploy"]));
        let numbers = info.lines().filter(|line| line.starts_with("deploy_")).count();
        assert_eq!(metrics.lines().count(), numbers, "one for each of INFO's");

        operator.deploy(
            KEY,
            &App::new(&host, &PAIR, "good").manifest("second"),
            &[&BRISK[..], &["CANARY", "1"]].concat(),
        );
        operator.wait_for_status(KEY, "awaiting_promotion");
        wait_for_replica(&first, &second);
        assert_nothing_refused(&sample, &first);
        first.kill();
        wait_until("the replica to be promoted", || replication(&sample, &second, "role") == "master");
        // Sentinel cuts off the clients of a server that it has promoted.
        wait_until("the promotion to arrive", || {
            let operator = sample.try_log_in("operator", second.port);
            operator.is_some_and(|mut operator| operator.try_call(&["DEPLOY.PROMOTE", KEY]).is_ok())
        });
        let mut operator = sample.log_in("operator", second.port);
        let record = operator.wait_for_status(KEY, "successful");
        assert_eq!(record["current_version"], 2);
        host.assert_runs(&record);

        // The old primary comes back, and the sentinel makes it a replica, which logs in as one.
        first.start();
        wait_until("the old primary to follow", || {
            ["role", "master_link_status"].map(|field| replication(&sample, &first, field)) == ["slave", "up"]
        });
        for server in [&first, &second] {
            assert_nothing_refused(&sample, server);
        }
        host.stop(&mut operator, KEY);
        assert!(!coordinator.log().contains("NoPerm"), "{}", coordinator.log());
    });
    std::fs::remove_dir_all(&sample.folder).expect("our own folder");
}

/// A coordinator whose user lacks a right says so, and continues when it gets it; it is never left without a connection.
#[test]
fn coordinator_names_a_missing_right_and_retries() {
    let sample = Sample::of_repository();
    let server = sample.server(ServerKind::Redis70);
    let mut admin = sample.log_in("admin", server.port);
    let mut operator = sample.log_in("operator", server.port);
    for right in
        ["role", "multi", "exec", "deploy.list", "deploy.tasks", "deploy.version", "psubscribe", "deploy.report"]
    {
        admin.call(&["ACL", "SETUSER", "coordinator", &format!("-{right}")]);
        let host = Host::new();
        let url = [sample.url("coordinator", server.port)];
        operator.deploy(KEY, &App::new(&host, &PAIR[..1], "good").manifest(right), &BRISK);
        let mut coordinator = Coordinator::start(&host, "one", &url, &["--match", "agent-*"]);
        wait_until(&format!("it to miss {right}"), || {
            let log = coordinator.log().to_lowercase();
            log.contains("no permissions to run the") && log.contains(&format!("'{right}'"))
        });
        admin.call(&["ACL", "SETUSER", "coordinator", &format!("+{right}")]);
        operator.wait_for_status(KEY, "successful");
        assert!(coordinator.is_alive(), "without {right}:\n{}", coordinator.log());
        host.stop(&mut operator, KEY);
    }
    std::fs::remove_dir_all(&sample.folder).expect("our own folder");
}

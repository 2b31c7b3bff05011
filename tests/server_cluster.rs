//! Redis Cluster: a deployment is on the node of its slot and moves with it. It is on one node at a time, byte for
//! byte the same, and each event happens once.

use serde_json::{json, Value as Json};
use test_support::cluster::{id_of, moved_to, slot_of, Cluster};
use test_support::prelude::*;
use test_support::rollout::Aftermath;

/// No failover unless a test asks for it, however busy the machine is.
const PATIENT_MS: u64 = 15_000;
const EAGER_MS: u64 = 1_500;

/// A connection that may read on a replica.
fn reader(node: &Server) -> Client {
    let mut client = node.client();
    client.call(&["READONLY"]);
    client
}

/// The record is on this primary, on its replica, equal on both, and on no other node.
fn assert_in_one_place(cluster: &Cluster, key: &str, home: &Server) {
    let (replica, mut ours) = (cluster.replica_of(home), home.client());
    // No verdict falls between a look at the one and a look at the other.
    ours.call(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    replica.catch_up_with(home);
    for node in &cluster.nodes {
        let expected = node.port == home.port || node.port == replica.port;
        let mut client = reader(node);
        let listed = client.listed().contains(&key.to_string());
        assert_eq!(listed, expected, "{key} in the list of the node on port {}", node.port);
        let slot = slot_of(&mut client, key).to_string();
        let held = int(&client.call(&["CLUSTER", "COUNTKEYSINSLOT", &slot]));
        assert_eq!(held, i64::from(expected), "{key} on the node on port {}", node.port);
    }
    let mut theirs = reader(replica);
    // It has the key, and may not have heard yet that its primary serves the slot: until then it sends readers away.
    wait_until("the replica to read for its primary", || theirs.try_call(&["DUMP", key]).is_ok());
    assert_eq!(theirs.call(&["DUMP", key]), ours.call(&["DUMP", key]));
    assert_eq!(theirs.status(key), ours.status(key));
    ours.call(&["CLIENT", "UNPAUSE"]);
}

/// Every event of each log came to the subscriber, and none came twice.
fn assert_heard_once(cluster: &Cluster, subscriber: &Subscriber, keys: &[String]) {
    // What a node has published comes before what it publishes now.
    for primary in cluster.primaries() {
        subscriber.events_until_now(&mut primary.client(), "deploy:events:mark");
    }
    let heard = subscriber.events();
    for key in keys {
        let of_key: Vec<&Json> = heard.iter().filter(|event| event["key"] == **key).collect();
        let logged = cluster.client_of(key).log_without_repetition(key);
        assert_eq!(of_key, logged.iter().collect::<Vec<_>>(), "{key}");
    }
}

#[test]
fn nodes_serve_and_list_the_keys_of_their_slots() {
    on_each_server(|kind| {
        let cluster = Cluster::start(kind, 3, PATIENT_MS, &[]);
        let keys = cluster.keys(6);
        // One subscriber anywhere hears the whole cluster.
        let at_primary = Subscriber::start(&cluster.nodes[0], "deploy:events:*");
        let at_replica = Subscriber::start(&cluster.nodes[4], "deploy:events:*");
        for (n, key) in keys.iter().enumerate() {
            let (home, elsewhere) = (&cluster.nodes[n % 3], &cluster.nodes[(n + 1) % 3]);
            let manifest = manifest(&AGENTS, "small");
            let line = elsewhere.client().refused(&["DEPLOY.DEPLOY", key, "MANIFEST", &manifest]);
            assert_eq!(moved_to(&line), Some(home.port), "{line}");
            assert_eq!(moved_to(&elsewhere.client().refused(&["DEPLOY.STATUS", key])), Some(home.port));
            let mut client = cluster.client_of(key);
            client.deploy(key, &manifest, &QUICK);
            client.carry_out_until(key, "successful");
        }
        for n in 0..3 {
            let mut own = vec![keys[n].clone(), keys[n + 3].clone()];
            own.sort();
            assert_eq!(cluster.nodes[n].client().listed(), own, "each lists its own, in key order");
        }
        for (n, key) in keys.iter().enumerate() {
            assert_in_one_place(&cluster, key, &cluster.nodes[n % 3]);
        }

        // Scripts and transactions, on the node of their keys.
        let key = keys[0].as_str();
        let home = &cluster.nodes[0];
        let mut client = home.client();
        let script = "redis.call('DEPLOY.DEPLOY', KEYS[1], 'MANIFEST', ARGV[1], 'MIN_HEALTHY_MS', '50')
                      return redis.call('DEPLOY.PAUSE', KEYS[1])";
        client.call(&["EVAL", script, "1", key, &manifest(&AGENTS, "large")]);
        assert_eq!(client.status(key)["status"], "paused");
        client.call(&["MULTI"]);
        client.call(&["DEPLOY.RESUME", key]);
        client.call(&["DEPLOY.REPORT", key, "agent-1", "ready"]);
        client.call(&["EXEC"]);
        client.carry_out_until(key, "successful");
        assert_in_one_place(&cluster, key, home);

        assert_heard_once(&cluster, &at_primary, &keys);
        assert_heard_once(&cluster, &at_replica, &keys);
    });
}

/// SHOW is sent to the node of its key, and without one each node has a page of its own, whatever its width.
#[test]
fn show_is_answered_by_the_node_of_its_key_and_without_one_by_each() {
    on_each_server(|kind| {
        let cluster = Cluster::start(kind, 0, PATIENT_MS, &[]);
        let keys = cluster.keys(3);
        for key in &keys {
            cluster.client_of(key).deploy(key, &manifest(&AGENTS, "small"), &SLOW);
        }
        for (n, key) in keys.iter().enumerate() {
            let (mut home, mut elsewhere) = (cluster.nodes[n].client(), cluster.nodes[(n + 1) % 3].client());
            for words in [&["DEPLOY.SHOW", key][..], &["DEPLOY.SHOW", key, "WIDTH", "100"]] {
                assert!(text(&home.call(words)).starts_with(key.as_str()));
                assert_eq!(moved_to(&elsewhere.refused(words)), Some(cluster.nodes[n].port));
            }
            for words in [&["DEPLOY.SHOW"][..], &["DEPLOY.SHOW", "WIDTH", "100"]] {
                let page = text(&home.call(words));
                assert!(page.starts_with("database 0 "), "{page}");
                let named: Vec<bool> = keys.iter().map(|key| page.contains(&format!("\n{key} "))).collect();
                assert_eq!(named, [0, 1, 2].map(|other| other == n), "{page}");
            }
        }
    });
}

#[test]
fn cluster_replica_ends_nothing_until_promoted() {
    on_each_server(|kind| {
        // It is read while its primary has failed, until it may take over.
        let options = ["--cluster-replica-no-failover", "yes", "--cluster-allow-reads-when-down", "yes"];
        let cluster = Cluster::start(kind, 1, EAGER_MS, &options);
        let (primary, replica) = (&cluster.nodes[0], &cluster.nodes[3]);
        let keys: Vec<String> = cluster.keys(9).into_iter().step_by(3).collect();
        let [key, others @ ..] = keys.as_slice() else { panic!("three keys of the first primary") };
        let heard = Subscriber::start(&cluster.nodes[1], "deploy:events:*");
        let others: Vec<_> = Aftermath::ALL
            .into_iter()
            .zip(others)
            .map(|(aftermath, key)| (aftermath, key, aftermath.begin(&mut primary.client(), key, 2_000)))
            .collect();
        let before = primary.client().begin_rollout(key, 1_000);
        let dues = others.iter().map(|(_, _, record)| record).chain([&before]).map(Aftermath::due);
        let (first_due, due) = (dues.clone().min().unwrap_or_default(), dues.max().unwrap_or_default());
        replica.catch_up_with(primary);
        primary.signal("STOP");
        if skip_if_past(first_due) {
            return;
        }

        let mut client = reader(replica);
        wait_past(due + 500);
        assert_eq!(client.status(key), before, "a replica gives no verdict");
        for (aftermath, key, record) in &others {
            assert_eq!(client.status(key), *record, "a replica ends no {aftermath:?}");
        }
        assert_eq!(client.info("deploy", "deploy_timers_fired"), "0");
        let is_new = |event: &Json| event["key"] == **key && event["revision"].as_u64() > before["revision"].as_u64();
        assert!(!heard.events().iter().any(|event| is_new(event) || event["type"] == "agent_drained"));

        // Promoted, it goes on from there: the verdict that was due, and then the rest, under the same deadlines.
        client.call(&["CONFIG", "SET", "cluster-replica-no-failover", "no"]);
        wait_until("the cluster to promote it", || client.info("replication", "role") == "master");
        let verdict = heard.wait_for_event("the verdict", |event| event["type"] == "agent_healthy" && is_new(event));
        assert!(number(&verdict["at"]) >= due + 500, "not by the old one");
        let mut client = replica.client();
        wait_until("the cluster to be ok again", || client.try_call(&["EXISTS", key]).is_ok());
        client.carry_out_until(key, "successful");
        let log = client.log_without_repetition(key);
        assert_eq!(log[number(&before["revision"]) as usize], verdict);
        for (aftermath, key, _) in &others {
            aftermath.assert_ends_once(&mut client, key, due + 500);
        }

        // The old one comes back as its replica. What it may have thought meanwhile is gone.
        primary.signal("CONT");
        wait_until("the old primary to follow", || primary.client().info("replication", "master_link_status") == "up");
        primary.catch_up_with(replica);
        assert_eq!(reader(primary).status(key), client.status(key));
        for key in &keys {
            assert_eq!(reader(primary).call(&["DUMP", key]), client.call(&["DUMP", key]));
        }
        assert_heard_once(&cluster, &heard, &keys);
    });
}

/// A client whose reply was lost in a failover sends its command again, to the new primary: it gets the receipt that it
/// missed, and the command has had its effect once.
#[test]
fn commands_that_are_sent_again_after_a_failover_take_effect_once() {
    on_each_server(|kind| {
        let cluster = Cluster::start(kind, 1, EAGER_MS, &[]);
        // All on the first primary, three for each failover.
        let keys: Vec<String> = cluster.keys(18).into_iter().step_by(3).collect();
        let by_hand = |_: &Server, replica: &Server| {
            replica.client().call(&["CLUSTER", "FAILOVER"]);
        };
        let by_the_death_of_the_primary = |primary: &Server, replica: &Server| {
            replica.catch_up_with(primary);
            primary.signal("KILL");
        };
        fail_over_between_a_command_and_its_repetition(&cluster, &keys[..3], by_hand);
        cluster.wait_until_stable();
        fail_over_between_a_command_and_its_repetition(&cluster, &keys[3..], by_the_death_of_the_primary);
    });
}

fn fail_over_between_a_command_and_its_repetition(
    cluster: &Cluster,
    keys: &[String],
    fail_over: impl FnOnce(&Server, &Server),
) {
    let [deployed, promoted, rolled_back] = keys else { panic!("a key for each command") };
    let primary = cluster.owner(deployed);
    let mut client = primary.client();
    for key in keys {
        client.deploy(key, &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until(key, "successful");
    }
    client.deploy(promoted, &manifest(&AGENTS, "large"), &[&QUICK[..], &["CANARY", "1"]].concat());
    client.carry_out_until(promoted, "awaiting_promotion");
    client.deploy(rolled_back, &manifest(&AGENTS, "large"), &QUICK);
    client.carry_out_until(rolled_back, "successful");

    let large = manifest(&AGENTS, "large");
    let commands = [
        (deployed, [&["DEPLOY.DEPLOY", deployed, "MANIFEST", &large, "REQUEST", "r-1"], &QUICK[..]].concat()),
        (promoted, vec!["DEPLOY.PROMOTE", promoted]),
        (rolled_back, vec!["DEPLOY.ROLLBACK", rolled_back, "REQUEST", "r-1"]),
    ];
    // What the clients never read.
    let lost = commands.each_ref().map(|(_, words)| client.call(words));
    let before = keys.iter().map(|key| client.status(key)).collect::<Vec<_>>();
    let replica = cluster.replica_of(primary);
    fail_over(primary, replica);
    wait_until("the roles to change", || {
        let is_primary = |node: &Server| cluster.primaries().iter().any(|other| other.port == node.port);
        is_primary(replica) && !is_primary(primary)
    });

    for (((key, words), lost), before) in commands.iter().zip(&lost).zip(&before) {
        let mut client = cluster.client_of(key);
        assert_eq!(client.info("server", "tcp_port"), replica.port.to_string(), "served by the new primary");
        for _repetition in 0..2 {
            assert_eq!(client.call(words), *lost, "{words:?}");
            assert_eq!(client.status(key), *before, "{words:?}");
        }
        let record = client.carry_out_until(key, "successful");
        let versions = client.json(&["DEPLOY.HISTORY", key, "JSON"]);
        assert_eq!(record["current_version"], before["target_version"], "{words:?}");
        assert_eq!(record["current_version"], array(&versions).len(), "no version but that of the command: {words:?}");
        // A request is remembered beyond the end of its deployment.
        if words.contains(&"REQUEST") {
            assert_eq!(client.call(words), *lost, "{words:?}");
        }
        let log = client.log_without_repetition(key);
        assert_eq!(number(&record["revision"]) as usize, log.len(), "{words:?}");
    }
}

#[test]
fn resharded_records_are_unchanged_and_continue() {
    on_each_server(|kind| {
        let cluster = Cluster::start(kind, 3, PATIENT_MS, &[]);
        let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
        let of_first: Vec<String> = cluster.keys(9).into_iter().step_by(3).collect();
        let [still, due, busy] = of_first.as_slice() else { panic!("three keys of the first primary") };
        let heard = Subscriber::start(&cluster.nodes[2], "deploy:events:*");
        let mut client = first.client();
        let slot = |key: &str| slot_of(&mut first.client(), key);

        // Nothing falls due while it moves: not one byte differs afterwards.
        let record = client.begin_rollout(still, 200_000);
        let dump = client.call(&["DUMP", still]);
        assert_in_one_place(&cluster, still, first);
        cluster.reshard(slot(still), first, second, |_, _| ());
        assert_in_one_place(&cluster, still, second);
        assert_eq!(second.client().call(&["DUMP", still]), dump);
        assert_eq!(second.client().status(still), record);
        assert_eq!(first.client().info("deploy", "deploy_timers_armed"), "0");
        assert_eq!(second.client().info("deploy", "deploy_timers_armed"), "1");

        // What falls due on the way waits until the record has arrived.
        let record = client.begin_rollout(due, 600);
        let verdict_at = number(&record["deadlines"]["next_at"]);
        cluster.reshard(slot(due), first, second, |source, target| {
            wait_past(verdict_at + 200);
            assert!(source.refused(&["DEPLOY.STATUS", due]).starts_with("ASK "));
            assert!(moved_to(&target.refused(&["DEPLOY.STATUS", due])).is_some(), "not its own yet");
            target.call(&["ASKING"]);
            assert_eq!(target.status(due), record, "no node decides over it now");
        });
        let mut target = second.client();
        target.carry_out_until(due, "successful");
        assert_in_one_place(&cluster, due, second);

        // To and fro, while a rollout goes on: each verdict falls due somewhere on the way.
        client.begin_rollout(busy, 100);
        let mut homes = [first, second];
        for _round in 0..if is_long_run() { 40 } else { 4 } {
            let [from, to] = homes;
            cluster.reshard(slot(busy), from, to, |_, target| {
                // As a cluster client does where it was told ASK.
                target.call(&["ASKING"]);
                target.status(busy);
            });
            let mut client = cluster.client_of(busy);
            client.carry_out_tasks(busy);
            assert_in_one_place(&cluster, busy, to);
            homes.reverse();
        }
        cluster.client_of(busy).carry_out_until(busy, "successful");
        assert_in_one_place(&cluster, busy, homes[0]);
        assert_heard_once(&cluster, &heard, &of_first);
    });
}

/// Drains and bakes end by the timer of the node that has their slot, and of no other, at the time that was set before
/// the slot moved.
#[test]
fn drains_and_bakes_end_once_where_their_slot_has_moved_to() {
    on_each_server(|kind| {
        let cluster = Cluster::start(kind, 3, PATIENT_MS, &[]);
        let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
        let keys: Vec<String> = cluster.keys(12).into_iter().step_by(3).collect();
        let heard = Subscriber::start(&cluster.nodes[2], "deploy:events:*");
        let (mut source, mut target) = (first.client(), second.client());
        let fired = |client: &mut Client| client.info("deploy", "deploy_timers_fired");
        for (n, key) in keys.iter().enumerate() {
            let (aftermath, is_due_on_the_way) = (Aftermath::ALL[n % 2], n >= 2);
            let record = aftermath.begin(&mut source, key, 2_500);
            let due = Aftermath::due(&record);
            let (fired_by_source, fired_by_target) = (fired(&mut source), fired(&mut target));
            cluster.reshard(slot_of(&mut source, key), first, second, |_, target| {
                if is_due_on_the_way {
                    wait_past(due + 200);
                    target.call(&["ASKING"]);
                    assert_eq!(target.status(key), record, "no node decides over it now");
                }
            });
            if !is_due_on_the_way {
                let moved = target.status(key);
                if skip_if_past(due) {
                    return;
                }
                assert_eq!(moved, record);
            }
            aftermath.assert_ends_once(&mut target, key, if is_due_on_the_way { due + 200 } else { due });
            assert_eq!(fired(&mut source), fired_by_source, "{key}");
            assert_ne!(fired(&mut target), fired_by_target, "{key}");
            assert_in_one_place(&cluster, key, second);
        }
        assert_heard_once(&cluster, &heard, &keys);
    });
}

/// A client that waits for a key whose slot moves is told to ask again, by the code word of the server's own blocking
/// commands. `NOTFOUND` would say that the deployment is gone.
#[test]
fn clients_that_wait_are_unblocked_when_the_slot_moves() {
    on_each_server(|kind| {
        let cluster = Cluster::start(kind, 0, PATIENT_MS, &[]);
        let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
        let keys: Vec<String> = cluster.keys(6).into_iter().step_by(3).collect();
        let mut client = first.client();
        let move_slot = |n: usize, key: &str| {
            let slot = slot_of(&mut first.client(), key);
            match kind {
                ServerKind::Valkey91 if n == 1 => migrate_slots(&cluster, first, second, &[slot], || {}),
                _ => cluster.reshard(slot, first, second, |_, _| {}),
            }
        };
        for (n, key) in keys.iter().enumerate() {
            let revision = client.begin_rollout(key, 200_000)["revision"].to_string();
            let commands = [
                vec!["DEPLOY.WAIT".to_string(), key.clone()],
                ["DEPLOY.EVENTS", key, "AFTER", &revision, "BLOCK", "0"].map(str::to_string).to_vec(),
            ];
            let answers = commands.map(|words| {
                let mut client = first.client();
                std::thread::spawn(move || client.try_call(&words))
            });
            wait_until("the clients to wait", || client.info("clients", "blocked_clients") == "2");
            move_slot(n, key);
            for answer in answers {
                let error = answer.join().expect("no panic").expect_err("it is served by another node");
                assert!(error.starts_with("UNBLOCKED "), "{key}: {error}");
            }
            assert_eq!(second.client().status(key)["status"], "running");
        }
    });
}

/// Valkey 9 moves slots by itself, key by key and then event by event, with the source serving until the last moment.
#[test]
fn valkey_slot_migration_moves_records() {
    if ServerKind::Valkey91.binary().is_none() {
        return;
    }
    let cluster = Cluster::start(ServerKind::Valkey91, 3, PATIENT_MS, &[]);
    for node in &cluster.nodes {
        node.client().call(&["CONFIG", "SET", "deploy.events-max", "5000"]);
    }
    let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
    let keys: Vec<String> = cluster.keys(18).into_iter().step_by(3).collect();
    let heard = Subscriber::start(&cluster.nodes[2], "deploy:events:*");
    let mut client = first.client();
    let slots: Vec<u16> = keys.iter().map(|key| slot_of(&mut client, key)).collect();

    let (still, busy) = (&keys[0], &keys[1..]);
    let record = client.begin_rollout(still, 200_000);
    let dump = client.call(&["DUMP", still]);
    let mut homes = [first, second];
    for round in 0..if is_long_run() { 30 } else { 4 } {
        let [from, to] = homes;
        // Each round has verdicts that fall due while the slots move, and rollouts that are replaced by the next.
        let mut client = from.client();
        for (n, key) in busy.iter().enumerate() {
            let ms = (20 + 60 * n).to_string();
            let manifest = manifest(&AGENTS, &format!("model-{round}"));
            client.deploy(key, &manifest, &["MIN_HEALTHY_MS", &ms, "MAX_PARALLEL", "2"]);
            client.carry_out_tasks(key);
        }
        migrate_slots(&cluster, from, to, &slots, || {
            // Coordinators go on, as far as there is somebody to talk to.
            for key in busy {
                let mut client = cluster.client_of(key);
                // The slot may go at any moment.
                let mut ask = |words: &[&str]| match client.try_call(words) {
                    Ok(reply) => Some(reply),
                    Err(line) => {
                        assert!(line.starts_with("MOVED ") || line.starts_with("TRYAGAIN "), "{line}");
                        None
                    }
                };
                let tasks = ask(&["DEPLOY.TASKS", key, "JSON"]).map_or("[]".to_string(), |reply| text(&reply));
                for task in array(&serde_json::from_str(&tasks).expect("JSON")) {
                    ask(&["DEPLOY.REPORT", key, string(&task["agent"]), "ready"]);
                }
            }
        });
        homes.reverse();
    }
    let home = homes[0];
    assert_eq!(home.client().call(&["DUMP", still]), dump);
    assert_eq!(home.client().status(still), record);
    for key in busy {
        cluster.client_of(key).carry_out_until(key, "successful");
    }
    for key in &keys {
        assert_in_one_place(&cluster, key, home);
    }
    assert_heard_once(&cluster, &heard, &keys);
}

fn migrate_slots(cluster: &Cluster, from: &Server, to: &Server, slots: &[u16], mut meanwhile: impl FnMut()) {
    let mut source = from.client();
    let ranges: Vec<String> = slots.iter().flat_map(|slot| [slot.to_string(), slot.to_string()]).collect();
    let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
    let target = id_of(to);
    source.call(&[&["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"], &ranges[..], &["NODE", &target]].concat());
    wait_until("the slots to have moved", || {
        meanwhile();
        let jobs = source.call(&["CLUSTER", "GETSLOTMIGRATIONS"]);
        // The newest comes first.
        let state = items(&jobs).first().map(|job| Fields::of(job).text("state")).unwrap_or_default();
        assert!(state != "failed" && state != "cancelled", "{jobs:?}");
        state == "success"
    });
    cluster.wait_until_known(to);
}

#[test]
fn sharded_events_stay_in_the_shard_of_the_key() {
    on_each_server(|kind| {
        let cluster = Cluster::start(kind, 3, PATIENT_MS, &[]);
        for node in &cluster.nodes {
            node.client().call(&["CONFIG", "SET", "deploy.publish", "sharded"]);
        }
        let classic = Subscriber::start(&cluster.nodes[2], "deploy:events:*");
        let keys = cluster.keys(3);
        // A key with a hash tag is its channel's as it is; any other becomes the tag.
        let tagged = format!("app{{{}}}x", keys[0]);
        for (key, channel) in
            [(&keys[0], format!("deploy:events:{{{}}}", keys[0])), (&tagged, format!("deploy:events:{tagged}"))]
        {
            let (home, elsewhere) = (&cluster.nodes[0], &cluster.nodes[1]);
            let at_primary = Subscriber::start_sharded(home, &channel);
            let at_replica = Subscriber::start_sharded(cluster.replica_of(home), &channel);
            assert_eq!(moved_to(&elsewhere.client().refused(&["SSUBSCRIBE", &channel])), Some(home.port));
            let mut client = home.client();
            client.deploy(key, &manifest(&AGENTS, "small"), &QUICK);
            client.carry_out_until(key, "successful");
            let log = client.log_without_repetition(key);
            for subscriber in [&at_primary, &at_replica] {
                assert_eq!(subscriber.events_until_now(&mut client, &channel), log);
            }
        }

        // The slot moves: who follows it hears the rest.
        let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
        let key = &keys[0];
        from.client().begin_rollout(key, 100);
        cluster.reshard(slot_of(&mut from.client(), key), from, to, |_, _| ());
        let channel = format!("deploy:events:{{{key}}}");
        let mut client = to.client();
        let there = Subscriber::start_sharded(to, &channel);
        let from_here = number(&client.status(key)["revision"]);
        client.carry_out_until(key, "successful");
        let heard = there.events_until_now(&mut client, &channel);
        let log = client.log_without_repetition(key);
        let rest = |events: &[Json]| -> Vec<Json> {
            events.iter().filter(|event| number(&event["revision"]) > from_here).cloned().collect()
        };
        assert_eq!(rest(&heard), rest(&log));
        assert_eq!(classic.events(), Vec::<Json>::new(), "nobody else hears of it");
    });
}

#[test]
fn sharded_events_reach_the_replicas_of_a_server_without_cluster_too() {
    on_each_server(|kind| {
        let (primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        replica.replicate_from(&primary);
        let mut client = primary.client();
        // Each server publishes to its own subscribers, as it is configured itself.
        let publish = |how: &str| {
            for server in [&primary, &replica] {
                server.client().call(&["CONFIG", "SET", "deploy.publish", how]);
            }
        };
        publish("sharded");
        let channel = "deploy:events:{agent-api}";
        let (here, there) =
            (Subscriber::start_sharded(&primary, channel), Subscriber::start_sharded(&replica, channel));
        client.deploy("agent-api", &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until("agent-api", "successful");
        let log = client.log_without_repetition("agent-api");
        assert_eq!(here.events_until_now(&mut client, channel), log);
        assert_eq!(there.events_until_now(&mut client, channel), log);
        // And back, while it runs.
        publish("classic");
        let classic = Subscriber::start(&replica, "deploy:events:*");
        client.call(&["DEPLOY.TAG", "agent-api", "1", "good"]);
        let event = classic.wait_for_event("the tag", |event| event["type"] == "version_tagged");
        assert_eq!(event["revision"], json!(log.len() + 1));
        assert_eq!(there.events_until_now(&mut client, channel).len(), log.len());
    });
}

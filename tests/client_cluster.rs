//! DEPLOY.LIST by cluster clients: a node lists its own keys, and the loops of the cookbook list them all. redis-py is in
//! `.clients`, where `scripts/test` installs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use test_support::cluster::Cluster;
use test_support::prelude::*;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a Python program with redis-py, and returns what it prints.
fn python(program: &str) -> String {
    assert!(root().join(".clients/redis").is_dir(), "redis-py is missing: scripts/test installs it into .clients");
    output(Command::new("python3").env("PYTHONPATH", root().join(".clients")).args(["-c", program]))
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    text.into_owned()
}

/// The code blocks of a language in a section of the cookbook.
fn recipes(section: &str, language: &str) -> Vec<String> {
    let cookbook = std::fs::read_to_string(root().join(Path::new("docs/cookbook.md"))).expect("the cookbook");
    let text = cookbook.split("\n## ").find(|text| text.starts_with(section)).expect("the section");
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().to_string()).collect()
}

/// Three primaries, with two keys on each, of which one deployment has failed.
fn cluster_with_keys() -> (Cluster, Vec<String>) {
    let cluster = Cluster::start(ServerKind::Redis70, 0, 15_000, &[]);
    let mut keys = cluster.keys(6);
    for (n, key) in keys.iter().enumerate() {
        let mut client = cluster.client_of(key);
        client.deploy(key, &manifest(&["a"], "small"), &SLOW);
        if n == 0 {
            client.call(&["DEPLOY.FAIL", key]);
        }
    }
    keys.sort();
    (cluster, keys)
}

#[test]
fn loops_of_the_cookbook_list_every_node() {
    let (cluster, keys) = cluster_with_keys();
    for node in cluster.primaries() {
        assert!(node.client().listed().len() < keys.len(), "each lists its own");
    }
    let here = format!("127.0.0.1:{}", cluster.nodes[0].port);
    let programs = recipes("List everything", "python");
    assert_eq!(programs.len(), 1);
    let printed = python(&programs[0].replace("127.0.0.1:6379", &here));
    let mut listed: Vec<&str> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    listed.sort_unstable();
    assert_eq!(listed, keys);

    let line =
        recipes("List everything", "sh").into_iter().find(|line| line.contains("--cluster call")).expect("a line");
    let words = line.trim().replace("127.0.0.1:6379", &here);
    let words: Vec<&str> = words.split(' ').skip(1).filter(|word| !["STATUS", "failed"].contains(word)).collect();
    let printed = output(Command::new("redis-cli").args(words));
    assert!(keys.iter().all(|key| printed.contains(key.as_str())), "{printed}");
}

/// No client fails at the command tips of any command; redis-py reads them if it is told to.
#[test]
fn command_tips_break_no_cluster_client() {
    let (cluster, keys) = cluster_with_keys();
    let program = r#"
import redis
from redis.commands.policies import DynamicPolicyResolver
from redis._parsers.commands import CommandsParser
url, key = "URL", "KEY"
plain = redis.Redis.from_url(url, decode_responses=False)
resolver = DynamicPolicyResolver(CommandsParser(plain))
cluster = redis.RedisCluster.from_url(url, decode_responses=True, protocol=3, policy_resolver=resolver)
cursor, page = cluster.execute_command("DEPLOY.LIST", "COUNT", "100")
assert cursor == "0" and page, page
assert cluster.execute_command("DEPLOY.HELP")[0].startswith("DEPLOY.")
for command in ["STATUS", "SHOW", "HISTORY", "TASKS", "EVENTS", "RESOLVE", "PAUSE"]:
    cluster.execute_command("DEPLOY." + command, key)
assert cluster.execute_command("DEPLOY.SHOW", key, "WIDTH", "100").startswith(key)
for node in cluster.get_primaries():
    for words in [[], ["WIDTH", "100"]]:
        shown = cluster.execute_command("DEPLOY.SHOW", *words, target_nodes=node)
        assert shown.startswith("database 0 "), shown
print(len(page))
"#;
    let url = format!("redis://127.0.0.1:{}", cluster.nodes[0].port);
    let running = keys.iter().find(|key| cluster.client_of(key).status(key)["status"] == "running").expect("a key");
    let printed = python(&program.replace("\"URL\"", &format!("{url:?}")).replace("\"KEY\"", &format!("{running:?}")));
    let listed: usize = printed.trim().parse().expect("a number");
    assert!((1..keys.len()).contains(&listed), "the keys of one node: {listed}");
}

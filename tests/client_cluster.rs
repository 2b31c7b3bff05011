//! DEPLOY.LIST by cluster clients: a node lists its own keys, and the loops of the cookbook list them all. redis-py is in
//! `.clients`, node-redis and ioredis are in `examples/node_modules`, where `scripts/test` installs them.

use redis::cluster::ClusterClient;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use redis::{cmd, from_redis_value, RedisResult, Value};
use std::collections::HashMap;
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

/// Runs a JavaScript program with node-redis and ioredis, and returns what it prints.
fn javascript(program: &str) -> String {
    let examples = root().join("examples");
    let is_there = ["redis", "ioredis"].iter().all(|client| examples.join("node_modules").join(client).is_dir());
    assert!(is_there, "node-redis or ioredis is missing: scripts/test installs them, or `npm ci` in examples/");
    output(Command::new("node").current_dir(examples).args(["--input-type=module", "--eval", program]))
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

/// Three primaries, with more keys on each than a page has, of which one deployment has failed.
fn cluster_with_keys() -> (Cluster, Vec<String>) {
    let cluster = Cluster::start(ServerKind::Redis70, 0, 15_000, &[]);
    let mut keys = cluster.keys(36);
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

/// Asserts that a program named each key in a line, once.
fn assert_lists_once(printed: &str, keys: &[String]) {
    let mut listed: Vec<&str> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    listed.sort_unstable();
    assert_eq!(listed, keys);
}

/// The loop of the cookbook, word for word.
fn list_everything(url: &str) -> RedisResult<Vec<HashMap<String, Value>>> {
    let mut cluster = ClusterClient::new([url])?.get_connection()?;
    let primaries = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
    let answers: HashMap<String, String> = from_redis_value(cluster.route_command(&cmd("PING"), primaries)?)?;
    let mut entries = Vec::new();
    for address in answers.keys() {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let (host, port) = (host.to_string(), port.parse().expect("a port"));
        let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
        let mut cursor = "0".to_string();
        loop {
            let list = cmd("DEPLOY.LIST").arg("CURSOR").arg(&cursor).to_owned();
            let (next, page): (String, Vec<_>) = from_redis_value(cluster.route_command(&list, node.clone())?)?;
            entries.extend(page);
            if next == "0" {
                break;
            }
            cursor = next;
        }
    }
    Ok(entries)
}

#[test]
fn loops_of_the_cookbook_list_every_node() {
    let (cluster, keys) = cluster_with_keys();
    for node in cluster.primaries() {
        assert!(node.client().listed().len() < keys.len(), "each lists its own");
    }
    let here = format!("127.0.0.1:{}", cluster.nodes[0].port);
    let (in_python, in_javascript) = (recipes("List everything", "python"), recipes("List everything", "js"));
    assert_eq!((in_python.len(), in_javascript.len()), (1, 2));
    assert_lists_once(&python(&in_python[0].replace("127.0.0.1:6379", &here)), &keys);
    for program in in_javascript {
        assert_lists_once(&javascript(&program.replace("127.0.0.1:6379", &here)), &keys);
    }
    let [in_rust] = &recipes("List everything", "rust")[..] else { panic!("one recipe in Rust") };
    assert!(include_str!("client_cluster.rs").contains(in_rust), "list_everything is not that of the cookbook");
    let entries = list_everything(&format!("redis://{here}")).expect("a list");
    let listed: Vec<String> = entries.iter().map(|entry| text(&entry["deployment_key"])).collect();
    assert_lists_once(&listed.join("\n"), &keys);

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

/// Clients that choose the node of a LIST themselves get the page of one, and go on.
#[test]
fn lists_without_a_node_break_no_cluster_client() {
    let (cluster, keys) = cluster_with_keys();
    let here = format!("redis://127.0.0.1:{}", cluster.nodes[0].port);
    let connected = [
        "import { createCluster } from 'redis';
         const cluster = createCluster({ rootNodes: [{ url: 'URL' }] });
         const call = (key, ...words) => cluster.sendCommand(key, true, words);
         await cluster.connect();",
        "import { Cluster } from 'ioredis';
         const cluster = new Cluster(['URL'], { lazyConnect: true });
         const call = (key, ...words) => cluster.call(...words);
         await cluster.connect();",
    ];
    let calls = "
        const sizes = [];
        for (const words of [[], ['COUNT', '100'], ['MATCH', '*', 'CURSOR', '0', 'COUNT', '100']]) {
          const [cursor, page] = await call(undefined, 'DEPLOY.LIST', ...words);
          sizes.push(page.length);
          for (const key of KEYS) await call(key, 'DEPLOY.STATUS', key);
        }
        console.log(sizes.join(' '));
        await cluster.quit();";
    let on_each = keys.len() / 3;
    for connected in connected {
        let program = [connected, calls].concat().replace("URL", &here).replace("KEYS", &format!("{keys:?}"));
        assert_eq!(javascript(&program).trim(), format!("10 {on_each} {on_each}"), "{connected}");
    }

    let mut client = ClusterClient::new([here]).expect("an address").get_connection().expect("a cluster");
    for (words, size) in
        [(&[][..], 10), (&["COUNT", "100"], on_each), (&["MATCH", "*", "CURSOR", "0", "COUNT", "100"], on_each)]
    {
        let page = cmd("DEPLOY.LIST").arg(words).query::<(String, Vec<Value>)>(&mut client).expect("a page");
        assert_eq!(page.1.len(), size, "{words:?}");
        for key in &keys {
            cmd("DEPLOY.STATUS").arg(key).query::<Value>(&mut client).expect("a status");
        }
    }
}

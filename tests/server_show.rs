//! DEPLOY.SHOW and HELP in redis-cli, in either protocol, on a terminal and in a pipe (rule 3). The content of the
//! page is tested by `view_show.rs`.

use redis::Value;
use test_support::prelude::*;
use test_support::terminal::*;

const KEY: &str = "agent-api";

/// One agent is healthy, one has its verdict far ahead.
fn start_rollout(server: &Server) -> Client {
    let mut client = server.client();
    client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
    client.carry_out_until(KEY, "successful");
    client.deploy(
        KEY,
        &manifest(&AGENTS, "large"),
        &[&SLOW[..], &["REASON", "line one\r\nline \x1b[31mtwo ключ"]].concat(),
    );
    client.report(KEY, "agent-1", "ready");
    client
}

/// The lines of a page.
fn page_of(reply: &Value) -> Vec<String> {
    text(reply).split('\n').map(str::to_string).collect()
}

/// The lines of an array of statuses, which is how the server's own HELP commands reply.
fn lines(reply: &Value) -> Vec<String> {
    let line = |item: &Value| match item {
        Value::SimpleString(line) => line.clone(),
        Value::Okay => "OK".to_string(),
        other => panic!("not a status: {other:?}"),
    };
    items(reply).iter().map(line).collect()
}

/// A page without its numbers, which a second may change.
fn still(lines: &[String]) -> Vec<String> {
    let words = |line: &String| -> Vec<String> {
        let words = line.split(|c: char| c.is_ascii_digit() || c == ' ');
        words.filter(|word| !word.is_empty()).map(str::to_string).collect()
    };
    lines.iter().map(|line| words(line).join(" ")).collect()
}

#[test]
fn show_replies_a_verbatim_string_in_resp3_and_a_bulk_string_in_resp2() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = start_rollout(&server);
        let page = page_of(&client.call(&["DEPLOY.SHOW", KEY]));
        assert!(page[0].starts_with("agent-api ") && page[0].ends_with(" UTC"), "{page:#?}");
        assert!(page.iter().any(|line| line.starts_with("status      RUNNING: 0 of 3 agents healthy")), "{page:#?}");
        assert!(page.iter().any(|line| line.starts_with("agent-1  2 ")), "{page:#?}");
        let mut resp3 = server.client_resp3();
        let verbatim = resp3.call(&["DEPLOY.SHOW", KEY]);
        let Value::VerbatimString { format, text } = &verbatim else { panic!("{verbatim:?}") };
        assert_eq!(format.to_string(), "txt");
        let of_resp3: Vec<String> = text.split('\n').map(str::to_string).collect();
        assert_eq!(still(&of_resp3), still(&page));
        assert!(matches!(client.call(&["DEPLOY.SHOW", KEY]), Value::BulkString(_)));
        // In a transaction and a script it is the same.
        let script = "return redis.call('DEPLOY.SHOW', KEYS[1])";
        let of_script = client.call(&["EVAL", script, "1", KEY]);
        assert_eq!(still(&page_of(&of_script)), still(&page));
        // It is read, and no more: by whoever may only read, and on a replica.
        let revision = client.status(KEY)["revision"].clone();
        client.call(&["ACL", "SETUSER", "eve", "on", "nopass", "%R~*", "-@all", "+deploy.show", "+deploy.help"]);
        let mut eve = server.client();
        eve.call(&["AUTH", "eve", "x"]);
        eve.call(&["DEPLOY.SHOW", KEY]);
        assert!(eve.refused(&["DEPLOY.STATUS", KEY]).starts_with("NOPERM"));
        assert_eq!(client.status(KEY)["revision"], revision);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        assert_eq!(still(&page_of(&replica.client().call(&["DEPLOY.SHOW", KEY]))), still(&page));
    });
}

#[test]
fn show_rejects_missing_and_mistyped_keys() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = start_rollout(&server);
    client.call(&["SET", "a-string", "x"]);
    assert!(client.refused(&["DEPLOY.SHOW", "nothing"]).starts_with("NOTFOUND "));
    assert!(client.refused(&["DEPLOY.SHOW", "a-string"]).starts_with("WRONGTYPE "));
    for (words, error) in [
        (&[KEY, "JSON"][..], "unknown option 'JSON'"),
        (&[KEY, "WIDTH"], "WIDTH needs a value"),
        (&[KEY, "WIDTH", "59"], "WIDTH must be an integer from 60 to 200"),
        (&[KEY, "WIDTH", "201"], "WIDTH must be an integer from 60 to 200"),
        (&[KEY, "WIDTH", "80", "WIDTH", "80"], "option 'WIDTH' is given twice"),
        (&["WIDTH", "-1"], "WIDTH must be an integer from 60 to 200"),
        (&["WIDTH", "wide"], "WIDTH must be an integer from 60 to 200"),
    ] {
        let refused = client.refused(&[&["DEPLOY.SHOW"], words].concat());
        assert_eq!(refused, format!("ERR {error}"), "{words:?}");
    }
    assert!(client.refused(&["DEPLOY.HELP", "help", "me"]).contains("wrong number of arguments"));
}

#[test]
fn redis_cli_prints_the_page_line_by_line() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = start_rollout(&server);
        let page = still(&page_of(&client.call(&["DEPLOY.SHOW", KEY])));
        let piped = redis_cli(&server, &["DEPLOY.SHOW", KEY]);
        assert_eq!(still(&piped), page, "in a pipe");
        let resp3 = redis_cli(&server, &["-3", "DEPLOY.SHOW", KEY]);
        assert_eq!(still(&resp3), page, "in a pipe, RESP3");
        let resp3 = on_terminal(&server, &["-3", "DEPLOY.SHOW", KEY]);
        assert_eq!(still(&resp3), page, "on a terminal, RESP3");
        for line in resp3.iter().chain(&piped) {
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        let reason = piped.iter().find(|line| line.starts_with("by ")).expect("its line");
        assert_eq!(reason.as_str(), r"by          default: line one\r\nline \u{1b}[31mtwo ключ");
    });
}

/// The words behind the columns of a page's line that begins so.
fn line_of<'p>(page: &'p [String], start: &str) -> &'p str {
    page.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {page:#?}"))
}

/// The events that follow have another time than what was before: the page is in the order of time.
fn pass_a_millisecond() {
    let before = unix_ms();
    wait_until("the clock to go on", || unix_ms() > before);
}

/// Deployments of every status: two wait for a person, two run, two have failed.
fn start_all_sorts(client: &mut Client) {
    let a = manifest(&["a"], "small");
    for key in ["done-1", "done-2", "awaits", "was-awaiting"] {
        client.deploy(key, &a, &QUICK);
        client.carry_out_until(key, "successful");
    }
    client.deploy("paused", &a, &SLOW);
    client.call(&["DEPLOY.PAUSE", "paused", "REASON", "lunch"]);
    pass_a_millisecond();
    for key in ["awaits", "was-awaiting"] {
        client.deploy(key, &manifest(&["a"], "large"), &[&QUICK[..], &["CANARY", "1"]].concat());
        client.carry_out_until(key, "awaiting_promotion");
    }
    client.call(&["DEPLOY.STOP", "was-awaiting"]);
    client.deploy("runs-1", &a, &SLOW);
    pass_a_millisecond();
    client.deploy("runs-2", &a, &SLOW);
    client.report("runs-2", "a", "ready");
    client.deploy("fails-1", &a, &SLOW);
    client.call(&["DEPLOY.REPORT", "fails-1", "a", "failed", "REASON", "нет модели"]);
    pass_a_millisecond();
    client.deploy("fails-2", &a, &SLOW);
    client.call(&["DEPLOY.FAIL", "fails-2", "REASON", "too slow"]);
}

#[test]
fn show_without_a_key_is_the_page_of_the_database() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let empty = page_of(&client.call(&["DEPLOY.SHOW"]));
        assert!(empty[0].starts_with("database 0 ") && empty.iter().filter(|line| *line == "none").count() == 3);
        start_all_sorts(&mut client);
        let check = |client: &mut Client| {
            let page = page_of(&client.call(&["DEPLOY.SHOW"]));
            let text = page.join("\n");
            assert!(
                page[1].contains("2 running, 1 awaiting_promotion, 1 paused, 2 successful, 2 failed,"),
                "{page:#?}"
            );
            assert!(line_of(&page, "paused ").ends_with("RESUME, paused by default: lunch"), "{page:#?}");
            assert!(line_of(&page, "awaits ").ends_with("PROMOTE, 1 of 1 canaries healthy"), "{page:#?}");
            assert!(line_of(&page, "runs-1 ").contains("a coordinator to start a"), "{page:#?}");
            assert!(
                line_of(&page, "runs-2 ").contains("[++++++++++] ")
                    && line_of(&page, "runs-2 ").contains("a healthy in "),
                "{page:#?}"
            );
            assert!(line_of(&page, "fails-1 ").contains("agent_failed: agent a failed: нет модели"), "{page:#?}");
            assert!(line_of(&page, "fails-2 ").contains("operator: failed by default: too slow"), "{page:#?}");
            let order: Vec<usize> = ["paused", "awaits", "runs-1", "runs-2", "fails-2", "fails-1"]
                .iter()
                .map(|key| text.find(&format!("\n{key} ")).expect("a row"))
                .collect();
            assert!(order.is_sorted(), "the oldest first, but of failures the newest: {page:#?}");
            assert!(!text.contains("done-1") && !text.contains("was-awaiting"), "{page:#?}");
            page
        };
        let page = check(&mut client);
        // The same after a load, from bytes, and on a replica; in another protocol, and in a script.
        client.call(&["DEBUG", "RELOAD"]);
        assert_eq!(still(&check(&mut client)), still(&page));
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        check(&mut replica.client());
        let Value::VerbatimString { .. } = server.client_resp3().call(&["DEPLOY.SHOW"]) else { panic!("RESP3") };
        let of_script = client.call(&["EVAL", "return redis.call('DEPLOY.SHOW')", "0"]);
        assert_eq!(still(&page_of(&of_script)), still(&page));
        // What is gone or has moved on leaves it.
        client.call(&["DEL", "fails-1"]);
        client.call(&["RENAME", "fails-2", "renamed"]);
        client.call(&["DEPLOY.RESUME", "paused"]);
        client.call(&["MOVE", "runs-1", "1"]);
        let page = page_of(&client.call(&["DEPLOY.SHOW"]));
        assert!(page[1].contains("2 running, 1 awaiting_promotion, 0 paused, 2 successful, 1 failed,"), "{page:#?}");
        line_of(&page, "renamed ");
        line_of(&page, "paused   "); // now among those that run
        for gone in ["fails-", "runs-1"] {
            assert!(!page.iter().any(|line| line.starts_with(gone)), "{page:#?}");
        }
        client.call(&["SELECT", "1"]);
        let other = page_of(&client.call(&["DEPLOY.SHOW"]));
        assert!(other[0].starts_with("database 1 ") && other.iter().any(|line| line.starts_with("runs-1 ")));
        client.call(&["FLUSHALL"]);
        assert_eq!(page_of(&client.call(&["DEPLOY.SHOW"]))[2..], empty[2..]);
    });
}

/// WIDTH is the key where it stands alone or before an option, and the option where a number follows.
#[test]
fn show_takes_a_width_with_and_without_a_key() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_all_sorts(&mut client);
        let long = format!("{}-1", "long-name".repeat(10));
        client.deploy(&long, &manifest(&["a"], "small"), &SLOW);
        client.deploy("WIDTH", &manifest(&["a"], "small"), &SLOW);
        for width in [60, 61, 80, 120, 200] {
            for words in
                [&["DEPLOY.SHOW", "WIDTH"][..], &["DEPLOY.SHOW", &long, "width"], &["DEPLOY.SHOW", "WIDTH", "WIDTH"]]
            {
                let page = page_of(&client.call(&[words, &[&width.to_string()]].concat()));
                assert_eq!(page[0].chars().count(), width, "{page:#?}");
                assert!(page.iter().all(|line| line.chars().count() <= width), "{page:#?}");
            }
        }
        assert!(page_of(&client.call(&["DEPLOY.SHOW", "WIDTH"]))[0].starts_with("WIDTH "));
        assert!(page_of(&client.call(&["DEPLOY.SHOW", "width", "100"]))[0].starts_with("database 0 "));
        assert!(page_of(&client.call(&["DEPLOY.SHOW", "WIDTH", "WIDTH", "100"]))[0].starts_with("WIDTH "));
        // What the server takes for a key.
        let mut keys = |words: &[&str]| client.try_call(&[&["COMMAND", "GETKEYS", "DEPLOY.SHOW"], words].concat());
        for words in [&["WIDTH"][..], &["WIDTH", "WIDTH", "100"]] {
            assert_eq!(texts_of(&keys(words).expect("a key")), ["WIDTH"]);
        }
        assert_eq!(texts_of(&keys(&[&long]).expect("a key")), [&*long]);
        assert_eq!(texts_of(&keys(&["app", "WIDTH", "100"]).expect("a key")), ["app"]);
        assert!(keys(&[]).is_err() && keys(&["WIDTH", "100"]).is_err());
    });
}

fn texts_of(reply: &Value) -> Vec<String> {
    items(reply).iter().map(text).collect()
}

#[test]
fn show_leaves_out_keys_without_read_permission() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut root = server.client();
        start_all_sorts(&mut root);
        root.deploy("WIDTH", &manifest(&["a"], "small"), &SLOW);
        root.call(&["ACL", "SETUSER", "eve", "on", "nopass", "%R~*-1", "-@all", "+deploy.show"]);
        let mut eve = server.client();
        eve.call(&["AUTH", "eve", "x"]);
        for words in [&["DEPLOY.SHOW"][..], &["DEPLOY.SHOW", "WIDTH", "90"]] {
            let page = page_of(&eve.call(words));
            line_of(&page, "runs-1 ");
            line_of(&page, "fails-1 ");
            for other in ["runs-2", "fails-2", "paused", "awaits", "WIDTH"] {
                assert!(!page.iter().any(|line| line.starts_with(other)), "{other}: {page:#?}");
            }
            assert!(page.iter().any(|line| line == "and 2 more"), "they are counted: {page:#?}");
        }
        eve.call(&["DEPLOY.SHOW", "runs-1", "WIDTH", "90"]);
        for words in [&["runs-2"][..], &["runs-2", "WIDTH", "90"], &["WIDTH"], &["WIDTH", "WIDTH", "90"]] {
            assert!(eve.refused(&[&["DEPLOY.SHOW"], words].concat()).starts_with("NOPERM"), "{words:?}");
        }
    });
}

/// However much there is, the page has at most 50 lines, and what is finished costs nothing.
#[test]
fn the_page_of_a_large_database_is_short() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let a = manifest(&["a"], "small");
    for n in 0..40 {
        for (key, command) in [("fails", "DEPLOY.FAIL"), ("waits", "DEPLOY.PAUSE"), ("runs", "DEPLOY.RESUME")] {
            let key = format!("{key}-{n:02}");
            client.deploy(&key, &a, &SLOW);
            client.call(&[command, &key, "REASON", &"a long reason ".repeat(20)]);
        }
    }
    for width in ["60", "80", "200"] {
        let page = page_of(&client.call(&["DEPLOY.SHOW", "WIDTH", width]));
        assert!(page.len() <= 50, "{} lines", page.len());
        line_of(&page, "waits-00 ");
        line_of(&page, "runs-00 ");
        line_of(&page, "fails-39 ");
        for more in ["and 28 more", "and 35 more"] {
            assert!(page.iter().any(|line| line == more), "{page:#?}");
        }
    }
}

/// Makes as many finished deployments, under the names `finished-00001` and so on.
fn have_finished(client: &mut Client, count: usize) {
    let script = "for n = 1, ARGV[1] do redis.call('COPY', 'done-1', string.format('finished-%05d', n)) end";
    client.call(&["EVAL", script, "0", &count.to_string()]);
}

/// Rule 19.5: what is finished costs the page nothing, and one call of LIST no more than the keys of a page. Lookups are
/// counted: Redis 7.0 counts each key that a module opens as a hit, while later servers are asked not to.
#[test]
fn the_cost_of_the_page_and_of_lists_does_not_grow_with_what_is_finished() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    // Nothing else looks at keys meanwhile.
    client.call(&["CONFIG", "SET", "deploy.encode-idle-ms", "0"]);
    start_all_sorts(&mut client);
    let look = |client: &mut Client, words: &[&str]| {
        let hits = |client: &mut Client| client.info("stats", "keyspace_hits").parse::<u64>().expect("a number");
        let before = hits(client);
        let reply = client.call(words);
        (hits(client) - before, reply)
    };
    let mut first_pages = None;
    for finished in [100, 2_000, 10_000] {
        have_finished(&mut client, finished);
        let (lookups, page) = look(&mut client, &["DEPLOY.SHOW"]);
        assert_eq!(lookups, 6, "with {finished} finished, the page looks at the six that it names");
        assert!(page_of(&page)[1].contains(&format!(" {} successful,", finished + 2)), "{page:?}");
        let filters: [&[&str]; 4] = [
            &["STATUS", "running"],
            &["STATUS", "2", "paused", "failed", "JSON"],
            &["MATCH", "runs-*"],
            &["STATUS", "running", "MATCH", "*", "CURSOR", "after:finished-00050"],
        ];
        let pages = filters.map(|filter| look(&mut client, &[&["DEPLOY.LIST"], filter].concat()));
        assert!(pages.iter().all(|(lookups, _)| *lookups <= 1_000), "{finished} finished: {pages:?}");
        if finished > 1_000 {
            let first_pages = first_pages.get_or_insert_with(|| pages.clone());
            assert_eq!(pages, *first_pages, "with {finished} finished");
            assert_eq!(pages[0].0, 1_000, "a page of keys is looked at");
        }
    }
}

#[test]
fn help_lists_every_command() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let help = lines(&client.call(&["DEPLOY.HELP"]));
        assert_eq!(lines(&server.client_resp3().call(&["DEPLOY.HELP"])), help);
        assert_eq!(redis_cli(&server, &["DEPLOY.HELP"]), help);
        let known = client.call(&["COMMAND", "LIST", "FILTERBY", "MODULE", "deploy"]);
        for command in items(&known).iter().map(|name| text(name).to_uppercase()) {
            let told = help.iter().any(|line| line.split(' ').next() == Some(&command));
            assert_eq!(told, !["DEPLOY.APPLY", "DEPLOY.TICK"].contains(&&*command), "{command}: {help:#?}");
        }
    });
}

#[test]
fn help_of_one_command_is_found_by_its_name() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let all = lines(&client.call(&["DEPLOY.HELP"]));
        let mut names: Vec<&str> = all.iter().filter(|line| line.starts_with("DEPLOY.")).map(String::as_str).collect();
        names.retain(|line| !line.starts_with("DEPLOY.<"));
        assert!(names.len() > 20, "{names:?}");
        for line in names {
            let name = line.split(' ').next().expect("a name");
            let help = lines(&client.call(&["DEPLOY.HELP", name]));
            assert_eq!(help[0], line, "its synopsis first");
            // What the long help says about it, it says too.
            let at = all.iter().position(|other| other == line).expect("listed");
            let summary = all[at..].iter().find(|line| line.starts_with("    ")).expect("a summary");
            assert!(help.contains(summary), "{help:#?}");
            assert!(help.iter().any(|line| line.starts_with("    Complexity: O(")), "{help:#?}");
            assert!(help.iter().all(|line| line.len() <= 95), "{help:#?}");
            let short = name.strip_prefix("DEPLOY.").expect("a prefix").to_lowercase();
            for other in [short.clone(), format!("Deploy.{short}"), short.to_uppercase()] {
                assert_eq!(lines(&client.call(&["DEPLOY.HELP", &other])), help, "{other}");
            }
            assert_eq!(redis_cli(&server, &["DEPLOY.HELP", &short]), help);
        }
        let deploy = lines(&client.call(&["DEPLOY.HELP", "deploy"]));
        assert!(deploy.iter().any(|line| line.trim() == "STRATEGY rolling|canary|blue-green"), "{deploy:#?}");
        let list = lines(&client.call(&["DEPLOY.HELP", "list"]));
        assert!(list.iter().any(|line| line.contains("awaiting_promotion")), "{list:#?}");
        let wait = lines(&client.call(&["DEPLOY.HELP", "wait"]));
        assert!(wait.iter().any(|line| line.trim() == "completed, failed"), "what UNTIL takes: {wait:#?}");
        for unknown in ["Deplyo", "DEPLOY.Deplyo", "deploy.", "", "apply", "DEPLOY.TICK", "get"] {
            let error = client.refused(&["DEPLOY.HELP", unknown]);
            assert!(error.starts_with(&format!("ERR unknown command '{unknown}'")), "{error}");
        }
    });
}

#[test]
fn show_summarizes_ten_thousand_agents() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let nodes: Vec<String> = (1..=10_000).map(|n| format!(r#"{{"node_id":"worker-{n}"}}"#)).collect();
    client.deploy(KEY, &format!(r#"{{"type":"service","nodes":[{}]}}"#, nodes.join(",")), &[]);
    let began = unix_ms();
    let page = page_of(&client.call(&["DEPLOY.SHOW", KEY]));
    eprintln!("   a page of 10,000 agents: {} ms on the way and back", unix_ms() - began);
    assert!(page.len() <= 100, "{}", page.len());
    assert!(page.iter().any(|line| line == "and 9980 more: 9980 waiting"), "{page:#?}");
}

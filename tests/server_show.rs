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
    assert!(client.refused(&["DEPLOY.SHOW"]).contains("wrong number of arguments"));
    assert!(client.refused(&["DEPLOY.SHOW", KEY, "JSON"]).contains("wrong number of arguments"));
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
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        }
        let reason = piped.iter().find(|line| line.starts_with("by ")).expect("its line");
        assert_eq!(
            reason.as_str(),
            r"by          default: line one\r\nline \u{1b}[31mtwo \u{43a}\u{43b}\u{44e}\u{447}"
        );
    });
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

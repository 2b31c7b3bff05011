//! Formatting of histories: each input as the command that one would type.

use super::sut::Input;
use super::world::DAWN;
use redis_deploy::engine::command::{Operate, RollbackTo};
use redis_deploy::engine::policy::PolicyPatch;
use redis_deploy::engine::Command;
use std::fmt::Write;
use std::sync::Arc;
use test_support::manifests::written;

fn option(line: &mut String, name: &str, value: &Option<Arc<str>>) {
    if let Some(value) = value {
        let _ = write!(line, " {name} {value}");
    }
}

fn sessions(line: &mut String, sessions: Option<u32>) {
    if let Some(n) = sessions {
        let _ = write!(line, " SESSIONS {n}");
    }
}

fn operate(line: &mut String, name: &str, op: &Operate) {
    line.push_str(name);
    option(line, "ID", &op.id);
    option(line, "REASON", &op.reason);
}

fn policy(line: &mut String, patch: &PolicyPatch) {
    for (name, value) in written(patch) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let _ = write!(line, " {} {value}", name.to_uppercase());
    }
}

pub fn line(input: &Input) -> String {
    let ahead = i128::from(input.at) - i128::from(DAWN);
    let mut line = format!("{ahead:>+7} ms  sut {} {:<11} ", input.sut, input.by);
    if input.reloaded {
        line.push_str("(reloaded) ");
    }
    match &input.command {
        Command::Deploy(d) => {
            let _ = write!(line, "DEPLOY MANIFEST {}", String::from_utf8_lossy(&d.manifest));
            option(&mut line, "BUNDLE", &d.bundle);
            option(&mut line, "JOB", &d.job);
            if let Some(agents) = &d.agents {
                let _ = write!(line, " AGENTS {} {}", agents.len(), agents.join(" "));
            }
            option(&mut line, "TAG", &d.tag);
            option(&mut line, "REQUEST", &d.request);
            if let Some(n) = d.if_version {
                let _ = write!(line, " IFVERSION {n}");
            }
            policy(&mut line, &d.policy);
        }
        Command::Rollback(r) => {
            line.push_str("ROLLBACK");
            match &r.to {
                RollbackTo::NewestStable => {}
                RollbackTo::Version(n) => {
                    let _ = write!(line, " VERSION {n}");
                }
                RollbackTo::Tag(tag) => {
                    let _ = write!(line, " TAG {tag}");
                }
            }
            option(&mut line, "ID", &r.id);
            option(&mut line, "REQUEST", &r.request);
            policy(&mut line, &r.policy);
        }
        Command::Promote { options, full } => {
            operate(&mut line, if *full { "PROMOTE FULL" } else { "PROMOTE" }, options)
        }
        Command::Pause(op) => operate(&mut line, "PAUSE", op),
        Command::Resume(op) => operate(&mut line, "RESUME", op),
        Command::Fail(op) => operate(&mut line, "FAIL", op),
        Command::Stop { options, now } => operate(&mut line, if *now { "STOP NOW" } else { "STOP" }, options),
        Command::Drain(drain) => {
            let _ = write!(line, "DRAIN VERSION {} MS {}", drain.version, drain.ms);
            option(&mut line, "ID", &drain.id);
        }
        Command::Tag { version, tag } => {
            let _ = write!(line, "TAG {version} {tag}");
        }
        Command::Untag { tag } => {
            let _ = write!(line, "UNTAG {tag}");
        }
        Command::Report(r) => {
            let _ = write!(line, "REPORT {} {}", r.agent, r.state.name());
            if let Some(version) = r.version {
                let _ = write!(line, " VERSION {version}");
            }
            option(&mut line, "JOB", &r.job);
            if let Some(attempt) = r.attempt {
                let _ = write!(line, " ATTEMPT {attempt}");
            }
            sessions(&mut line, r.sessions);
        }
        Command::Register(r) => {
            let _ =
                write!(line, "REGISTER {} {} INSTANCE {} STATUS {}", r.agent, r.service, r.instance, r.status.name());
            if let Some(version) = r.version {
                let _ = write!(line, " VERSION {version}");
            }
            option(&mut line, "JOB", &r.job);
            if let Some(ttl) = r.ttl_ms {
                let _ = write!(line, " TTL {ttl}");
            }
        }
        Command::Check(c) => {
            let _ = write!(line, "CHECK {} {}", c.instance, c.status.name());
            sessions(&mut line, c.sessions);
        }
        Command::Deregister { instance } => {
            let _ = write!(line, "DEREGISTER {instance}");
        }
        Command::Tick => line.push_str("(tick)"),
    }
    line
}

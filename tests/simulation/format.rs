//! Formatting of histories: each input as the command that one would type.

use super::sut::Input;
use super::world::DAWN;
use redis_deploy::engine::command::{Operate, RollbackTo};
use redis_deploy::engine::policy::{CountOrPercent, PolicyPatch};
use redis_deploy::engine::Command;
use std::fmt::Write;
use std::sync::Arc;

fn option(line: &mut String, name: &str, value: &Option<Arc<str>>) {
    if let Some(value) = value {
        let _ = write!(line, " {name} {value}");
    }
}

fn operate(line: &mut String, name: &str, op: &Operate) {
    line.push_str(name);
    option(line, "ID", &op.id);
    option(line, "REASON", &op.reason);
}

fn policy(line: &mut String, patch: &PolicyPatch) {
    let amount = |amount: CountOrPercent| match amount {
        CountOrPercent::Count(n) => n.to_string(),
        CountOrPercent::Percent(p) => format!("{p}%"),
    };
    let fields = [
        ("STRATEGY", patch.strategy.map(|s| s.name().to_string())),
        ("MAX_PARALLEL", patch.max_parallel.map(amount)),
        ("CANARY", patch.canary.map(amount)),
        ("MIN_HEALTHY_MS", patch.min_healthy_ms.map(|ms| ms.to_string())),
        ("HEALTHY_DEADLINE_MS", patch.healthy_deadline_ms.map(|ms| ms.to_string())),
        ("PROGRESS_DEADLINE_MS", patch.progress_deadline_ms.map(|ms| ms.to_string())),
        ("HEALTH_CHECK", patch.health_check.map(|check| check.name().to_string())),
        ("AUTO_PROMOTE", patch.auto_promote.map(|flag| flag.to_string())),
        ("AUTO_REVERT", patch.auto_revert.map(|flag| flag.to_string())),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(line, " {name} {value}");
        }
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
        Command::Promote(op) => operate(&mut line, "PROMOTE", op),
        Command::Pause(op) => operate(&mut line, "PAUSE", op),
        Command::Resume(op) => operate(&mut line, "RESUME", op),
        Command::Fail(op) => operate(&mut line, "FAIL", op),
        Command::Stop(op) => operate(&mut line, "STOP", op),
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
        }
        Command::Deregister { instance } => {
            let _ = write!(line, "DEREGISTER {instance}");
        }
        Command::Tick => line.push_str("(tick)"),
    }
    line
}

//! Any bytes as a record, as RESTORE gives them: refused, or a record like any other. What is asked of it, and what time
//! brings about, ends; nothing panics; and it is written back as what was read.
//!
//! The bytes are the payload behind the envelope, so that the fuzzer need not find out a checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::codec::{decode_record, encode_record};
use redis_deploy::engine::command::{Operate, Report, ReportedState, Rollback, RollbackTo};
use redis_deploy::engine::policy::PolicyPatch;
use redis_deploy::engine::{self, invariants, Command, Context, Limits, Record};
use redis_deploy::view;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_record(bytes);
    let Ok(record) = decode_record(&enveloped(bytes)) else { return };
    assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record), "written back, it is what was read");
    look_at(&record);

    // Time, as far as it has anything to do; then what people and coordinators may ask.
    let mut now = record.updated_at;
    let mut record = record;
    for _ in 0..8 {
        let Some(due) = engine::next_deadline(&record) else { break };
        now = now.max(due);
        let Some(next) = after(&record, &Command::Tick, now) else { break };
        record = next;
    }
    let operate = Operate::default;
    let agent = record.instances.iter().next().map(|instance| instance.agent.clone());
    let mut commands = vec![Command::Resume(operate()), Command::Promote(operate()), Command::Pause(operate())];
    commands.extend(agent.into_iter().flat_map(|agent| {
        ReportedState::ALL.into_iter().map(move |state| {
            Command::Report(Report {
                agent: agent.clone(),
                state,
                version: None,
                job: None,
                attempt: None,
                reason: None,
            })
        })
    }));
    commands.push(Command::Resume(operate()));
    commands.push(Command::Rollback(Rollback {
        to: RollbackTo::NewestStable,
        id: None,
        reason: None,
        request: None,
        policy: PolicyPatch::default(),
    }));
    commands.extend([Command::Fail(operate()), Command::Stop(operate())]);
    for command in &commands {
        now += 1;
        if let Some(next) = after(&record, command, now) {
            record = next;
        }
    }
    look_at(&record);
});

fn after(record: &Record, command: &Command, now_ms: u64) -> Option<Record> {
    let context = Context { key: "key", now_ms, by: "someone", limits: Limits::default() };
    let decision = engine::decide(Some(record), command, &context).ok()?;
    // What a replica makes of it.
    let mut theirs = record.clone();
    engine::apply(&mut theirs, &decision.batch);
    assert!(theirs == decision.record, "a replica has the same after {command:?}");
    if let Err(rule) = invariants::check(&decision.record) {
        panic!("after {command:?}: {rule}");
    }
    Some(decision.record)
}

fn look_at(record: &Record) {
    view::to_json(&view::status(record, "key"));
    view::to_json(&view::history(record));
    view::to_json(&view::tasks(record));
    view::to_json(&view::list_entry(record, "key"));
    engine::next_deadline(record);
}

fn enveloped(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"dp\x01\x00\x01\x00".to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

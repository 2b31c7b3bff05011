//! Decodes arbitrary bytes as a record, as RESTORE does. They are rejected, or the record behaves like any other: it is
//! encoded as it was decoded, commands and timers terminate without a panic, and the invariants hold.
//!
//! The bytes are the payload without its envelope, so that the fuzzer need not guess a checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::codec::{decode_record, encode_record};
use redis_deploy::engine::command::{Operate, Report, ReportedState, Rollback, RollbackTo};
use redis_deploy::engine::policy::PolicyPatch;
use redis_deploy::engine::{self, invariants, Command, Context, Limits, Record};
use redis_deploy::view;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_record(bytes);
    let Ok(record) = decode_record(&wrap(bytes)) else { return };
    assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record), "encoding and decoding is lossless");
    render(&record);

    // Due timers first, then the commands of operators and coordinators.
    let mut now = record.updated_at;
    let mut record = record;
    for _ in 0..8 {
        let Some(due) = engine::next_deadline(&record) else { break };
        now = now.max(due);
        let Some(next) = apply_command(&record, &Command::Tick, now) else { break };
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
        if let Some(next) = apply_command(&record, command, now) {
            record = next;
        }
    }
    render(&record);
});

/// Applies a command, and checks the invariants and the replicated changes. None if it is rejected.
fn apply_command(record: &Record, command: &Command, now_ms: u64) -> Option<Record> {
    let context = Context { key: "key", now_ms, by: "someone", limits: Limits::default() };
    let decision = engine::decide(Some(record), command, &context).ok()?;
    let mut replica = record.clone();
    engine::apply(&mut replica, &decision.change_set);
    assert!(replica == decision.record, "a replica differs after {command:?}");
    if let Err(rule) = invariants::check(&decision.record) {
        panic!("after {command:?}: {rule}");
    }
    Some(decision.record)
}

/// Builds all views of a record.
fn render(record: &Record) {
    view::to_json(&view::status(record, "key"));
    view::to_json(&view::history(record, usize::MAX));
    view::to_json(&view::tasks(record));
    if let Some((summary, deployment)) = engine::Summary::of(record).zip(record.deployment.as_ref()) {
        view::to_json(&view::list_entry(&summary, deployment, "key"));
    }
    engine::next_deadline(record);
}

/// Wraps a payload in the envelope of a record.
fn wrap(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"dp\x01\x00\x01\x00".to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

//! The system under test: one key of the engine, a second record to which only batches are applied, and the rules that
//! check both.

use super::drains::situation;
use super::model::Model;
use super::rules::{invariants_hold, Failed, Happening, Outcome, Refusal};
use super::{bake_rules, bakes, drain_rules, rules};
use redis_deploy::codec;
use redis_deploy::engine::event::{EventBody, SilentChange};
use redis_deploy::engine::{
    apply, decide, decide_in_place, next_deadline, Change, ChangeSet, Command, Context, DecisionReply, Limits, Record,
    Rejection,
};
use std::collections::BTreeMap;

/// One command of a history, with its time and system.
#[derive(Debug, Clone)]
pub struct Input {
    pub at: u64,
    pub sut: usize,
    pub by: &'static str,
    pub command: Command,
    /// The record was saved and loaded before it.
    pub reloaded: bool,
}

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub rule: &'static str,
    pub words: String,
}

pub struct Sut {
    pub key: String,
    pub limits: Limits,
    pub record: Option<Record>,
    second: Option<Record>,
    pub model: Model,
    /// The record is saved and loaded before the next command.
    pub reload: bool,
    /// Number of events by type, and of started deployments by mode.
    pub events: BTreeMap<&'static str, u64>,
}

/// Returns a record after saving and loading.
fn save_and_load(record: &Record) -> Result<Record, Broken> {
    let loaded = codec::decode_record(&codec::encode_record(record));
    loaded.map_err(|error| Broken { rule: "what_was_saved_can_be_loaded", words: error.to_string() })
}

/// Returns a change set after encoding and decoding.
fn send(change_set: &ChangeSet) -> Result<ChangeSet, Broken> {
    let sent = codec::decode_change_set(&codec::encode_change_set(change_set));
    sent.map_err(|error| Broken { rule: "what_was_sent_can_be_read", words: error.to_string() })
}

impl Sut {
    pub fn new(key: String, limits: Limits) -> Sut {
        Sut { key, limits, record: None, second: None, model: Model::default(), reload: false, events: BTreeMap::new() }
    }

    /// Executes a command, applies its change set to the second record, and checks every rule.
    pub fn feed(&mut self, input: &Input) -> Result<Result<DecisionReply, Rejection>, Broken> {
        let context = Context { key: &self.key, now_ms: input.at, by: input.by, limits: self.limits };
        if input.reloaded {
            if let Some(record) = &self.record {
                let loaded = save_and_load(record)?;
                if loaded != *record {
                    return Err(Broken { rule: "a_loaded_record_is_the_saved_one", words: "it differs".to_string() });
                }
                self.second = self.second.as_ref().map(save_and_load).transpose()?;
                self.record = Some(loaded);
            }
        }
        if input.at.is_multiple_of(8) {
            leaves_no_trace(self.record.as_ref(), input, &context)?;
        }
        let decision = match decide(self.record.as_ref(), &input.command, &context) {
            Ok(decision) => decision,
            Err(rejection) => {
                self.check_refusal(input, &rejection)?;
                if let Rejection::Unproved { .. } = rejection {
                    self.count("refused for a bake");
                }
                if let Rejection::VersionsAlive { .. } = rejection {
                    self.count("refused for what drains");
                }
                return Ok(Err(rejection));
            }
        };
        let mut failed: Option<Failed> = None;
        let seen_before = match &input.command {
            Command::Report(report) => self.model.instances_of(&report.agent),
            _ => BTreeMap::new(),
        };
        let empty = Record::empty();
        // Event by event, for the rules about each.
        let mut before = self.record.clone().unwrap_or_default();
        for change in &decision.change_set.changes {
            let one = ChangeSet { changes: vec![change.clone()], log_max: usize::MAX };
            let Change::Event(event) = change else {
                apply(&mut before, &one);
                if let Change::Silent(SilentChange::SessionsReported { instance, sessions, .. }) = change {
                    self.model.take_sessions_in(instance, *sessions, input.at);
                    self.count("sessions told");
                }
                continue;
            };
            let mut after = before.clone();
            apply(&mut after, &one);
            let happening = Happening {
                key: &self.key,
                model: &self.model,
                before: &before,
                after: &after,
                event,
                command: &input.command,
                limits: self.limits,
                failed: &failed,
            };
            for (rule, holds) in
                rules::EVENT_RULES.iter().chain(drain_rules::EVENT_RULES).chain(bake_rules::EVENT_RULES)
            {
                holds(&happening)
                    .map_err(|words| Broken { rule, words: format!("{words} (at {})", event.body.name()) })?;
            }
            self.count(event.body.name());
            if let EventBody::DeploymentStarted(b) = &event.body {
                self.count(b.mode.name());
            }
            if let EventBody::DeploymentFailed { cause, .. } = &event.body {
                self.count(cause.name());
            }
            if let Some(name) = situation(&self.model, event, &input.command) {
                self.count(name);
            }
            if let Some(name) = bakes::situation(&self.model, event, &input.command) {
                self.count(name);
            }
            if let Some(name) = bakes::adoption(&self.model, event) {
                self.count(name);
            }
            self.model.take_in(event, &input.command, &after);
            match &event.body {
                EventBody::DeploymentFailed { cause, description, .. } => {
                    failed = self.model.rollout.as_ref().map(|r| Failed {
                        cause: *cause,
                        auto_revert: r.policy.auto_revert,
                        is_rollback: r.is_rollback,
                        newest_stable: self.model.newest_stable(),
                        description: description.clone(),
                        left: after.clone(),
                        left_seen: self.model.instances.clone(),
                        over: false,
                    })
                }
                // What had stopped already leaves at once, its services before it.
                EventBody::TaskDone { .. }
                | EventBody::TaskIssued { .. }
                | EventBody::AgentState { removes_instance: true, .. }
                | EventBody::ServiceDeregistered { .. } => {
                    if let Some(failed) = failed.as_mut().filter(|f| !f.over) {
                        failed.left = after.clone();
                        failed.left_seen = self.model.instances.clone();
                    }
                }
                EventBody::RollbackStarted { cause: Some(_), .. } => failed = None,
                _ => {
                    if let Some(failed) = &mut failed {
                        failed.over = true;
                    }
                }
            }
            before = after;
        }
        if matches!(input.command, Command::Stop { .. }) {
            self.model.should_run.clear();
        }
        // The second engine gets the change set whole, as a replica would.
        let second = self.second.get_or_insert_with(Record::empty);
        if !decision.change_set.changes.is_empty() {
            apply(second, &send(&decision.change_set)?);
        }
        if self.model.rollout.is_some() {
            let outcome = Outcome {
                model: &self.model,
                seen_before: &seen_before,
                before: self.record.as_ref(),
                after: &decision.record,
                second,
                change_set: &decision.change_set,
                reply: &decision.reply,
                command: &input.command,
                now: input.at,
                failed: &failed,
            };
            for (rule, holds) in
                rules::COMMAND_RULES.iter().chain(drain_rules::COMMAND_RULES).chain(bake_rules::COMMAND_RULES)
            {
                holds(&outcome).map_err(|words| Broken { rule, words })?;
            }
            if !decision.change_set.changes.is_empty() {
                invariants_hold(&decision.record).map_err(|words| Broken { rule: "invariants_hold", words })?;
            }
        } else if decision.record != empty {
            return Err(Broken {
                rule: "nothing_comes_from_nothing",
                words: "a record without a deployment".to_string(),
            });
        }
        if self.model.progress_is_held() {
            self.count("progress held by drains");
        }
        self.record = Some(decision.record);
        Ok(Ok(decision.reply))
    }

    fn count(&mut self, name: &'static str) {
        *self.events.entry(name).or_default() += 1;
    }
}

impl Sut {
    /// Checks the rules of a refusal. What was due before the command is not on the record, and may be its ground.
    fn check_refusal(&self, input: &Input, rejection: &Rejection) -> Result<(), Broken> {
        let Some(before) = self.record.as_ref().filter(|r| next_deadline(r).is_none_or(|at| at > input.at)) else {
            return Ok(());
        };
        let refusal = Refusal { before, command: &input.command, rejection };
        for (rule, holds) in rules::REFUSAL_RULES {
            holds(&refusal).map_err(|words| Broken { rule, words })?;
        }
        Ok(())
    }
}

/// A command that is refused, or whose changes are not committed, leaves the record as it was, its indexes as well.
fn leaves_no_trace(record: Option<&Record>, input: &Input, context: &Context) -> Result<(), Broken> {
    let before = record.cloned().unwrap_or_default();
    let mut after = before.clone();
    drop(decide_in_place(&mut after, &input.command, context));
    if after == before {
        return Ok(());
    }
    Err(Broken { rule: "what_is_not_committed_leaves_no_trace", words: "it differs".to_string() })
}

//! Publishing: each event's JSON on the key's channel, so that coordinators need not ask.
//!
//! A plain publish of the module API does not leave the server. So a single server calls PUBLISH with replication,
//! which hands it to replicas in the same unit as the change, and a primary in a cluster tells the bus. Replicas never
//! publish by themselves: their subscribers would hear everything twice.

use super::config::{self, Publish};
use super::ffi::{Ctx, LogLevel};
use super::log::Sparing;
use crate::engine::{Batch, Change};
use crate::view;
use std::sync::atomic::{AtomicU64, Ordering};

static UNPUBLISHED: Sparing = Sparing::new();
static PUBLISHED: AtomicU64 = AtomicU64::new(0);

/// How many events were published since the module was loaded.
pub fn published() -> u64 {
    PUBLISHED.load(Ordering::Relaxed)
}

/// What a batch says to its subscribers, made before anything is changed.
pub struct Announcement {
    channel: String,
    messages: Vec<String>,
    mode: Publish,
}

impl Announcement {
    pub fn of(key: &str, batch: &Batch) -> Announcement {
        let mode = config::publish_mode();
        let messages = batch
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Event(event) => Some(view::event_json(event, key)),
                Change::Note(_) => None,
            })
            .collect();
        Announcement { channel: channel(&config::channel_prefix(), key, mode), messages, mode }
    }

    pub fn publish(&self, ctx: Ctx) {
        let in_cluster = ctx.flags().is_cluster();
        for message in &self.messages {
            let (channel, message) = (self.channel.as_bytes(), message.as_bytes());
            let outcome = match (in_cluster, self.mode) {
                (true, Publish::Classic) => {
                    ctx.publish_in_cluster(channel, message);
                    Ok(())
                }
                (true, Publish::Sharded) => {
                    ctx.publish_in_shard(channel, message);
                    Ok(())
                }
                (false, Publish::Classic) => ctx.call(c"PUBLISH", c"!Ebb", channel, message),
                (false, Publish::Sharded) => ctx.call(c"SPUBLISH", c"!Ebb", channel, message),
            };
            match outcome {
                Ok(()) => {
                    PUBLISHED.fetch_add(1, Ordering::Relaxed);
                }
                // The record is the truth, and has the event in its log.
                Err(why) => UNPUBLISHED.say(LogLevel::Warning, &format!("event not published: {why}")),
            }
        }
    }
}

/// SPEC 8 "Channel". A sharded channel must be in the slot of its key, so the key becomes its hash tag, unless it has
/// one already.
fn channel(prefix: &str, key: &str, mode: Publish) -> String {
    match mode {
        Publish::Sharded if !has_hash_tag(key) => format!("{prefix}{{{key}}}"),
        _ => format!("{prefix}{key}"),
    }
}

/// As the cluster specification has it: something between the first `{` and the next `}`.
fn has_hash_tag(key: &str) -> bool {
    key.split_once('{').and_then(|(_, rest)| rest.find('}')).is_some_and(|end| end > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sharded_channel_is_in_its_keys_slot() {
        assert_eq!(channel("deploy:events:", "a", Publish::Classic), "deploy:events:a");
        assert_eq!(channel("deploy:events:", "a", Publish::Sharded), "deploy:events:{a}");
        assert_eq!(channel("deploy:events:", "x{a}y", Publish::Sharded), "deploy:events:x{a}y");
        assert_eq!(channel("deploy:events:", "{}a", Publish::Sharded), "deploy:events:{{}a}");
    }
}

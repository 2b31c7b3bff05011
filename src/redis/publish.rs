//! Publishing: each event's JSON on the key's channel, so that coordinators need not ask.
//!
//! A publish of the module API reaches the subscribers of this server and, in a cluster, of every node. The replicas of
//! a single server hear nothing of it, and need not be sent it either: they have the events in what they are sent to
//! apply, and publish them to their own subscribers, once.

use super::config::{self, Publish};
use super::ffi::Ctx;
use crate::engine::{Batch, Change};
use crate::view;
use std::sync::atomic::{AtomicU64, Ordering};

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
        Announcement { channel: channel(config::put_channel_prefix, key, mode), messages, mode }
    }

    pub fn publish(&self, ctx: Ctx) {
        if self.messages.is_empty() {
            return;
        }
        let channel = ctx.string(self.channel.as_bytes());
        for message in &self.messages {
            let message = ctx.string(message.as_bytes());
            match self.mode {
                Publish::Classic => ctx.publish(&channel, &message),
                Publish::Sharded => ctx.publish_in_shard(&channel, &message),
            }
            PUBLISHED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// On a replica, what its primary has done: for the subscribers that it has itself. In a cluster they have heard it
/// already, and while a file is loaded nobody listens.
pub fn hand_on(ctx: Ctx, key: &str, batch: &Batch) {
    let flags = ctx.flags();
    if flags.is_replica() && !flags.is_loading() && !flags.is_cluster() {
        Announcement::of(key, batch).publish(ctx);
    }
}

/// SPEC 8 "Channel". A sharded channel must be in the slot of its key, so the key becomes its hash tag, unless it has
/// one already.
fn channel(put_prefix: impl FnOnce(&mut String), key: &str, mode: Publish) -> String {
    let mut channel = String::with_capacity(64);
    put_prefix(&mut channel);
    match mode {
        Publish::Sharded if !has_hash_tag(key) => {
            channel.push('{');
            channel.push_str(key);
            channel.push('}');
        }
        _ => channel.push_str(key),
    }
    channel
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
        let of = |key, mode| channel(|text| text.push_str("deploy:events:"), key, mode);
        assert_eq!(of("a", Publish::Classic), "deploy:events:a");
        assert_eq!(of("a", Publish::Sharded), "deploy:events:{a}");
        assert_eq!(of("x{a}y", Publish::Sharded), "deploy:events:x{a}y");
        assert_eq!(of("{}a", Publish::Sharded), "deploy:events:{{}a}");
    }
}

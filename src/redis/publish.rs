//! Publishing: the JSON of each event on the key's channel, so that coordinators need not poll.
//!
//! A publish of the module API reaches the subscribers of this server and, in a cluster, of every node. It does not
//! reach the replicas of a single server; those have the events in what they are sent to apply, and publish them to
//! their own subscribers, once.

use super::config::{self, Publish};
use super::ffi::{Ctx, RString};
use super::{slot, stats};
use crate::engine::{Change, ChangeSet};
use crate::view;
use std::cell::Cell;

/// The messages of a change set, made before anything is changed.
pub struct EventMessages {
    buffer: MessageBuffer,
    mode: Publish,
}

/// The channel, and the messages one after the other with the position of the end of each.
#[derive(Default)]
struct MessageBuffer {
    channel: String,
    messages: Vec<u8>,
    ends: Vec<usize>,
}

/// The largest buffer that is kept for reuse, in bytes.
const MAX_REUSED_BYTES: usize = 64 << 10;

thread_local! {
    /// The buffer of the last messages, reused: nearly every report has some.
    static BUFFER: Cell<MessageBuffer> =
        const { Cell::new(MessageBuffer { channel: String::new(), messages: Vec::new(), ends: Vec::new() }) };
}

impl EventMessages {
    pub fn of(key: &str, changes: &ChangeSet) -> EventMessages {
        let mode = config::publish_mode();
        // Messages made while others still exist get a new buffer.
        let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
        buffer.channel.clear();
        buffer.messages.clear();
        buffer.ends.clear();
        config::push_channel_prefix(&mut buffer.channel);
        match mode {
            Publish::Classic => buffer.channel.push_str(key),
            // In the slot of its key, so that the shard that has the key publishes it (rule 8 "Channel").
            Publish::Sharded => slot::push_name_in_slot(key, &mut buffer.channel),
        }
        for change in &changes.changes {
            if let Change::Event(event) = change {
                view::append_event_json(event, key, &mut buffer.messages);
                buffer.ends.push(buffer.messages.len());
            }
        }
        EventMessages { buffer, mode }
    }

    pub fn publish(&self, ctx: Ctx) {
        let MessageBuffer { channel, messages, ends } = &self.buffer;
        if ends.is_empty() {
            return;
        }
        let channel = RString::new(channel.as_bytes());
        let mut start = 0;
        for end in ends {
            let message = RString::new(messages.get(start..*end).unwrap_or_default());
            start = *end;
            match self.mode {
                Publish::Classic => ctx.publish(&channel, &message),
                Publish::Sharded => ctx.publish_in_shard(&channel, &message),
            }
        }
        stats::count_published(ends.len());
    }
}

impl Drop for EventMessages {
    fn drop(&mut self) {
        if self.buffer.messages.capacity() <= MAX_REUSED_BYTES {
            let buffer = std::mem::take(&mut self.buffer);
            let _ = BUFFER.try_with(|reused| reused.set(buffer));
        }
    }
}

/// Publishes on a replica the events that its primary has replicated, to the subscribers of this server. In a cluster
/// they have received them already, and while a file is loaded there are none.
pub fn publish_on_replica(ctx: Ctx, key: &str, changes: &ChangeSet) {
    let flags = ctx.flags();
    if flags.is_replica() && !flags.is_loading() && !flags.is_cluster() {
        EventMessages::of(key, changes).publish(ctx);
    }
}

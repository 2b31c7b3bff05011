//! Publishing: each event's JSON on the key's channel, so that coordinators need not ask.
//!
//! A publish of the module API reaches the subscribers of this server and, in a cluster, of every node. The replicas of
//! a single server hear nothing of it, and need not be sent it either: they have the events in what they are sent to
//! apply, and publish them to their own subscribers, once.

use super::config::{self, Publish};
use super::ffi::Ctx;
use crate::engine::{Change, ChangeSet};
use crate::view;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static PUBLISHED: AtomicU64 = AtomicU64::new(0);

/// How many events were published since the module was loaded.
pub fn published() -> u64 {
    PUBLISHED.load(Ordering::Relaxed)
}

/// What a batch says to its subscribers, made before anything is changed.
pub struct Announcement {
    page: Page,
    mode: Publish,
}

/// The channel and then the messages, one behind the other; and where each of them ends.
#[derive(Default)]
struct Page {
    text: String,
    ends: Vec<usize>,
}

/// A page that had to be larger is given back.
const PAGE_KEPT: usize = 64 << 10;

thread_local! {
    /// The page of the last announcement, for the next: there is one with nearly every report.
    static PAGE: Cell<Page> = const { Cell::new(Page { text: String::new(), ends: Vec::new() }) };
}

impl Announcement {
    pub fn of(key: &str, batch: &ChangeSet) -> Announcement {
        let mode = config::publish_mode();
        // One that is made while another is still there begins with an empty page.
        let mut page = PAGE.try_with(Cell::take).unwrap_or_default();
        page.text.clear();
        page.ends.clear();
        put_channel(config::put_channel_prefix, key, mode, &mut page.text);
        page.ends.push(page.text.len());
        for change in &batch.changes {
            if let Change::Event(event) = change {
                view::put_event_json(event, key, &mut page.text);
                page.ends.push(page.text.len());
            }
        }
        Announcement { page, mode }
    }

    pub fn publish(&self, ctx: Ctx) {
        let part = |from, to| ctx.string(self.page.text.get(from..to).unwrap_or_default().as_bytes());
        let Some((end, ends)) = self.page.ends.split_first().filter(|(_, messages)| !messages.is_empty()) else {
            return;
        };
        let channel = part(0, *end);
        let mut from = *end;
        for end in ends {
            let message = part(from, *end);
            from = *end;
            match self.mode {
                Publish::Classic => ctx.publish(&channel, &message),
                Publish::Sharded => ctx.publish_in_shard(&channel, &message),
            }
        }
        PUBLISHED.fetch_add(ends.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if self.page.text.capacity() <= PAGE_KEPT {
            let page = std::mem::take(&mut self.page);
            let _ = PAGE.try_with(|kept| kept.set(page));
        }
    }
}

/// On a replica, what its primary has done: for the subscribers that it has itself. In a cluster they have heard it
/// already, and while a file is loaded nobody listens.
pub fn hand_on(ctx: Ctx, key: &str, batch: &ChangeSet) {
    let flags = ctx.flags();
    if flags.is_replica() && !flags.is_loading() && !flags.is_cluster() {
        Announcement::of(key, batch).publish(ctx);
    }
}

/// rule 8 "Channel". A sharded channel must be in the slot of its key, so the key becomes its hash tag, unless it has
/// one already.
fn put_channel(put_prefix: impl FnOnce(&mut String), key: &str, mode: Publish, channel: &mut String) {
    put_prefix(channel);
    match mode {
        Publish::Sharded if !has_hash_tag(key) => {
            channel.push('{');
            channel.push_str(key);
            channel.push('}');
        }
        _ => channel.push_str(key),
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
        let of = |key, mode| {
            let mut channel = String::new();
            put_channel(|text| text.push_str("deploy:events:"), key, mode, &mut channel);
            channel
        };
        assert_eq!(of("a", Publish::Classic), "deploy:events:a");
        assert_eq!(of("a", Publish::Sharded), "deploy:events:{a}");
        assert_eq!(of("x{a}y", Publish::Sharded), "deploy:events:x{a}y");
        assert_eq!(of("{}a", Publish::Sharded), "deploy:events:{{}a}");
    }
}

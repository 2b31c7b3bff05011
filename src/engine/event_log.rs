//! The newest events of a record (rule 5), oldest first.
//!
//! A full log is the largest part of a record, and no decision reads it. A server therefore keeps it encoded: each
//! event is encoded once, and the log, the RDB and replication carry the same bytes. The engine knows no encoding; the
//! codec provides it as an [`EventCodec`]. A log without one keeps its events as they are.

use super::event::Event;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Encoding of the events of a log. Encoded events are concatenated, so each must tell where it ends.
pub trait EventCodec: Sync {
    /// Appends an event, so that [`EventCodec::split_first`] finds its end.
    fn encode(&self, event: &Event, bytes: &mut Vec<u8>);
    /// Splits the first event off, without its framing and unread, and returns it with the rest. None at the end, or
    /// where the bytes are not of this codec.
    fn split_first<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])>;
    /// Reads the revision of an event that was split off. None where it is damaged.
    fn revision(&self, event: &[u8]) -> Option<u64>;
    /// Decodes an event that was split off. None where it is damaged.
    fn decode(&self, event: &[u8]) -> Option<Event>;
}

/// The log of one record.
#[derive(Clone)]
pub struct Log {
    events: Events,
}

#[derive(Clone)]
enum Events {
    Plain(VecDeque<Arc<Event>>),
    Encoded(EncodedEvents),
}

#[derive(Clone)]
struct EncodedEvents {
    bytes: Vec<u8>,
    /// Offset of the oldest event. The bytes before it belong to dropped events.
    start: usize,
    count: usize,
    codec: &'static dyn EventCodec,
}

/// Position in a log, to which it can be truncated.
#[derive(Debug, Clone, Copy)]
pub struct LogMark {
    count: usize,
    end: usize,
}

impl Default for Log {
    fn default() -> Log {
        Log { events: Events::Plain(VecDeque::new()) }
    }
}

impl Log {
    /// Returns an empty log that keeps its events encoded.
    pub fn with_codec(codec: &'static dyn EventCodec) -> Log {
        Log { events: Events::Encoded(EncodedEvents { bytes: Vec::new(), start: 0, count: 0, codec }) }
    }

    /// Returns a log of events that were encoded before. None where the bytes are not `count` events. The events are
    /// not decoded: one that is damaged is left out when the log is read.
    pub fn from_encoded(codec: &'static dyn EventCodec, count: usize, bytes: Vec<u8>) -> Option<Log> {
        let encoded = EncodedEvents { bytes, start: 0, count, codec };
        let (mut rest, mut found) = (encoded.bytes(), 0);
        while let Some((_, next)) = codec.split_first(rest) {
            (rest, found) = (next, found + 1);
        }
        (rest.is_empty() && found == count).then_some(Log { events: Events::Encoded(encoded) })
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        match &self.events {
            Events::Plain(events) => events.len(),
            Events::Encoded(encoded) => encoded.count,
        }
    }

    /// Returns whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends an event.
    pub fn push(&mut self, event: &Arc<Event>) {
        match &mut self.events {
            Events::Plain(events) => events.push_back(event.clone()),
            Events::Encoded(encoded) => encoded.push(event),
        }
    }

    pub(super) fn mark(&self) -> LogMark {
        match &self.events {
            Events::Plain(events) => LogMark { count: events.len(), end: 0 },
            Events::Encoded(encoded) => LogMark { count: encoded.count, end: encoded.bytes.len() },
        }
    }

    /// Removes the events that were appended since `mark`. The oldest must not have been dropped since.
    pub(super) fn truncate_to(&mut self, mark: LogMark) {
        match &mut self.events {
            Events::Plain(events) => events.truncate(mark.count),
            Events::Encoded(encoded) => {
                encoded.bytes.truncate(mark.end);
                encoded.count = mark.count;
            }
        }
    }

    /// Drops the oldest events where there are more than `max`.
    pub fn truncate_front(&mut self, max: usize) {
        let more = self.len().saturating_sub(max);
        match &mut self.events {
            Events::Plain(events) => drop(events.drain(..more)),
            Events::Encoded(encoded) => encoded.drop_oldest(more),
        }
    }

    /// Returns the revision of the oldest event.
    pub fn first_revision(&self) -> Option<u64> {
        match &self.events {
            Events::Plain(events) => events.front().map(|event| event.revision),
            Events::Encoded(encoded) => {
                encoded.codec.split_first(encoded.bytes()).and_then(|(first, _)| encoded.codec.revision(first))
            }
        }
    }

    /// Returns all events, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Event>> + '_ {
        self.newest(usize::MAX)
    }

    /// Returns the newest `count` events, oldest first.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = Arc<Event>> + '_ {
        let start = self.len().saturating_sub(count);
        self.select(move |index, _| index >= start)
    }

    /// Returns the events after a revision, oldest first.
    pub fn after(&self, revision: u64) -> impl Iterator<Item = Arc<Event>> + '_ {
        self.select(move |_, of_event| of_event() > Some(revision))
    }

    /// Returns the revisions of the events, oldest first. No event is decoded for it.
    pub fn revisions(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries().filter_map(|entry| entry.revision())
    }

    /// Decodes the events that `wanted` selects by index and revision.
    fn select<'l>(
        &'l self,
        wanted: impl Fn(usize, &dyn Fn() -> Option<u64>) -> bool + 'l,
    ) -> impl Iterator<Item = Arc<Event>> + 'l {
        let all = self.entries().enumerate();
        all.filter(move |(index, entry)| wanted(*index, &|| entry.revision())).filter_map(|(_, entry)| entry.event())
    }

    fn entries(&self) -> impl Iterator<Item = LogEntry<'_>> {
        let (plain, encoded) = match &self.events {
            Events::Plain(events) => (Some(events.iter()), None),
            Events::Encoded(encoded) => (None, Some(encoded)),
        };
        let plain = plain.into_iter().flatten().cloned();
        let encoded = encoded.into_iter().flat_map(|encoded| encoded.split().map(|event| (encoded.codec, event)));
        plain.map(LogEntry::Plain).chain(encoded.map(|(codec, event)| LogEntry::Encoded(codec, event)))
    }

    /// Returns the number of events and their bytes. None where they are not encoded.
    pub fn encoded(&self) -> Option<(usize, &[u8])> {
        match &self.events {
            Events::Plain(_) => None,
            Events::Encoded(encoded) => Some((encoded.count, encoded.bytes())),
        }
    }

    /// Returns the bytes of the events that were appended since `mark`. None where they are not encoded.
    pub fn encoded_since(&self, mark: LogMark) -> Option<&[u8]> {
        match &self.events {
            Events::Plain(_) => None,
            Events::Encoded(encoded) => encoded.bytes.get(mark.end..),
        }
    }

    /// Returns the memory that is reserved for events, in bytes.
    pub fn capacity(&self) -> usize {
        match &self.events {
            Events::Plain(events) => events.capacity() * size_of::<Arc<Event>>(),
            Events::Encoded(encoded) => encoded.bytes.capacity(),
        }
    }
}

/// An event of the log, not decoded yet.
enum LogEntry<'l> {
    Plain(Arc<Event>),
    Encoded(&'static dyn EventCodec, &'l [u8]),
}

impl LogEntry<'_> {
    fn revision(&self) -> Option<u64> {
        match self {
            LogEntry::Plain(event) => Some(event.revision),
            LogEntry::Encoded(codec, bytes) => codec.revision(bytes),
        }
    }

    fn event(self) -> Option<Arc<Event>> {
        match self {
            LogEntry::Plain(event) => Some(event),
            LogEntry::Encoded(codec, bytes) => codec.decode(bytes).map(Arc::new),
        }
    }
}

impl EncodedEvents {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Returns the bytes of each event, oldest first.
    fn split(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let (event, next) = self.codec.split_first(rest)?;
            rest = next;
            Some(event)
        })
    }

    fn push(&mut self, event: &Event) {
        /// Bytes reserved for an event of the usual size. A log grows by an eighth: doubling would waste up to half of
        /// what is the largest part of a record.
        const MIN_RESERVE: usize = 128;
        if self.bytes.capacity() - self.bytes.len() < MIN_RESERVE {
            self.bytes.reserve_exact(MIN_RESERVE.max(self.bytes.len() / 8));
        }
        self.codec.encode(event, &mut self.bytes);
        self.count += 1;
    }

    /// Drops the oldest events. Their memory is reclaimed once it is an eighth of all.
    fn drop_oldest(&mut self, count: usize) {
        for _ in 0..count {
            let Some((_, rest)) = self.codec.split_first(self.bytes()) else { break };
            self.start = self.bytes.len() - rest.len();
            self.count -= 1;
        }
        if self.start >= self.bytes.len() / 8 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

impl FromIterator<Arc<Event>> for Log {
    fn from_iter<T: IntoIterator<Item = Arc<Event>>>(events: T) -> Log {
        Log { events: Events::Plain(events.into_iter().collect()) }
    }
}

/// Compares the events, whether they are encoded or not.
impl PartialEq for Log {
    fn eq(&self, other: &Log) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Log {}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

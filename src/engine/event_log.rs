//! The last events of a record (rule 5), oldest first.
//!
//! A full log is most of what a record holds, and nobody decides by it. So it is kept as bytes, which are made once, by
//! whoever knows bytes: the codec. A log without a codec keeps its events as they are.

use super::event::Event;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// How events become bytes and come back.
pub trait EventCodec: Sync {
    /// Appends an event, so that [`EventCodec::split`] finds its end.
    fn encode(&self, event: &Event, bytes: &mut Vec<u8>);
    /// Takes the first event off, unread. None at the end, or where the bytes are none of this codec's.
    fn split_first<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])>;
    /// The revision of an event that was split off.
    fn revision(&self, event: &[u8]) -> Option<u64>;
    fn decode(&self, event: &[u8]) -> Option<Event>;
}

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
    /// Where the oldest event begins: what lies before has left the log.
    start: usize,
    count: usize,
    codec: &'static dyn EventCodec,
}

/// How far a log had come.
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
    /// An empty log that keeps bytes.
    pub fn with_codec(codec: &'static dyn EventCodec) -> Log {
        Log { events: Events::Encoded(EncodedEvents { bytes: Vec::new(), start: 0, count: 0, codec }) }
    }

    /// So many events that were encoded before. None where these are not their bytes. What is in the events is not looked
    /// at: one that cannot be read is left out when the log is.
    pub fn from_encoded(codec: &'static dyn EventCodec, count: usize, bytes: Vec<u8>) -> Option<Log> {
        let encoded = EncodedEvents { bytes, start: 0, count, codec };
        let (mut rest, mut found) = (encoded.kept(), 0);
        while let Some((_, next)) = codec.split_first(rest) {
            (rest, found) = (next, found + 1);
        }
        (rest.is_empty() && found == count).then_some(Log { events: Events::Encoded(encoded) })
    }

    pub fn len(&self) -> usize {
        match &self.events {
            Events::Plain(events) => events.len(),
            Events::Encoded(encoded) => encoded.count,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

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

    /// Takes back what was added since; none has left since.
    pub(super) fn truncate_to(&mut self, mark: LogMark) {
        match &mut self.events {
            Events::Plain(events) => events.truncate(mark.count),
            Events::Encoded(encoded) => {
                encoded.bytes.truncate(mark.end);
                encoded.count = mark.count;
            }
        }
    }

    /// Lets the oldest go where there are more than `max`.
    pub fn truncate_front(&mut self, max: usize) {
        let more = self.len().saturating_sub(max);
        match &mut self.events {
            Events::Plain(events) => drop(events.drain(..more)),
            Events::Encoded(encoded) => encoded.drop_oldest(more),
        }
    }

    /// The revision of the oldest event.
    pub fn first_revision(&self) -> Option<u64> {
        match &self.events {
            Events::Plain(events) => events.front().map(|event| event.revision),
            Events::Encoded(encoded) => {
                encoded.codec.split_first(encoded.kept()).and_then(|(first, _)| encoded.codec.revision(first))
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Arc<Event>> + '_ {
        self.newest(usize::MAX)
    }

    /// The newest `count`, oldest first.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = Arc<Event>> + '_ {
        let start = self.len().saturating_sub(count);
        self.read(move |place, _| place >= start)
    }

    /// Those after a revision.
    pub fn after(&self, revision: u64) -> impl Iterator<Item = Arc<Event>> + '_ {
        self.read(move |_, of_event| of_event() > Some(revision))
    }

    /// Their revisions, oldest first.
    pub fn revisions(&self) -> impl Iterator<Item = u64> + '_ {
        self.found().filter_map(|found| found.revision())
    }

    /// Those that `wanted` picks, by their place and revision.
    fn read<'l>(
        &'l self,
        wanted: impl Fn(usize, &dyn Fn() -> Option<u64>) -> bool + 'l,
    ) -> impl Iterator<Item = Arc<Event>> + 'l {
        let all = self.found().enumerate();
        all.filter(move |(place, found)| wanted(*place, &|| found.revision())).filter_map(|(_, found)| found.event())
    }

    fn found(&self) -> impl Iterator<Item = Found<'_>> {
        let (plain, encoded) = match &self.events {
            Events::Plain(events) => (Some(events.iter()), None),
            Events::Encoded(encoded) => (None, Some(encoded)),
        };
        let plain = plain.into_iter().flatten().cloned();
        let encoded = encoded.into_iter().flat_map(|encoded| encoded.split().map(|event| (encoded.codec, event)));
        plain.map(Found::Plain).chain(encoded.map(|(codec, event)| Found::Encoded(codec, event)))
    }

    /// The number of events and their bytes, where it keeps bytes.
    pub fn encoded(&self) -> Option<(usize, &[u8])> {
        match &self.events {
            Events::Plain(_) => None,
            Events::Encoded(encoded) => Some((encoded.count, encoded.kept())),
        }
    }

    /// What was added since, encoded one behind the other.
    pub fn encoded_since(&self, mark: LogMark) -> Option<&[u8]> {
        match &self.events {
            Events::Plain(_) => None,
            Events::Encoded(encoded) => encoded.bytes.get(mark.end..),
        }
    }

    /// What lies in memory: for how many bytes there is room.
    pub fn capacity(&self) -> usize {
        match &self.events {
            Events::Plain(events) => events.capacity() * size_of::<Arc<Event>>(),
            Events::Encoded(encoded) => encoded.bytes.capacity(),
        }
    }
}

/// An event that may be wanted.
enum Found<'l> {
    Plain(Arc<Event>),
    Encoded(&'static dyn EventCodec, &'l [u8]),
}

impl Found<'_> {
    fn revision(&self) -> Option<u64> {
        match self {
            Found::Plain(event) => Some(event.revision),
            Found::Encoded(codec, bytes) => codec.revision(bytes),
        }
    }

    fn event(self) -> Option<Arc<Event>> {
        match self {
            Found::Plain(event) => Some(event),
            Found::Encoded(codec, bytes) => codec.decode(bytes).map(Arc::new),
        }
    }
}

impl EncodedEvents {
    fn kept(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Each event's bytes, oldest first.
    fn split(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.kept();
        std::iter::from_fn(move || {
            let (event, next) = self.codec.split_first(rest)?;
            rest = next;
            Some(event)
        })
    }

    fn push(&mut self, event: &Event) {
        /// Room for an event of the usual size, or an eighth more than there is: a log is a large part of a record, and is
        /// not to take twice what it holds.
        const ROOM: usize = 128;
        if self.bytes.capacity() - self.bytes.len() < ROOM {
            self.bytes.reserve_exact(ROOM.max(self.bytes.len() / 8));
        }
        self.codec.encode(event, &mut self.bytes);
        self.count += 1;
    }

    /// Lets the oldest go. Their room is used again once it is an eighth of all.
    fn drop_oldest(&mut self, count: usize) {
        for _ in 0..count {
            let Some((_, rest)) = self.codec.split_first(self.kept()) else { break };
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

/// The same events, however they are kept.
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

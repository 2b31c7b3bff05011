//! The last events of a record (SPEC 5), oldest first.
//!
//! A full log is most of what a record holds, and nobody decides by it. So it is kept as bytes, which are made once, by
//! whoever knows bytes: the codec. A log without a packing keeps its events as they are.

use super::event::Event;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// How events become bytes and come back.
pub trait Packing: Sync {
    /// Appends an event, so that [`Packing::split`] finds its end.
    fn pack(&self, event: &Event, bytes: &mut Vec<u8>);
    /// Takes the first event off, unread. None at the end, or where the bytes are none of this packing's.
    fn split<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])>;
    /// The revision of an event that was split off.
    fn revision(&self, event: &[u8]) -> Option<u64>;
    fn unpack(&self, event: &[u8]) -> Option<Event>;
}

#[derive(Clone)]
pub struct Log {
    events: Events,
}

#[derive(Clone)]
enum Events {
    Plain(VecDeque<Arc<Event>>),
    Packed(Packed),
}

#[derive(Clone)]
struct Packed {
    bytes: Vec<u8>,
    /// Where the oldest event begins: what lies before has left the log.
    start: usize,
    count: usize,
    packing: &'static dyn Packing,
}

/// How far a log had come.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
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
    pub fn packing(packing: &'static dyn Packing) -> Log {
        Log { events: Events::Packed(Packed { bytes: Vec::new(), start: 0, count: 0, packing }) }
    }

    /// So many events that were packed before. None where these are not their bytes. What is in the events is not looked
    /// at: one that cannot be read is left out when the log is.
    pub fn of_packed(packing: &'static dyn Packing, count: usize, bytes: Vec<u8>) -> Option<Log> {
        let packed = Packed { bytes, start: 0, count, packing };
        let (mut rest, mut found) = (packed.kept(), 0);
        while let Some((_, next)) = packing.split(rest) {
            (rest, found) = (next, found + 1);
        }
        (rest.is_empty() && found == count).then_some(Log { events: Events::Packed(packed) })
    }

    pub fn len(&self) -> usize {
        match &self.events {
            Events::Plain(events) => events.len(),
            Events::Packed(packed) => packed.count,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, event: &Arc<Event>) {
        match &mut self.events {
            Events::Plain(events) => events.push_back(event.clone()),
            Events::Packed(packed) => packed.push(event),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        match &self.events {
            Events::Plain(events) => Mark { count: events.len(), end: 0 },
            Events::Packed(packed) => Mark { count: packed.count, end: packed.bytes.len() },
        }
    }

    /// Takes back what was added since; none has left since.
    pub(super) fn back_to(&mut self, mark: Mark) {
        match &mut self.events {
            Events::Plain(events) => events.truncate(mark.count),
            Events::Packed(packed) => {
                packed.bytes.truncate(mark.end);
                packed.count = mark.count;
            }
        }
    }

    /// Lets the oldest go where there are more than `max`.
    pub fn settle(&mut self, max: usize) {
        let more = self.len().saturating_sub(max);
        match &mut self.events {
            Events::Plain(events) => drop(events.drain(..more)),
            Events::Packed(packed) => packed.forget(more),
        }
    }

    /// The revision of the oldest event.
    pub fn first_revision(&self) -> Option<u64> {
        match &self.events {
            Events::Plain(events) => events.front().map(|event| event.revision),
            Events::Packed(packed) => {
                packed.packing.split(packed.kept()).and_then(|(first, _)| packed.packing.revision(first))
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
        let (plain, packed) = match &self.events {
            Events::Plain(events) => (Some(events.iter()), None),
            Events::Packed(packed) => (None, Some(packed)),
        };
        let plain = plain.into_iter().flatten().cloned();
        let packed = packed.into_iter().flat_map(|packed| packed.split().map(|event| (packed.packing, event)));
        plain.map(Found::Plain).chain(packed.map(|(packing, event)| Found::Packed(packing, event)))
    }

    /// The number of events and their bytes, where it keeps bytes.
    pub fn packed(&self) -> Option<(usize, &[u8])> {
        match &self.events {
            Events::Plain(_) => None,
            Events::Packed(packed) => Some((packed.count, packed.kept())),
        }
    }

    /// What was added since, packed one behind the other.
    pub fn packed_since(&self, mark: Mark) -> Option<&[u8]> {
        match &self.events {
            Events::Plain(_) => None,
            Events::Packed(packed) => packed.bytes.get(mark.end..),
        }
    }

    /// What lies in memory: for how many bytes there is room.
    pub fn room(&self) -> usize {
        match &self.events {
            Events::Plain(events) => events.capacity() * size_of::<Arc<Event>>(),
            Events::Packed(packed) => packed.bytes.capacity(),
        }
    }
}

/// An event that may be wanted.
enum Found<'l> {
    Plain(Arc<Event>),
    Packed(&'static dyn Packing, &'l [u8]),
}

impl Found<'_> {
    fn revision(&self) -> Option<u64> {
        match self {
            Found::Plain(event) => Some(event.revision),
            Found::Packed(packing, bytes) => packing.revision(bytes),
        }
    }

    fn event(self) -> Option<Arc<Event>> {
        match self {
            Found::Plain(event) => Some(event),
            Found::Packed(packing, bytes) => packing.unpack(bytes).map(Arc::new),
        }
    }
}

impl Packed {
    fn kept(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Each event's bytes, oldest first.
    fn split(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.kept();
        std::iter::from_fn(move || {
            let (event, next) = self.packing.split(rest)?;
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
        self.packing.pack(event, &mut self.bytes);
        self.count += 1;
    }

    /// Lets the oldest go. Their room is used again once it is an eighth of all.
    fn forget(&mut self, count: usize) {
        for _ in 0..count {
            let Some((_, rest)) = self.packing.split(self.kept()) else { break };
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

//! The last events of a record (SPEC 5), oldest first.
//!
//! A full log is most of what a record holds, and nobody decides by it. So all but the newest events are folded into
//! bytes, a block at a time, by whoever knows bytes: the codec. A log without a fold keeps its events as they are.

use super::event::Event;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// How events are folded, and unfolded. What was folded is never seen outside this process.
pub trait Fold: Sync {
    fn fold(&self, events: &[Arc<Event>]) -> Arc<[u8]>;
    /// The events that were folded, all of them and equal.
    fn unfold(&self, bytes: &[u8]) -> Vec<Arc<Event>>;
}

/// How many events are folded together: they share their texts.
const BLOCK: usize = 16;
/// How many of the newest are never folded: STATUS shows so many.
const OPEN: usize = 10;

#[derive(Clone, Default)]
pub struct Log {
    blocks: VecDeque<Block>,
    /// How many events of the first block have left the log.
    gone: usize,
    /// The newest ones. What a transaction adds is here until it is committed.
    open: VecDeque<Arc<Event>>,
    fold: Option<&'static dyn Fold>,
}

#[derive(Clone)]
struct Block {
    bytes: Arc<[u8]>,
    /// Revision of its first event.
    first: u64,
    count: usize,
}

impl Log {
    /// An empty log that folds.
    pub fn folding(fold: &'static dyn Fold) -> Log {
        Log { fold: Some(fold), ..Log::default() }
    }

    pub fn len(&self) -> usize {
        self.folded() + self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn folded(&self) -> usize {
        self.blocks.iter().map(|block| block.count).sum::<usize>() - self.gone
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.open.push_back(event);
    }

    /// Takes back what was added since there were `len` events. They were not folded yet.
    pub(super) fn truncate(&mut self, len: usize) {
        self.open.truncate(len.saturating_sub(self.folded()));
    }

    /// Lets the oldest go where there are more than `max`, and folds what is not the newest any more.
    pub fn settle(&mut self, max: usize) {
        let mut more = self.len().saturating_sub(max);
        while more > 0 {
            match self.blocks.front() {
                Some(block) if block.count - self.gone > more => {
                    self.gone += more;
                    more = 0;
                }
                Some(block) => {
                    more -= block.count - self.gone;
                    self.gone = 0;
                    self.blocks.pop_front();
                }
                None => {
                    self.open.drain(..more.min(self.open.len()));
                    more = 0;
                }
            }
        }
        let Some(fold) = self.fold else { return };
        while self.open.len() >= OPEN + BLOCK {
            let events: Vec<Arc<Event>> = self.open.drain(..BLOCK).collect();
            let first = events.first().map_or(0, |event| event.revision);
            self.blocks.push_back(Block { bytes: fold.fold(&events), first, count: events.len() });
        }
    }

    fn unfold(&self, block: &Block) -> Vec<Arc<Event>> {
        self.fold.map(|fold| fold.unfold(&block.bytes)).unwrap_or_default()
    }

    /// The revision of the oldest event.
    pub fn first_revision(&self) -> Option<u64> {
        match self.blocks.front() {
            Some(block) if self.gone == 0 => Some(block.first),
            Some(block) => self.unfold(block).get(self.gone).map(|event| event.revision),
            None => self.open.front().map(|event| event.revision),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Arc<Event>> + '_ {
        self.from(0)
    }

    /// The newest `count`, oldest first.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = Arc<Event>> + '_ {
        self.from(self.len().saturating_sub(count))
    }

    /// Those after a revision.
    pub fn after(&self, revision: u64) -> impl Iterator<Item = Arc<Event>> + '_ {
        let of_open = self.open.front().map_or(u64::MAX, |event| event.revision);
        let ends = self.blocks.iter().skip(1).map(|block| block.first).chain([of_open]);
        let known = self.blocks.iter().zip(ends).take_while(|(_, next)| *next <= revision);
        let known: usize = known.map(|(block, _)| block.count).sum();
        self.from(known.saturating_sub(self.gone)).skip_while(move |event| event.revision <= revision)
    }

    /// All but the oldest `start`.
    fn from(&self, start: usize) -> impl Iterator<Item = Arc<Event>> + '_ {
        let mut skip = start + self.gone;
        let mut blocks = 0;
        while let Some(block) = self.blocks.get(blocks).filter(|block| block.count <= skip) {
            skip -= block.count;
            blocks += 1;
        }
        let folded = self.blocks.range(blocks..).flat_map(|block| self.unfold(block));
        folded.chain(self.open.iter().cloned()).skip(skip)
    }

    /// What lies in memory: the folded blocks, the open events, and for how many blocks and events there is room.
    pub fn in_memory(&self) -> (impl Iterator<Item = &Arc<[u8]>>, impl Iterator<Item = &Arc<Event>>, (usize, usize)) {
        let room = (self.blocks.capacity() * size_of::<Block>(), self.open.capacity() * size_of::<Arc<Event>>());
        (self.blocks.iter().map(|block| &block.bytes), self.open.iter(), room)
    }
}

impl FromIterator<Arc<Event>> for Log {
    fn from_iter<T: IntoIterator<Item = Arc<Event>>>(events: T) -> Log {
        Log { open: events.into_iter().collect(), ..Log::default() }
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

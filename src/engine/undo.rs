//! The undo log of a collection: what was there before each change of an open transaction, restored newest first.

/// Entries of an open transaction; closed, it records nothing. The first entry needs no allocation, as most commands
/// change one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UndoLog<T> {
    is_open: bool,
    first: Option<T>,
    others: Vec<T>,
}

impl<T> Default for UndoLog<T> {
    fn default() -> UndoLog<T> {
        UndoLog { is_open: false, first: None, others: Vec::new() }
    }
}

impl<T> UndoLog<T> {
    /// Opens an empty log.
    pub fn begin(&mut self) {
        *self = UndoLog { is_open: true, ..UndoLog::default() };
    }

    /// Discards the entries and closes the log.
    pub fn commit(&mut self) {
        *self = UndoLog::default();
    }

    /// Records what was there before a change.
    pub fn record(&mut self, entry: T) {
        match self {
            UndoLog { is_open: false, .. } => {}
            UndoLog { first: first @ None, .. } => *first = Some(entry),
            UndoLog { others, .. } => others.push(entry),
        }
    }

    /// Closes the log and returns its entries, newest first.
    pub fn roll_back(&mut self) -> impl Iterator<Item = T> + use<T> {
        let UndoLog { first, others, .. } = std::mem::take(self);
        first.into_iter().chain(others).rev()
    }
}

//! A format: the shapes of its payloads' parts.

use super::error::DecodeError;
use super::shape::{IntoValue, Number, Texts};
use super::wire::Reader;
use crate::engine::manifest::ManifestText;
use crate::engine::{deployment, event, instance, record, services, summary, version};
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;

/// The shapes of a format.
pub(super) trait Format {
    type Summary<'a>: Deserialize<'a> + IntoValue<'a, summary::Summary>;
    /// The record's own fields; its lists follow.
    type RecordHeader<'a>: Deserialize<'a> + IntoValue<'a, record::Record>;
    type StoredVersion<'a>: Deserialize<'a> + StoredVersionShape<'a>;
    type Instance<'a>: Deserialize<'a> + IntoValue<'a, instance::Instance>;
    type Service<'a>: Deserialize<'a> + IntoValue<'a, services::Service>;
    type IdempotencyEntry<'a>: Deserialize<'a> + IntoValue<'a, deployment::IdempotencyEntry>;
    type Change<'a>: Deserialize<'a> + IntoValue<'a, event::Change>;

    /// Returns the bytes of a log as the newest format has them.
    fn log_events(events: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError>;
}

/// A version of a record, with the index of its manifest among the record's.
pub(super) trait StoredVersionShape<'a> {
    fn manifest(&self) -> Number;

    fn with_content(self, content: Arc<ManifestText>, texts: &mut Texts<'a>) -> Result<version::Version, DecodeError>;
}

/// Reads an event of the shape `E`.
pub(super) fn read_event<'a, E: Deserialize<'a> + IntoValue<'a, event::Event>>(
    bytes: &'a [u8],
    texts: &mut Texts<'a>,
) -> Result<event::Event, DecodeError> {
    let mut from = Reader::of(bytes);
    let event: E = from.read()?;
    from.finish()?;
    event.into_value(texts)
}

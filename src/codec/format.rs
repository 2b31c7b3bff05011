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

/// Converts the versions of the newest format field by field, as `convert_struct` does. Their manifests are elsewhere.
macro_rules! convert_version {
    ($($field:ident),* $(,)?) => {
        impl<'a> Version<'a> {
            #[inline(always)]
            pub(super) fn of(version: &'a version::Version) -> Version<'a> {
                let version::Version { $($field,)* content: _ } = version;
                Version { $($field: Shape::of($field)),* }
            }
        }

        impl<'a> Shape<'a, version::Version> for VersionWithManifest<'a> {
            #[inline(always)]
            fn of(version: &'a version::Version) -> VersionWithManifest<'a> {
                VersionWithManifest { version: Version::of(version), manifest: version.content.text() }
            }
        }

        read_version! { { $($field),* } }
    };
}

/// Reads versions field by field, those that their format does not have with the given values.
macro_rules! read_version {
    ({ $($field:ident),* $(,)? } $(with { $($new:ident: $default:expr),* $(,)? })?) => {
        impl<'a> Version<'a> {
            fn with_content(
                self,
                content: Arc<ManifestText>,
                texts: &mut Texts<'a>,
            ) -> Result<version::Version, DecodeError> {
                let Version { $($field),* } = self;
                Ok(version::Version {
                    content,
                    $($field: IntoValue::into_value($field, texts)?,)*
                    $($($new: $default,)*)?
                })
            }
        }

        impl<'a> StoredVersionShape<'a> for StoredVersion<'a> {
            fn manifest(&self) -> Number {
                self.manifest
            }

            fn with_content(
                self,
                content: Arc<ManifestText>,
                texts: &mut Texts<'a>,
            ) -> Result<version::Version, DecodeError> {
                self.version.with_content(content, texts)
            }
        }

        impl<'a> IntoValue<'a, version::Version> for VersionWithManifest<'a> {
            fn into_value(self, texts: &mut Texts<'a>) -> Result<version::Version, DecodeError> {
                let content = Arc::new(ManifestText::new(shared_text(self.manifest)?));
                self.version.with_content(content, texts)
            }
        }
    };
}

/// Reads the record's own fields, which every format has. Its lists stay empty.
macro_rules! read_record_header {
    () => {
        impl<'a> IntoValue<'a, crate::engine::Record> for RecordHeader<'a> {
            fn into_value(self, texts: &mut Texts<'a>) -> Result<crate::engine::Record, DecodeError> {
                let RecordHeader {
                    revision,
                    last_version,
                    current_version,
                    current_job_id,
                    deployment,
                    created_at,
                    updated_at,
                } = self;
                Ok(crate::engine::Record {
                    revision: revision.into_value(texts)?,
                    last_version: last_version.into_value(texts)?,
                    current_version: current_version.into_value(texts)?,
                    current_job_id: current_job_id.into_value(texts)?,
                    deployment: deployment.map(|deployment| deployment.into_value(texts).map(Arc::new)).transpose()?,
                    created_at: created_at.into_value(texts)?,
                    updated_at: updated_at.into_value(texts)?,
                    ..crate::engine::Record::empty()
                })
            }
        }
    };
}

/// Returns the node where it is not the agent itself.
#[inline]
pub(super) fn other_node<'a>(node: &'a Arc<str>, agent: &Arc<str>) -> Option<&'a str> {
    (!Arc::ptr_eq(node, agent) && node != agent).then_some(&**node)
}

#[inline]
pub(super) fn node_or_agent<'a>(
    node: Option<&'a str>,
    agent: &Arc<str>,
    texts: &mut Texts<'a>,
) -> Result<Arc<str>, DecodeError> {
    match node {
        Some(node) => node.into_value(texts),
        None => Ok(agent.clone()),
    }
}

/// Converts a struct of the newest format as `convert_struct` does, except for its `node`, which is left out where it
/// is the agent itself.
macro_rules! convert_struct_with_node {
    ($shape:ty = $engine:ty { $($field:ident),* $(,)? }) => {
        impl<'a> Shape<'a, $engine> for $shape {
            #[inline(always)]
            fn of(value: &'a $engine) -> Self {
                type Engine = $engine;
                let Engine { agent, node, $($field),* } = value;
                Self { agent: Shape::of(agent), node: other_node(node, agent), $($field: Shape::of($field)),* }
            }
        }

        read_struct_with_node! { $shape = $engine { $($field),* } }
    };
}

/// Reads such a struct, fields that its format does not have with the given values.
macro_rules! read_struct_with_node {
    ($shape:ty = $engine:ty { $($field:ident),* $(,)? } $(with { $($new:ident: $default:expr),* $(,)? })?) => {
        impl<'a> IntoValue<'a, $engine> for $shape {
            #[inline]
            fn into_value(self, texts: &mut Texts<'a>) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                let Self { agent, node, $($field),* } = self;
                let agent: Arc<str> = agent.into_value(texts)?;
                Ok(Engine {
                    node: node_or_agent(node, &agent, texts)?,
                    agent,
                    $($field: IntoValue::into_value($field, texts)?,)*
                    $($($new: $default,)*)?
                })
            }
        }
    };
}

pub(super) use {convert_struct_with_node, convert_version, read_record_header, read_struct_with_node, read_version};

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

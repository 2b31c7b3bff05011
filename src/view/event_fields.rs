//! The two writers of an event's fields. The fields are described once, in [`events`](super::events).
//!
//! An event is published with nearly every report. serde_json scans each field name for characters to escape, byte by
//! byte, which is half of an event's JSON: 4,567 instructions for an `agent_state` of 306 bytes, 12 % of a report.
//! [`JsonFields`] writes the names, which are constants of this module, as they are, and leaves the values to
//! serde_json: see docs/benchmarks.md for the figure.

use serde::ser::SerializeMap;
use serde::Serialize;

/// The name of a field, and the name as it stands between two fields of a JSON object.
#[derive(Clone, Copy)]
pub(super) struct Name {
    pub plain: &'static str,
    pub json: &'static str,
}

/// Receives fields in order.
pub(super) trait Fields {
    type Error;

    fn field<T: Serialize + ?Sized>(&mut self, name: Name, value: &T) -> Result<(), Self::Error>;
}

/// Writes fields by any serializer.
pub(super) struct SerdeFields<M>(pub M);

impl<M: SerializeMap> Fields for SerdeFields<M> {
    type Error = M::Error;

    fn field<T: Serialize + ?Sized>(&mut self, name: Name, value: &T) -> Result<(), M::Error> {
        self.0.serialize_entry(name.plain, value)
    }
}

/// Writes fields as the inside of a JSON object, each with a comma before it.
pub(super) struct JsonFields<'o>(pub &'o mut Vec<u8>);

impl Fields for JsonFields<'_> {
    type Error = serde_json::Error;

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: Name, value: &T) -> Result<(), serde_json::Error> {
        self.0.extend_from_slice(name.json.as_bytes());
        value.serialize(&mut serde_json::Serializer::new(&mut *self.0))
    }
}

/// Gives fields to a [`Fields`], one after the other.
macro_rules! fields {
    ($to:expr, $($name:literal: $value:expr),+ $(,)?) => {
        { $($to.field(Name { plain: $name, json: concat!(",\"", $name, "\":") }, &$value)?;)+ }
    };
}
pub(super) use fields;

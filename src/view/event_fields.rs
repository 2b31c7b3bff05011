//! The writer of an event's fields.
//!
//! An event is published with nearly every report. serde_json scans each field name for characters to escape, byte by
//! byte, which is half of an event's JSON: 4,567 instructions for an `agent_state` of 306 bytes, 12 % of a report.
//! [`Fields`] writes the names, which are constants of this module, as they are, and leaves the values to serde_json:
//! see docs/benchmarks.md for the figure.

use super::value::append_json;
use serde::Serialize;

/// Writes fields as the inside of a JSON object, each with a comma before it.
pub(super) struct Fields<'o>(pub &'o mut Vec<u8>);

impl Fields<'_> {
    /// Writes a field. `name` is its name as it stands between two fields: `,"name":`.
    #[inline]
    pub fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.0.extend_from_slice(name.as_bytes());
        append_json(self.0, value);
    }
}

/// Gives fields to a [`Fields`], one after the other.
macro_rules! fields {
    ($to:expr, $($name:literal: $value:expr),+ $(,)?) => {
        { $($to.field(concat!(",\"", $name, "\":"), &$value);)+ }
    };
}
pub(super) use fields;

//! Values that the shapes share, and their two writings.
//!
//! A shape is written as JSON by serde_json and as a reply by `redis::resp`. The two forms differ in three things. RESP
//! has no JSON values, so a JSON text is a string there: shapes serialize it as bytes, which [`JsonFormatter`] embeds as
//! they are. Booleans are integers in RESP, which its serializer does itself. And JSON numbers have no limit, whereas
//! RESP integers are signed 64-bit: [`int`] applies the limit to both.

use serde::de::IgnoredAny;
use serde::{Serialize, Serializer};
use std::io;

/// Converts a counter, time or length to the signed 64-bit integer of a reply. Larger values, which only a hostile
/// payload holds, become the largest one.
pub(super) fn int<T: TryInto<i64>>(number: T) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A JSON text that was validated when it came onto the record: a value in JSON, a string in RESP.
///
/// It is validated again where it becomes a part of a JSON text. One that is no JSON after all, which only a forged log
/// of events can have, is a string there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawJson<'a>(pub &'a str);

impl RawJson<'_> {
    /// Returns whether the text is one JSON value.
    pub fn is_valid(&self) -> bool {
        serde_json::from_str::<IgnoredAny>(self.0).is_ok()
    }
}

impl Serialize for RawJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && !self.is_valid() {
            return serializer.serialize_str(self.0);
        }
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

/// Writes compact JSON, with bytes as the JSON text that they are.
///
/// serde_json has a feature for embedded texts, `raw_value`, but that changes how it parses values from outside.
struct JsonFormatter;

impl serde_json::ser::Formatter for JsonFormatter {
    fn write_byte_array<W: io::Write + ?Sized>(&mut self, writer: &mut W, json: &[u8]) -> io::Result<()> {
        writer.write_all(json)
    }
}

/// Returns a shape as one JSON text.
pub fn to_json<T: Serialize + ?Sized>(shape: &T) -> String {
    let mut json = Vec::new();
    append_json(&mut json, shape);
    String::from_utf8(json).unwrap_or_default()
}

/// Appends a shape as JSON to a buffer, which a caller can use again.
#[inline]
pub fn append_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, shape: &T) {
    // It fails for maps with keys that are no strings, and no shape has such a map.
    let written = shape.serialize(&mut serde_json::Serializer::with_formatter(out, JsonFormatter));
    debug_assert!(written.is_ok(), "{written:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_clamped_to_signed_64_bit() {
        assert_eq!(int(7u64), 7);
        assert_eq!(int(u64::MAX), i64::MAX);
        assert_eq!(int(usize::MAX), i64::MAX);
        assert_eq!(int(u32::MAX), 4_294_967_295);
    }

    #[test]
    fn raw_json_is_a_value_and_an_invalid_text_a_string() {
        assert_eq!(to_json(&[RawJson(r#"{"a" : 1}"#)]), r#"[{"a" : 1}]"#);
        assert_eq!(to_json(&[RawJson(r#"{"a"#)]), r#"["{\"a"]"#);
        assert_eq!(to_json(&[RawJson("")]), r#"[""]"#);
        assert_eq!(to_json(&[RawJson(" [1e2, 1.0] ")]), "[ [1e2, 1.0] ]", "as it was given");
    }

    #[test]
    fn json_is_appended_to_what_the_buffer_holds() {
        let mut out = b"after ".to_vec();
        append_json(&mut out, &(1, "a"));
        assert_eq!(out, br#"after [1,"a"]"#);
    }
}

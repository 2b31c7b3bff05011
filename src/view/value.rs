//! Values that the shapes share, and their two writings.
//!
//! A shape is written as JSON by serde_json and as a reply by `redis::resp`. The two forms differ in three things. RESP
//! has no JSON values, so a JSON text is a string there ([`RawJson`], [`AsJson`]); such a type asks
//! `Serializer::is_human_readable`, which is true of JSON and false of RESP. Booleans are integers in RESP, which its
//! serializer does itself. And JSON numbers have no limit, whereas RESP integers are signed 64-bit: [`int`] applies the
//! limit to both.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::io;

/// Converts a counter, time or length to the signed 64-bit integer of a reply. Larger values, which only a hostile
/// payload holds, become the largest one.
pub(super) fn int<T: TryInto<i64>>(number: T) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A JSON text that was validated when it came onto the record: a value in JSON, a string in RESP.
///
/// serde_json validates the text again, which is the only safe way to have it embedded. A text that is no JSON after
/// all is written as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawJson<'a>(pub &'a str);

impl Serialize for RawJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            if let Ok(value) = serde_json::from_str::<&RawValue>(self.0) {
                return value.serialize(serializer);
            }
        }
        serializer.serialize_str(self.0)
    }
}

/// A shape that is one JSON string in RESP and a plain value in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsJson<T>(pub T);

impl<T: Serialize> Serialize for AsJson<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.0.serialize(serializer)
        } else {
            serializer.serialize_str(&to_json(&self.0))
        }
    }
}

/// Returns a shape as one JSON text.
pub fn to_json<T: Serialize + ?Sized>(shape: &T) -> String {
    // It fails for maps with keys that are no strings, and no shape has such a map.
    serde_json::to_string(shape).unwrap_or_default()
}

/// Appends a shape as JSON to a buffer, which a caller can use again.
pub fn append_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, shape: &T) {
    let written: io::Result<()> = serde_json::to_writer(out, shape).map_err(io::Error::from);
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
    }

    #[test]
    fn json_is_appended_to_what_the_buffer_holds() {
        let mut out = b"after ".to_vec();
        append_json(&mut out, &(1, "a"));
        assert_eq!(out, br#"after [1,"a"]"#);
    }
}

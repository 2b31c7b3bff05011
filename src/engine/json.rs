//! Parsing of JSON values that are kept as they were given.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Parses a JSON text.
///
/// Not by the `Deserialize` of [`Value`]: with serde_json's feature `raw_value`, which `view` needs to embed texts, that
/// takes an object whose first key is `$serde_json::private::RawValue` for the JSON in its value. Here every key is a
/// key, and the parser's limit of nesting holds for the whole text.
///
/// # Errors
/// Those of the JSON parser.
pub(super) fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<Plain>(text).map(|plain| plain.0)
}

/// A JSON value without keys of a special meaning.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plain, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Plain)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_string()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Plain(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Plain(value))) = fields.next_entry()? {
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use serde_json::Value;

    const RAW: &str = "$serde_json::private::RawValue";

    #[test]
    fn values_are_those_of_serde_json() {
        let texts = [
            "null",
            r#"[true,0,-1,18446744073709551615,-9223372036854775808,1.5,1e300,"é\u0000\"",{},[]]"#,
            r#"{"b":1,"a":{"b":[{"c":null}]},"b":2}"#,
            " \n[ 1 , 2 ]\t",
        ];
        for text in texts {
            assert_eq!(parse(text).expect("JSON"), serde_json::from_str::<Value>(text).expect("JSON"), "{text}");
        }
        let keys = |value: Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(parse(r#"{"b":1,"a":2}"#).expect("JSON")), ["b", "a"], "in the order of the text");
        for text in ["", "{", "[1,]", "01", "1e999", "nul", r#"{"a" 1}"#, "1 2", &"[".repeat(200)] {
            let (ours, theirs) = (parse(text), serde_json::from_str::<Value>(text));
            assert_eq!(ours.expect_err(text).to_string(), theirs.expect_err(text).to_string(), "{text}");
        }
    }

    #[test]
    fn no_key_has_a_special_meaning() {
        for text in [format!(r#"{{"{RAW}":"x"}}"#), format!(r#"{{"a":[{{"{RAW}":"{{\"nodes\":[]}}"}}]}}"#)] {
            assert_eq!(parse(&text).expect("JSON").to_string(), text);
        }
    }

    #[test]
    fn nesting_inside_a_string_is_text() {
        // By serde_json's own Value each layer of quotes would start a new limit of nesting.
        let inner = serde_json::to_string(&"[".repeat(100)).expect("a string");
        let text = format!(r#"{{"{RAW}":{inner}}}"#);
        assert_eq!(parse(&text).expect("JSON")[RAW], "[".repeat(100));
    }
}

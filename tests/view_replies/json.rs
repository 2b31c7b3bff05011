//! JSON: its comparison in tests, and its format.

use crate::record::{logged, record_where, service, text, T};
use redis_deploy::engine::services::Service;
use redis_deploy::view::{self, View};
use serde_json::Value;

/// The view's JSON, which another reader must write back to the same text: it parses, no name comes twice, and every
/// escape is the usual one.
pub fn json(view: &View) -> String {
    let json = view.to_json();
    let value: Value = serde_json::from_str(&json).expect("a view writes JSON");
    assert_eq!(value.to_string(), json);
    json
}

pub fn value(view: &View) -> Value {
    serde_json::from_str(&json(view)).expect("a view writes JSON")
}

/// Returns expected JSON, written over several lines, as one line; the order of fields counts.
pub fn compact(expected: &str) -> String {
    serde_json::from_str::<Value>(expected).expect("the expectation is JSON").to_string()
}

#[track_caller]
pub fn assert_json(view: &View, expected: &str) {
    assert_eq!(json(view), compact(expected));
}

/// Rule 7: names and values in its order; more fields may follow at the end. An empty array of it says nothing.
#[track_caller]
pub fn assert_begins_with(actual: &Value, spec: &Value, path: &str) {
    match (actual, spec) {
        (Value::Object(actual), Value::Object(spec)) => {
            let names: Vec<&String> = actual.keys().take(spec.len()).collect();
            assert_eq!(names, spec.keys().collect::<Vec<_>>(), "fields of {path}");
            for (name, spec) in spec {
                assert_begins_with(&actual[name], spec, &format!("{path}.{name}"));
            }
        }
        (Value::Array(actual), Value::Array(spec)) => {
            for (i, (actual, spec)) in actual.iter().zip(spec).enumerate() {
                assert_begins_with(actual, spec, &format!("{path}[{i}]"));
            }
            assert!(actual.len() >= spec.len(), "{path}");
        }
        _ => assert_eq!(actual, spec, "{path}"),
    }
}

#[test]
fn unusual_strings_round_trip_through_json() {
    let mut odd: Vec<String> = (0u8..=0x7f).map(|byte| format!("a{}z", byte as char)).collect();
    odd.extend(
        [
            "",
            "\"",
            "\\",
            "\\\"",
            "\\u0041",
            "é",
            "日本",
            "\u{1f680}\u{1f469}\u{200d}\u{1f52c}",
            "\u{2028}\u{2029}",
            "\u{feff}",
            "\u{fffd}",
            "\u{10ffff}",
            "\u{7f}\u{80}\u{9f}",
            "\"\\\u{8}\u{c}\n\r\t\u{0}\u{1f}\"",
            "a/b",
        ]
        .map(str::to_string),
    );
    for text in &odd {
        let written = json(&View::from(text));
        let read: String = serde_json::from_str(&written).expect("JSON");
        assert_eq!(&read, text);
        assert!(written.bytes().all(|byte| byte >= 0x20), "no control character stays bare: {written}");
    }
    assert_eq!(View::from("\u{1}\u{1f680}\"\\\n").to_json(), "\"\\u0001\u{1f680}\\\"\\\\\\n\"");
}

#[test]
fn unusual_keys_and_reasons_give_valid_json() {
    let key = "k\"\\\u{0}\n\u{1f680}";
    let mut record = record_where(|d| d.reason = Some(text("she said \"go\"\r\n\u{1b}[31m")));
    record.services.insert(Service { tags: vec![text("\"]}")], ..service("web\"1", "agent-2", 2) });
    logged(&mut record, 12..=12);
    let status = value(&view::status(&record, key, T));
    assert_eq!(status["deployment_key"], key);
    assert_eq!(status["reason"], "she said \"go\"\r\n\u{1b}[31m");
    assert_eq!(status["services"][0]["tags"][0], "\"]}");
    assert_eq!(status["events"][0]["key"], key);
}

#[test]
fn numbers_are_integers_limited_to_i64() {
    assert_json(&View::from(0u64), "0");
    assert_json(&View::from(T), "1790000000000");
    assert_json(&View::from(u64::MAX), "9223372036854775807");
    assert_json(&View::Int(-1), "-1");
    assert_json(&View::from(None::<u64>), "null");
    assert_json(&View::List(vec![]), "[]");
    assert_json(&View::Map(vec![]), "{}");
    let list = View::List(vec![false.into(), View::Null]);
    assert_json(&View::Map(vec![("a", true.into()), ("b", list)]), r#"{"a":true,"b":[false,null]}"#);
}

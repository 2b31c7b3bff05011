//! Comparison of a shape's two writings, JSON and RESP, and the rules of JSON texts.

use crate::record::{logged, record_where, service, text};
use redis_deploy::engine::policy::Policy;
use redis_deploy::engine::services::Service;
use redis_deploy::redis::resp::{self, ReplySink};
use redis_deploy::view::{self, to_json, ResolveFilter, RoleFilter};
use serde::Serialize;
use serde_json::Value;

/// Returns the shape's JSON. Another reader writes it back to the same text: it parses, no name comes twice, and every
/// escape is the usual one. The shape's RESP reply says the same.
pub fn json<T: Serialize>(shape: &T) -> String {
    let json = to_json(shape);
    let value: Value = serde_json::from_str(&json).expect("a shape is written as JSON");
    assert_eq!(value.to_string(), json);
    assert_same(&value, &reply(shape), "the reply");
    json
}

pub fn value<T: Serialize>(shape: &T) -> Value {
    serde_json::from_str(&json(shape)).expect("a shape is written as JSON")
}

/// Reads a RESP3 reply back, part by part.
#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    whole: Option<Value>,
}

struct Open {
    is_map: bool,
    missing: usize,
    parts: Vec<Value>,
}

impl Reader {
    fn begin(&mut self, is_map: bool, missing: usize) {
        self.open.push(Open { is_map, missing, parts: Vec::new() });
        self.close_full();
    }

    fn part(&mut self, part: Value) {
        match self.open.last_mut() {
            Some(open) => {
                open.parts.push(part);
                open.missing -= 1;
                self.close_full();
            }
            None => assert!(self.whole.replace(part).is_none(), "one reply"),
        }
    }

    fn close_full(&mut self) {
        if self.open.last().is_some_and(|open| open.missing == 0) {
            let Open { is_map, parts, .. } = self.open.pop().expect("it is open");
            let pairs = || parts.chunks(2).map(|pair| (pair[0].as_str().expect("a name").to_string(), pair[1].clone()));
            self.part(if is_map { Value::Object(pairs().collect()) } else { Value::Array(parts) });
        }
    }
}

impl ReplySink for Reader {
    fn null(&mut self) {
        self.part(Value::Null);
    }

    fn integer(&mut self, number: i64) {
        self.part(number.into());
    }

    fn bulk_string(&mut self, bytes: &[u8]) {
        self.part(String::from_utf8(bytes.to_vec()).expect("text").into());
    }

    fn array(&mut self, length: usize) {
        self.begin(false, length);
    }

    fn map(&mut self, length: usize) {
        self.begin(true, 2 * length);
    }
}

/// Returns the shape's RESP reply, maps as objects.
pub fn reply<T: Serialize>(shape: &T) -> Value {
    let mut reader = Reader::default();
    resp::write(&mut reader, shape).expect("all lengths are known");
    assert!(reader.open.is_empty(), "all announced parts were written");
    reader.whole.expect("a reply")
}

/// Asserts that a reply is the JSON value: the same names in the same order, booleans as 0 and 1, JSON texts as
/// strings.
#[track_caller]
fn assert_same(json: &Value, reply: &Value, path: &str) {
    match (json, reply) {
        (Value::Bool(flag), reply) => assert_eq!(*reply, Value::from(u8::from(*flag)), "{path}"),
        (Value::Object(json), Value::Object(reply)) => {
            assert_eq!(json.keys().collect::<Vec<_>>(), reply.keys().collect::<Vec<_>>(), "fields of {path}");
            json.iter().for_each(|(name, value)| assert_same(value, &reply[name], &format!("{path}.{name}")));
        }
        (Value::Array(json), Value::Array(reply)) => {
            assert_eq!(json.len(), reply.len(), "{path}");
            json.iter().zip(reply).for_each(|(json, reply)| assert_same(json, reply, &format!("{path}[]")));
        }
        (Value::Object(_) | Value::Array(_), Value::String(text)) => {
            assert_eq!(serde_json::from_str::<Value>(text).ok().as_ref(), Some(json), "{path}");
        }
        _ => assert_eq!(json, reply, "{path}"),
    }
}

/// Returns an expectation that is written over several lines as one text. The order of fields counts. `{default policy}`
/// stands for the policy with all its defaults.
fn compact(expected: &str) -> String {
    let policy = serde_json::to_string(&Policy::default()).expect("plain data");
    let expected = expected.replace("{default policy}", &policy);
    serde_json::from_str::<Value>(&expected).expect("the expectation is JSON").to_string()
}

#[track_caller]
pub fn assert_json<T: Serialize>(shape: &T, expected: &str) {
    assert_eq!(json(shape), compact(expected));
}

/// Asserts the names and values of rule 7, in its order. More fields may follow; an empty array of it admits any.
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
        let written = json(text);
        let read: String = serde_json::from_str(&written).expect("JSON");
        assert_eq!(&read, text);
        assert!(written.bytes().all(|byte| byte >= 0x20), "no control character stays bare: {written}");
    }
    assert_eq!(to_json("\u{1}\u{1f680}\"\\\n"), "\"\\u0001\u{1f680}\\\"\\\\\\n\"");
}

#[test]
fn unusual_keys_and_reasons_give_valid_json() {
    let key = "k\"\\\u{0}\n\u{1f680}";
    let mut record = record_where(|d| d.reason = Some(text("she said \"go\"\r\n\u{1b}[31m")));
    record.services.insert(Service { tags: vec![text("\"]}")], ..service("web\"1", "agent-2", 2) });
    logged(&mut record, 12..=12);
    let status = value(&view::status(&record, key));
    assert_eq!(status["deployment_key"], key);
    assert_eq!(status["reason"], "she said \"go\"\r\n\u{1b}[31m");
    assert_eq!(status["services"][0]["tags"][0], "\"]}");
    assert_eq!(status["events"][0]["key"], key);
}

/// Durations of a policy are not among them: a decoded policy is within its ranges.
#[test]
fn integers_of_a_hostile_record_are_clamped_in_both_writings() {
    let mut record = record_where(|d| {
        d.created_at = u64::MAX;
        d.rollback_of = Some(u64::MAX);
    });
    record.services.insert(Service { ttl_ms: Some(u64::MAX), since: u64::MAX, ..service("web-1", "agent-2", 2) });
    record.revision = u64::MAX;
    record.instances.update_where(|_| true, |i| i.since = u64::MAX);
    let status = value(&view::status(&record, "k"));
    for integer in [
        &status["created_at"],
        &status["rollback_of"],
        &status["revision"],
        &status["services"][0]["ttl_ms"],
        &status["services"][0]["since"],
        &status["instances"][0]["since"],
    ] {
        assert_eq!(*integer, i64::MAX, "{status}");
    }
    assert_eq!(value(&view::events(&record, "k", None, None))[1], i64::MAX);
}

/// The reply holds strings where JSON holds values, and integers where it holds booleans.
#[test]
fn meta_events_and_booleans_differ_between_json_and_a_reply() {
    let mut record = record_where(|_| {});
    record.services.insert(service("web-1", "agent-2", 2));
    logged(&mut record, 12..=12);
    let (json, reply) = (value(&view::status(&record, "k")), reply(&view::status(&record, "k")));
    assert_eq!(json["services"][0]["meta"]["zone"], "a");
    assert_eq!(reply["services"][0]["meta"], r#"{"zone":"a"}"#);
    assert_eq!(json["events"][0]["revision"], 12);
    assert_eq!(reply["events"][0], view::event_json(&record.log.iter().next().expect("one"), "k"));
    assert_eq!((&json["versions"][0]["stable"], &reply["versions"][0]["stable"]), (&false.into(), &0.into()));
    let filter = ResolveFilter { role: RoleFilter::Any, all: true, ..ResolveFilter::default() };
    let resolved = crate::json::reply(&view::resolve(&record, "k", &filter));
    assert_eq!(resolved[0], reply["services"][0]);
}

//! Replies of the `redis` crate as plain values.

use redis::Value;
use serde_json::Value as Json;

pub fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::Okay => "OK".into(),
        other => panic!("not a text: {other:?}"),
    }
}

pub fn int(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        other => panic!("not an integer: {other:?}"),
    }
}

pub fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => panic!("not an array: {other:?}"),
    }
}

pub fn string(json: &Json) -> &str {
    json.as_str().unwrap_or_else(|| panic!("not a string: {json}"))
}

pub fn number(json: &Json) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("not a number: {json}"))
}

pub fn array(json: &Json) -> &Vec<Json> {
    json.as_array().unwrap_or_else(|| panic!("not an array: {json}"))
}

/// A map reply by its names: a map in RESP3, a flat array of names and values in RESP2.
#[derive(Debug, Clone, PartialEq)]
pub struct Fields(pub Vec<(String, Value)>);

impl Fields {
    pub fn of(value: &Value) -> Fields {
        match value {
            Value::Map(pairs) => Fields(pairs.iter().map(|(name, value)| (text(name), value.clone())).collect()),
            Value::Array(flat) => {
                assert!(flat.len().is_multiple_of(2), "a flat map has names and values: {flat:?}");
                Fields(flat.chunks(2).map(|pair| (text(&pair[0]), pair[1].clone())).collect())
            }
            other => panic!("not a map: {other:?}"),
        }
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub fn get(&self, name: &str) -> &Value {
        let found = self.0.iter().find(|(field, _)| field == name);
        &found.unwrap_or_else(|| panic!("no field {name} in {:?}", self.names())).1
    }

    pub fn text(&self, name: &str) -> String {
        text(self.get(name))
    }

    pub fn int(&self, name: &str) -> i64 {
        int(self.get(name))
    }
}

/// A reply in the shape that RESP2 gives it: maps as flat arrays.
pub fn flattened(value: &Value) -> Value {
    match value {
        Value::Map(pairs) => Value::Array(pairs.iter().flat_map(|(k, v)| [flattened(k), flattened(v)]).collect()),
        Value::Array(items) => Value::Array(items.iter().map(flattened).collect()),
        other => other.clone(),
    }
}

/// A RESP3 reply as the JSON form of the same command would give it, but for booleans, which are 0 and 1 here.
pub fn as_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Int(number) => (*number).into(),
        Value::Array(items) => items.iter().map(as_json).collect(),
        Value::Map(pairs) => Json::Object(pairs.iter().map(|(name, value)| (text(name), as_json(value))).collect()),
        other => text(other).into(),
    }
}

/// A JSON form with its booleans as 0 and 1.
pub fn with_numbers_for_booleans(json: &Json) -> Json {
    match json {
        Json::Bool(yes) => u64::from(*yes).into(),
        Json::Array(items) => items.iter().map(with_numbers_for_booleans).collect(),
        Json::Object(fields) => {
            Json::Object(fields.iter().map(|(name, value)| (name.clone(), with_numbers_for_booleans(value))).collect())
        }
        other => other.clone(),
    }
}

pub fn names_of(json: &Json) -> Vec<&str> {
    json.as_object().unwrap_or_else(|| panic!("not an object: {json}")).keys().map(String::as_str).collect()
}

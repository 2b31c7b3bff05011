//! JSON values of manifests. Unlike serde_json's, a number keeps its text, so that numbers are compared with all of
//! their digits, and a name that comes twice in an object is known.

use indexmap::IndexMap;
use json_event_parser::{JsonEvent, JsonSyntaxError, SliceJsonParser};
use std::fmt;

/// A JSON value. Two are equal as rule 2.6 has it: objects whatever the order of their fields, numbers by their decimal
/// values.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    Object(Object),
}

/// The fields of an object, in the order in which they stand. Of a name that comes twice the last value counts.
#[derive(Debug, Clone, Default)]
pub struct Object {
    fields: IndexMap<String, Json>,
    repeated: Vec<String>,
}

/// A number as it is written.
#[derive(Debug, Clone)]
pub struct Number(Box<str>);

/// The reason why a text is no JSON value, or none that is accepted.
#[derive(Debug)]
pub enum JsonError {
    Syntax(String),
    TooDeep,
}

impl Json {
    /// Parses a JSON text of at most `levels` levels of arrays and objects.
    pub fn parse(text: &str, levels: usize) -> Result<Json, JsonError> {
        // The parser skips it, other readers of the text do not.
        if text.starts_with('\u{feff}') {
            return Err(JsonError::Syntax("it begins with a byte order mark".to_string()));
        }
        let mut parser = SliceJsonParser::new(text.as_bytes());
        let value = match parser.parse_next()? {
            JsonEvent::Eof => return Err(JsonError::Syntax("it is empty".to_string())),
            event => value(event, &mut parser, levels)?,
        };
        match parser.parse_next()? {
            JsonEvent::Eof => Ok(value),
            _ => Err(JsonError::Syntax("something follows the value".to_string())),
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the text of a number, as it is written.
    pub fn as_number(&self) -> Option<&str> {
        match self {
            Json::Number(Number(text)) => Some(text),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Json::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Json::Object(object) => Some(object),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Json::Null)
    }

    /// Returns a field of an object; None for any other value.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.as_object()?.get(name)
    }
}

impl Object {
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.fields.get(name)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Json)> {
        self.fields.iter()
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.fields.keys()
    }

    /// Removes a field. The others keep their order.
    pub fn remove(&mut self, name: &str) {
        self.fields.shift_remove(name);
    }

    /// The names that come more than once, each time but the first.
    pub fn repeated(&self) -> &[String] {
        &self.repeated
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Object) -> bool {
        self.fields == other.fields
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.0 == other.0 || Decimal::of(&self.0) == Decimal::of(&other.0)
    }
}

/// Builds the value that begins with an event.
fn value<'t>(event: JsonEvent<'t>, parser: &mut SliceJsonParser<'t>, levels: usize) -> Result<Json, JsonError> {
    Ok(match event {
        JsonEvent::Null => Json::Null,
        JsonEvent::Boolean(value) => Json::Bool(value),
        JsonEvent::Number(text) => Json::Number(Number(text.into())),
        JsonEvent::String(text) => Json::String(text.into_owned()),
        JsonEvent::StartArray => {
            let levels = levels.checked_sub(1).ok_or(JsonError::TooDeep)?;
            let mut items = Vec::new();
            loop {
                match parser.parse_next()? {
                    JsonEvent::EndArray => break Json::Array(items),
                    event => items.push(value(event, parser, levels)?),
                }
            }
        }
        JsonEvent::StartObject => {
            let levels = levels.checked_sub(1).ok_or(JsonError::TooDeep)?;
            let mut object = Object::default();
            while let JsonEvent::ObjectKey(name) = parser.parse_next()? {
                let event = parser.parse_next()?;
                let value = value(event, parser, levels)?;
                let name = name.into_owned();
                if object.fields.contains_key(&name) {
                    object.repeated.push(name.clone());
                }
                object.fields.insert(name, value);
            }
            Json::Object(object)
        }
        // The parser gives none of these where a value begins.
        JsonEvent::EndArray | JsonEvent::EndObject | JsonEvent::ObjectKey(_) | JsonEvent::Eof => {
            return Err(JsonError::Syntax("it ends too early".to_string()))
        }
    })
}

/// The value of a number: `digits` × 10^`exponent`, with neither leading nor trailing zeros.
#[derive(PartialEq)]
enum Decimal<'t> {
    Zero,
    Value {
        is_negative: bool,
        digits: String,
        exponent: i64,
    },
    /// An exponent that no computer has room for: such numbers are equal if their texts are.
    Unbounded(&'t str),
}

impl Decimal<'_> {
    fn of(text: &str) -> Decimal<'_> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let is_negative = mantissa.starts_with('-');
        let (whole, fraction) = mantissa.trim_start_matches('-').split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{}{fraction}", whole.trim_start_matches('-'));
        let digits = all.trim_start_matches('0').trim_end_matches('0');
        if digits.is_empty() {
            return Decimal::Zero;
        }
        let trailing_zeros = all.len() - all.trim_end_matches('0').len();
        let exponent = exponent.parse::<i64>().ok().and_then(|exponent| {
            let shift = i64::try_from(trailing_zeros).ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
            exponent.checked_add(shift)
        });
        match exponent {
            Some(exponent) => Decimal::Value { is_negative, digits: digits.to_string(), exponent },
            None => Decimal::Unbounded(text),
        }
    }
}

impl fmt::Display for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decimal::Zero => f.write_str("0"),
            Decimal::Value { is_negative, digits, exponent } => {
                write!(f, "{}{digits}e{exponent}", if *is_negative { "-" } else { "" })
            }
            Decimal::Unbounded(text) => f.write_str(text),
        }
    }
}

/// Writes a value as JSON text, numbers as they are written.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(Number(text)) => f.write_str(text),
            Json::String(text) => f.write_str(&quoted(text)),
            Json::Array(items) => write_all(f, "[", items.iter().map(Json::to_string), "]"),
            Json::Object(object) => {
                write_all(f, "{", object.iter().map(|(name, value)| format!("{}:{value}", quoted(name))), "}")
            }
        }
    }
}

impl Json {
    /// Returns a text that equal values have in common, and no others: fields in order of their names, numbers by their
    /// decimal values.
    pub fn canonical(&self) -> String {
        match self {
            Json::Number(Number(text)) => Decimal::of(text).to_string(),
            Json::Array(items) => format!("[{}]", items.iter().map(Json::canonical).collect::<Vec<_>>().join(",")),
            Json::Object(object) => {
                let mut fields: Vec<_> = object.iter().collect();
                fields.sort_by_key(|(name, _)| *name);
                let fields = fields.into_iter().map(|(name, value)| format!("{}:{}", quoted(name), value.canonical()));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }
            other => other.to_string(),
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn write_all(f: &mut fmt::Formatter<'_>, open: &str, items: impl Iterator<Item = String>, close: &str) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.enumerate() {
        f.write_str(if index == 0 { "" } else { "," })?;
        f.write_str(&item)?;
    }
    f.write_str(close)
}

impl From<JsonSyntaxError> for JsonError {
    fn from(error: JsonSyntaxError) -> JsonError {
        JsonError::Syntax(error.to_string())
    }
}

//! Values of policy fields: parsing them, from manifests and from options of commands, and the errors of invalid ones.

use crate::engine::json::{Json, JsonError, Object};
use std::sync::Arc;

/// The deepest that the JSON text of an option may be nested.
const MAX_DEPTH: usize = 8;

/// The value of a field in either of its two notations.
#[derive(Clone, Copy)]
pub enum PolicyValue<'a> {
    /// A JSON value of a manifest.
    Json(&'a Json),
    /// The text of a command's option.
    Option(&'a str),
}

impl<'a> PolicyValue<'a> {
    pub(super) fn text(self) -> Option<&'a str> {
        match self {
            PolicyValue::Json(value) => value.as_str(),
            PolicyValue::Option(text) => Some(text),
        }
    }
}

/// A violation in the value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The path inside the value, `[1].percent`; empty for the value itself.
    pub place: String,
    /// The requirement: `must be a boolean`.
    pub expected: String,
}

impl FieldError {
    pub(super) fn of_the_value(expected: &str) -> FieldError {
        FieldError { place: String::new(), expected: expected.to_string() }
    }
}

/// A type of policy fields.
pub(super) trait FieldType: Sized {
    /// Parses a value. The errors are those inside it; a value of another type has none of them.
    fn parse(value: PolicyValue) -> Result<Self, Vec<FieldError>>;
}

/// A type whose values have no parts.
pub(super) trait Scalar: Sized {
    fn parse_scalar(value: PolicyValue) -> Option<Self>;
}

impl<T: Scalar> FieldType for T {
    fn parse(value: PolicyValue) -> Result<T, Vec<FieldError>> {
        T::parse_scalar(value).ok_or_else(Vec::new)
    }
}

impl Scalar for u64 {
    fn parse_scalar(value: PolicyValue) -> Option<u64> {
        match value {
            PolicyValue::Json(value) => integer(value),
            PolicyValue::Option(text) => digits(text),
        }
    }
}

impl Scalar for bool {
    fn parse_scalar(value: PolicyValue) -> Option<bool> {
        match value {
            PolicyValue::Json(value) => value.as_bool(),
            PolicyValue::Option(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => Some(true),
                "false" | "no" | "0" => Some(false),
                _ => None,
            },
        }
    }
}

/// A text, or null in a manifest.
impl Scalar for Option<Arc<str>> {
    fn parse_scalar(value: PolicyValue) -> Option<Option<Arc<str>>> {
        match value {
            PolicyValue::Json(Json::Null) => Some(None),
            value => value.text().map(|text| Some(Arc::from(text))),
        }
    }
}

/// Parses plain decimal digits: no sign, no blanks, no exponent.
pub(super) fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Returns a number that is written as plain digits.
pub(super) fn integer(value: &Json) -> Option<u64> {
    value.as_number().and_then(digits)
}

/// Parses a value that is JSON in either notation.
pub(super) fn with_json<T>(
    value: PolicyValue,
    parse: impl FnOnce(&Json) -> Result<T, Vec<FieldError>>,
) -> Result<T, Vec<FieldError>> {
    match value {
        PolicyValue::Json(value) => parse(value),
        PolicyValue::Option(text) => match Json::parse(text, MAX_DEPTH) {
            Ok(value) => parse(&value),
            Err(JsonError::Syntax(error)) => Err(vec![FieldError::of_the_value(&format!("must be JSON: {error}"))]),
            Err(JsonError::TooDeep) => {
                let expected = format!("must not be nested deeper than {MAX_DEPTH} levels");
                Err(vec![FieldError::of_the_value(&expected)])
            }
        },
    }
}

/// The fields of an object inside a value. Whoever reads it asks for each field that it knows; any other is an error:
/// a misspelt bound must not vanish.
pub(super) struct Fields<'a> {
    object: &'a Object,
    place: String,
    asked: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// Returns the fields of the object at `place`.
    pub fn of(value: &'a Json, place: &str) -> Result<Fields<'a>, Vec<FieldError>> {
        match value {
            Json::Object(object) => {
                Ok(Fields { object, place: place.to_string(), asked: Vec::new(), errors: Vec::new() })
            }
            _ => Err(vec![FieldError { place: place.to_string(), expected: "must be an object".to_string() }]),
        }
    }

    /// Returns true if the object has a field.
    pub fn has(&self, name: &str) -> bool {
        self.object.contains(name)
    }

    /// Returns a field; None where it is left out, or is not what is expected, which is an error then.
    pub fn get<T>(&mut self, name: &'static str, expected: &str, parse: impl FnOnce(&Json) -> Option<T>) -> Option<T> {
        self.asked.push(name);
        let parsed = parse(self.object.get(name)?);
        if parsed.is_none() {
            self.error(name, expected);
        }
        parsed
    }

    /// Returns a field as [`get`](Fields::get) does; leaving it out is an error, too.
    pub fn require<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&Json) -> Option<T>,
    ) -> Option<T> {
        if !self.has(name) {
            self.error(name, expected);
        }
        self.get(name, expected, parse)
    }

    /// Adds an error about a field.
    pub fn error(&mut self, name: &str, expected: &str) {
        self.errors.push(FieldError { place: format!("{}.{name}", self.place), expected: expected.to_string() });
    }

    /// Adds an error about the object.
    pub fn error_of_the_object(&mut self, expected: String) {
        self.errors.push(FieldError { place: self.place.clone(), expected });
    }

    /// Returns the value that was read, unless there is an error. Fields that were not read, and duplicate ones, are
    /// errors.
    pub fn finish<T>(mut self, what: &str, value: Option<T>) -> Result<T, Vec<FieldError>> {
        let object = self.object;
        for name in object.names().filter(|name| !self.asked.contains(&name.as_str())).collect::<Vec<_>>() {
            self.error(name, &format!("is no field of {what}"));
        }
        for name in object.repeated() {
            self.error(name, "comes twice");
        }
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self.errors),
        }
    }
}

/// Collects parsed parts; if one has errors, the errors of all.
pub(super) fn all<T, C: FromIterator<T>>(
    parts: impl Iterator<Item = Result<T, Vec<FieldError>>>,
    mut errors: Vec<FieldError>,
) -> Result<C, Vec<FieldError>> {
    let mut values = Vec::new();
    for part in parts {
        match part {
            Ok(value) => values.push(value),
            Err(more) => errors.extend(more),
        }
    }
    match errors.is_empty() {
        true => Ok(values.into_iter().collect()),
        false => Err(errors),
    }
}

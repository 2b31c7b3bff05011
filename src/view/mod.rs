//! What people and programs read of a record (SPEC 5, 7), without a word of how it travels.
//!
//! ```text
//! record, event, plan, receipt ──► View ──► reply of the server (maps, arrays, strings, integers)
//!                                       └─► JSON, one string
//! record, key, now ─────────────► lines ──► a page for a person's eyes (`show`)
//! ```
//!
//! Every shape is made here, once, as a [`View`]; its two writings cannot differ. Pure like the engine: a view depends
//! on the record alone, so that a replica and its primary, or a server before and after a restart, say the same.
//! A page, which says how long ago and how soon, depends on the time that it is told as well.

mod decision;
mod discovery;
mod events;
mod health;
mod history;
mod policy;
mod show;
mod status;
mod tasks;

pub use decision::{plan, receipt};
pub use discovery::{count_resolved, resolve, ResolveFilter, RoleFilter};
pub use events::{event, event_json, events};
pub use health::description;
pub use history::{history, version};
pub use show::{show, WIDTH};
pub use status::{final_status, list_entry, status};
pub use tasks::tasks;

use std::borrow::Cow;
use std::sync::Arc;

/// A reply before it is written. It borrows from the record where it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View<'a> {
    Null,
    Int(i64),
    Bool(bool),
    Str(Cow<'a, str>),
    /// A JSON text. The server replies it as a string; in JSON it is the value itself.
    Raw(Cow<'a, str>),
    List(Vec<View<'a>>),
    /// Fields in the order in which they are replied, each name once.
    Map(Vec<Field<'a>>),
}

pub type Field<'a> = (&'static str, View<'a>);

impl<'a> View<'a> {
    fn map<const N: usize>(fields: [Field<'a>; N]) -> View<'a> {
        View::Map(Vec::from(fields))
    }

    fn list<T: Into<View<'a>>>(items: impl IntoIterator<Item = T>) -> View<'a> {
        View::List(items.into_iter().map(Into::into).collect())
    }

    /// A JSON text that was judged when it came onto the record, or none.
    fn raw(text: Option<&'a str>) -> View<'a> {
        text.map_or(View::Null, |text| View::Raw(Cow::Borrowed(text)))
    }

    /// The same without the record: what is shown later is what was so now.
    pub fn into_owned(self) -> View<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            View::Null => View::Null,
            View::Int(number) => View::Int(number),
            View::Bool(flag) => View::Bool(flag),
            View::Str(text) => View::Str(own(text)),
            View::Raw(json) => View::Raw(own(json)),
            View::List(items) => View::List(items.into_iter().map(View::into_owned).collect()),
            View::Map(fields) => View::Map(fields.into_iter().map(|(name, value)| (name, value.into_owned())).collect()),
        }
    }

    /// The view as one JSON value.
    pub fn to_json(&self) -> String {
        // Room for one event: that is what most of these are.
        let mut out = String::with_capacity(512);
        self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut String) {
        match self {
            View::Null => out.push_str("null"),
            View::Int(number) => out.push_str(itoa::Buffer::new().format(*number)),
            View::Bool(true) => out.push_str("true"),
            View::Bool(false) => out.push_str("false"),
            View::Str(text) => write_json_string(text, out),
            View::Raw(json) => out.push_str(json),
            View::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            View::Map(fields) => {
                out.push('{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    // The names are this file's own, and need no escapes.
                    out.push('"');
                    out.push_str(name);
                    out.push_str("\":");
                    value.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

/// Escapes what JSON demands and nothing else: quotes, backslashes and control characters. All other text, whatever
/// its plane, is UTF-8 and stays as it is.
fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    // Nearly all texts are plain. All bytes are looked at, without a branch, so that many are looked at at once.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'));
    if is_plain {
        out.push_str(text);
        out.push('"');
        return;
    }
    let mut plain = 0;
    for (place, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0x00..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[plain..place]);
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
        plain = place + 1;
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

impl<'a> From<&'a str> for View<'a> {
    fn from(text: &'a str) -> View<'a> {
        View::Str(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a Arc<str>> for View<'a> {
    fn from(text: &'a Arc<str>) -> View<'a> {
        View::Str(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a String> for View<'a> {
    fn from(text: &'a String) -> View<'a> {
        View::Str(Cow::Borrowed(text))
    }
}

impl From<String> for View<'_> {
    fn from(text: String) -> Self {
        View::Str(Cow::Owned(text))
    }
}

impl From<bool> for View<'_> {
    fn from(flag: bool) -> Self {
        View::Bool(flag)
    }
}

/// Replies have signed integers. No counter or time comes near their end; one that does, in a hostile payload, stops
/// there.
impl From<u64> for View<'_> {
    fn from(number: u64) -> Self {
        View::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for View<'_> {
    fn from(number: usize) -> Self {
        View::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for View<'_> {
    fn from(number: u32) -> Self {
        View::Int(i64::from(number))
    }
}

impl From<u16> for View<'_> {
    fn from(number: u16) -> Self {
        View::Int(i64::from(number))
    }
}

/// A field that does not apply is null.
impl<'a, T: Into<View<'a>>> From<Option<T>> for View<'a> {
    fn from(value: Option<T>) -> View<'a> {
        value.map_or(View::Null, Into::into)
    }
}

impl<'a> From<&'a Option<Arc<str>>> for View<'a> {
    fn from(text: &'a Option<Arc<str>>) -> View<'a> {
        text.as_ref().into()
    }
}

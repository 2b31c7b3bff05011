//! What people and programs read of a record (rule 5, 7), without a word of how it travels.
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
mod json;
mod policy;
mod show;
mod status;
mod tasks;

pub use decision::{plan, receipt};
pub use discovery::{count_resolved, resolve, resolve_json, ResolveFilter, RoleFilter};
pub use events::{event_json, events, put_event_json};
pub use health::description;
pub use history::{history, version};
pub use show::{show, WIDTH};
pub use status::{final_status, list_entry, status};
pub use tasks::tasks;

use json::{Json, Judged, ToJson};
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
            View::Map(fields) => {
                View::Map(fields.into_iter().map(|(name, value)| (name, value.into_owned())).collect())
            }
        }
    }

    /// The view as one JSON value.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(512);
        Json::append(&mut out, |json| self.write(json));
        out
    }
}

impl ToJson for &View<'_> {
    fn write(self, json: &mut Json) {
        match self {
            View::Null => None::<bool>.write(json),
            View::Int(number) => number.write(json),
            View::Bool(flag) => flag.write(json),
            View::Str(text) => text.write(json),
            View::Raw(text) => Judged(text).write(json),
            View::List(items) => json.list(items),
            View::Map(fields) => json.object(|json| {
                for (name, value) in fields {
                    json.field_named(name, value);
                }
            }),
        }
    }
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

impl<'a> From<&'a [Arc<str>]> for View<'a> {
    fn from(texts: &'a [Arc<str>]) -> View<'a> {
        View::list(texts)
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

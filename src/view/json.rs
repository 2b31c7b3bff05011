//! JSON, written value by value at the end of one text.
//!
//! Every value leaves a comma behind; what closes a list or an object, or the whole, takes the last one away. So nobody
//! has to know whether he is the first.

use super::{Field, View};
use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

/// A field's name as it is written, `"name":`, in one piece. The names are this folder's own, and need no escapes.
#[derive(Clone, Copy)]
pub(super) struct Name(&'static str);

impl Name {
    /// For [`fields`] alone.
    pub const fn quoted(quoted: &'static str) -> Name {
        Name(quoted)
    }

    /// The name itself.
    pub fn plain(self) -> &'static str {
        self.0.get(1..self.0.len() - 2).unwrap_or_default()
    }
}

/// Gives fields, one after the other, to a [`Json`] or to [`Fields`].
macro_rules! fields {
    ($to:expr, $($name:literal: $value:expr),+ $(,)?) => {
        { $($to.field($crate::view::json::Name::quoted(concat!("\"", $name, "\":")), $value);)+ }
    };
}
pub(super) use fields;

/// The end of a text that is being written.
pub(super) struct Json<'o> {
    out: &'o mut String,
}

/// One value, and its comma.
pub(super) trait ToJson {
    fn write(self, json: &mut Json);
}

impl Json<'_> {
    /// Appends what `shape` writes, which is one value.
    pub fn append(out: &mut String, shape: impl FnOnce(&mut Json)) {
        shape(&mut Json { out: &mut *out });
        out.truncate(out.len().saturating_sub(1));
    }

    #[inline]
    pub fn field(&mut self, name: Name, value: impl ToJson) {
        self.out.push_str(name.0);
        value.write(self);
    }

    /// A field whose name is not known beforehand.
    pub fn field_named(&mut self, name: &str, value: impl ToJson) {
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
        value.write(self);
    }

    pub fn object(&mut self, inside: impl FnOnce(&mut Json)) {
        self.enclosed('{', "},", inside);
    }

    pub fn list<T: ToJson>(&mut self, items: impl IntoIterator<Item = T>) {
        self.enclosed('[', "],", |json| items.into_iter().for_each(|item| item.write(json)));
    }

    #[inline]
    fn enclosed(&mut self, open: char, close: &str, inside: impl FnOnce(&mut Json)) {
        self.out.push(open);
        let start = self.out.len();
        inside(self);
        // The last comma goes, where there was anything.
        self.out.truncate(self.out.len().saturating_sub(1).max(start));
        self.out.push_str(close);
    }

    fn null(&mut self) {
        self.out.push_str("null,");
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        if is_plain(text.as_bytes()) {
            self.out.push_str(text);
        } else {
            escape(text, self.out);
        }
        self.out.push_str("\",");
    }
}

/// Whether a text needs no escapes. Nearly all do not, so eight bytes are looked at together, and the last eight of
/// those again rather than fewer one by one.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    if let Some(last) = bytes.last_chunk::<8>() {
        let words = bytes.as_chunks::<8>().0.iter();
        return words
            .fold(odd_bytes(u64::from_ne_bytes(*last)), |odd, word| odd | odd_bytes(u64::from_ne_bytes(*word)))
            == 0;
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let both = u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last));
        return odd_bytes(both) == 0;
    }
    bytes.iter().all(|byte| *byte >= b' ' && *byte != b'"' && *byte != b'\\')
}

/// Not 0 where one of eight bytes needs an escape. Each line sets the high bit of a byte that is what it looks for, and
/// maybe, by the borrow, of one beside such a byte.
#[inline]
fn odd_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let control = word.wrapping_sub(ONES * b' ' as u64) & !word;
    let quote = word ^ (ONES * b'"' as u64);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = word ^ (ONES * b'\\' as u64);
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & (ONES << 7)
}

/// Escapes what JSON demands and nothing else: quotes, backslashes and control characters. All other text, whatever
/// its plane, is UTF-8 and stays as it is.
#[cold]
fn escape(text: &str, out: &mut String) {
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
            // Into a text, which takes everything.
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
        plain = place + 1;
    }
    out.push_str(&text[plain..]);
}

/// What takes fields, to be written at once or to be kept: a shape of which both are wanted is described to this.
pub(super) trait Fields<'a> {
    fn field<T: ToJson + Into<View<'a>>>(&mut self, name: Name, value: T);
}

impl<'a> Fields<'a> for Json<'_> {
    #[inline]
    fn field<T: ToJson + Into<View<'a>>>(&mut self, name: Name, value: T) {
        Json::field(self, name, value);
    }
}

impl<'a> Fields<'a> for Vec<Field<'a>> {
    #[inline]
    fn field<T: ToJson + Into<View<'a>>>(&mut self, name: Name, value: T) {
        self.push((name.plain(), value.into()));
    }
}

/// A word of this program's own, which needs no escapes.
#[derive(Clone, Copy)]
pub(super) struct Word(pub &'static str);

/// A JSON text that was judged when it came onto the record: it is the value itself.
#[derive(Clone, Copy)]
pub(super) struct Judged<'a>(pub &'a str);

impl ToJson for Word {
    #[inline]
    fn write(self, json: &mut Json) {
        json.out.push('"');
        json.out.push_str(self.0);
        json.out.push_str("\",");
    }
}

impl From<Word> for View<'_> {
    fn from(word: Word) -> Self {
        View::Str(Cow::Borrowed(word.0))
    }
}

impl<'a> From<Judged<'a>> for View<'a> {
    fn from(json: Judged<'a>) -> View<'a> {
        View::Raw(Cow::Borrowed(json.0))
    }
}

impl ToJson for Judged<'_> {
    fn write(self, json: &mut Json) {
        json.out.push_str(self.0);
        json.out.push(',');
    }
}

impl ToJson for i64 {
    fn write(self, json: &mut Json) {
        json.out.push_str(itoa::Buffer::new().format(self));
        json.out.push(',');
    }
}

impl ToJson for bool {
    #[inline]
    fn write(self, json: &mut Json) {
        json.out.push_str(if self { "true," } else { "false," });
    }
}

/// As in a reply, where it stops at the largest that one can carry.
impl ToJson for u64 {
    fn write(self, json: &mut Json) {
        i64::try_from(self).unwrap_or(i64::MAX).write(json);
    }
}

impl ToJson for u32 {
    fn write(self, json: &mut Json) {
        i64::from(self).write(json);
    }
}

impl ToJson for u16 {
    fn write(self, json: &mut Json) {
        i64::from(self).write(json);
    }
}

impl ToJson for &str {
    fn write(self, json: &mut Json) {
        json.text(self);
    }
}

impl ToJson for &Arc<str> {
    fn write(self, json: &mut Json) {
        json.text(self);
    }
}

impl ToJson for &Cow<'_, str> {
    fn write(self, json: &mut Json) {
        json.text(self);
    }
}

/// A field that does not apply is null.
impl<T: ToJson> ToJson for Option<T> {
    #[inline]
    fn write(self, json: &mut Json) {
        match self {
            Some(value) => value.write(json),
            None => json.null(),
        }
    }
}

impl ToJson for &Option<Arc<str>> {
    #[inline]
    fn write(self, json: &mut Json) {
        self.as_ref().write(json);
    }
}

impl ToJson for &[Arc<str>] {
    fn write(self, json: &mut Json) {
        json.list(self);
    }
}

impl ToJson for &[u64] {
    fn write(self, json: &mut Json) {
        json.list(self.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_byte_is_seen_wherever_it_stands() {
        for length in 0..40 {
            let plain = "~\u{7f}é!#[] ".chars().cycle().take(length).collect::<String>();
            assert!(is_plain(plain.as_bytes()), "{plain}");
            for place in 0..plain.len() {
                for odd in [0, 0x1f, b'"', b'\\', b'\n'] {
                    let mut bytes = plain.clone().into_bytes();
                    bytes[place] = odd;
                    assert!(!is_plain(&bytes), "{odd} at {place} of {plain}");
                }
            }
        }
    }

    #[test]
    fn commas_stand_between_values_alone() {
        let mut out = String::from("x ");
        Json::append(&mut out, |json| {
            json.object(|json| {
                fields!(json, "none": None::<bool>, "texts": &[Arc::from("a"), Arc::from("\"")][..], "empty": &[0u64; 0][..]);
                json.field(Name::quoted("\"inner\":"), Judged("{}"));
            });
        });
        assert_eq!(out, r#"x {"none":null,"texts":["a","\""],"empty":[],"inner":{}}"#);
        assert_eq!(Name::quoted("\"inner\":").plain(), "inner");
    }
}

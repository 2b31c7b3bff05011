//! Arguments: strict, and judged before anything else is looked at. What leaves this file is typed, bounded and UTF-8.
//!
//! Positional arguments come first; then keyword options in any order and any case, each once. Every complaint names
//! the argument that it is about.

use super::error::CommandError;
use super::ffi::RStr;
use crate::engine::policy::{PolicyPatch, POLICY_FIELDS};
use crate::engine::Rejection;
use std::borrow::Cow;
use std::sync::Arc;

/// The longest texts, in bytes, and the most of them: beyond is `LIMIT` (rule 8 "Services"). Everything here is kept
/// on the record, and much of it in the log and in each reply.
pub const REASON_MAX: usize = 1024;
pub const TAG_MAX: usize = 128;
pub const REQUEST_MAX: usize = 128;
pub const DEPLOYMENT_ID_MAX: usize = 4096;
pub const JOB_MAX: usize = 256;
pub const BUNDLE_MAX: usize = 2048;
pub const AGENT_MAX: usize = 256;
pub const SERVICE_MAX: usize = 256;
pub const INSTANCE_MAX: usize = 256;
pub const ADDRESS_MAX: usize = 256;
pub const META_MAX: usize = 4096;
pub const TAGS_MAX: usize = 64;
pub const CURSOR_MAX: usize = 1 << 20;
pub const GLOB_MAX: usize = 4096;

/// How much of a stranger's text an error quotes.
const QUOTED_CHARS: usize = 64;

/// Returns a syntax error.
pub fn syntax(text: impl Into<String>) -> CommandError {
    CommandError::syntax(text)
}

/// A stranger's bytes, fit to be quoted.
fn quote_untrusted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.into_owned(),
    }
}

/// The arguments of one call, read from the front.
pub struct Args<'a> {
    rest: std::slice::Iter<'a, RStr>,
    seen: SeenOptions<'a>,
}

/// The options that were given already, as they were written: the first inline without an allocation.
struct SeenOptions<'a> {
    inline: [&'a [u8]; 8],
    count: usize,
    overflow: Vec<&'a [u8]>,
}

impl<'a> SeenOptions<'a> {
    /// False where the option was given before.
    fn add(&mut self, word: &'a [u8]) -> bool {
        let is_it = |before: &&[u8]| before.eq_ignore_ascii_case(word);
        if self.inline.iter().take(self.count).any(is_it) || self.overflow.iter().any(is_it) {
            return false;
        }
        match self.inline.get_mut(self.count) {
            Some(place) => {
                *place = word;
                self.count += 1;
            }
            None => self.overflow.push(word),
        }
        true
    }
}

impl<'a> Args<'a> {
    /// `argv` without the command's own name.
    pub fn new(argv: &'a [RStr]) -> Args<'a> {
        Args { rest: argv.iter(), seen: SeenOptions { inline: [&[]; 8], count: 0, overflow: Vec::new() } }
    }

    // ---- positional arguments: a missing one is a wrong number of arguments

    /// The key, which every command but LIST begins with.
    pub fn key(&mut self) -> Result<&'a RStr, CommandError> {
        self.rest.next().ok_or(CommandError::WrongArity)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], CommandError> {
        self.rest.next().map(RStr::as_slice).ok_or(CommandError::WrongArity)
    }

    /// A name: not empty, no longer than `max`.
    pub fn name(&mut self, argument: &str, max: usize) -> Result<Arc<str>, CommandError> {
        name(argument, self.bytes()?, max)
    }

    pub fn positive(&mut self, argument: &str) -> Result<u64, CommandError> {
        positive(argument, self.bytes()?)
    }

    /// One of a closed set of words.
    pub fn word<T>(
        &mut self,
        argument: &str,
        parse: impl Fn(&str) -> Option<T>,
        known: &str,
    ) -> Result<T, CommandError> {
        word(argument, self.bytes()?, parse, known)
    }

    /// Nothing may follow.
    pub fn end(mut self) -> Result<(), CommandError> {
        match self.rest.next() {
            Some(_) => Err(CommandError::WrongArity),
            None => Ok(()),
        }
    }

    /// `JSON`, the one option of many reading commands, or nothing.
    pub fn only_json(mut self) -> Result<bool, CommandError> {
        let mut json = false;
        while let Some(option) = self.option()? {
            match &*option {
                b"JSON" => json = self.last_json()?,
                _ => return Err(unknown(&option)),
            }
        }
        Ok(json)
    }

    // ---- options

    /// The next option's name in upper case; an error where it was given before.
    pub fn option(&mut self) -> Result<Option<Cow<'a, [u8]>>, CommandError> {
        let Some(word) = self.rest.next() else { return Ok(None) };
        let word = word.as_slice();
        if !self.seen.add(word) {
            return Err(syntax(format!("option {} is given twice", quote_untrusted(word).to_ascii_uppercase())));
        }
        // Most clients write it so.
        let is_upper = !word.iter().any(u8::is_ascii_lowercase);
        Ok(Some(if is_upper { Cow::Borrowed(word) } else { Cow::Owned(word.to_ascii_uppercase()) }))
    }

    /// `JSON` was read: it must be the last argument.
    pub fn last_json(&mut self) -> Result<bool, CommandError> {
        if self.rest.len() > 0 {
            return Err(syntax("JSON must be the last argument"));
        }
        Ok(true)
    }

    /// The raw value of an option.
    pub fn value(&mut self, option: &str) -> Result<&'a [u8], CommandError> {
        self.rest.next().map(RStr::as_slice).ok_or_else(|| syntax(format!("{option} needs a value")))
    }

    pub fn value_name(&mut self, option: &str, max: usize) -> Result<Option<Arc<str>>, CommandError> {
        name(option, self.value(option)?, max).map(Some)
    }

    /// A text that may be empty.
    pub fn value_text(&mut self, option: &str, max: usize) -> Result<Option<Arc<str>>, CommandError> {
        text(option, self.value(option)?, max).map(|text| Some(Arc::from(text)))
    }

    pub fn value_positive(&mut self, option: &str) -> Result<u64, CommandError> {
        positive(option, self.value(option)?)
    }

    pub fn value_number(&mut self, option: &str) -> Result<u64, CommandError> {
        let bytes = self.value(option)?;
        digits(bytes).ok_or_else(|| syntax(format!("{option} must be a non-negative integer")))
    }

    /// An integer from 1 to `max`.
    pub fn value_up_to(&mut self, option: &str, max: u64) -> Result<u64, CommandError> {
        let bytes = self.value(option)?;
        digits(bytes)
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| syntax(format!("{option} must be an integer from 1 to {max}")))
    }

    pub fn value_word<T>(
        &mut self,
        option: &str,
        parse: impl Fn(&str) -> Option<T>,
        known: &str,
    ) -> Result<T, CommandError> {
        word(option, self.value(option)?, parse, known)
    }

    /// `n` and as many names.
    pub fn value_names(
        &mut self,
        option: &str,
        least: u64,
        most: usize,
        max: usize,
    ) -> Result<Vec<Arc<str>>, CommandError> {
        let must = if least == 0 { "a non-negative integer" } else { "a positive integer" };
        let count = digits(self.value(option)?)
            .filter(|n| *n >= least)
            .ok_or_else(|| syntax(format!("{option} must be followed by {must}, the number of its values")))?;
        // What is not there need not be counted, nor room be made for it.
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or_else(|| syntax(format!("{option} is followed by fewer values than it says")))?;
        if count > most {
            return Err(limit(option, most));
        }
        (0..count).map(|_| name(option, self.value(option)?, max)).collect()
    }

    /// Sets a policy field where `option` names one; false where it names none.
    pub fn policy(&mut self, option: &[u8], patch: &mut PolicyPatch) -> Result<bool, CommandError> {
        let Some(field) = POLICY_FIELDS.iter().find(|field| field.as_bytes().eq_ignore_ascii_case(option)) else {
            return Ok(false);
        };
        let option = &*field.to_ascii_uppercase();
        let value = text(option, self.value(option)?, TAG_MAX)?;
        patch.set_option(field, value).map_err(|must| syntax(format!("{option} {must}")))?;
        Ok(true)
    }
}

/// An option's name, in upper case, that the command does not know.
pub fn unknown(option: &[u8]) -> CommandError {
    syntax(format!("unknown option '{}'", quote_untrusted(option)))
}

fn limit(what: &str, max: usize) -> CommandError {
    CommandError::Rejected(Rejection::Limit { what: what.to_string(), max: max as u64 })
}

fn text<'a>(argument: &str, bytes: &'a [u8], max: usize) -> Result<&'a str, CommandError> {
    let text = std::str::from_utf8(bytes).map_err(|_| syntax(format!("{argument} must be UTF-8")))?;
    if text.len() > max {
        return Err(limit(argument, max));
    }
    Ok(text)
}

fn name(argument: &str, bytes: &[u8], max: usize) -> Result<Arc<str>, CommandError> {
    let text = text(argument, bytes, max)?;
    if text.is_empty() {
        return Err(syntax(format!("{argument} must not be empty")));
    }
    Ok(Arc::from(text))
}

fn positive(argument: &str, bytes: &[u8]) -> Result<u64, CommandError> {
    digits(bytes).filter(|n| *n > 0).ok_or_else(|| syntax(format!("{argument} must be a positive integer")))
}

fn word<T>(argument: &str, bytes: &[u8], parse: impl Fn(&str) -> Option<T>, known: &str) -> Result<T, CommandError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(parse)
        .ok_or_else(|| syntax(format!("{argument} must be one of {known}, not '{}'", quote_untrusted(bytes))))
}

/// Plain decimal digits: no sign, no blank, no overflow.
fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_digits() {
        assert_eq!(digits(b"0"), Some(0));
        assert_eq!(digits(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "18446744073709551616"] {
            assert_eq!(digits(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_stranger_is_quoted_in_moderation() {
        assert_eq!(quote_untrusted(b"FOO"), "FOO");
        let long = quote_untrusted("é".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), QUOTED_CHARS + 1);
    }
}

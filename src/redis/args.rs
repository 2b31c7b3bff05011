//! Argument parsing: strict, and done before a key is opened. Parsed values are typed, bounded and UTF-8.
//!
//! Positional arguments come first; then keyword options in any order and any case, each once. Every error names the
//! argument that it is about.

use super::error::CommandError;
use super::ffi::RStr;
use crate::engine::policy::{FieldError, PolicyPatch, POLICY_FIELDS};
use crate::engine::Rejection;
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// Maximum lengths of texts in bytes, and maximum counts; more is `LIMIT` (rule 8 "Services"). All of it is kept on the
/// record, and much of it in the log and in each reply.
pub const REASON_MAX: usize = 1024;
pub const TAG_MAX: usize = 128;
/// The longest value of a policy field, in bytes: the longest steps and gates that there can be, and blanks.
const POLICY_VALUE_MAX: usize = 1 << 16;
pub const REQUEST_MAX: usize = 128;
/// The engine makes no longer ids, whatever the key.
pub const DEPLOYMENT_ID_MAX: usize = 4096;
/// Of a new job. One that a report names may have the id of its deployment, which is its name by default.
pub const JOB_MAX: usize = 256;
pub const JOB_ID_MAX: usize = DEPLOYMENT_ID_MAX;
pub const BUNDLE_MAX: usize = 2048;
pub const AGENT_MAX: usize = 256;
pub const SERVICE_MAX: usize = 256;
pub const INSTANCE_MAX: usize = 256;
pub const ADDRESS_MAX: usize = 256;
pub const META_MAX: usize = 4096;
pub const TAGS_MAX: usize = 64;
/// Of a key that is deployed to: receipts that are kept for REQUEST have it, and it must be read back as one text.
pub const KEY_MAX: usize = 1 << 20;
pub const GLOB_MAX: usize = 4096;

/// The number of characters of untrusted input that an error quotes.
const QUOTED_CHARS: usize = 64;

/// Returns a syntax error.
pub fn syntax(text: impl Into<String>) -> CommandError {
    CommandError::syntax(text)
}

/// Returns untrusted input as text, truncated, for an error message.
fn quote_untrusted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.into_owned(),
    }
}

/// An option's name: it dereferences to its upper case, which is what it is matched by. Errors repeat it as it was
/// typed.
pub struct OptionName<'a> {
    upper: Cow<'a, [u8]>,
    typed: &'a [u8],
}

impl Deref for OptionName<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.upper
    }
}

/// The arguments of one call, read from the front.
pub struct Args<'a> {
    rest: std::slice::Iter<'a, RStr>,
    seen: SeenOptions<'a>,
}

/// The options seen so far, as they were written: the first eight without an allocation.
struct SeenOptions<'a> {
    inline: [&'a [u8]; 8],
    count: usize,
    overflow: Vec<&'a [u8]>,
}

impl<'a> SeenOptions<'a> {
    /// Adds an option; false where it was seen before.
    fn add(&mut self, word: &'a [u8]) -> bool {
        let is_same = |before: &&[u8]| before.eq_ignore_ascii_case(word);
        if self.inline.iter().take(self.count).any(is_same) || self.overflow.iter().any(is_same) {
            return false;
        }
        match self.inline.get_mut(self.count) {
            Some(free) => {
                *free = word;
                self.count += 1;
            }
            None => self.overflow.push(word),
        }
        true
    }
}

impl<'a> Args<'a> {
    /// Reads from `argv`, without the command's own name.
    pub fn new(argv: &'a [RStr]) -> Args<'a> {
        Args { rest: argv.iter(), seen: SeenOptions { inline: [&[]; 8], count: 0, overflow: Vec::new() } }
    }

    /// Returns the arguments that are left.
    pub fn as_slice(&self) -> &'a [RStr] {
        self.rest.as_slice()
    }

    // ---- positional arguments: a missing one is a wrong number of arguments

    /// Returns the key, the first argument of every command but LIST and HELP; of SHOW an optional one.
    pub fn key(&mut self) -> Result<&'a RStr, CommandError> {
        self.rest.next().ok_or(CommandError::WrongArity)
    }

    /// Returns a key at which a deployment may start: its name goes into ids, events and channels, so it must be text.
    pub fn deployable_key(&mut self) -> Result<&'a RStr, CommandError> {
        let key = self.bounded_key()?;
        named("key", key.as_slice(), KEY_MAX).map(|_| key)
    }

    /// Returns a key for a command that makes an id or a receipt.
    pub fn bounded_key(&mut self) -> Result<&'a RStr, CommandError> {
        self.key().and_then(|key| if key.as_slice().len() > KEY_MAX { Err(limit("key", KEY_MAX)) } else { Ok(key) })
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], CommandError> {
        self.rest.next().map(RStr::as_slice).ok_or(CommandError::WrongArity)
    }

    /// Returns the next argument, if there is one.
    pub fn optional_bytes(&mut self) -> Option<&'a [u8]> {
        self.rest.next().map(RStr::as_slice)
    }

    /// Returns a name: not empty, at most `max` bytes.
    pub fn name(&mut self, argument: &str, max: usize) -> Result<Arc<str>, CommandError> {
        name(argument, self.bytes()?, max)
    }

    pub fn positive(&mut self, argument: &str) -> Result<u64, CommandError> {
        positive(argument, self.bytes()?)
    }

    /// Returns one of a closed set of words.
    pub fn word<T>(
        &mut self,
        argument: &str,
        parse: impl Fn(&str) -> Option<T>,
        known: &str,
    ) -> Result<T, CommandError> {
        word(argument, self.bytes()?, parse, known)
    }

    /// Ends the arguments: another one is an error.
    pub fn end(mut self) -> Result<(), CommandError> {
        match self.rest.next() {
            Some(_) => Err(CommandError::WrongArity),
            None => Ok(()),
        }
    }

    /// Parses `JSON`, the one option of many reading commands, or nothing.
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

    /// Returns the next option's name; an error where it was seen before.
    pub fn option(&mut self) -> Result<Option<OptionName<'a>>, CommandError> {
        let Some(word) = self.rest.next() else { return Ok(None) };
        let typed = word.as_slice();
        if !self.seen.add(typed) {
            return Err(syntax(format!("option '{}' is given twice", quote_untrusted(typed))));
        }
        // Most clients write options in upper case.
        let is_upper = !typed.iter().any(u8::is_ascii_lowercase);
        let upper = if is_upper { Cow::Borrowed(typed) } else { Cow::Owned(typed.to_ascii_uppercase()) };
        Ok(Some(OptionName { upper, typed }))
    }

    /// Checks that `JSON`, just parsed, is the last argument.
    pub fn last_json(&mut self) -> Result<bool, CommandError> {
        if self.rest.len() > 0 {
            return Err(syntax("JSON must be the last argument"));
        }
        Ok(true)
    }

    /// Returns the raw value of an option.
    pub fn value(&mut self, option: &str) -> Result<&'a [u8], CommandError> {
        self.rest.next().map(RStr::as_slice).ok_or_else(|| syntax(format!("{option} needs a value")))
    }

    pub fn value_name(&mut self, option: &str, max: usize) -> Result<Option<Arc<str>>, CommandError> {
        name(option, self.value(option)?, max).map(Some)
    }

    /// Returns bytes, at least one and at most `max`.
    pub fn value_bytes(&mut self, option: &str, max: usize) -> Result<&'a [u8], CommandError> {
        match self.value(option)? {
            [] => Err(syntax(format!("{option} must not be empty"))),
            bytes if bytes.len() > max => Err(limit(option, max)),
            bytes => Ok(bytes),
        }
    }

    /// Returns a text that may be empty, at most `max` bytes.
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

    /// Returns an integer from 1 to `max`.
    pub fn value_up_to(&mut self, option: &str, max: u64) -> Result<u64, CommandError> {
        self.value_between(option, 1, max)
    }

    /// Returns an integer from `min` to `max`.
    pub fn value_between(&mut self, option: &str, min: u64, max: u64) -> Result<u64, CommandError> {
        digits(self.value(option)?)
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| syntax(format!("{option} must be an integer from {min} to {max}")))
    }

    pub fn value_word<T>(
        &mut self,
        option: &str,
        parse: impl Fn(&str) -> Option<T>,
        known: &str,
    ) -> Result<T, CommandError> {
        word(option, self.value(option)?, parse, known)
    }

    /// Returns one of a closed set of words, or the words of `n word …`.
    pub fn value_words<T>(
        &mut self,
        option: &str,
        parse: impl Fn(&str) -> Option<T>,
        known: &str,
    ) -> Result<Vec<T>, CommandError> {
        let first = self.value(option)?;
        match digits(first) {
            None => Ok(vec![word(option, first, parse, known)?]),
            Some(count) => {
                let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
                    syntax(format!("{option} must be followed by a positive integer, the number of its values"))
                })?;
                if count > self.rest.len() {
                    return Err(syntax(format!("{option} is followed by fewer values than it says")));
                }
                (0..count).map(|_| word(option, self.value(option)?, &parse, known)).collect()
            }
        }
    }

    /// Returns the names of `n name …`: from `least` to `most` of them, each at most `max` bytes.
    pub fn value_names(
        &mut self,
        option: &str,
        least: u64,
        most: usize,
        max: usize,
    ) -> Result<Vec<Arc<str>>, CommandError> {
        let expected = if least == 0 { "a non-negative integer" } else { "a positive integer" };
        let count = digits(self.value(option)?)
            .filter(|n| *n >= least)
            .ok_or_else(|| syntax(format!("{option} must be followed by {expected}, the number of its values")))?;
        // Bounds the count by the arguments that are left, before anything is allocated.
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or_else(|| syntax(format!("{option} is followed by fewer values than it says")))?;
        if count > most {
            return Err(limit(option, most));
        }
        (0..count).map(|_| name(option, self.value(option)?, max)).collect()
    }

    /// Sets a policy field if `option` names one; returns false otherwise.
    pub fn policy(&mut self, option: &[u8], patch: &mut PolicyPatch) -> Result<bool, CommandError> {
        let Some(field) = POLICY_FIELDS.iter().find(|field| field.name.as_bytes().eq_ignore_ascii_case(option)) else {
            return Ok(false);
        };
        let option = &*field.name.to_ascii_uppercase();
        let value = text(option, self.value(option)?, POLICY_VALUE_MAX)?;
        patch.set_option(field.name, value).map_err(|FieldError { place, expected }| {
            let not = match place.is_empty() {
                true => format!(", not '{}'", quote_untrusted(value.as_bytes())),
                false => String::new(),
            };
            syntax(format!("{option}{place} {expected}{not}"))
        })?;
        Ok(true)
    }
}

/// Returns the error for an unknown option.
pub fn unknown(option: &OptionName) -> CommandError {
    syntax(format!("unknown option '{}'", quote_untrusted(option.typed)))
}

/// Returns the error for a command that there is not.
pub fn unknown_command(word: &[u8]) -> CommandError {
    syntax(format!("unknown command '{}'; DEPLOY.HELP lists the commands", quote_untrusted(word)))
}

/// Returns the error for a word that is none of a closed set.
pub fn not_one_of(argument: &str, known: &str, word: &[u8]) -> CommandError {
    syntax(format!("{argument} must be one of {known}, not '{}'", quote_untrusted(word)))
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
    named(argument, bytes, max).map(Arc::from)
}

/// Returns a text that is not empty, at most `max` bytes.
fn named<'a>(argument: &str, bytes: &'a [u8], max: usize) -> Result<&'a str, CommandError> {
    let text = text(argument, bytes, max)?;
    if text.is_empty() {
        return Err(syntax(format!("{argument} must not be empty")));
    }
    Ok(text)
}

fn positive(argument: &str, bytes: &[u8]) -> Result<u64, CommandError> {
    digits(bytes).filter(|n| *n > 0).ok_or_else(|| syntax(format!("{argument} must be a positive integer")))
}

fn word<T>(argument: &str, bytes: &[u8], parse: impl Fn(&str) -> Option<T>, known: &str) -> Result<T, CommandError> {
    std::str::from_utf8(bytes).ok().and_then(parse).ok_or_else(|| not_one_of(argument, known, bytes))
}

/// Parses plain decimal digits: no sign, no blank, no overflow.
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
    fn quoted_input_is_truncated() {
        assert_eq!(quote_untrusted(b"FOO"), "FOO");
        let long = quote_untrusted("é".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), QUOTED_CHARS + 1);
    }
}

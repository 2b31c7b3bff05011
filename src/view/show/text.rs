//! Text and times of the page: text of bounded display width that cannot harm a terminal.
//!
//! Keys, agents and reasons are untrusted strings, and the page goes to a terminal. Printable characters of any script
//! are written as they are. A character that could move the cursor, that reorders or hides text, or that looks like a
//! blank, is written as an escape; a backslash is doubled, so that an escape cannot be forged.

use crate::engine::time::{Deadline, UnixMs};
use std::borrow::Cow;
use std::collections::HashMap;
use time::{Date, OffsetDateTime};
use unicode_width::UnicodeWidthChar;

const CUT: &str = "...";

/// The most marks on one letter, such as accents and vowel signs. More are no writing, and would cover other lines.
const MAX_MARKS: usize = 4;

/// The number of bytes at either end of a long text that are looked at: more than any line has columns.
const LOOKED_AT: usize = 4_096;

/// A letter with its marks, a flag, or an escape: what is never cut.
struct Piece<'a> {
    text: Cow<'a, str>,
    width: usize,
}

/// Splits a text into pieces.
#[derive(Clone)]
struct Pieces<'a> {
    rest: &'a str,
    /// The text is escaped already: its backslashes are not doubled.
    is_escaped: bool,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let mut chars = self.rest.chars();
        let first = chars.next()?;
        if self.is_escaped && first == '\\' {
            let (text, rest) = self.rest.split_at_checked(escape_length(chars.as_str()) + 1)?;
            self.rest = rest;
            return Some(Piece { text: Cow::Borrowed(text), width: text.len() });
        }
        let width = match first {
            '\\' => None,
            _ if is_flag_letter(first) && chars.as_str().starts_with(is_flag_letter) => {
                chars.next();
                Some(2)
            }
            ' '..='~' => Some(1),
            _ => first.width().filter(|width| *width > 0 && is_visible(first)),
        };
        if width.is_some() {
            let is_mark = |c: &char| !c.is_ascii() && c.width() == Some(0) && is_visible(*c);
            let marks = chars.clone().take_while(is_mark).take(MAX_MARKS).count();
            chars.by_ref().take(marks).for_each(drop);
        }
        let (piece, rest) = self.rest.split_at_checked(self.rest.len() - chars.as_str().len())?;
        self.rest = rest;
        Some(match width {
            Some(width) => Piece { text: Cow::Borrowed(piece), width },
            None => {
                let text: String = match first {
                    '\\' | '\n' | '\r' | '\t' => first.escape_default().collect(),
                    _ => first.escape_unicode().collect(),
                };
                Piece { width: text.len(), text: Cow::Owned(text) }
            }
        })
    }
}

/// Returns the length of an escape behind its backslash.
fn escape_length(rest: &str) -> usize {
    match rest.strip_prefix("u{").and_then(|rest| rest.find('}')) {
        Some(digits) => "u{}".len() + digits,
        None => rest.chars().next().map_or(0, char::len_utf8),
    }
}

/// Returns true for a regional indicator: two in a row are a flag, and half of one would be another with what follows.
fn is_flag_letter(c: char) -> bool {
    matches!(c, '\u{1f1e6}'..='\u{1f1ff}')
}

/// Returns false for what a reader cannot see, or cannot tell from a blank: controls, format characters (among them all
/// that change the direction of writing), private and unassigned characters, and blanks other than the usual one.
fn is_visible(c: char) -> bool {
    let is_blank = matches!(
        c,
        '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{e0100}'..='\u{e01ef}'
    );
    // The standard library escapes all others. Behind a letter, it leaves marks as they are.
    !is_blank && format!("a{c}").escape_debug().eq(['a', c])
}

/// Returns the display width of a text whose untrusted parts are escaped already.
pub(super) fn width(text: &str) -> usize {
    escaped(text).map(|piece| piece.width).sum()
}

fn escaped(text: &str) -> Pieces<'_> {
    Pieces { rest: text, is_escaped: true }
}

fn untrusted(text: &str) -> Pieces<'_> {
    Pieces { rest: text, is_escaped: false }
}

/// Joins the first pieces that fit into `width` columns. Returns the text and its width.
fn head<'a>(pieces: impl Iterator<Item = Piece<'a>>, width: usize) -> (String, usize) {
    let (mut text, mut used) = (String::new(), 0);
    for piece in pieces {
        if used + piece.width > width {
            break;
        }
        used += piece.width;
        text.push_str(&piece.text);
    }
    (text, used)
}

/// Joins all pieces; None where they need more than `width` columns.
fn whole(pieces: Pieces, width: usize) -> Option<String> {
    let mut left = width;
    let mut text = String::new();
    for piece in pieces {
        left = left.checked_sub(piece.width)?;
        text.push_str(&piece.text);
    }
    Some(text)
}

fn cut_at_end(pieces: Pieces, width: usize) -> String {
    whole(pieces.clone(), width).unwrap_or_else(|| {
        let (text, _) = head(pieces, width.saturating_sub(CUT.len()));
        format!("{}{}", text.trim_end(), &CUT[..CUT.len().min(width)])
    })
}

/// Returns an untrusted text in at most `width` columns, escaped; a longer one is cut at its end.
pub(super) fn escape_text(text: &str, width: usize) -> String {
    cut_at_end(untrusted(text), width)
}

/// Returns an untrusted name in at most `width` columns, escaped. A longer one is cut in the middle: many names differ
/// at their ends alone.
pub(super) fn escape_name(name: &str, width: usize) -> String {
    whole(untrusted(name), width).unwrap_or_else(|| cut_in_the_middle(name, width, CUT))
}

fn cut_in_the_middle(name: &str, width: usize, cut: &str) -> String {
    let keep = width.saturating_sub(cut.len());
    let (start, used) = head(untrusted(name), keep.div_ceil(2));
    let from = (name.len().saturating_sub(LOOKED_AT)..).find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    let mut pieces: Vec<Piece> = untrusted(name.get(from..).unwrap_or_default()).collect();
    pieces.reverse();
    let (mut end, mut left) = (Vec::new(), keep.saturating_sub(used));
    for piece in pieces {
        let Some(rest) = left.checked_sub(piece.width) else { break };
        left = rest;
        end.push(piece.text);
    }
    end.reverse();
    format!("{start}{}{}", &cut[..cut.len().min(width)], end.concat())
}

/// Escapes names for one column. Names that would look the same once they are cut are told apart by a number that
/// depends on the whole name.
pub(super) fn escape_names<'n>(names: impl Iterator<Item = &'n str> + Clone, width: usize) -> Vec<String> {
    let mut cuts: HashMap<String, usize> = HashMap::new();
    let short = |name: &'n str| match whole(untrusted(name), width) {
        Some(name) => (name, false),
        None => (cut_in_the_middle(name, width, CUT), true),
    };
    let short: Vec<(String, bool)> = names.clone().map(short).collect();
    for (name, _) in short.iter().filter(|(_, is_cut)| *is_cut) {
        *cuts.entry(name.clone()).or_default() += 1;
    }
    let is_alone = |name: &String| cuts.get(name).is_none_or(|times| *times == 1);
    let apart = |name: &str| cut_in_the_middle(name, width, &format!("~{:08x}~", crc32fast::hash(name.as_bytes())));
    let one = |((short, is_cut), name): ((String, bool), &str)| match is_cut && !is_alone(&short) {
        true => apart(name),
        false => short,
    };
    short.into_iter().zip(names).map(one).collect()
}

/// Returns a text, whose untrusted parts are escaped already, in at most `width` columns.
pub(super) fn truncate(text: &str, width: usize) -> String {
    cut_at_end(escaped(text.trim_end()), width)
}

/// Returns the text padded with blanks to exactly `width` columns.
pub(super) fn pad(text: &str, columns: usize) -> String {
    let text = truncate(text, columns);
    let blanks = columns.saturating_sub(width(&text));
    text + &" ".repeat(blanks)
}

/// Breaks the text into at most `most` lines of at most `columns` columns, at blanks where possible.
pub(super) fn wrap(text: &str, columns: usize, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.trim_end();
    while lines.len() + 1 < most && width(rest) > columns {
        let fits = head(escaped(rest), columns).0.len().max(1);
        let blank = rest.char_indices().take_while(|(at, _)| *at <= fits).filter(|(_, c)| *c == ' ').last();
        let end = blank.map(|(at, _)| at).filter(|at| *at > fits / 2).unwrap_or(fits);
        let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        lines.push(truncate(line, columns));
        rest = tail.trim_start();
    }
    lines.push(truncate(rest, columns));
    lines
}

// ---- times ----------------------------------------------------------------------------------------------------------

/// Formats a duration in at most two units, rounded down: `1m40s`. Up to ten thousand days it has at most six columns.
pub(super) fn format_duration(ms: u64) -> String {
    seconds(ms / 1000)
}

fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{}m", s / 3_600, s / 60 % 60),
        86_400..8_640_000 => format!("{}d{}h", s / 86_400, s / 3_600 % 24),
        _ => format!("{}d", s / 86_400),
    }
}

/// Formats the time since `at`; 0 where the system clock was set back.
pub(super) fn ago(at: UnixMs, now: UnixMs) -> String {
    format!("{} ago", format_duration(now.saturating_sub(at)))
}

/// Formats the time that is left, rounded up to seconds, so that it is 0 only when none is left.
pub(super) fn left(ms: u64) -> String {
    seconds(ms.div_ceil(1000))
}

/// Formats the time until `at`: `in 4s`, or `now` once it is due.
pub(super) fn until(at: UnixMs, now: UnixMs) -> String {
    match at.checked_sub(now) {
        None | Some(0) => "now".to_string(),
        Some(ms) => format!("in {}", left(ms)),
    }
}

/// Formats the time that a deadline has left, running or paused.
pub(super) fn remaining(deadline: Deadline, now: UnixMs) -> Option<String> {
    match deadline {
        Deadline::Off => None,
        Deadline::Running { at } => Some(left(at.saturating_sub(now))),
        Deadline::Paused { left_ms } => Some(left(left_ms)),
    }
}

fn date_time(at: UnixMs) -> Option<OffsetDateTime> {
    i64::try_from(at / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
}

fn date(date: Date) -> String {
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

fn hours(time: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())
}

/// Formats a time in UTC with its date.
pub(super) fn moment(at: UnixMs) -> String {
    match date_time(at) {
        Some(time) => format!("{} {}", date(time.date()), hours(time)),
        None => "beyond the year 9999".to_string(),
    }
}

/// Formats a time of day in UTC, with the date where that is not today's.
pub(super) fn time_of_day(at: UnixMs, now: UnixMs) -> String {
    match (date_time(at), date_time(now)) {
        (Some(time), Some(today)) if time.date() == today.date() => hours(time),
        _ => moment(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_of_any_script_is_written_as_it_is() {
        for text in
            ["agent-1", "größer", "агент-1", "代理", "エージェント", "דגם", "ตัวแทน", "हिन्दी", "e\u{301}", "🚀", "a…b—c"]
        {
            assert_eq!(escape_text(text, 40), text);
            assert_eq!(escape_name(text, 40), text);
        }
        assert_eq!((width("agent-1"), width("代理"), width("e\u{301}"), width("🚀")), (7, 4, 1, 2));
    }

    #[test]
    fn what_could_harm_a_terminal_is_escaped() {
        for (text, shown) in [
            ("a\x1b[2Jb\r\nc", r"a\u{1b}[2Jb\r\nc"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("\x7f\0", r"\u{7f}\u{0}"),
            // Directions, what has no width, blanks that are not the usual one, lines, private use, unassigned.
            ("x\u{202e}y\u{2066}z", r"x\u{202e}y\u{2066}z"),
            ("a\u{200b}\u{feff}\u{ad}\u{200d}b", r"a\u{200b}\u{feff}\u{ad}\u{200d}b"),
            ("a\u{a0}\u{3000}\u{2800}\u{3164}b", r"a\u{a0}\u{3000}\u{2800}\u{3164}b"),
            ("\u{2028}\u{2029}\u{85}", r"\u{2028}\u{2029}\u{85}"),
            ("\u{e000}\u{e0041}\u{fe0f}\u{e0100}", r"\u{e000}\u{e0041}\u{fe0f}\u{e0100}"),
            // A mark without a letter, and more marks than a letter has.
            ("\u{301}e", r"\u{301}e"),
            ("e\u{301}\u{301}\u{301}\u{301}\u{301}", "e\u{301}\u{301}\u{301}\u{301}\\u{301}"),
            (r"\n is no new line", r"\\n is no new line"),
        ] {
            assert_eq!(escape_text(text, 90), shown);
            assert_eq!(escape_name(text, 90), shown);
        }
    }

    #[test]
    fn texts_are_cut_at_their_end_and_names_in_the_middle() {
        assert_eq!(escape_text("agent-12345", 10), "agent-1...");
        assert_eq!(escape_text("agent-1234", 10), "agent-1234");
        assert_eq!(escape_name("worker-000000001", 12), "worke...0001");
        assert_eq!(escape_name("worker-1", 8), "worker-1");
        // Neither half an escape nor half a wide character is left.
        assert_eq!(escape_text("abc\u{202e}defgh", 10), "abc...");
        assert_eq!(escape_name("ab\u{202e}cdefgh", 9), "ab...efgh");
        assert_eq!(escape_text("代理代理代理", 8), "代理...");
        assert_eq!(escape_name("代理人在代理", 8), "代...理");
        // Nor half a flag, which with the next half would be another one.
        assert_eq!(escape_text("🇩🇪🇫🇷🇩🇪🇫🇷", 6), "🇩🇪...");
        assert_eq!(escape_name("🇩🇪🇫🇷🇩🇪🇫🇷", 7), "🇩🇪...🇫🇷");
        assert_eq!(width("🇩🇪🇫🇷"), 4);
        assert_eq!((escape_text("abcdef", 2), escape_name("abcdef", 2)), ("..".to_string(), "..".to_string()));
        assert_eq!((escape_text("abcdef", 0), escape_name("abcdef", 0)), (String::new(), String::new()));
    }

    #[test]
    fn names_that_are_cut_stay_different() {
        let names: Vec<String> =
            (0..200).map(|n| format!("a-very-long-prefix-{n:03}-and-a-very-long-suffix")).chain(["a".into()]).collect();
        let cut = escape_names(names.iter().map(String::as_str), 20);
        let mut different = cut.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), names.len(), "{cut:?}");
        assert!(cut.iter().all(|name| width(name) <= 20), "{cut:?}");
        assert_eq!(cut.last().map(String::as_str), Some("a"));
        // Nothing is added to names that are the same, or where the ends tell them apart.
        assert_eq!(escape_names(["*", "*"].into_iter(), 5), ["*", "*"]);
        assert_eq!(
            escape_names(["worker-000000001", "worker-000000002"].into_iter(), 12),
            ["worke...0001", "worke...0002"]
        );
    }

    #[test]
    fn long_text_wraps_at_blanks_and_is_truncated() {
        assert_eq!(wrap("one two three", 8, 3), ["one two", "three"]);
        assert_eq!(wrap("one two three four", 8, 2), ["one two", "three..."]);
        assert_eq!(wrap("abcdefghijkl", 5, 9), ["abcde", "fghij", "kl"]);
        assert_eq!(wrap("eins zwei größer", 9, 3), ["eins zwei", "größer"]);
        assert_eq!(wrap("代理代理 代理", 8, 3), ["代理代理", "代理"]);
        assert_eq!(wrap("short", 8, 1), ["short"]);
        // What is escaped already is not cut within an escape.
        assert_eq!(wrap(r"abcd\\efgh", 5, 3), ["abcd", r"\\efg", "h"]);
        assert_eq!(wrap(r"abcde\u{202e}fgh", 12, 2), ["abcde", r"\u{202e}fgh"]);
        assert_eq!(truncate(r"abc\u{202e}defgh", 10), "abc...");
        assert_eq!(wrap("", 8, 3), [""]);
        assert_eq!(pad("代理", 6), "代理  ");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        assert_eq!(format_duration(999), "0s");
        assert_eq!(format_duration(61_500), "1m1s");
        assert_eq!(format_duration(7_380_000), "2h3m");
        assert_eq!(format_duration(99 * 86_400_000 + 86_399_999), "99d23h");
        assert_eq!(format_duration(100 * 86_400_000), "100d");
        assert_eq!(until(5_001, 2_000), "in 4s");
        assert_eq!(until(2_001, 2_000), "in 1s");
        assert_eq!(until(2_000, 2_000), "now");
        assert_eq!(ago(5_000, 2_000), "0s ago");
    }

    #[test]
    fn times_of_another_day_have_a_date() {
        assert_eq!(moment(0), "1970-01-01 00:00:00");
        assert_eq!(moment(1_790_000_000_000), "2026-09-21 14:13:20");
        assert_eq!(time_of_day(1_790_000_009_000, 1_790_000_000_000), "14:13:29");
        assert_eq!(time_of_day(1_790_086_400_000, 1_790_000_000_000), "2026-09-22 14:13:20");
        assert_eq!(moment(u64::MAX), "beyond the year 9999");
    }
}

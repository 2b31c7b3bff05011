//! Text and times of the page: printable ASCII of bounded width.
//!
//! Keys, agents and reasons are untrusted strings, and the page goes to a terminal. A character that could move the
//! cursor or has another width than one column is written as an escape.

use crate::engine::time::{Deadline, UnixMs};
use time::{Date, OffsetDateTime};

const CUT: &str = "...";

/// Returns an untrusted string in at most `width` columns, escaped.
pub(super) fn truncate_escaped(text: &str, width: usize) -> String {
    let mut out = String::new();
    // The length at which the text is truncated, which leaves room for the dots.
    let mut keep = 0;
    for c in text.chars() {
        let before = out.len();
        match c {
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            _ => out.extend(c.escape_default()),
        }
        if out.len() + CUT.len() <= width {
            keep = out.len();
        }
        if out.len() > width {
            out.truncate(keep.min(before));
            out.push_str(&CUT[..CUT.len().min(width)]);
            break;
        }
    }
    out
}

/// Returns a text, whose untrusted parts are escaped already, in at most `width` columns.
pub(super) fn truncate(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
    if clean.len() <= width {
        return clean.trim_end().to_string();
    }
    let keep = width.saturating_sub(CUT.len());
    format!("{}{}", clean[..keep].trim_end(), &CUT[..CUT.len().min(width)])
}

/// Returns the text padded with blanks to exactly `width` columns.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{:<width$}", truncate(text, width))
}

/// Breaks the text into at most `most` lines of at most `width` columns, at blanks where possible.
pub(super) fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.trim_end();
    while lines.len() + 1 < most && rest.len() > width {
        let head = rest.get(..width + 1).unwrap_or(rest);
        let end = head.rfind(' ').filter(|place| *place > width / 2).unwrap_or(width);
        let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        lines.push(truncate(line, width));
        rest = tail.trim_start();
    }
    lines.push(truncate(rest, width));
    lines
}

// ---- times ----------------------------------------------------------------------------------------------------------

/// Formats a duration in at most two units, rounded down.
pub(super) fn format_duration(ms: u64) -> String {
    seconds(ms / 1000)
}

fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} m {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} m", s / 3_600, s / 60 % 60),
        86_400..8_640_000 => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
        _ => format!("{} d", s / 86_400),
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

/// Formats the time until `at`: `in 4 s`, or `now` once it is due.
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
    fn untrusted_strings_are_escaped_and_truncated() {
        assert_eq!(truncate_escaped("agent-1", 10), "agent-1");
        assert_eq!(truncate_escaped("agent-12345", 10), "agent-1...");
        assert_eq!(truncate_escaped("agent-1234", 10), "agent-1234");
        assert_eq!(truncate_escaped("a\x1b[2Jb\r\nc", 40), "a\\u{1b}[2Jb\\r\\nc");
        assert_eq!(truncate_escaped("größer", 40), "gr\\u{f6}\\u{df}er");
        // No half of an escape is left.
        assert_eq!(truncate_escaped("abc\u{202e}defgh", 10), "abc...");
        assert_eq!(truncate_escaped("\\n is no new line", 40), "\\\\n is no new line");
        assert_eq!(truncate_escaped("abcdef", 2), "..");
        assert_eq!(truncate_escaped("abcdef", 0), "");
    }

    #[test]
    fn long_text_wraps_at_blanks_and_is_truncated() {
        assert_eq!(wrap("one two three", 8, 3), ["one two", "three"]);
        assert_eq!(wrap("one two three four", 8, 2), ["one two", "three..."]);
        assert_eq!(wrap("abcdefghijkl", 5, 9), ["abcde", "fghij", "kl"]);
        assert_eq!(wrap("short", 8, 1), ["short"]);
        assert_eq!(wrap("", 8, 3), [""]);
    }

    #[test]
    fn durations_have_at_most_two_units() {
        assert_eq!(format_duration(999), "0 s");
        assert_eq!(format_duration(61_500), "1 m 1 s");
        assert_eq!(format_duration(7_380_000), "2 h 3 m");
        assert_eq!(format_duration(99 * 86_400_000 + 86_399_999), "99 d 23 h");
        assert_eq!(format_duration(100 * 86_400_000), "100 d");
        assert_eq!(until(5_001, 2_000), "in 4 s");
        assert_eq!(until(2_001, 2_000), "in 1 s");
        assert_eq!(until(2_000, 2_000), "now");
        assert_eq!(ago(5_000, 2_000), "0 s ago");
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

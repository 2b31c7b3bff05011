//! Glob patterns as `KEYS` and `SCAN … MATCH` have them: `*`, `?`, `[a-z]`, `[^a]`, and `\` to escape.

/// Returns true if the whole of `text` matches. Time is at worst the product of both lengths, without recursion:
/// matching backtracks only to the last `*`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last `*`: behind it in the pattern, and one byte further in the text.
    let mut back: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            back = Some((p, t));
            continue;
        }
        let step = match (pattern.get(p..).filter(|rest| !rest.is_empty()), text.get(t)) {
            (None, None) => return true,
            (Some(rest), Some(byte)) => one(rest, *byte),
            _ => None,
        };
        match (step, back) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                p = after;
                t = from + 1;
                back = Some((after, t));
            }
            (None, _) => return false,
        }
    }
}

/// Matches one byte with the front of a pattern; how much of the pattern that took.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', rest @ ..] => {
            let (admits, length) = class(rest, byte);
            admits.then_some(1 + length)
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Judges what follows a `[`: whether it admits the byte, and how long it is with its `]`, which may be missing.
fn class(rest: &[u8], byte: u8) -> (bool, usize) {
    let negated = rest.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match rest.get(at..).unwrap_or_default() {
            [] => break,
            [b'\\', literal, ..] => {
                found |= *literal == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [from, b'-', to, ..] => {
                let (low, high) = (from.min(to), from.max(to));
                found |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
    (found != negated, at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn as_the_servers_own() {
        let yes = [
            ("*", ""),
            ("*", "anything"),
            ("", ""),
            ("a", "a"),
            ("a*", "a"),
            ("a*c", "abbc"),
            ("*c", "abcabc"),
            ("a?c", "abc"),
            ("[abc]x", "bx"),
            ("[a-c]x", "bx"),
            ("[c-a]x", "bx"),
            ("[^a-c]x", "dx"),
            ("a\\*", "a*"),
            ("[\\]]", "]"),
            ("**a**", "xay"),
            ("[a", "a"),
            ("agent-*", "agent-api"),
            ("*-*-*", "a-b-c"),
            ("\\", "\\"),
        ];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        let no = [
            ("", "a"),
            ("a", ""),
            ("a", "ab"),
            ("a?c", "ac"),
            ("?", ""),
            ("[^a]", "a"),
            ("[a-c]", "d"),
            ("a*c", "abd"),
            ("a\\*", "ab"),
            ("A", "a"),
            ("[]", "a"),
            ("*a", "ab"),
        ];
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(5000).as_bytes()));
    }
}

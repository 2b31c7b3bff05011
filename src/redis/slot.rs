//! Hash slots of a cluster, and names that are in the slot of a key.

use crc::{Crc, CRC_16_XMODEM};
use std::sync::OnceLock;

const SLOTS: u16 = 16_384;
const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// Returns the slot of a key, as the cluster specification defines it.
pub fn slot_of(key: &[u8]) -> u16 {
    CRC16.checksum(hash_tag(key).unwrap_or(key)) % SLOTS
}

/// Returns the part of a key that determines its slot: the text between the first `{` and the next `}`, unless it is
/// empty.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let start = key.iter().position(|byte| *byte == b'{')? + 1;
    let rest = key.get(start..)?;
    let end = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..end).filter(|tag| !tag.is_empty())
}

/// Appends a name for a key, so that the whole text is in the key's slot, whatever stands before it without a brace:
///
/// - the key itself, where it has a hash tag
/// - `{key}`, where it has neither a hash tag nor a `}`
/// - `{n}key` else, where n is the smallest number whose text is in the key's slot
pub fn push_name_in_slot(key: &str, text: &mut String) {
    if hash_tag(key.as_bytes()).is_some() {
        text.push_str(key);
    } else if !key.contains('}') {
        text.extend(["{", key, "}"]);
    } else {
        text.extend(["{", &smallest_number_in(slot_of(key.as_bytes())).to_string(), "}", key]);
    }
}

/// Returns the smallest number whose text is in a slot.
fn smallest_number_in(slot: u16) -> u32 {
    static NUMBERS: OnceLock<Vec<u32>> = OnceLock::new();
    let numbers = NUMBERS.get_or_init(|| {
        let mut numbers: Vec<Option<u32>> = vec![None; usize::from(SLOTS)];
        let mut missing = numbers.len();
        let mut number = 0u32;
        while missing > 0 {
            if let Some(free @ None) = numbers.get_mut(usize::from(slot_of(number.to_string().as_bytes()))) {
                *free = Some(number);
                missing -= 1;
            }
            number += 1;
        }
        numbers.into_iter().map(Option::unwrap_or_default).collect()
    });
    numbers.get(usize::from(slot)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(key: &str) -> String {
        let mut text = "deploy:events:".to_string();
        push_name_in_slot(key, &mut text);
        text
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo{bar}baz"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{}{bar}"), CRC16.checksum(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }

    #[test]
    fn names_are_short_where_the_key_allows() {
        assert_eq!(name("a"), "deploy:events:{a}");
        assert_eq!(name("x{a}y"), "deploy:events:x{a}y");
        assert_eq!(name("a{b"), "deploy:events:{a{b}");
        let name = name("app}1");
        let number = name.strip_prefix("deploy:events:{").and_then(|rest| rest.strip_suffix("}app}1"));
        assert!(number.is_some_and(|number| number.parse::<u32>().is_ok()), "{name}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn names_are_in_the_slot_of_their_key(key in "[{}a-c0-9é:]{1,12}") {
            prop_assert_eq!(slot_of(name(&key).as_bytes()), slot_of(key.as_bytes()), "{} as {}", key, name(&key));
        }
    }
}

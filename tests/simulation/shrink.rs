//! Shrinking of a failing world to the shortest history that still fails: first whole steps of the world are left
//! out, then single inputs of what remains, as long as the same rule breaks.

use super::sut::{Broken, Input};
use super::world::{self, Failure, STEPS};
use std::collections::BTreeSet;

/// The shortest failure found, and whether its history alone, without the world around it, still fails.
pub struct Shortest {
    pub failure: Failure,
    pub alone: bool,
}

pub fn shorten(seed: u64, failure: Failure) -> Shortest {
    let mut shortest = failure;
    let rule = shortest.broken.rule;
    let mut skip: BTreeSet<u64> = BTreeSet::new();
    let mut size = STEPS.next_power_of_two();
    while size >= 1 {
        let mut from = 0;
        while from < STEPS {
            let more: BTreeSet<u64> = skip.iter().copied().chain(from..(from + size).min(STEPS)).collect();
            if more.len() > skip.len() {
                if let Err(found) = world::live(seed, &more) {
                    if found.broken.rule == rule {
                        shortest = *found;
                        skip = more;
                    }
                }
            }
            from += size;
        }
        size /= 2;
    }
    let last = shortest.history.last().map(|input| input.sut);
    let mut history: Vec<Input> = shortest.history.iter().filter(|i| Some(i.sut) == last).cloned().collect();
    if !matches!(replay(seed, &history), Some(broken) if broken.rule == rule) {
        return Shortest { failure: shortest, alone: false };
    }
    let mut size = history.len().next_power_of_two();
    while size >= 1 {
        let mut from = 0;
        while from < history.len() {
            let mut fewer = history.clone();
            fewer.drain(from..(from + size).min(history.len()));
            if matches!(replay(seed, &fewer), Some(broken) if broken.rule == rule) {
                history = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    let broken = replay(seed, &history).unwrap_or(shortest.broken);
    Shortest { failure: Failure { broken, history }, alone: true }
}

/// Plays inputs against fresh suts; the first rule that breaks.
pub fn replay(seed: u64, history: &[Input]) -> Option<Broken> {
    let mut suts = world::suts(seed);
    history.iter().find_map(|input| suts[input.sut].feed(input).err())
}

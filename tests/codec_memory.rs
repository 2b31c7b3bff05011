//! Memory of decoding: in proportion to the bytes given, never to lengths that they claim. Redis aborts the whole
//! server where an allocation fails.
//!
//! Allocations are counted by a global allocator. The library defines one already, by its `redis_module!` macro, and a
//! program can have only one, so this file compiles the two pure folders by itself.

use engine::instance::{Health, Instance, InstanceState, Role};
use engine::record::Record;
use engine::time::Deadline;
use engine::{Change, ChangeSet, Event, EventBody};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

#[allow(dead_code, unused_imports)]
#[path = "../src/codec/mod.rs"]
mod codec;
#[allow(dead_code, unused_imports)]
#[path = "../src/engine/mod.rs"]
mod engine;

#[allow(dead_code)]
#[path = "support/src/arbitrary.rs"]
mod arbitrary;
#[path = "support/src/golden.rs"]
mod golden;

// ---- counting -------------------------------------------------------------------------------------------------------

struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn comes(size: usize) {
    LARGEST.set(LARGEST.get().max(size));
    HELD.set(HELD.get().saturating_add(size));
    PEAK.set(PEAK.get().max(HELD.get()));
}

fn goes(size: usize) {
    HELD.set(HELD.get().saturating_sub(size));
}

// SAFETY: every call is handed to the system's allocator as it is; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        comes(layout.size());
        System.alloc(layout)
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        goes(layout.size());
        System.dealloc(place, layout)
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new place may be there at the same time.
        comes(size);
        goes(layout.size());
        System.realloc(place, layout, size)
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Memory taken by decoding: its peak, and its largest single allocation.
struct Taken {
    peak: usize,
    largest: usize,
}

fn taken<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let before = HELD.get();
    PEAK.set(before);
    LARGEST.set(0);
    let result = work();
    (result, Taken { peak: PEAK.get() - before, largest: LARGEST.get() })
}

// ---- what may be taken ----------------------------------------------------------------------------------------------

/// Beside the multiple of its bytes, what any payload may take: errors in words, the first nodes of maps.
const SPARE_BYTES: usize = 16 << 10;

/// Allowed multiple of the bytes given. The densest of all are instances that have an agent each and say nothing:
/// their indexes take some 70 times what lies in the payload. All else stays below 64.
const TIMES: usize = 96;

fn frugal(bytes: &[u8]) {
    let (_, record) = taken(|| codec::decode_record(bytes));
    let (_, batch) = taken(|| codec::decode_change_set(bytes));
    for taken in [record, batch] {
        assert!(
            taken.peak <= TIMES * bytes.len() + SPARE_BYTES,
            "{} bytes made it take {} at its peak, and {} at once",
            bytes.len(),
            taken.peak,
            taken.largest
        );
    }
}

/// The envelope of a record (1) or a batch (2) around a payload.
fn sealed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let mut bytes = [b"dp\x01\x00", &[kind, 0][..], &length, payload].concat();
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A number of eight bytes as the format writes it.
fn eight_bytes(number: u64) -> Vec<u8> {
    [&[253][..], &number.to_le_bytes()].concat()
}

#[test]
fn counting_allocator_reports_peak_and_largest() {
    let (kept, counted) = taken(|| vec![0u8; 1 << 20]);
    assert_eq!((counted.peak, counted.largest, kept.len()), (1 << 20, 1 << 20, 1 << 20));
}

/// At every place of a payload: a number that promises the world.
#[test]
fn claimed_lengths_allocate_nothing() {
    let bombs = [1 << 20, 1 << 27, 1 << 31, 1 << 34, 1 << 61, u64::MAX].map(eight_bytes);
    let record = codec::encode_record(&golden::record_of_format_2());
    let batch = codec::encode_change_set(&golden::change_sets_of_format_2()[0].1);
    for (kind, bytes) in [(1, record), (2, batch)] {
        let payload = &bytes[10..bytes.len() - 4];
        for place in 0..payload.len() {
            for bomb in &bombs {
                frugal(&sealed(kind, &[&payload[..place], &bomb[..]].concat()));
                frugal(&sealed(kind, &[&payload[..place], &bomb[..], &payload[place..]].concat()));
            }
        }
    }
}

#[test]
fn claimed_payload_lengths_allocate_nothing() {
    let mut bytes = codec::encode_record(&golden::record_of_format_2());
    for length in [1 << 20, 1 << 29, u32::MAX] {
        bytes[6..10].copy_from_slice(&length.to_le_bytes());
        let (result, taken) = taken(|| codec::decode_record(&bytes));
        assert!(result.is_err());
        assert_eq!(taken.peak, 0);
    }
}

proptest! {
    // What fails here is worth a test of its own, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scrambled_payloads_allocate_in_proportion(
        record in arbitrary::records(),
        batch in arbitrary::change_sets(),
        scrambles in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (kind, bytes) in [(1, codec::encode_record(&record)), (2, codec::encode_change_set(&batch))] {
            let mut payload = bytes[10..bytes.len() - 4].to_vec();
            for (place, byte) in &scrambles {
                let place = place.index(payload.len());
                payload[place] = *byte;
            }
            frugal(&sealed(kind, &payload));
        }
    }
}

// ---- the densest payloads -------------------------------------------------------------------------------------------

/// As many instances as fit, each in as few bytes as it takes, with all that is indexed about it.
fn instances(count: u64, of_one_agent: u64) -> Record {
    let mut record = Record { revision: count, instances: Default::default(), ..golden::record_of_format_2() };
    record.log = Default::default();
    record.services = Default::default();
    for i in 0..count {
        record.instances.insert(Instance {
            agent: Arc::from(format!("{}", i / of_one_agent)),
            node: Arc::from(""),
            version: 2,
            job_id: Arc::from(format!("{}", i % of_one_agent)),
            role: Role::Primary,
            state: InstanceState::Ready,
            health: Health::Pending,
            attempt: 1,
            task_at: 0,
            since: 0,
            reason: None,
            from_version: None,
            task: None,
            healthy_at: Some(0),
            deadline: Deadline::Running { at: 0 },
            was_healthy: false,
            created: i,
            sessions: None,
            drain: None,
            standby_until: None,
            adopted_for: None,
            not_counted_for: Box::default(),
        });
    }
    record
}

#[test]
fn many_instances_allocate_in_proportion() {
    for of_one_agent in [1, 2, 4096] {
        let record = instances(20_000, of_one_agent);
        let bytes = codec::encode_record(&record);
        assert_eq!(codec::decode_record(&bytes).map(|read| read == record), Ok(true));
        frugal(&bytes);
    }
}

#[test]
fn many_events_allocate_in_proportion() {
    let event = |revision| {
        Arc::new(Event {
            revision,
            at: 0,
            deployment_id: Arc::from(""),
            version: 0,
            body: EventBody::AwaitingPromotion { healthy: 0 },
        })
    };
    let events: Vec<Arc<Event>> = (1..=100_000).map(event).collect();
    let changes = events.iter().cloned().map(Change::Event).collect();
    let batch = codec::encode_change_set(&ChangeSet { changes, log_max: 0 });
    let record = codec::encode_record(&Record {
        revision: 100_000,
        log: events.into_iter().collect(),
        ..golden::record_of_format_2()
    });
    frugal(&batch);
    frugal(&record);
}

/// Lists of texts without a byte, or with a few.
#[test]
fn many_empty_texts_allocate_in_proportion() {
    let count = 200_000u64;
    for text in [|_| String::new(), |n| format!("{n:x}")] {
        let mut record = golden::record_of_format_2();
        if let Some(deployment) = record.deployment.as_mut().map(Arc::make_mut) {
            deployment.removed_agents = (0..count).map(|n: u64| Arc::from(text(n))).collect();
        }
        frugal(&codec::encode_record(&record));
    }
}

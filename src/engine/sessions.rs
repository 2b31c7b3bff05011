//! Placement of sessions (rule 11). The module stores none: the place of a session is a function of its id
//! and of the instances, so that a primary and its replicas agree, and an agent that comes or goes moves its own share
//! only (rendezvous hashing).
//!
//! The hash is frozen: another one would move sessions between agents.

/// The longest session id, in bytes.
pub const MAX_SESSION_ID_BYTES: usize = 256;

/// The number of buckets in which sessions are exposed to a version.
pub const BUCKETS: u64 = 10_000;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Returns the weight of two names: the FNV-1a hash of one, a zero byte and the other, finished by the 64-bit finalizer
/// of MurmurHash3 (rule 11.7).
pub fn weight(name: &str, id: &[u8]) -> u64 {
    let bytes = name.bytes().chain([0]).chain(id.iter().copied());
    finish(bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)))
}

fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Returns the bucket of a session in a cohort, 0 to 9,999 (rule 11.2).
pub fn bucket(cohort: &str, id: &[u8]) -> u64 {
    ((u128::from(weight(cohort, id)) * u128::from(BUCKETS)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: the vectors of the contract.
    #[test]
    fn weights_and_buckets_are_those_of_the_contract() {
        let vectors = [
            ("dep_agent-api_3", "session-1", 0xd188_4c3c_7a51_2483, 8184),
            ("dep_agent-api_3", "session-2", 0x3fcb_5340_ea83_f53c, 2491),
            ("dep_agent-api_4", "session-1", 0x35c6_9a3f_71af_ecae, 2100),
        ];
        for (cohort, id, expected, in_bucket) in vectors {
            assert_eq!(weight(cohort, id.as_bytes()), expected, "{cohort}, {id}");
            assert_eq!(bucket(cohort, id.as_bytes()), in_bucket, "{cohort}, {id}");
        }
    }
}

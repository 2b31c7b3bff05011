//! Workarounds for faults of particular servers, one file each, named by the issue.

pub mod valkey_4024;

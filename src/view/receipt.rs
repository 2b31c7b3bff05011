//! The reply of a changing command.

use super::value::int;
use crate::engine::deployment::Receipt;
use serde::Serialize;
use std::sync::Arc;

/// The seven fields that a changing command replies (rule 3.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiptView<'a> {
    pub deployment_key: &'a str,
    pub deployment_id: &'a str,
    pub version: i64,
    pub job_id: &'a str,
    pub status: &'static str,
    pub mode: &'static str,
    pub revision: i64,
}

/// The reply of DEPLOY and ROLLBACK (rule 19.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiptWithWarnings<'a> {
    pub deployment_key: &'a str,
    pub deployment_id: &'a str,
    pub version: i64,
    pub job_id: &'a str,
    pub status: &'static str,
    pub mode: &'static str,
    pub revision: i64,
    /// Warnings: choices that are allowed, but may not be intended, as PLAN says it.
    pub warnings: &'a [Arc<str>],
}

/// Returns the receipt's fields.
pub fn receipt(receipt: &Receipt) -> ReceiptView<'_> {
    ReceiptView {
        deployment_key: &receipt.deployment_key,
        deployment_id: &receipt.deployment_id,
        version: int(receipt.version),
        job_id: &receipt.job_id,
        status: receipt.status.name(),
        mode: receipt.mode.name(),
        revision: int(receipt.revision),
    }
}

/// Returns the receipt's fields with its warnings; None where it has none, not even an empty list.
pub fn receipt_with_warnings(receipt: &Receipt) -> Option<ReceiptWithWarnings<'_>> {
    let warnings = receipt.warnings.as_deref()?;
    let ReceiptView { deployment_key, deployment_id, version, job_id, status, mode, revision } = self::receipt(receipt);
    Some(ReceiptWithWarnings { deployment_key, deployment_id, version, job_id, status, mode, revision, warnings })
}

//! The reply of a changing command.

use super::value::int;
use crate::engine::deployment::Receipt;
use serde::Serialize;

/// The seven fields that a changing command replies (rule 3).
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

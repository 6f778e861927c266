//! An address within a tenant, which is one user's at most: the aggregate behind the rule that holds over all users.
//!
//! Its id is [`email_id`]: whoever wants the same address in the same tenant, however it is written, asks the same aggregate.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

millrace::events! {
    /// What can happen to an address within a tenant.
    pub enum EmailEvent for "email" in "identity" {
        EmailClaimed [1],
        EmailClaimRefused [1],
        EmailReleased [1],
    }
}

millrace::commands! {
    /// What can be asked of an address within a tenant.
    pub enum EmailCommand for "email" in "identity" {
        ClaimEmail [1] sent_by ["registration-steps"],
        ReleaseEmail [1] sent_by ["registration-steps", "user-registration"],
    }
}

/// The address as it is compared and kept: without spaces around it, in lower case.
///
/// Capitals in the local part could tell two mailboxes apart by the letter of RFC 5321; no provider of note lets them.
pub fn normalized_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Id of the aggregate that an address has in a tenant: `<tenant id>:<SHA-256 of the normalized address, in hex>`.
///
/// A hash, so that keys of records, logs and metrics name no person.
pub fn email_id(tenant_id: &str, email: &str) -> String {
    let mut id = format!("{tenant_id}:");
    for byte in Sha256::digest(normalized_email(email)) {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// The address is a registration's, and its user's, until it is released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmailClaimed {
    /// Which tenant.
    pub tenant_id: String,
    /// Address, normalized.
    pub email: String,
    /// Which registration.
    pub registration_id: String,
    /// Which user.
    pub user_id: String,
}

/// The address is another one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmailClaimRefused {
    /// Which registration.
    pub registration_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// The address is nobody's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmailReleased {
    /// Which registration.
    pub registration_id: String,
}

/// Asks for an address within a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimEmail {
    /// Which tenant.
    pub tenant_id: String,
    /// Address, normalized.
    pub email: String,
    /// Which registration.
    pub registration_id: String,
    /// Whose it is to be.
    pub user_id: String,
}

/// Gives the address back, if it is this registration's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseEmail {
    /// Which registration.
    pub registration_id: String,
}

//! The gateway port: what is asked of whoever charges, over HTTP, and the in-house gateway that stands in for it.
//!
//! | request | what it does | answer |
//! |---|---|---|
//! | `PUT /charges/{key}` | charges, unless the key was charged, declined or voided before | 200, a [`Charge`] |
//! | `GET /charges/{key}` | says what became of the key | 200, a [`Charge`]; 404 |
//! | `DELETE /charges/{key}` | voids a key that was not charged: it never will be | 200, a [`Charge`] |
//! | `PUT /refunds/{key}` | gives a charge back, unless the key did before | 200, a [`Refund`]; 404 without the charge |
//! | `GET /refunds/{key}` | says what became of the key | 200, a [`Refund`]; 404 |
//!
//! A key is an idempotency key: however often it comes, and however many of its requests are under way at once, money moves once.
//! 429 and 503 say that nothing was done; any other 5xx, and no answer, says nothing at all.
//!
//! [`client`] speaks it. [`in_house`] is the in-house gateway: real HTTP and a durable ledger, and it can be slow, decline, fail, break
//! off, charge without an answer and answer twice. It moves no money: for trying the system, not for selling.

pub mod client;
pub mod faults;
pub mod in_house;
pub mod ledger;

use serde::{Deserialize, Serialize};

/// What became of a charge's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChargeState {
    /// The money was taken.
    Charged,
    /// The gateway says no; it stays so.
    Declined,
    /// It was given up before it was charged; it stays so.
    Void,
}

/// A charge, as the gateway answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// What became of it.
    pub state: ChargeState,
    /// The gateway's id.
    pub charge_id: String,
    /// How much was charged, or would have been.
    pub amount_cents: i64,
    /// Why it was declined, for a person to read.
    pub reason: Option<String>,
}

/// A refund, as the gateway answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// The gateway's id.
    pub refund_id: String,
    /// How much went back.
    pub amount_cents: i64,
}

/// Asks for a charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeRequest {
    /// Whose it is, so that a person finds it.
    pub payment_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How much.
    pub amount_cents: i64,
}

/// Asks for a refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundRequest {
    /// Whose it is, so that a person finds it.
    pub payment_id: String,
    /// The charge that is given back.
    pub charge_id: String,
    /// How much.
    pub amount_cents: i64,
}

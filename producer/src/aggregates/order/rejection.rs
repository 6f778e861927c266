//! What an order answers when it does not do what is asked of it.

use serde::{Deserialize, Serialize};

use super::LINES_MAX;
use crate::aggregates::{ID_BYTES_MAX, QUANTITY_MAX, TOTAL_CENTS_MAX};

/// Why an order does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The order is at another step.
    #[error("order is {status}, not {needed}")]
    WrongStatus {
        /// Where it is.
        status: Status,
        /// Where it must be.
        needed: &'static str,
    },
    /// The data names another order.
    #[error("order_id is {found}, the command is addressed to {expected}")]
    OtherOrder {
        /// In the data.
        found: String,
        /// The aggregate's id.
        expected: String,
    },
    /// A field that a new order needs.
    #[error("{0} is missing: an order that was not drafted needs customer_id, currency and lines")]
    Missing(&'static str),
    /// The draft says otherwise.
    #[error("{field} is {found}, the draft says {drafted}")]
    DiffersFromDraft {
        /// Which field.
        field: &'static str,
        /// In the command.
        found: String,
        /// In the draft.
        drafted: String,
    },
    /// Not a currency.
    #[error("currency {0:?} is not an ISO 4217 code: three capital letters")]
    Currency(String),
    /// Nothing in it.
    #[error("an order without lines cannot be placed")]
    Empty,
    /// More than is handled.
    #[error("an order has at most {LINES_MAX} lines")]
    TooManyLines,
    /// A line that cannot be.
    #[error("line {line} (product {product_id}): {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Which product.
        product_id: String,
        /// What is wrong.
        reason: String,
    },
    /// More than is handled.
    #[error("the order's total is above {TOTAL_CENTS_MAX} cents")]
    Total,
    /// More than is handled.
    #[error("the order's quantities sum to more than {QUANTITY_MAX}")]
    TotalQuantity,
    /// An id that cannot be a key.
    #[error("{0} is longer than {ID_BYTES_MAX} bytes")]
    LongId(&'static str),
    /// An answer about a product that is in no line.
    #[error("product {0} is in no line of the order")]
    NotOrdered(String),
    /// An answer about another quantity than the order asks for.
    #[error("{found} of product {product_id}: the order asks for {ordered}")]
    OtherQuantity {
        /// Which product.
        product_id: String,
        /// In the answer.
        found: i64,
        /// Over all lines of the order.
        ordered: i64,
    },
    /// Nobody confirms by hand what is not paid for.
    #[error(
        "the order is paid at the gateway: it is confirmed when its goods and its money are there, not by hand"
    )]
    PaidAtGateway,
    /// An answer about money that nobody asked for.
    #[error("the order is not paid at the gateway")]
    NoPaymentDue,
    /// Too little or too much.
    #[error("{paid} cents were paid, the order costs {due}")]
    OtherAmount {
        /// In the answer.
        paid: i64,
        /// The order's total.
        due: i64,
    },
}

/// Where an order is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is no such order yet.
    #[default]
    New,
    /// Items are being collected.
    Draft,
    /// The customer committed to it.
    Placed,
    /// Goods and money are settled.
    Confirmed,
    /// The parcel left.
    Shipped,
    /// The customer has it.
    Delivered,
    /// Nothing more happens.
    Cancelled,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Draft => "draft",
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        })
    }
}

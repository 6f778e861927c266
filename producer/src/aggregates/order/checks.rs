//! What is asked of an order's fields, whatever its status.

use schemas::order::OrderLine;

use super::{LINES_MAX, Rejection};
use crate::aggregates::{ID_BYTES_MAX, QUANTITY_MAX, TOTAL_CENTS_MAX, is_currency};

/// What the command says, or else the draft; both only where they agree.
pub(super) fn settled(
    field: &'static str,
    given: Option<String>,
    drafted: Option<&str>,
) -> Result<String, Rejection> {
    match (given, drafted) {
        (Some(found), Some(drafted)) if found != drafted => Err(Rejection::DiffersFromDraft {
            field,
            found,
            drafted: drafted.to_owned(),
        }),
        (Some(given), _) if !given.is_empty() => Ok(given),
        (_, Some(drafted)) => Ok(drafted.to_owned()),
        (_, None) => Err(Rejection::Missing(field)),
    }
}

pub(super) fn check_customer(customer_id: &str) -> Result<(), Rejection> {
    if customer_id.len() > ID_BYTES_MAX {
        return Err(Rejection::LongId("customer_id"));
    }
    Ok(())
}

pub(super) fn check_currency(currency: &str) -> Result<(), Rejection> {
    if is_currency(currency) {
        Ok(())
    } else {
        Err(Rejection::Currency(currency.to_owned()))
    }
}

pub(super) fn check_lines(lines: &[OrderLine]) -> Result<(), Rejection> {
    if lines.len() > LINES_MAX {
        return Err(Rejection::TooManyLines);
    }
    let (mut total, mut quantity) = (0_i64, 0_i64);
    for (index, line) in lines.iter().enumerate() {
        let wrong = |reason: String| Rejection::Line {
            line: index + 1,
            product_id: line.product_id.clone(),
            reason,
        };
        if line.product_id.is_empty() {
            return Err(wrong("product_id is empty".to_owned()));
        }
        if line.product_id.chars().any(char::is_control) {
            return Err(wrong("product_id holds a control character".to_owned()));
        }
        if line.product_id.len() > ID_BYTES_MAX {
            return Err(Rejection::LongId("product_id"));
        }
        if line.quantity <= 0 {
            return Err(wrong(format!(
                "quantity is {}, must be at least 1",
                line.quantity
            )));
        }
        if line.total_cents < 0 {
            return Err(wrong(format!(
                "total_cents is {}, must not be negative",
                line.total_cents
            )));
        }
        total = total
            .checked_add(line.total_cents)
            .filter(|total| *total <= TOTAL_CENTS_MAX)
            .ok_or(Rejection::Total)?;
        quantity = quantity
            .checked_add(line.quantity)
            .filter(|quantity| *quantity <= QUANTITY_MAX)
            .ok_or(Rejection::TotalQuantity)?;
    }
    Ok(())
}

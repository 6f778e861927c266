//! What the flows to recipients have in common.

use std::collections::BTreeMap;

use millrace::event::Recorded;
use schemas::notification::{Kind, RequestNotification};

/// Longest text that a recipient takes for a param, in bytes.
const TEXT_BYTES_MAX: usize = 2_000;

/// Whether recipients are told of anything. Off where no adapter is chosen: nobody would send it, and a recipient's
/// history would fill with what nobody was told. What happens meanwhile is told to nobody later either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notices {
    /// They are.
    On,
    /// They are not.
    Off,
}

/// The request to tell a recipient of this event.
pub(super) fn request<E>(
    event: &Recorded<E>,
    kind: Kind,
    params: BTreeMap<&str, String>,
) -> RequestNotification {
    let fitting = |(name, text): (&str, String)| (name.to_owned(), shortened(text));
    RequestNotification {
        kind,
        source_event_id: event.metadata.event_id.to_string(),
        happened_at: Some(event.metadata.occurred_at),
        params: params.into_iter().map(fitting).collect(),
    }
}

/// A request that is refused for a long text would be lost: it is told with less of it.
fn shortened(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    text
}

/// An amount of money as people read it, such as `12.50 EUR`.
pub(super) fn amount(cents: i64, currency: &str) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02} {currency}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_two_digits_after_the_point() {
        assert_eq!(amount(1_250, "EUR"), "12.50 EUR");
        assert_eq!(amount(5, "USD"), "0.05 USD");
        assert_eq!(amount(-1_205, "EUR"), "-12.05 EUR");
    }

    #[test]
    fn a_long_text_is_cut_between_its_letters() {
        let text = shortened(format!("a{}", "é".repeat(1_000)));
        assert_eq!(text.len(), 1_999);
    }
}

//! What notifications are about.

use super::text_enum;

text_enum! {
    /// What a notification is about. Its templates are `processors/templates/<kind>.*`.
    pub enum Kind as "kind" {
        /// Somebody registered.
        Welcome = "welcome",
        /// An order was placed.
        OrderPlaced = "order_placed",
        /// The money for an order came in.
        PaymentReceived = "payment_received",
        /// The parcel of an order left.
        OrderShipped = "order_shipped",
        /// Somebody whom the recipient follows added a card to their library.
        CardAdded = "card_added",
        /// The recipient began a collection.
        CollectionWelcome = "collection_welcome",
    }
}

impl Kind {
    /// The params that a request must bring: its templates use them.
    pub const fn params(self) -> &'static [&'static str] {
        match self {
            Self::Welcome => &[],
            Self::OrderPlaced => &["order_id", "total", "line_count"],
            Self::PaymentReceived => &["order_id", "amount"],
            Self::OrderShipped => &["order_id"],
            Self::CardAdded => &["curator_name", "card_title", "card_url"],
            Self::CollectionWelcome => &["collection_name"],
        }
    }

    /// The params that a request may leave out: its templates ask whether they are there.
    pub const fn optional_params(self) -> &'static [&'static str] {
        match self {
            Self::OrderShipped => &["tracking_code"],
            Self::Welcome
            | Self::OrderPlaced
            | Self::PaymentReceived
            | Self::CardAdded
            | Self::CollectionWelcome => &[],
        }
    }

    /// Whether it goes out by SMS beside the e-mail, because it matters within the hour.
    pub const fn is_urgent(self) -> bool {
        matches!(self, Self::OrderShipped)
    }
}

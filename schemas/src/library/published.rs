//! What other contexts may know of the library; they read this topic and never the inner ones.

use serde::{Deserialize, Serialize};

millrace::integration_events! {
    /// What other contexts may know of the library.
    pub enum LibraryPublished for "library" in "library" {
        CardListed [1],
        CardUnlisted [1],
        CollectionOpened [1],
    }
}

/// Somebody has the card in their library, and nobody had before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardListed {
    /// Which card.
    pub card_id: String,
    /// What it is, such as `article`.
    pub card_type: String,
    /// Where it is.
    pub url: String,
    /// Empty where it has none.
    pub title: String,
}

/// Nobody has the card in their library any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardUnlisted {
    /// Which card.
    pub card_id: String,
}

/// There is a new collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionOpened {
    /// Which collection.
    pub collection_id: String,
    /// The user whose it is.
    pub owner_id: String,
    /// What it is called.
    pub name: String,
}

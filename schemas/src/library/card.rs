//! A card: what can be asked of it, and what happens to it.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a card.
    pub enum CardEvent for "card" in "library" {
        CardAddedToLibrary [1],
        CardRemovedFromLibrary [1],
    }
}

millrace::commands! {
    /// What can be asked of a card.
    pub enum CardCommand for "card" in "library" {
        AddCardToLibrary [1],
        RemoveCardFromLibrary [1],
    }
}

/// A curator took the card into their library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardAddedToLibrary {
    /// Whose library.
    pub curator_id: String,
    /// What it is, such as `article`.
    pub card_type: String,
    /// Where it is.
    pub url: String,
    /// Empty where it has none.
    pub title: String,
    /// Empty where it has none.
    pub description: String,
    /// How many curators have the card now; with 1 it is new to all.
    pub curators: i64,
}

/// A curator took the card out of their library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardRemovedFromLibrary {
    /// Whose library.
    pub curator_id: String,
    /// How many curators still have the card; with 0 nobody has it.
    pub curators: i64,
}

/// Takes the card into the library of a curator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddCardToLibrary {
    /// Whose library.
    pub curator_id: String,
    /// What it is, such as `article`.
    pub card_type: String,
    /// Where it is.
    pub url: String,
    /// Empty where it has none.
    #[serde(default)]
    pub title: String,
    /// Empty where it has none.
    #[serde(default)]
    pub description: String,
}

/// Takes the card out of the library of a curator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveCardFromLibrary {
    /// Whose library.
    pub curator_id: String,
}

//! A collection of cards: what can be asked of it, and what happens to it.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a collection.
    pub enum CollectionEvent for "collection" in "library" {
        CollectionCreated [1],
        CollectionCardAdded [1],
        CollectionCardRemoved [1],
    }
}

millrace::commands! {
    /// What can be asked of a collection.
    pub enum CollectionCommand for "collection" in "library" {
        CreateCollection [1],
        AddCardToCollection [1],
        RemoveCardFromCollection [1],
    }
}

/// A collection without cards was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionCreated {
    /// Whose it is.
    pub owner_id: String,
    /// What it is called.
    pub name: String,
}

/// A card was put into a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionCardAdded {
    /// Whose collection.
    pub owner_id: String,
    /// Which card.
    pub card_id: String,
}

/// A card was taken out of a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionCardRemoved {
    /// Whose collection.
    pub owner_id: String,
    /// Which card.
    pub card_id: String,
}

/// Begins a collection without cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCollection {
    /// Whose it will be.
    pub owner_id: String,
    /// What it is called.
    pub name: String,
}

/// Puts a card into the collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddCardToCollection {
    /// Which card.
    pub card_id: String,
}

/// Takes a card out of the collection, if it is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveCardFromCollection {
    /// Which card.
    pub card_id: String,
}

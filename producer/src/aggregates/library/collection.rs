//! A collection: the cards that its owner put together, each once.

use std::collections::BTreeSet;

use millrace::aggregate::{Aggregate, Context};
use schemas::library::{
    AddCardToCollection, CollectionCardAdded, CollectionCardRemoved, CollectionCommand,
    CollectionCreated, CollectionEvent, CreateCollection, RemoveCardFromCollection,
};
use serde::{Deserialize, Serialize};

use super::{Field, check_id, check_name};

/// Most cards of one collection: whoever counts which cards come together counts each pair of them.
const CARDS_MAX: usize = 500;

/// Why a collection does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that is not taken.
    #[error(transparent)]
    Field(#[from] Field),
    /// It was begun before.
    #[error("the collection exists, it is {owner_id}'s")]
    Exists {
        /// Whose it is.
        owner_id: String,
    },
    /// It must be begun first.
    #[error("there is no such collection")]
    Missing,
    /// More than is handled.
    #[error("a collection has at most {CARDS_MAX} cards")]
    Full,
}

/// A collection, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Collection {
    /// Nobody's before it was created.
    owner_id: Option<String>,
    cards: BTreeSet<String>,
}

impl Aggregate for Collection {
    type Command = CollectionCommand;
    type Event = CollectionEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: CollectionCommand,
        _: &Context,
    ) -> Result<Vec<CollectionEvent>, Rejection> {
        match command {
            CollectionCommand::CreateCollection(CreateCollection { owner_id, name }) => {
                if let Some(owner_id) = self.owner_id.clone() {
                    return Err(Rejection::Exists { owner_id });
                }
                check_id("owner_id", &owner_id)?;
                check_name("name", &name)?;
                Ok(vec![CollectionCreated { owner_id, name }.into()])
            }
            CollectionCommand::AddCardToCollection(AddCardToCollection { card_id }) => {
                let owner_id = self.owner()?;
                check_id("card_id", &card_id)?;
                if self.cards.contains(&card_id) {
                    return Ok(Vec::new());
                }
                if self.cards.len() >= CARDS_MAX {
                    return Err(Rejection::Full);
                }
                Ok(vec![CollectionCardAdded { owner_id, card_id }.into()])
            }
            CollectionCommand::RemoveCardFromCollection(RemoveCardFromCollection { card_id }) => {
                let owner_id = self.owner()?;
                if !self.cards.contains(&card_id) {
                    return Ok(Vec::new());
                }
                Ok(vec![CollectionCardRemoved { owner_id, card_id }.into()])
            }
        }
    }

    fn evolve(&mut self, event: &CollectionEvent) {
        match event {
            CollectionEvent::CollectionCreated(created) => {
                self.owner_id = Some(created.owner_id.clone());
            }
            CollectionEvent::CollectionCardAdded(added) => {
                self.cards.insert(added.card_id.clone());
            }
            CollectionEvent::CollectionCardRemoved(removed) => {
                self.cards.remove(&removed.card_id);
            }
        }
    }
}

impl Collection {
    fn owner(&self) -> Result<String, Rejection> {
        self.owner_id.clone().ok_or(Rejection::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace::testing::given;

    fn create(owner_id: &str, name: &str) -> CreateCollection {
        CreateCollection {
            owner_id: owner_id.into(),
            name: name.into(),
        }
    }

    fn created() -> CollectionEvent {
        CollectionCreated {
            owner_id: "ada".into(),
            name: "Reading".into(),
        }
        .into()
    }

    fn add(card_id: &str) -> AddCardToCollection {
        AddCardToCollection {
            card_id: card_id.into(),
        }
    }

    fn added(card_id: &str) -> CollectionEvent {
        CollectionCardAdded {
            owner_id: "ada".into(),
            card_id: card_id.into(),
        }
        .into()
    }

    fn remove(card_id: &str) -> RemoveCardFromCollection {
        RemoveCardFromCollection {
            card_id: card_id.into(),
        }
    }

    fn removed(card_id: &str) -> CollectionEvent {
        CollectionCardRemoved {
            owner_id: "ada".into(),
            card_id: card_id.into(),
        }
        .into()
    }

    #[test]
    fn a_collection_is_created_once() {
        given::<Collection>([])
            .when(create("ada", "Reading"))
            .then([created()]);
        given::<Collection>([created()])
            .when(create("bob", "Other"))
            .then_rejected(Rejection::Exists {
                owner_id: "ada".into(),
            });
    }

    #[test]
    fn a_collection_has_an_owner_and_a_name() {
        given::<Collection>([])
            .when(create("", "Reading"))
            .then_rejected(Rejection::Field(Field::Empty("owner_id")));
        given::<Collection>([])
            .when(create("ada", " "))
            .then_rejected(Rejection::Field(Field::Empty("name")));
        given::<Collection>([])
            .when(create("ada", &"n".repeat(201)))
            .then_rejected(Rejection::Field(Field::Long {
                field: "name",
                bytes_max: 200,
            }));
    }

    #[test]
    fn a_card_is_in_a_collection_once() {
        given::<Collection>([created()])
            .when(add("tea"))
            .then([added("tea")]);
        given::<Collection>([created(), added("tea")])
            .when(add("tea"))
            .then_nothing();
    }

    #[test]
    fn a_card_leaves_a_collection_and_can_come_back() {
        given::<Collection>([created(), added("tea")])
            .when(remove("tea"))
            .then([removed("tea")]);
        given::<Collection>([created(), added("tea"), removed("tea")])
            .when(remove("tea"))
            .then_nothing();
        given::<Collection>([created(), added("tea"), removed("tea")])
            .when(add("tea"))
            .then([added("tea")]);
    }

    #[test]
    fn there_are_no_cards_in_what_was_not_created() {
        given::<Collection>([])
            .when(add("tea"))
            .then_rejected(Rejection::Missing);
        given::<Collection>([])
            .when(remove("tea"))
            .then_rejected(Rejection::Missing);
    }

    #[test]
    fn a_collection_takes_no_more_cards_than_its_readers_can_pair() {
        let full: Vec<CollectionEvent> = std::iter::once(created())
            .chain((0..CARDS_MAX).map(|number| added(&format!("c{number}"))))
            .collect();
        given::<Collection>(full.clone())
            .when(add("tea"))
            .then_rejected(Rejection::Full);
        given::<Collection>(full).when(add("c7")).then_nothing();
    }

    #[test]
    fn a_card_in_a_collection_has_an_id() {
        given::<Collection>([created()])
            .when(add(""))
            .then_rejected(Rejection::Field(Field::Empty("card_id")));
    }
}

//! A card: in the libraries of any number of curators, once in each.
//!
//! What it shows is settled by the first curator who adds it and stays so while anybody has it; whoever adds it too adds
//! the same thing. When the last one has removed it, it can be added anew with other content.

use std::collections::BTreeSet;

use millrace::aggregate::{Aggregate, Context};
use schemas::library::{
    AddCardToLibrary, CardAddedToLibrary, CardCommand, CardEvent, CardRemovedFromLibrary,
    RemoveCardFromLibrary,
};
use serde::{Deserialize, Serialize};

use super::{Field, check_id, check_line, check_lines};

/// Most curators of one card: the state of a card that everybody has stays small enough to be loaded for each.
const CURATORS_MAX: usize = 10_000;
const CARD_TYPE_BYTES_MAX: usize = 50;
const URL_BYTES_MAX: usize = 2_000;
const TITLE_BYTES_MAX: usize = 500;
const DESCRIPTION_BYTES_MAX: usize = 10_000;

/// Why a card does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that is not taken.
    #[error(transparent)]
    Field(#[from] Field),
    /// Once is enough.
    #[error("the card is in the library of {0} already")]
    AlreadyAdded(String),
    /// Others have it with other content.
    #[error(
        "the card's {field} is {kept:?} for the curators who have it, not {found:?}: add this under an id of its own"
    )]
    OtherContent {
        /// Which field.
        field: &'static str,
        /// In the command.
        found: String,
        /// What the card shows.
        kept: String,
    },
    /// There is nothing to remove.
    #[error("the card is not in the library of {0}")]
    NotAdded(String),
    /// More than is handled.
    #[error("the card is in {CURATORS_MAX} libraries, which is the most")]
    TooManyCurators,
}

/// A card, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Who has it.
    curators: BTreeSet<String>,
    card_type: String,
    url: String,
    title: String,
    description: String,
}

impl Aggregate for Card {
    type Command = CardCommand;
    type Event = CardEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(&self, command: CardCommand, _: &Context) -> Result<Vec<CardEvent>, Rejection> {
        match command {
            CardCommand::AddCardToLibrary(command) => self.add(command),
            CardCommand::RemoveCardFromLibrary(RemoveCardFromLibrary { curator_id }) => {
                if !self.curators.contains(&curator_id) {
                    return Err(Rejection::NotAdded(curator_id));
                }
                let curators = self.curators.len() as i64 - 1;
                Ok(vec![
                    CardRemovedFromLibrary {
                        curator_id,
                        curators,
                    }
                    .into(),
                ])
            }
        }
    }

    fn evolve(&mut self, event: &CardEvent) {
        match event {
            CardEvent::CardAddedToLibrary(added) => {
                self.curators.insert(added.curator_id.clone());
                self.card_type.clone_from(&added.card_type);
                self.url.clone_from(&added.url);
                self.title.clone_from(&added.title);
                self.description.clone_from(&added.description);
            }
            CardEvent::CardRemovedFromLibrary(removed) => {
                self.curators.remove(&removed.curator_id);
            }
        }
    }
}

impl Card {
    fn add(&self, command: AddCardToLibrary) -> Result<Vec<CardEvent>, Rejection> {
        check_id("curator_id", &command.curator_id)?;
        check_content(&command)?;
        if self.curators.contains(&command.curator_id) {
            return Err(Rejection::AlreadyAdded(command.curator_id));
        }
        if self.curators.len() >= CURATORS_MAX {
            return Err(Rejection::TooManyCurators);
        }
        if !self.curators.is_empty() {
            self.must_agree(&command)?;
        }
        Ok(vec![
            CardAddedToLibrary {
                curator_id: command.curator_id,
                card_type: command.card_type,
                url: command.url,
                title: command.title,
                description: command.description,
                curators: self.curators.len() as i64 + 1,
            }
            .into(),
        ])
    }

    fn must_agree(&self, command: &AddCardToLibrary) -> Result<(), Rejection> {
        for (field, found, kept) in [
            ("card_type", &command.card_type, &self.card_type),
            ("url", &command.url, &self.url),
            ("title", &command.title, &self.title),
            ("description", &command.description, &self.description),
        ] {
            if found != kept {
                return Err(Rejection::OtherContent {
                    field,
                    found: found.clone(),
                    kept: kept.clone(),
                });
            }
        }
        Ok(())
    }
}

fn check_content(command: &AddCardToLibrary) -> Result<(), Field> {
    let AddCardToLibrary { card_type, url, .. } = command;
    if card_type.is_empty() {
        return Err(Field::Empty("card_type"));
    }
    check_line("card_type", card_type, CARD_TYPE_BYTES_MAX)?;
    let in_word =
        |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-' || one == '_';
    if !card_type.chars().all(in_word) {
        return Err(Field::CardType(card_type.clone()));
    }
    check_line("url", url, URL_BYTES_MAX)?;
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if host.is_none_or(str::is_empty) || url.contains(char::is_whitespace) {
        return Err(Field::Url(url.clone()));
    }
    check_line("title", &command.title, TITLE_BYTES_MAX)?;
    check_lines("description", &command.description, DESCRIPTION_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace::aggregate::fold;
    use millrace::testing::given;

    fn add(curator_id: &str) -> AddCardToLibrary {
        AddCardToLibrary {
            curator_id: curator_id.into(),
            card_type: "article".into(),
            url: "https://a.example/outbox".into(),
            title: "The outbox".into(),
            description: String::new(),
        }
    }

    fn added(curator_id: &str, curators: i64) -> CardEvent {
        CardAddedToLibrary {
            curator_id: curator_id.into(),
            card_type: "article".into(),
            url: "https://a.example/outbox".into(),
            title: "The outbox".into(),
            description: String::new(),
            curators,
        }
        .into()
    }

    fn remove(curator_id: &str) -> RemoveCardFromLibrary {
        RemoveCardFromLibrary {
            curator_id: curator_id.into(),
        }
    }

    fn removed(curator_id: &str, curators: i64) -> CardEvent {
        CardRemovedFromLibrary {
            curator_id: curator_id.into(),
            curators,
        }
        .into()
    }

    #[test]
    fn a_card_is_added_once_per_curator() {
        given::<Card>([]).when(add("ada")).then([added("ada", 1)]);
        given::<Card>([added("ada", 1)])
            .when(add("ada"))
            .then_rejected(Rejection::AlreadyAdded("ada".into()));
        given::<Card>([added("ada", 1)])
            .when(add("bob"))
            .then([added("bob", 2)]);
    }

    #[test]
    fn a_card_that_a_curator_removed_can_be_added_by_them_again() {
        given::<Card>([added("ada", 1), removed("ada", 0)])
            .when(add("ada"))
            .then([added("ada", 1)]);
    }

    #[test]
    fn a_removal_says_how_many_curators_still_have_the_card() {
        given::<Card>([added("ada", 1), added("bob", 2)])
            .when(remove("ada"))
            .then([removed("ada", 1)]);
        given::<Card>([added("ada", 1), added("bob", 2), removed("ada", 1)])
            .when(remove("bob"))
            .then([removed("bob", 0)]);
    }

    #[test]
    fn nobody_removes_a_card_that_they_have_not_added() {
        given::<Card>([added("ada", 1)])
            .when(remove("bob"))
            .then_rejected(Rejection::NotAdded("bob".into()));
        given::<Card>([added("ada", 1), removed("ada", 0)])
            .when(remove("ada"))
            .then_rejected(Rejection::NotAdded("ada".into()));
    }

    #[test]
    fn what_a_card_shows_is_settled_by_its_first_curator_while_anybody_has_it() {
        let other = AddCardToLibrary {
            url: "https://b.example/".into(),
            ..add("bob")
        };
        given::<Card>([added("ada", 1)])
            .when(other.clone())
            .then_rejected(Rejection::OtherContent {
                field: "url",
                found: "https://b.example/".into(),
                kept: "https://a.example/outbox".into(),
            });
        let anew = CardAddedToLibrary {
            curator_id: "bob".into(),
            card_type: "article".into(),
            url: "https://b.example/".into(),
            title: "The outbox".into(),
            description: String::new(),
            curators: 1,
        };
        given::<Card>([added("ada", 1), removed("ada", 0)])
            .when(other)
            .then([anew.into()]);
    }

    #[test]
    fn a_curator_is_somebody_with_an_id_that_can_be_a_key() {
        let field = |curator: &str, reason| {
            given::<Card>([])
                .when(add(curator))
                .then_rejected(Rejection::Field(reason));
        };
        field("", Field::Empty("curator_id"));
        field("a\nb", Field::Control("curator_id"));
        let long = Field::Long {
            field: "curator_id",
            bytes_max: 200,
        };
        field(&"u".repeat(201), long);
    }

    #[test]
    fn a_card_leads_somewhere() {
        for url in [
            "",
            "a.example",
            "https://",
            "http:///x",
            "https://a b/",
            "ftp://a/",
        ] {
            given::<Card>([])
                .when(AddCardToLibrary {
                    url: url.into(),
                    ..add("ada")
                })
                .then_rejected(Rejection::Field(Field::Url(url.into())));
        }
    }

    #[test]
    fn a_card_type_is_one_word() {
        for (card_type, reason) in [
            ("", Field::Empty("card_type")),
            ("Blog post", Field::CardType("Blog post".into())),
        ] {
            given::<Card>([])
                .when(AddCardToLibrary {
                    card_type: card_type.into(),
                    ..add("ada")
                })
                .then_rejected(Rejection::Field(reason));
        }
    }

    #[test]
    fn texts_are_bounded_and_only_a_description_has_lines() {
        let with = |title: &str, description: &str| AddCardToLibrary {
            title: title.into(),
            description: description.into(),
            ..add("ada")
        };
        given::<Card>([])
            .when(with("two\nlines", ""))
            .then_rejected(Rejection::Field(Field::Control("title")));
        given::<Card>([])
            .when(with("", "nul\0"))
            .then_rejected(Rejection::Field(Field::Control("description")));
        given::<Card>([])
            .when(with("", &"d".repeat(10_001)))
            .then_rejected(Rejection::Field(Field::Long {
                field: "description",
                bytes_max: 10_000,
            }));
        let lines = CardAddedToLibrary {
            curator_id: "ada".into(),
            card_type: "article".into(),
            url: "https://a.example/outbox".into(),
            title: String::new(),
            description: "two\nlines".into(),
            curators: 1,
        };
        given::<Card>([])
            .when(with("", "two\nlines"))
            .then([lines.into()]);
    }

    #[test]
    fn a_card_has_no_more_curators_than_it_can_load() {
        let all = (1..=CURATORS_MAX as i64).map(|number| added(&format!("u{number}"), number));
        given::<Card>(all)
            .when(add("ada"))
            .then_rejected(Rejection::TooManyCurators);
    }

    #[test]
    fn nothing_is_kept_of_a_curator_who_removed_the_card() {
        let card: Card = fold(&[added("ada", 1), added("bob", 2), removed("bob", 1)]);
        assert_eq!(card, fold(&[added("ada", 1)]));
    }
}

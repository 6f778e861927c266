//! The view `card_search`: every card that is in somebody's library, to be searched for.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::library::CardEvent;

millrace::view_row! {
    /// A card that somebody has.
    pub struct CardRow in "card_search" {
        /// What it is, such as `article`.
        card_type: String,
        /// Where it is.
        url: String,
        /// Empty where it has none.
        title: String,
        /// Empty where it has none.
        description: String,
        /// How many curators have it, at least 1.
        curators: i64,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Keeps a card while anybody has it.
pub struct CardSearch;

impl Fold for CardSearch {
    const NAME: &'static str = "card-search";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/card_search.sql");
    type Event = CardEvent;
    type Rows = Option<CardRow>;

    fn evolve(&self, row: &mut Option<CardRow>, event: &Recorded<CardEvent>) -> Result<(), Poison> {
        let updated_at = event.metadata.occurred_at;
        match &event.event {
            CardEvent::CardAddedToLibrary(added) => {
                *row = Some(CardRow {
                    card_type: added.card_type.clone(),
                    url: added.url.clone(),
                    title: added.title.clone(),
                    description: added.description.clone(),
                    curators: added.curators,
                    updated_at,
                });
            }
            CardEvent::CardRemovedFromLibrary(removed) if removed.curators == 0 => *row = None,
            CardEvent::CardRemovedFromLibrary(removed) => {
                if let Some(row) = row {
                    row.curators = removed.curators;
                    row.updated_at = updated_at;
                }
            }
        }
        Ok(())
    }
}

//! The view `owner_statistics`: what the owners of collections put together.

use millrace::event::Recorded;
use millrace::projection::{Poison, Start, Tally};
use schemas::library::CollectionEvent;

millrace::tally_row! {
    /// What is added to an owner's statistics.
    pub struct OwnerStatistic in "owner_statistics" {
        key {
            /// Who.
            owner_id: String,
        }
        /// Collections.
        collections: i64,
        /// Cards in all of them; one in two of them counts twice.
        cards: i64,
        /// Cards that were ever added.
        cards_added: i64,
    }
}

/// Adds every change of a collection to its owner.
pub struct OwnerStatistics;

impl Tally for OwnerStatistics {
    const NAME: &'static str = "owner-statistics";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/owner_statistics.sql");
    type Event = CollectionEvent;
    type Row = OwnerStatistic;

    fn add(&self, event: &Recorded<CollectionEvent>) -> Result<Vec<OwnerStatistic>, Poison> {
        let (owner_id, collections, cards, cards_added) = match &event.event {
            CollectionEvent::CollectionCreated(created) => (&created.owner_id, 1, 0, 0),
            CollectionEvent::CollectionCardAdded(added) => (&added.owner_id, 0, 1, 1),
            CollectionEvent::CollectionCardRemoved(removed) => (&removed.owner_id, 0, -1, 0),
        };
        Ok(vec![OwnerStatistic {
            owner_id: owner_id.clone(),
            collections,
            cards,
            cards_added,
        }])
    }
}

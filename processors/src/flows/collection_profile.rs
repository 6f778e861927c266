//! A new collection goes to its owner's profile, which knows whether it is the first.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::library::{CollectionEvent, StartCollection};

/// Tells the profile of an owner what they began.
pub struct CollectionProfile;

impl Processor for CollectionProfile {
    const NAME: &'static str = "collection-profile";
    const START: Start = Start::Earliest;
    type Event = CollectionEvent;

    fn handle(
        &self,
        event: &Recorded<CollectionEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        match &event.event {
            CollectionEvent::CollectionCreated(created) => {
                let start = StartCollection {
                    collection_id: event.aggregate_id.clone(),
                    name: created.name.clone(),
                };
                out.send(&created.owner_id, &start);
            }
            CollectionEvent::CollectionCardAdded(_) | CollectionEvent::CollectionCardRemoved(_) => {
            }
        }
        Ok(())
    }
}

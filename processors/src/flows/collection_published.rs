//! What other contexts may know of collections.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::library::{CollectionEvent, CollectionOpened, LibraryPublished};

/// Publishes that there is a collection; what is in it is the library's own business.
pub struct CollectionPublished;

impl Processor for CollectionPublished {
    const NAME: &'static str = "collection-published";
    const START: Start = Start::Earliest;
    type Event = CollectionEvent;

    fn handle(
        &self,
        event: &Recorded<CollectionEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        match &event.event {
            CollectionEvent::CollectionCreated(created) => {
                out.publish::<LibraryPublished>(CollectionOpened {
                    collection_id: event.aggregate_id.clone(),
                    owner_id: created.owner_id.clone(),
                    name: created.name.clone(),
                });
            }
            CollectionEvent::CollectionCardAdded(_) | CollectionEvent::CollectionCardRemoved(_) => {
            }
        }
        Ok(())
    }
}

//! What other contexts may know of cards.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::library::{CardEvent, CardListed, CardUnlisted, LibraryPublished};

/// Publishes that a card is in a library at all, and that it is in none any more. In whose is nobody else's business, so
/// most events lead to nothing.
pub struct CardPublished;

impl Processor for CardPublished {
    const NAME: &'static str = "card-published";
    const START: Start = Start::Earliest;
    type Event = CardEvent;

    fn handle(&self, event: &Recorded<CardEvent>, out: &mut Outbox<'_>) -> Result<(), HandleError> {
        let card_id = event.aggregate_id.clone();
        match &event.event {
            CardEvent::CardAddedToLibrary(added) if added.curators == 1 => {
                out.publish::<LibraryPublished>(CardListed {
                    card_id,
                    card_type: added.card_type.clone(),
                    url: added.url.clone(),
                    title: added.title.clone(),
                });
            }
            CardEvent::CardRemovedFromLibrary(removed) if removed.curators == 0 => {
                out.publish::<LibraryPublished>(CardUnlisted { card_id });
            }
            CardEvent::CardAddedToLibrary(_) | CardEvent::CardRemovedFromLibrary(_) => {}
        }
        Ok(())
    }
}

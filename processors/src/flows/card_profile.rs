//! A card that comes into a library goes to the curator's profile, which knows who follows it.

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::library::{AnnounceCard, CardEvent};

/// Asks the profile of a curator to announce what they added. Whether it is public and whom it tells is its own business.
pub struct CardProfile;

impl Processor for CardProfile {
    const NAME: &'static str = "card-profile";
    const START: Start = Start::Earliest;
    type Event = CardEvent;

    fn handle(&self, event: &Recorded<CardEvent>, out: &mut Outbox<'_>) -> Result<(), HandleError> {
        match &event.event {
            CardEvent::CardAddedToLibrary(added) => {
                let announce = AnnounceCard {
                    card_id: event.aggregate_id.clone(),
                    card_type: added.card_type.clone(),
                    url: added.url.clone(),
                    title: added.title.clone(),
                };
                out.send(&added.curator_id, &announce);
            }
            CardEvent::CardRemovedFromLibrary(_) => {}
        }
        Ok(())
    }
}

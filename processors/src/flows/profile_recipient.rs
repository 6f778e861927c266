//! What a profile announces goes to those whom it concerns.

use std::collections::BTreeMap;

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::library::ProfileEvent;
use schemas::notification::Kind;

use super::notices::{Notices, request};

/// Has every follower told of a new card, and an owner welcomed to their first collection. The request names the event
/// that it comes from, so that the recipient takes it once, however often it is sent.
pub struct ProfileRecipient(pub Notices);

impl Processor for ProfileRecipient {
    const NAME: &'static str = "profile-recipient";
    const START: Start = Start::Earliest;
    type Event = ProfileEvent;

    fn handle(
        &self,
        event: &Recorded<ProfileEvent>,
        out: &mut Outbox<'_>,
    ) -> Result<(), HandleError> {
        if self.0 == Notices::Off {
            return Ok(());
        }
        match &event.event {
            ProfileEvent::ProfileCardAnnounced(card) => {
                // A card without a title is called by its address.
                let title = Some(&card.title).filter(|title| !title.is_empty());
                let params = BTreeMap::from([
                    ("curator_name", card.name.clone()),
                    ("card_title", title.unwrap_or(&card.url).clone()),
                    ("card_url", card.url.clone()),
                ]);
                let card_added = request(event, Kind::CardAdded, params);
                for follower in &card.followers {
                    out.send(follower, &card_added);
                }
            }
            ProfileEvent::ProfileFirstCollectionStarted(started) => {
                let params = BTreeMap::from([("collection_name", started.name.clone())]);
                let welcome = request(event, Kind::CollectionWelcome, params);
                out.send(&event.aggregate_id, &welcome);
            }
            ProfileEvent::ProfileCreated(_)
            | ProfileEvent::ProfileVisibilityChanged(_)
            | ProfileEvent::ProfileFollowed(_)
            | ProfileEvent::ProfileUnfollowed(_) => {}
        }
        Ok(())
    }
}

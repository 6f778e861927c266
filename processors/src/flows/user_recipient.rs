//! What users say about themselves is how they are reached.

use std::collections::BTreeMap;

use millrace::event::Recorded;
use millrace::processor::{HandleError, Outbox, Processor, Start};
use schemas::identity::user::UserEvent;
use schemas::notification::{Kind, SetContact};

use super::notices::{Notices, request};

/// Keeps a recipient's contact as the user's events have it, and welcomes whoever registered.
///
/// The contact follows also where nobody is told of anything: an adapter that is chosen later finds it. One processor does
/// both, so that the contact stands before the welcome: both go to one key in the order in which they are emitted.
pub struct UserRecipient(pub Notices);

impl Processor for UserRecipient {
    const NAME: &'static str = "user-recipient";
    const START: Start = Start::Earliest;
    type Event = UserEvent;

    fn handle(&self, event: &Recorded<UserEvent>, out: &mut Outbox<'_>) -> Result<(), HandleError> {
        let user_id = &event.aggregate_id;
        match &event.event {
            UserEvent::UserRegistered(user) => {
                let contact = SetContact {
                    name: Some(full_name(&user.first_name, &user.last_name)),
                    email: Some(user.email.clone()),
                    phone: said(&user.phone),
                    locale: said(&user.language),
                };
                out.send(user_id, &contact);
                if self.0 == Notices::On {
                    out.send(user_id, &request(event, Kind::Welcome, BTreeMap::new()));
                }
            }
            UserEvent::UserUpdated(user) => {
                let contact = SetContact {
                    name: Some(full_name(&user.first_name, &user.last_name)),
                    // The address is not the profile's to change.
                    email: None,
                    phone: said(&user.phone),
                    locale: said(&user.language),
                };
                out.send(user_id, &contact);
            }
            // Nothing else changes how a user is reached.
            _ => {}
        }
        Ok(())
    }
}

fn full_name(first: &str, last: &str) -> String {
    format!("{first} {last}").trim().to_owned()
}

/// A profile that says nothing takes back what it said before.
fn said(text: &Option<String>) -> Option<String> {
    Some(text.clone().unwrap_or_default())
}

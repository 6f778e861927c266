//! Notifications: how a recipient is reached, what they are told, and what became of it.
//!
//! The aggregate is `recipient`; its id is that of the user, who is the customer of an order.

mod address;
mod commands;
mod events;
mod kind;

pub use address::{Channel, masked};
pub use commands::*;
pub use events::*;
pub use kind::Kind;

use uuid::Uuid;

/// Namespace of the UUIDv5 ids of notifications.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d69_6c6c_7261_6365_2e6e_6f74_6966_7973);

/// The id of a notification: the same for the same recipient, kind, event and channel, whoever asks and however often.
pub fn notification_id(
    recipient_id: &str,
    kind: Kind,
    source_event_id: &str,
    channel: Channel,
) -> String {
    // No id holds a control character, so that no two of these texts are the same.
    let name = format!("{recipient_id}\n{kind}\n{source_event_id}\n{channel}");
    Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
}

/// An enum that is text in JSON and in Avro, so that a new value is no new schema: a reader that does not know it refuses
/// the record instead of taking it for another value.
macro_rules! text_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident as $what:literal {
            $( $(#[$doc:meta])* $variant:ident = $text:literal ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub enum $name {
            $( $(#[$doc])* $variant ),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];

            /// As it is written.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $text ),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let found = Self::ALL.iter().find(|value| value.as_str() == text);
                found.copied().ok_or_else(|| {
                    let known: Vec<&str> = Self::ALL.iter().map(|value| value.as_str()).collect();
                    format!("{} {text:?} is unknown; known are: {}", $what, known.join(", "))
                })
            }
        }
    };
}
use text_enum;

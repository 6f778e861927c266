//! An aggregate of the tests' own: a hall that has fifty seats, so that races have a right answer.

use millrace::aggregate::{Aggregate, Context};
use serde::{Deserialize, Serialize};

/// How many seats a hall has.
pub const SEATS: usize = 50;

millrace::events! {
    /// What happens in a hall.
    pub enum HallEvent for "hall" in "venue" {
        HallSeatReserved [1],
        HallSeatReleased [1],
    }
}

millrace::commands! {
    /// What can be asked of a hall.
    pub enum HallCommand for "hall" in "venue" {
        ReserveSeat [1],
        ReleaseSeat [1],
        AdmitMember [1] secret ["pin"],
    }
}

millrace::integration_events! {
    /// What the venue tells others.
    pub enum VenuePublished for "venue" in "venue" {
        SeatTaken [1],
    }
}

/// Somebody of rank took a seat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatTaken {
    /// Who.
    pub guest: String,
}

/// A seat was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HallSeatReserved {
    /// By whom.
    pub guest: String,
}

/// A seat was given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HallSeatReleased {
    /// By whom.
    pub guest: String,
}

/// Takes a seat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveSeat {
    /// For whom.
    pub guest: String,
}

/// Gives a seat back; nothing happens where the guest has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSeat {
    /// Whose.
    pub guest: String,
}

/// Takes a seat for someone who proves who they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmitMember {
    /// For whom.
    pub guest: String,
    /// A secret.
    pub pin: String,
}

/// Why a hall refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No seat is left.
    #[error("all {SEATS} seats are taken")]
    Full,
}

/// Who sits in the hall.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hall {
    guests: Vec<String>,
}

impl Aggregate for Hall {
    type Command = HallCommand;
    type Event = HallEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(&self, command: HallCommand, _: &Context) -> Result<Vec<HallEvent>, Rejection> {
        match command {
            HallCommand::ReserveSeat(ReserveSeat { guest }) if guest == "the devil" => {
                panic!("a fault in the rules, as the test wants it")
            }
            HallCommand::ReserveSeat(ReserveSeat { guest })
            | HallCommand::AdmitMember(AdmitMember { guest, .. }) => {
                if self.guests.len() >= SEATS {
                    return Err(Rejection::Full);
                }
                Ok(vec![HallSeatReserved { guest }.into()])
            }
            HallCommand::ReleaseSeat(ReleaseSeat { guest }) => {
                if self.guests.contains(&guest) {
                    Ok(vec![HallSeatReleased { guest }.into()])
                } else {
                    Ok(vec![])
                }
            }
        }
    }

    fn evolve(&mut self, event: &HallEvent) {
        match event {
            HallEvent::HallSeatReserved(reserved) => self.guests.push(reserved.guest.clone()),
            HallEvent::HallSeatReleased(released) => {
                if let Some(at) = self
                    .guests
                    .iter()
                    .position(|guest| *guest == released.guest)
                {
                    self.guests.remove(at);
                }
            }
        }
    }
}

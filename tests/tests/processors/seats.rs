//! The processor under test: whoever takes a seat in one hall is given one in the hall named after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use millrace::codec::Codec;
use millrace::event::{Event, Recorded};
use millrace::processor::{
    HandleError, Handler, Order, Outbox, Outgoing, Processor, RunError, Start, Topology,
};
use millrace::projection::Record;
use tests::hall::{HallEvent, ReleaseSeat, ReserveSeat, SeatTaken, VenuePublished};

/// What stands in the handler's way; shared with the test.
#[derive(Default)]
pub(super) struct Weather {
    /// How often the guest "late" is still turned away for now.
    pub(super) late: AtomicU32,
    /// While above 0, the guest "wrong" is poison.
    pub(super) wrong: AtomicU32,
    /// How often a handler ran.
    pub(super) runs: AtomicU32,
    /// Taken by the guest "sleeper", who waits for it.
    pub(super) sleep: std::sync::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

pub(super) struct Mirror(pub(super) Arc<Weather>);

fn mirror(
    weather: &Weather,
    event: &Recorded<HallEvent>,
    out: &mut Outbox<'_>,
) -> Result<(), HandleError> {
    weather.runs.fetch_add(1, Ordering::SeqCst);
    let target = format!("{}-annex", event.aggregate_id);
    match &event.event {
        HallEvent::HallSeatReserved(reserved) => {
            let guest = &reserved.guest;
            if guest == "late" && weather.late.load(Ordering::SeqCst) > 0 {
                weather.late.fetch_sub(1, Ordering::SeqCst);
                return Err(HandleError::Transient("late is not there yet".to_owned()));
            }
            if guest == "wrong" && weather.wrong.load(Ordering::SeqCst) > 0 {
                return Err(HandleError::Poison("wrong cannot be placed".to_owned()));
            }
            if guest == "devil" {
                panic!("a fault in the handler, as the test wants it");
            }
            if guest == "sleeper" {
                let taken = weather.sleep.lock().unwrap().take();
                if let Some(wake) = taken {
                    let _ = wake.recv();
                }
            }
            if guest.ends_with("herald") {
                let guest = guest.clone();
                out.publish::<VenuePublished>(SeatTaken { guest });
            }
            if guest == "false herald" {
                return Err(HandleError::Poison("nobody sent this herald".to_owned()));
            }
            let command = ReserveSeat {
                guest: guest.clone(),
            };
            out.send(&target, &command);
            if guest == "couple" {
                out.send(&target, &command);
            }
        }
        HallEvent::HallSeatReleased(released) => {
            out.send(
                &target,
                &ReleaseSeat {
                    guest: released.guest.clone(),
                },
            );
        }
    }
    Ok(())
}

impl Processor for Mirror {
    const NAME: &'static str = "mirror";
    const START: Start = Start::Earliest;
    type Event = HallEvent;

    fn handle(&self, event: &Recorded<HallEvent>, out: &mut Outbox<'_>) -> Result<(), HandleError> {
        mirror(&self.0, event, out)
    }
}

/// The same, but the order of a hall's events does not matter to it.
pub(super) struct Unordered(pub(super) Arc<Weather>);

impl Processor for Unordered {
    const NAME: &'static str = "mirror";
    const START: Start = Start::Earliest;
    const ORDER: Order = Order::Any;
    type Event = HallEvent;

    fn handle(&self, event: &Recorded<HallEvent>, out: &mut Outbox<'_>) -> Result<(), HandleError> {
        mirror(&self.0, event, out)
    }
}

/// A processor under another name and on other topics: tests run at the same time on one broker.
pub(super) struct Own {
    pub(super) inner: Arc<dyn Handler>,
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) commands: String,
    pub(super) published: String,
}

impl Own {
    pub(super) fn of(topology: &Topology, tail: &str) -> Self {
        Self {
            inner: topology.handlers()[0].clone(),
            name: format!("mirror-{tail}"),
            topic: format!("hall-{tail}.events"),
            commands: format!("hall-{tail}.commands"),
            published: format!("hall-{tail}.published"),
        }
    }
}

impl Handler for Own {
    fn name(&self) -> &str {
        &self.name
    }

    fn topic(&self) -> String {
        self.topic.clone()
    }

    fn start(&self) -> Start {
        self.inner.start()
    }

    fn order(&self) -> Order {
        self.inner.order()
    }

    fn run(&self, codec: &Codec, record: &Record) -> Result<Vec<Outgoing>, RunError> {
        let mut outgoing = self.inner.run(codec, record)?;
        for one in &mut outgoing {
            one.topic
                .clone_from(if one.topic == VenuePublished::topic() {
                    &self.published
                } else {
                    &self.commands
                });
        }
        Ok(outgoing)
    }
}

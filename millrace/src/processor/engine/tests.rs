//! What bounds a step, and how long failures pause it.

use super::*;
use crate::log::record::HeaderBlock;
use crate::projection::Start;

/// Leads to many commands whatever the record is.
struct Fan(usize);

impl Handler for Fan {
    fn name(&self) -> &str {
        "fan"
    }

    fn topic(&self) -> String {
        "counter.events".to_owned()
    }

    fn start(&self) -> Start {
        Start::Earliest
    }

    fn order(&self) -> Order {
        Order::PerKey
    }

    fn run(&self, _: &Codec, _: &Record) -> Result<Vec<Outgoing>, RunError> {
        let one = Outgoing {
            topic: "mirror.commands".to_owned(),
            partition: None,
            key: None,
            payload: None,
            headers: HeaderBlock::default(),
        };
        Ok(vec![one; self.0])
    }
}

#[test]
fn events_that_lead_to_many_commands_are_spread_over_several_transactions() {
    let retries = Retries {
        attempts_max: 1,
        first: Duration::ZERO,
        longest: Duration::ZERO,
    };
    let mut engine = Engine::new(Arc::new(Fan(1_000)), Codec::default(), retries);
    let key = ("counter.events".to_owned(), 0);
    engine.take(key.clone(), Claim::default());
    for offset in 0..50 {
        let at = ("counter.events".into(), 0, offset);
        engine.push(Record::new(at, None, None, HeaderBlock::default()));
    }
    let mut learn = |_| -> Result<(), LearnError> { unreachable!("nothing is decoded") };
    for (handled, next) in [(20, 20), (20, 40), (10, 50), (0, 50)] {
        let step = engine.work(Duration::ZERO, 2_000, &mut learn);
        assert_eq!((step.handled, step.emitted), (handled, handled * 1_000));
        assert_eq!(step.outgoing.len(), step.emitted);
        assert_eq!(engine.positions()[&key].next, next);
    }
}

#[test]
fn pauses_double_up_to_the_longest_and_vary() {
    let retries = Retries {
        attempts_max: 5,
        first: Duration::from_millis(100),
        longest: Duration::from_secs(2),
    };
    assert_eq!(retries.pause(1, 0.0), Duration::from_millis(50));
    assert_eq!(retries.pause(1, 1.0), Duration::from_millis(100));
    assert_eq!(retries.pause(3, 1.0), Duration::from_millis(400));
    assert_eq!(retries.pause(60, 1.0), Duration::from_secs(2));
    assert!((0..100).all(|n| (0.0..1.0).contains(&dice(n, n as u32))));
}

#[test]
fn a_replay_goes_back_once_and_what_was_read_ahead_is_taken_again() {
    let retries = Retries {
        attempts_max: 1,
        first: Duration::ZERO,
        longest: Duration::ZERO,
    };
    let mut engine = Engine::new(Arc::new(Fan(1)), Codec::default(), retries);
    let key = ("counter.events".to_owned(), 0);
    let at = |offset: i64| Claim {
        committed: Some(Committed {
            offset,
            metadata: metadata_with(1, offset, &Handled::default()),
        }),
        ..Claim::default()
    };
    assert_eq!(engine.take(key.clone(), at(50)), 50);
    let replay = Replay {
        id: uuid::Uuid::from_u128(7),
        from: 20,
    };
    let request = super::super::block::replay_request("fan", ("counter.events", 0), &replay);
    let asked = (request.key.unwrap(), request.payload.unwrap());
    engine.hear(0, &asked.0, Some(&asked.1));
    let (of, step) = engine.replay().unwrap();
    assert_eq!(of, key);
    let committed = step.offsets[&key].clone();
    assert_eq!(
        (committed.offset, committed.handled().replay),
        (20, Some(replay.id))
    );
    assert!(!committed.is_reset());
    // The request is struck out in the same step.
    let last = step.outgoing.last().unwrap();
    assert_eq!((last.key.as_ref(), &last.payload), (Some(&asked.0), &None));
    assert_eq!(engine.replay().map(|(of, _)| of), None);

    // Asked again, by one who does not know that it was followed: it stays where it has come to.
    engine.release(&key);
    let mut handled = committed.handled();
    handled.events = 15;
    let on = Committed {
        offset: 35,
        metadata: metadata_with(2, 35, &handled),
    };
    let claim = Claim {
        committed: Some(on),
        blocked: vec![asked],
        ..Claim::default()
    };
    assert_eq!(engine.take(key.clone(), claim), 35);
    let (_, step) = engine.replay().unwrap();
    assert_eq!(step.offsets[&key].offset, 35);
    assert_eq!(step.outgoing.len(), 1);
}

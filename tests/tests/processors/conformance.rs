//! What every log under a topology must do: run over the one in memory and over Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context, Result};
use millrace::codec::Codec;
use millrace::processor::{Block, Letter, State, Topology, command_id};
use millrace::projection::Record;
use tests::hall::{HallCommand, HallEvent, HallSeatReserved};
use uuid::Uuid;

use super::published::{
    Heard, what_cannot_be_handled_publishes_nothing,
    what_is_published_is_a_record_of_its_own_that_says_what_it_came_from,
};
use super::seats::{Mirror, Unordered, Weather};

pub(super) fn reserved(guest: &str) -> HallEvent {
    HallSeatReserved {
        guest: guest.to_owned(),
    }
    .into()
}

/// A command as it stands on its topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Emitted {
    pub(super) id: Uuid,
    pub(super) aggregate_id: String,
    pub(super) command: HallCommand,
    pub(super) headers: BTreeMap<String, String>,
}

impl Emitted {
    pub(super) fn of(codec: &Codec, record: &Record) -> Result<Self> {
        let key = String::from_utf8(record.key.clone().context("no key")?)?;
        let command = codec.decode_command(record.payload.as_deref().context("no value")?)?;
        let mut emitted = Self::from_parts(Uuid::nil(), key, command, record);
        emitted.id = emitted.headers.get("ce_id").context("no id")?.parse()?;
        Ok(emitted)
    }

    pub(super) fn from_parts(
        id: Uuid,
        aggregate_id: String,
        command: HallCommand,
        record: &Record,
    ) -> Self {
        let text =
            |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        let headers = record.headers.iter();
        Self {
            id,
            aggregate_id,
            command,
            headers: headers
                .map(|(name, value)| (name.to_owned(), text(value)))
                .collect(),
        }
    }

    pub(super) fn guest(&self) -> &str {
        match &self.command {
            HallCommand::ReserveSeat(command) => &command.guest,
            HallCommand::ReleaseSeat(command) => &command.guest,
            HallCommand::AdmitMember(command) => &command.guest,
        }
    }
}

/// A log of one partition with a running topology over it.
pub(super) trait Log: Sized {
    async fn open(topology: Topology) -> Result<Self>;
    fn pipe(&mut self, hall: &str, event: HallEvent) -> Result<Uuid>;
    fn pipe_foreign(&mut self, key: &str, payload: &[u8]) -> Result<()>;
    /// Returns when the group has committed this offset with our metadata.
    async fn settled(&mut self, offset: i64) -> Result<()>;
    fn commands(&mut self) -> Result<Vec<Emitted>>;
    fn published(&mut self) -> Result<Vec<Heard>>;
    fn letters(&mut self) -> Result<Vec<Letter>>;
    fn blocks(&mut self) -> Result<Vec<Block>>;
    /// Returns when the owner has executed it; `skip` names the first waiting letter, which is given up.
    async fn redrive(&mut self, key: &str, skip: Option<i64>) -> Result<()>;
    async fn restart(&mut self) -> Result<()>;
    /// As the stock tool does it, on a stopped group that is started again afterwards.
    async fn reset(&mut self, offset: i64) -> Result<()>;
}

pub(super) fn topology() -> (Arc<Weather>, Topology) {
    let weather = Arc::new(Weather::default());
    (weather.clone(), Topology::new().processor(Mirror(weather)))
}

pub(super) fn guests(commands: &[Emitted], hall: &str) -> Vec<String> {
    let annex = format!("{hall}-annex");
    commands
        .iter()
        .filter(|one| one.aggregate_id == annex)
        .map(|one| one.guest().to_owned())
        .collect()
}

async fn a_reset_emits_the_same_commands_with_the_same_ids<L: Log>() -> Result<()> {
    let (_, topology) = topology();
    let mut log = L::open(topology).await?;
    for (hall, guest) in [("a", "ada"), ("b", "couple"), ("a", "bob")] {
        log.pipe(hall, reserved(guest))?;
    }
    log.settled(3).await?;
    let first = log.commands()?;
    assert_eq!(first.len(), 4);
    log.reset(0).await?;
    log.settled(3).await?;
    let both = log.commands()?;
    assert_eq!(both.len(), 8);
    assert_eq!(both[4..], first);
    let ids: BTreeSet<Uuid> = first.iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), 4);
    Ok(())
}

async fn what_may_work_later_is_tried_again_in_its_place<L: Log>() -> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.late.store(3, SeqCst);
    for guest in ["ada", "late", "bob"] {
        log.pipe("a", reserved(guest))?;
    }
    log.settled(3).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["ada", "late", "bob"]);
    assert_eq!(log.letters()?.len(), 0);
    assert_eq!(weather.runs.load(SeqCst), 6);
    Ok(())
}

async fn what_failed_too_often_blocks_its_key_and_no_other<L: Log>() -> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.late.store(1_000, SeqCst);
    for (hall, guest) in [("a", "ada"), ("a", "late"), ("a", "bob"), ("b", "eve")] {
        log.pipe(hall, reserved(guest))?;
    }
    log.settled(4).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["ada"]);
    assert_eq!(guests(&log.commands()?, "b"), ["eve"]);
    let letters = log.letters()?;
    let told: Vec<_> = letters
        .iter()
        .map(|one| (one.record.offset, one.cause.as_str(), one.attempts))
        .collect();
    assert_eq!(told, [(1, "exhausted", 4), (2, "behind", 0)]);
    assert_eq!(letters[0].reason, "late is not there yet");
    let blocks = log.blocks()?;
    assert_eq!(blocks.len(), 1);
    assert_eq!(
        (blocks[0].key.as_str(), blocks[0].first, blocks[0].last),
        ("a", 1, 2)
    );
    Ok(())
}

async fn a_dead_letter_is_redriven_in_order_with_what_followed_it<L: Log>() -> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.wrong.store(1, SeqCst);
    let event = log.pipe("a", reserved("wrong"))?;
    for (hall, guest) in [("a", "bob"), ("b", "eve"), ("a", "joe")] {
        log.pipe(hall, reserved(guest))?;
    }
    log.settled(4).await?;
    let letter = &log.letters()?[0];
    assert_eq!(letter.record.key.as_deref(), Some(&b"a"[..]));
    let envelope = letter.record.envelope.as_ref().unwrap();
    assert_eq!((envelope.metadata.event_id, envelope.sequence), (event, 1));
    assert_eq!((letter.cause.as_str(), letter.attempts), ("poison", 1));
    // Nothing has changed: it fails again, and stays with the rest.
    log.redrive("a", None).await?;
    let block = log.blocks()?.remove(0);
    assert_eq!((block.first, block.last, block.attempts), (0, 3, 2));
    assert_eq!(guests(&log.commands()?, "a"), [""; 0]);
    weather.wrong.store(0, SeqCst);
    log.redrive("a", None).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["wrong", "bob", "joe"]);
    assert_eq!(log.blocks()?, []);
    assert!(
        log.letters()?
            .iter()
            .all(|one| one.state == State::Redriven)
    );
    // The same id as without the detour.
    let id = command_id(event, "mirror", ("hall", "a-annex"), "ReserveSeat", 0);
    assert!(log.commands()?.iter().any(|one| one.id == id));
    log.pipe("a", reserved("amy"))?;
    log.settled(5).await?;
    assert_eq!(
        guests(&log.commands()?, "a"),
        ["wrong", "bob", "joe", "amy"]
    );
    Ok(())
}

async fn a_block_survives_a_restart_and_ends_with_its_redrive<L: Log>() -> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.wrong.store(1, SeqCst);
    log.pipe("a", reserved("wrong"))?;
    log.settled(1).await?;
    weather.wrong.store(0, SeqCst);
    log.restart().await?;
    log.pipe("a", reserved("bob"))?;
    log.settled(2).await?;
    assert_eq!(guests(&log.commands()?, "a"), [""; 0]);
    assert_eq!(log.blocks()?[0].last, 1);
    log.redrive("a", None).await?;
    log.restart().await?;
    log.pipe("a", reserved("joe"))?;
    log.settled(3).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["wrong", "bob", "joe"]);
    Ok(())
}

async fn a_dead_letter_that_is_given_up_lets_those_behind_it_go_on<L: Log>() -> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.wrong.store(1, SeqCst);
    for guest in ["wrong", "bob", "wrong", "joe"] {
        log.pipe("a", reserved(guest))?;
    }
    log.settled(4).await?;
    log.redrive("a", Some(0)).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["bob"]);
    // The next one is judged by itself.
    let block = log.blocks()?.remove(0);
    assert_eq!((block.first, block.last, block.attempts), (2, 3, 1));
    log.redrive("a", Some(2)).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["bob", "joe"]);
    assert_eq!(log.blocks()?, []);
    let states: Vec<State> = log.letters()?.iter().map(|one| one.state).collect();
    let expected = [State::Skipped, State::Redriven];
    assert_eq!(states, [expected, expected].concat());
    log.pipe("a", reserved("amy"))?;
    log.settled(5).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["bob", "joe", "amy"]);
    Ok(())
}

async fn a_redrive_that_fails_in_the_middle_keeps_the_rest_blocked<L: Log>() -> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.late.store(4, SeqCst);
    weather.wrong.store(1, SeqCst);
    for guest in ["late", "bob", "wrong", "joe"] {
        log.pipe("a", reserved(guest))?;
    }
    log.settled(4).await?;
    log.redrive("a", None).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["late", "bob"]);
    let block = log.blocks()?.remove(0);
    assert_eq!((block.first, block.last, block.attempts), (2, 3, 1));
    assert_eq!(block.reason, "wrong cannot be placed");
    weather.wrong.store(0, SeqCst);
    log.redrive("a", None).await?;
    assert_eq!(
        guests(&log.commands()?, "a"),
        ["late", "bob", "wrong", "joe"]
    );
    assert_eq!(log.blocks()?, []);
    Ok(())
}

async fn a_reset_clears_the_blocks_that_it_covers_and_supersedes_their_letters<L: Log>()
-> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.wrong.store(1, SeqCst);
    for (hall, guest) in [
        ("a", "wrong"),
        ("b", "ada"),
        ("a", "bob"),
        ("b", "wrong"),
        ("a", "joe"),
    ] {
        log.pipe(hall, reserved(guest))?;
    }
    log.settled(5).await?;
    assert_eq!(log.blocks()?.len(), 2);
    weather.wrong.store(0, SeqCst);
    // Before b's letter, in the middle of a's.
    log.reset(2).await?;
    log.settled(5).await?;
    assert_eq!(guests(&log.commands()?, "b"), ["ada", "wrong"]);
    assert_eq!(guests(&log.commands()?, "a"), [""; 0]);
    let blocks = log.blocks()?;
    assert_eq!(blocks.len(), 1);
    assert_eq!(
        (blocks[0].key.as_str(), blocks[0].first, blocks[0].last),
        ("a", 0, 4)
    );
    let open: Vec<i64> = log
        .letters()?
        .iter()
        .filter(|one| one.state == State::Open)
        .map(|one| one.record.offset)
        .collect();
    assert_eq!(open, [0, 2, 4]);
    log.reset(0).await?;
    log.settled(5).await?;
    assert_eq!(log.blocks()?, []);
    assert_eq!(guests(&log.commands()?, "a"), ["wrong", "bob", "joe"]);
    assert!(
        log.letters()?
            .iter()
            .all(|one| one.state == State::Superseded)
    );
    Ok(())
}

async fn a_reset_forwards_skips_and_leaves_the_letters_alone<L: Log>() -> Result<()> {
    let (weather, topology) = topology();
    let mut log = L::open(topology).await?;
    weather.wrong.store(1, SeqCst);
    log.pipe("a", reserved("wrong"))?;
    log.settled(1).await?;
    log.reset(1).await?;
    log.pipe("a", reserved("bob"))?;
    log.pipe("b", reserved("eve"))?;
    log.settled(3).await?;
    assert_eq!(log.blocks()?[0].last, 1);
    assert_eq!(guests(&log.commands()?, "b"), ["eve"]);
    Ok(())
}

async fn where_order_does_not_matter_a_dead_letter_blocks_nothing<L: Log>() -> Result<()> {
    let weather = Arc::new(Weather::default());
    let mut log = L::open(Topology::new().processor(Unordered(weather.clone()))).await?;
    weather.wrong.store(1, SeqCst);
    for guest in ["ada", "wrong", "bob", "devil", "joe"] {
        log.pipe("a", reserved(guest))?;
    }
    log.settled(5).await?;
    assert_eq!(guests(&log.commands()?, "a"), ["ada", "bob", "joe"]);
    assert_eq!(log.letters()?.len(), 2);
    weather.wrong.store(0, SeqCst);
    log.redrive("a", None).await?;
    assert_eq!(
        guests(&log.commands()?, "a"),
        ["ada", "bob", "joe", "wrong"]
    );
    let states: Vec<_> = log.letters()?.iter().map(|one| one.state).collect();
    assert_eq!(states, [State::Redriven, State::Open]);
    assert_eq!(log.blocks()?[0].first, 3);
    Ok(())
}

async fn a_record_that_is_no_event_and_a_handler_that_panics_make_dead_letters<L: Log>()
-> Result<()> {
    let (_, topology) = topology();
    let mut log = L::open(topology).await?;
    log.pipe_foreign("x", b"not ours")?;
    log.pipe("a", reserved("devil"))?;
    log.pipe("b", reserved("eve"))?;
    log.settled(3).await?;
    let letters = log.letters()?;
    assert_eq!(letters[0].record.payload.as_deref(), Some(&b"not ours"[..]));
    assert_eq!(letters[0].record.headers.iter().count(), 0);
    assert!(
        letters[0].reason.contains("header"),
        "{}",
        letters[0].reason
    );
    assert!(
        letters[1].reason.contains("panicked"),
        "{}",
        letters[1].reason
    );
    assert_eq!(guests(&log.commands()?, "b"), ["eve"]);
    Ok(())
}

macro_rules! suite {
    ($module:ident, $log:ty, [$($test:ident),+ $(,)?]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() -> anyhow::Result<()> {
                    super::$test::<$log>().await
                }
            )+
        }
    };
    ($($test:ident),+ $(,)?) => {
        suite!(in_memory, super::super::memory::Memory, [$($test),+]);
        suite!(over_kafka, super::super::kafka::Running, [$($test),+]);
    };
}

suite![
    a_reset_emits_the_same_commands_with_the_same_ids,
    what_is_published_is_a_record_of_its_own_that_says_what_it_came_from,
    what_cannot_be_handled_publishes_nothing,
    what_may_work_later_is_tried_again_in_its_place,
    what_failed_too_often_blocks_its_key_and_no_other,
    a_dead_letter_is_redriven_in_order_with_what_followed_it,
    a_block_survives_a_restart_and_ends_with_its_redrive,
    a_dead_letter_that_is_given_up_lets_those_behind_it_go_on,
    a_redrive_that_fails_in_the_middle_keeps_the_rest_blocked,
    a_reset_clears_the_blocks_that_it_covers_and_supersedes_their_letters,
    a_reset_forwards_skips_and_leaves_the_letters_alone,
    where_order_does_not_matter_a_dead_letter_blocks_nothing,
    a_record_that_is_no_event_and_a_handler_that_panics_make_dead_letters,
];

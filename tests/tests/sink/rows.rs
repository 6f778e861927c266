//! What each kind of view writes, and that it is written exactly once.

use anyhow::Result;
use millrace::event::Recorded;
use millrace::projection::checkpoint::{self, Beginning, Move};
use millrace::projection::reset;
use millrace::projection::sql::PgConnection;
use millrace::projection::{
    Dynamic, Fold, Poison, Rows, SqlError, SqlProjection, Start, Tally, fold, sql_projection, tally,
};
use tests::hall::HallEvent;
use tests::servers::Servers;
use tests::wait::eventually;

use super::world::World;

millrace::view_row! {
    /// A hall.
    pub struct HallRow in "halls" {
        /// Seats taken.
        taken: i64,
        /// Who came last.
        last_guest: Option<String>,
    }
}

/// One row a hall; none while it is empty.
pub(super) struct Halls;

impl Fold for Halls {
    const NAME: &'static str = "halls";
    const START: Start = Start::Earliest;
    const SQL: &'static str = "
        CREATE TABLE halls (
            aggregate_id text COLLATE \"C\" PRIMARY KEY, source text NOT NULL,
            version bigint NOT NULL, incomplete boolean NOT NULL,
            taken bigint NOT NULL, last_guest text);
        CREATE VIEW views.halls AS SELECT aggregate_id AS hall, taken, last_guest, version, incomplete FROM halls;";
    type Event = HallEvent;
    type Rows = Option<HallRow>;

    fn evolve(&self, row: &mut Option<HallRow>, event: &Recorded<HallEvent>) -> Result<(), Poison> {
        match &event.event {
            HallEvent::HallSeatReserved(reserved) => {
                let hall = row.get_or_insert_with(|| HallRow {
                    taken: 0,
                    last_guest: None,
                });
                hall.taken += 1;
                hall.last_guest = Some(reserved.guest.clone());
            }
            HallEvent::HallSeatReleased(_) => {
                let hall = row
                    .as_mut()
                    .ok_or_else(|| Poison::new("the hall is empty"))?;
                hall.taken -= 1;
                if hall.taken == 0 {
                    *row = None;
                }
            }
        }
        Ok(())
    }
}

millrace::view_row! {
    /// A guest in a hall.
    pub struct SeatRow in "seats" {
        key {
            /// Who.
            guest: String,
        }
        /// How many seats.
        seats: i64,
    }
}

/// A row for each guest of a hall.
struct Seats;

impl Fold for Seats {
    const NAME: &'static str = "seats";
    const START: Start = Start::Earliest;
    const SQL: &'static str = "
        CREATE TABLE seats (
            aggregate_id text COLLATE \"C\", source text NOT NULL,
            version bigint NOT NULL, incomplete boolean NOT NULL,
            guest text COLLATE \"C\", seats bigint NOT NULL, PRIMARY KEY (aggregate_id, guest));
        CREATE VIEW views.seats AS SELECT aggregate_id AS hall, guest, seats FROM seats;";
    type Event = HallEvent;
    type Rows = Rows<SeatRow>;

    fn evolve(&self, rows: &mut Rows<SeatRow>, event: &Recorded<HallEvent>) -> Result<(), Poison> {
        match &event.event {
            HallEvent::HallSeatReserved(reserved) => {
                let key = (reserved.guest.clone(),);
                match rows.get_mut(&key) {
                    Some(row) => row.seats += 1,
                    None => rows.put(SeatRow {
                        guest: reserved.guest.clone(),
                        seats: 1,
                    }),
                }
            }
            HallEvent::HallSeatReleased(released) => {
                rows.remove(&(released.guest.clone(),));
            }
        }
        Ok(())
    }
}

millrace::tally_row! {
    /// A guest's reservations, in all halls.
    pub struct GuestTotal in "guest_totals" {
        key {
            /// Who.
            guest: String,
        }
        /// How often.
        reservations: i64,
    }
}

pub(super) struct GuestTotals;

impl Tally for GuestTotals {
    const NAME: &'static str = "guest-totals";
    const START: Start = Start::Earliest;
    const SQL: &'static str = "
        CREATE TABLE guest_totals (
            guest text COLLATE \"C\", source text NOT NULL, reservations bigint NOT NULL,
            PRIMARY KEY (guest, source));
        CREATE VIEW views.guest_totals AS
        SELECT guest, sum(reservations)::bigint AS reservations FROM guest_totals GROUP BY guest;";
    type Event = HallEvent;
    type Row = GuestTotal;

    fn add(&self, event: &Recorded<HallEvent>) -> Result<Vec<GuestTotal>, Poison> {
        Ok(match &event.event {
            HallEvent::HallSeatReserved(reserved) => vec![GuestTotal {
                guest: reserved.guest.clone(),
                reservations: 1,
            }],
            HallEvent::HallSeatReleased(_) => vec![],
        })
    }
}

/// Every event as JSON.
struct HallLog;

impl SqlProjection for HallLog {
    const NAME: &'static str = "hall-log";
    const START: Start = Start::Earliest;
    const SQL: &'static str = "
        CREATE TABLE hall_log (hall text, sequence bigint, data jsonb NOT NULL, source text NOT NULL,
            PRIMARY KEY (hall, sequence));
        CREATE VIEW views.hall_log AS SELECT hall, sequence, data FROM hall_log;";
    type Payload = Dynamic;

    fn topics(&self) -> Vec<String> {
        Vec::new()
    }

    async fn project(
        &self,
        events: &[&Recorded<Dynamic>],
        tx: &mut PgConnection,
    ) -> Result<(), SqlError> {
        for event in events {
            sqlx::query("INSERT INTO hall_log VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
                .bind(&event.aggregate_id)
                .bind(event.sequence)
                .bind(&event.event.data)
                .bind(event.source())
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }
}

fn name(view: &dyn millrace::projection::Projector) -> String {
    format!("views.{}", view.view_name())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_view_shows_every_event_once() -> Result<()> {
    let mut world = World::new(Servers::shared(), 4).await?;
    let views = [
        world.view(fold(Halls)),
        world.view(fold(Seats)),
        world.view(tally(GuestTotals)),
        world.view(sql_projection(HallLog)),
    ];
    let mut sinks = Vec::new();
    for view in &views {
        sinks.push(world.sink(view).await?);
    }
    for round in 0..10 {
        for hall in 0..20 {
            world.reserve(&format!("h{hall}"), &format!("g{round}"))?;
        }
    }
    for hall in 0..20 {
        world.release(&format!("h{hall}"), "g3")?;
    }
    let [halls, seats, totals, log] = [0, 1, 2, 3].map(|at| name(&*views[at]));
    world
        .until(
            &format!("SELECT count(*) FROM {halls} WHERE taken = 9 AND version = 11"),
            20,
        )
        .await?;
    world
        .until(
            &format!("SELECT count(*) FROM {seats} WHERE seats = 1 AND guest <> 'g3'"),
            180,
        )
        .await?;
    world
        .until(&format!("SELECT count(*) FROM {seats}"), 180)
        .await?;
    world
        .until(
            &format!("SELECT count(*) FROM {totals} WHERE reservations = 20"),
            10,
        )
        .await?;
    world
        .until(
            &format!("SELECT count(*) FROM {log} WHERE data ? 'guest'"),
            220,
        )
        .await?;
    for sink in sinks {
        assert!(sink.health().healthy, "{:?}", sink.health());
        sink.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_repeated_in_the_topic_changes_no_row_of_a_fold() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world.reserve("h", "bob")?;
    let again = world.codec.encode::<HallEvent>(
        &tests::hall::HallSeatReserved {
            guest: "ada".to_owned(),
        }
        .into(),
    )?;
    world.produce_raw("h", 1, &again.1)?;
    world.produce_raw("h", 2, &again.1)?;
    world.reserve("h", "eve")?;
    let halls = name(&*view);
    world
        .until(&format!("SELECT version FROM {halls}"), 3)
        .await?;
    assert_eq!(world.count(&format!("SELECT taken FROM {halls}")).await, 3);
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_without_a_row_remembers_its_version() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let halls = name(&*view);
    for _ in 0..2 {
        let sink = world.sink(&view).await?;
        world.reserve("h", "ada")?;
        world
            .until(&format!("SELECT count(*) FROM {halls}"), 1)
            .await?;
        world.release("h", "ada")?;
        world
            .until(&format!("SELECT count(*) FROM {halls}"), 0)
            .await?;
        sink.stop().await?;
    }
    assert_eq!(
        world
            .count("SELECT count(*) FROM millrace_views.parked")
            .await,
        0
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_two_commits_resumes_from_the_checkpoint() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(tally(GuestTotals));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM {}",
        name(&*view)
    );
    let sink = world.sink(&view).await?;
    for _ in 0..50 {
        world.reserve("h", "ada")?;
    }
    world.until(&totals, 50).await?;
    sink.stop().await?;
    // What a crash after the Postgres commit leaves: an older offset of ours in Kafka.
    set_group(&world, &view.group(), 10, &reset::metadata(1, 10))?;
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world.until(&totals, 51).await?;
    sink.stop().await?;
    assert_eq!(
        world
            .count("SELECT count(*) FROM millrace_views.resets")
            .await,
        0
    );
    let (offset, metadata) = world.committed(&view.group(), 0)?.unwrap();
    assert_eq!(offset, 51);
    assert!(metadata.starts_with("v1;"), "{metadata}");
    Ok(())
}

pub(super) fn set_group(world: &World<'_>, group: &str, offset: i64, metadata: &str) -> Result<()> {
    use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", world.servers.kafka())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()?;
    let mut list = rdkafka::TopicPartitionList::new();
    let mut element = list.add_partition(&world.topic, 0);
    element.set_offset(rdkafka::Offset::Offset(offset))?;
    element.set_metadata(metadata);
    consumer.commit(&list, CommitMode::Sync)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_owner_writes_nothing_and_the_true_owner_goes_on() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(tally(GuestTotals));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM {}",
        name(&*view)
    );
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world.until(&totals, 1).await?;
    // A process that only believes itself assigned claims the partition and writes a batch of its own.
    let mut conn = world.pool.acquire().await?;
    let key = [(world.topic.clone(), 0)];
    let no_beginning: [Beginning; 0] = [];
    let stale = checkpoint::claim(&mut conn, view.name(), &key, &no_beginning, "a zombie").await?;
    let stale = stale.into_iter().next().unwrap();
    assert_eq!(stale.next, 1);
    world.reserve("h", "ada")?;
    world.until(&totals, 2).await?;
    // The true owner has proven itself and claimed again: the zombie's epoch is worth nothing.
    let step = Move {
        expected: 2,
        next: 3,
        ..stale.stay()
    };
    let lost = checkpoint::advance(&mut conn, view.name(), &[step]).await?;
    assert_eq!(lost, key);
    // Nor does a reset that it believes to see start a rebuild.
    assert!(!checkpoint::record_reset(&mut conn, view.name(), &stale, 0).await?);
    let resets = "SELECT count(*) FROM millrace_views.resets";
    assert_eq!(world.count(resets).await, 0);
    world.reserve("h", "ada")?;
    world.until(&totals, 3).await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_the_partitions_and_hand_them_over() -> Result<()> {
    let mut world = World::new(Servers::shared(), 6).await?;
    let view = world.view(tally(GuestTotals));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM {}",
        name(&*view)
    );
    let first = world.sink(&view).await?;
    let mut sent = 0;
    let mut load = |world: &mut World<'_>| -> Result<i64> {
        for n in 0..300 {
            world.reserve(&format!("h{n}"), "ada")?;
        }
        sent += 300;
        Ok(sent)
    };
    let expected = load(&mut world)?;
    world.until(&totals, expected).await?;
    let second = world.sink(&view).await?;
    load(&mut world)?;
    eventually("each holds three", || async {
        first.health().partitions == 3 && second.health().partitions == 3
    })
    .await?;
    let expected = load(&mut world)?;
    world.until(&totals, expected).await?;
    assert!(second.health().applied > 0);
    load(&mut world)?;
    first.stop().await?;
    let expected = load(&mut world)?;
    world.until(&totals, expected).await?;
    assert_eq!(second.health().partitions, 6);
    second.stop().await?;
    Ok(())
}

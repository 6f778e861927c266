//! The write side on a real Postgres and registry: what is accepted, refused and repeated.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chrono::Utc;
use futures::future::join_all;
use millrace::codec::Codec;
use millrace::command::{
    Accepted, AggregateType, CommandError, CommandId, Commands, Envelope, Moment, WriteConfig,
};
use millrace::config::{JournalConfig, Registration, RegistryConfig, Secret};
use millrace::journal::Journal;
use millrace::registry::{Registry, SchemaSet};
use serde_json::json;
use tests::hall::{Hall, HallEvent, SEATS};
use tests::servers::{Server, Servers};
use tokio::sync::Notify;

/// A producer's write side on a database; several of them on one database are several producers.
struct WriteSide {
    commands: Commands,
    journal: Journal,
    codec: Codec,
}

fn registry_config(servers: &Servers) -> RegistryConfig {
    RegistryConfig {
        schema_registry_url: servers.registry().to_owned(),
        schema_registration: Registration::Register,
    }
}

async fn write_side(servers: &Servers, database: &str, config: WriteConfig) -> Result<WriteSide> {
    let database = JournalConfig {
        database_url: Secret::from(database),
    };
    let journal = Journal::open(&database, &["hall"]).await?;
    let registry = Registry::open(
        &registry_config(servers),
        vec![SchemaSet::of::<HallEvent>()],
        Some(journal.pool().clone()),
    )
    .await?;
    let codec = registry.codec().clone();
    let commands = Commands::start(
        &[AggregateType::of::<Hall>()],
        journal.clone(),
        registry,
        config,
        12,
        Arc::new(Notify::new()),
    );
    Ok(WriteSide {
        commands,
        journal,
        codec,
    })
}

impl WriteSide {
    async fn send(&self, envelope: Envelope) -> Result<Accepted, CommandError> {
        self.commands.node("hall")?.handle(envelope).await
    }

    async fn count(&self, sql: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql)
            .fetch_one(self.journal.pool())
            .await?)
    }
}

fn envelope(id: &str, command_type: &str, data: serde_json::Value) -> Envelope {
    Envelope {
        aggregate_id: id.to_owned(),
        command_type: command_type.to_owned(),
        data: data.to_string().into(),
        id: CommandId::made(),
        expected_version: None,
        correlation_id: None,
        tenant_id: None,
        traceparent: None,
        now: Utc::now(),
    }
}

fn reserve(id: &str, guest: &str) -> Envelope {
    envelope(id, "ReserveSeat", json!({ "guest": guest }))
}

fn release(id: &str, guest: &str) -> Envelope {
    envelope(id, "ReleaseSeat", json!({ "guest": guest }))
}

fn given(envelope: Envelope, id: &str) -> Envelope {
    Envelope {
        id: CommandId::Given(id.to_owned()),
        ..envelope
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_that_start_at_once_on_a_new_journal_all_get_it() -> Result<()> {
    let servers = Servers::shared();
    let config = JournalConfig {
        database_url: Secret::from(servers.fresh_database("at_once").await?.as_str()),
    };
    let types = ["hall", "order", "stock", "user", "card"];
    let opened = join_all((0..8).map(|_| Journal::open(&config, &types))).await;
    let uuids = opened
        .into_iter()
        .map(|journal| Ok(journal?.uuid()))
        .collect::<Result<Vec<_>>>()?;
    assert!(uuids.iter().all(|uuid| *uuid == uuids[0]), "{uuids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_command_returns_the_first_answer_and_writes_nothing() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("repeats").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    let first = side.send(given(reserve("h", "ada"), "c-1")).await?;
    assert_eq!((first.version, first.events.len()), (1, 1));
    side.send(reserve("h", "bob")).await?;
    let again = side.send(given(reserve("h", "ada"), "c-1")).await?;
    assert!(again.repeated);
    assert_eq!(
        Accepted {
            repeated: false,
            ..again
        },
        first
    );
    // Another producer, whose memory holds nothing, says the same.
    let other = write_side(servers, &database, WriteConfig::default()).await?;
    let again = other.send(given(reserve("h", "ada"), "c-1")).await?;
    assert_eq!(
        Accepted {
            repeated: false,
            ..again
        },
        first
    );
    assert_eq!(side.count("SELECT count(*) FROM millrace.events").await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_id_that_comes_with_other_data_is_refused() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("reused").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    side.send(given(reserve("h", "ada"), "c-1")).await?;
    let refused = side
        .send(given(reserve("h", "bob"), "c-1"))
        .await
        .unwrap_err();
    let CommandError::ReusedId {
        command_id,
        kept,
        given,
        ..
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(command_id, "c-1");
    assert_ne!(kept, given);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_kept_under_a_given_id_but_not_under_a_derived_one() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("rejections").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    let full = (0..SEATS).map(|n| side.send(reserve("h", &format!("g{n}"))));
    assert!(join_all(full).await.iter().all(Result::is_ok));
    let derived = || Envelope {
        id: CommandId::Derived("d-1".to_owned()),
        ..reserve("h", "late")
    };
    for refused in [
        side.send(given(reserve("h", "late"), "c-1")).await,
        side.send(derived()).await,
    ] {
        let Err(CommandError::Rejected {
            reason,
            version,
            repeated,
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(
            (reason.as_str(), version, repeated),
            ("all 50 seats are taken", 50, false)
        );
    }
    side.send(release("h", "g0")).await?;
    let again = side.send(given(reserve("h", "late"), "c-1")).await;
    assert!(
        matches!(again, Err(CommandError::Rejected { repeated: true, .. })),
        "{again:?}"
    );
    assert_eq!(side.send(derived()).await?.version, 52);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racing_commands_take_exactly_the_fifty_seats() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("racing").await?;
    let one = write_side(servers, &database, WriteConfig::default()).await?;
    let two = write_side(servers, &database, WriteConfig::default()).await?;
    let racing = (0..200).map(|n| {
        let side = if n % 2 == 0 { &one } else { &two };
        side.send(reserve("h", &format!("g{n}")))
    });
    let answers = join_all(racing).await;
    let accepted: Vec<i64> = answers
        .iter()
        .flatten()
        .map(|answer| answer.version)
        .collect();
    let refused = answers.iter().filter(|answer| {
        matches!(answer, Err(CommandError::Rejected { reason, .. }) if reason == "all 50 seats are taken")
    });
    assert_eq!((accepted.len(), refused.count()), (50, 150));
    let mut versions = accepted;
    versions.sort_unstable();
    assert_eq!(versions, (1..=50).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_cache_never_refuses_what_is_allowed() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("stale").await?;
    let stale = write_side(servers, &database, WriteConfig::default()).await?;
    let other = write_side(servers, &database, WriteConfig::default()).await?;
    let full = (0..SEATS).map(|n| stale.send(reserve("h", &format!("g{n}"))));
    join_all(full).await;
    // The first one believes the hall full; the other one makes room behind its back.
    other.send(release("h", "g7")).await?;
    assert_eq!(stale.send(reserve("h", "late")).await?.version, 52);
    // Likewise for a no-op, and for an expected version.
    other.send(release("h", "late")).await?;
    other.send(reserve("h", "back")).await?;
    assert_eq!(stale.send(release("h", "back")).await?.version, 55);
    other.send(reserve("h", "more")).await?;
    let expecting = Envelope {
        expected_version: Some(56),
        ..release("h", "more")
    };
    assert_eq!(stale.send(expecting).await?.version, 57);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_expected_version_is_a_conflict_with_the_actual_one() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("expected").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    side.send(reserve("h", "ada")).await?;
    side.send(reserve("h", "bob")).await?;
    let expecting = Envelope {
        expected_version: Some(1),
        ..reserve("h", "cy")
    };
    let refused = side.send(expecting).await.unwrap_err();
    assert!(
        matches!(
            refused,
            CommandError::Conflict {
                expected: 1,
                actual: 2,
                ..
            }
        ),
        "{refused}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_read_says_where() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("malformed").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    let said = async |envelope| side.send(envelope).await.unwrap_err().to_string();
    let unknown = said(envelope("h", "BurnDown", json!({}))).await;
    assert!(
        unknown.contains("BurnDown is unknown; known are: ReserveSeat"),
        "{unknown}"
    );
    let field = said(envelope(
        "h",
        "ReserveSeat",
        json!({ "guest": "a", "x": 1 }),
    ))
    .await;
    assert!(field.contains("unknown field `x`"), "{field}");
    let kind = said(envelope("h", "ReserveSeat", json!({ "guest": 7 }))).await;
    assert!(
        kind.contains("at guest: invalid type: integer `7`"),
        "{kind}"
    );
    let secret = Envelope {
        id: CommandId::Derived("d".to_owned()),
        ..envelope("h", "AdmitMember", json!({ "guest": "a", "pin": "1234" }))
    };
    let secret = said(secret).await;
    assert!(
        secret.contains("secret field (pin)") && !secret.contains("1234"),
        "{secret}"
    );
    let huge = said(reserve("h", &"x".repeat(950_000))).await;
    assert!(huge.contains("HallSeatReserved has 9500"), "{huge}");
    assert_eq!(side.count("SELECT count(*) FROM millrace.events").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_command_is_lost_when_postgres_is_killed_and_none_happens_twice()
-> Result<()> {
    let servers = Servers::start()?;
    let database = servers.fresh_database("killed").await?;
    let config = WriteConfig {
        command_timeout_ms: 60_000,
        ..WriteConfig::default()
    };
    let side = Arc::new(write_side(&servers, &database, config).await?);
    let senders: Vec<_> = (0..16)
        .map(|lane| {
            let side = Arc::clone(&side);
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..150 {
                    let id = format!("lane-{lane}-{n}");
                    // Made ids: nothing is kept of the command, so only the events' ids tell.
                    acknowledged.push(side.send(reserve(&id, "ada")).await?);
                }
                Ok::<_, CommandError>(acknowledged)
            })
        })
        .collect();
    while side.count("SELECT count(*) FROM millrace.events").await? < 200 {
        tokio::task::yield_now().await;
    }
    servers.kill(Server::Postgres)?;
    servers.restart()?;
    let mut acknowledged = 0;
    for sender in senders {
        for answer in sender.await?? {
            assert_eq!((answer.version, answer.events.len()), (1, 1));
            let stored: String = sqlx::query_scalar(
                "SELECT event_id::text FROM millrace.events WHERE aggregate_id = $1",
            )
            .bind(&answer.id)
            .fetch_one(side.journal.pool())
            .await?;
            assert_eq!(stored, answer.events[0].id.to_string());
            acknowledged += 1;
        }
    }
    assert_eq!(acknowledged, 16 * 150);
    assert_eq!(
        side.count("SELECT count(*) FROM millrace.events").await?,
        acknowledged
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_shorten_the_load_and_an_old_shape_is_discarded() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("snapshots").await?;
    let config = || WriteConfig {
        snapshot_events: 10,
        ..WriteConfig::default()
    };
    let side = write_side(servers, &database, config()).await?;
    for n in 0..25 {
        side.send(reserve("h", &format!("g{n}"))).await?;
    }
    let kept = "SELECT sequence FROM millrace.snapshots WHERE aggregate_id = 'h'";
    assert_eq!(side.count(kept).await?, 20);
    // A snapshot that says the hall is empty shows that it is what a load begins with.
    let forge = |shape: i32| {
        sqlx::query("UPDATE millrace.snapshots SET state = '{\"guests\": []}', shape = $1")
            .bind(shape)
            .execute(side.journal.pool())
    };
    forge(1).await?;
    let believing = write_side(servers, &database, config()).await?;
    let seats = (0..45).map(|n| believing.send(reserve("h", &format!("x{n}"))));
    assert!(join_all(seats).await.iter().all(Result::is_ok));
    forge(7).await?;
    let reading = write_side(servers, &database, config()).await?;
    let refused = reading.send(reserve("h", "late")).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::Rejected { .. }),
        "{refused}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_can_be_seen_at_any_sequence_and_time() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("moments").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    let start = Utc::now();
    for (n, guest) in ["ada", "bob", "cy"].into_iter().enumerate() {
        let now = start + Duration::from_secs(60 * n as u64);
        side.send(Envelope {
            now,
            ..reserve("h", guest)
        })
        .await?;
    }
    let node = side.commands.node("hall")?;
    let at = async |moment| Ok::<_, CommandError>(node.state("h".to_owned(), moment).await?);
    assert_eq!(
        at(Moment::Now).await?.state,
        json!({ "guests": ["ada", "bob", "cy"] })
    );
    assert_eq!(
        at(Moment::Sequence(1)).await?.state,
        json!({ "guests": ["ada"] })
    );
    let then = at(Moment::Time(start + Duration::from_secs(90))).await?;
    assert_eq!(
        (then.version, then.state),
        (2, json!({ "guests": ["ada", "bob"] }))
    );
    assert_eq!(
        at(Moment::Time(start - Duration::from_secs(1)))
            .await?
            .version,
        0
    );
    let page = node.history("h".to_owned(), 1, 1).await?;
    assert_eq!(page.events[0].data, json!({ "guest": "bob" }));
    assert_eq!(page.next_after_sequence, Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_starts_on_the_journals_schemas_while_the_registry_is_away() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("outlives").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    side.send(reserve("h", "ada")).await?;
    let away = RegistryConfig {
        schema_registry_url: "http://127.0.0.1:9/none".to_owned(),
        schema_registration: Registration::Register,
    };
    let sets = || vec![SchemaSet::of::<HallEvent>()];
    let pool = || Some(side.journal.pool().clone());
    let registry = Registry::open(&away, sets(), pool()).await?;
    let payload: Vec<u8> = sqlx::query_scalar("SELECT payload FROM millrace.events")
        .fetch_one(side.journal.pool())
        .await?;
    let event: HallEvent = registry.codec().decode(&payload)?;
    assert_eq!(event, side.codec.decode(&payload)?);
    // A journal that does not know the schemas is no help.
    sqlx::query("DELETE FROM millrace.schemas")
        .execute(side.journal.pool())
        .await?;
    let error = Registry::open(&away, sets(), pool()).await.err().unwrap();
    assert!(
        error.is_transient() && error.to_string().contains("SCHEMA_REGISTRY_URL"),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_decision_fails_that_command_alone() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("panics").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    let together = [
        reserve("h", "ada"),
        reserve("h", "the devil"),
        reserve("h", "bob"),
        reserve("other", "cy"),
    ];
    let answers = join_all(together.map(|envelope| side.send(envelope))).await;
    let failed = answers[1].as_ref().unwrap_err();
    assert!(matches!(failed, CommandError::Fault(_)), "{failed}");
    assert!(
        answers[0].is_ok() && answers[2].is_ok() && answers[3].is_ok(),
        "{answers:?}"
    );
    assert_eq!(side.send(reserve("h", "dan")).await?.version, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_round_fails_behind_it_is_answered_once_and_written_once() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("behind").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    side.send(given(reserve("full", "first"), "c-0")).await?;
    for n in 1..SEATS {
        side.send(reserve("full", &format!("g{n}"))).await?;
    }
    // The first command waits on a row of its own, so that the other two are in one round. There the acceptance is appended,
    // and the refusal waits to be kept, behind an outcome that is never committed, until its session is ended.
    let mut gate = side.journal.pool().begin().await?;
    sqlx::query("INSERT INTO millrace.streams VALUES ('hall', 'gate', 1, 1)")
        .execute(&mut *gate)
        .await?;
    let mut kept = side.journal.pool().begin().await?;
    sqlx::query(
        "INSERT INTO millrace.commands VALUES ('hall', 'full', 'c-1', 'ReserveSeat', '', 0, 0)",
    )
    .execute(&mut *kept)
    .await?;
    let first = side.send(reserve("gate", "zoe"));
    let accepted = side.send(reserve("h", "ada"));
    let refused = side.send(given(reserve("full", "late"), "c-1"));
    let cut = async {
        let waits = |statement| {
            sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1
                 AND application_name = 'millrace-journal-writer' AND datname = current_database())",
            )
            .bind(statement)
            .fetch_one(side.journal.pool())
        };
        while !waits("%won AS%").await? {
            tokio::task::yield_now().await;
        }
        gate.rollback().await?;
        while !waits("%standing AS%").await? {
            tokio::task::yield_now().await;
        }
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'millrace-journal-writer' AND datname = current_database()",
        )
        .execute(side.journal.pool())
        .await?;
        kept.rollback().await?;
        Ok::<_, anyhow::Error>(())
    };
    let (first, accepted, refused, cut) = futures::join!(first, accepted, refused, cut);
    first?;
    cut?;
    assert_eq!(accepted?.version, 1);
    assert!(
        matches!(refused, Err(CommandError::Rejected { .. })),
        "{refused:?}"
    );
    let written = "SELECT count(*) FROM millrace.events WHERE aggregate_id = 'h'";
    assert_eq!(side.count(written).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_newer_producer_is_learnt_when_it_is_met() -> Result<()> {
    let servers = Servers::shared();
    let database = servers.fresh_database("newer").await?;
    let side = write_side(servers, &database, WriteConfig::default()).await?;
    side.send(reserve("h", "ada")).await?;
    // What a newer producer would have done: another version of the schema, kept in the journal, and an event in it.
    let newer = r#"{"type": "record", "name": "HallSeatReserved", "namespace": "venue", "fields": [
        {"name": "guest", "type": "string"}, {"name": "row", "type": "long", "default": 0}]}"#;
    sqlx::query("INSERT INTO millrace.schemas VALUES (4711, 'hall.events-venue.HallSeatReserved', 2, '', $1)")
        .bind(newer)
        .execute(side.journal.pool())
        .await?;
    let body = [&[0, 0, 0, 0x12, 0x67][..], &[6], b"bob", &[8]].concat();
    sqlx::query(
        "WITH s AS (UPDATE millrace.streams SET version = 2, appended = 1)
         INSERT INTO millrace.events (generation, aggregate_type, aggregate_id, sequence, event_id, event_type,
                                      schema_id, payload, headers, occurred_at)
         VALUES (1, 'hall', 'h', 2, gen_random_uuid(), 'HallSeatReserved', 4711, $1, '{}', now())",
    )
    .bind(body)
    .execute(side.journal.pool())
    .await?;
    assert_eq!(side.send(reserve("h", "cy")).await?.version, 3);
    let state = side
        .commands
        .node("hall")?
        .state("h".to_owned(), Moment::Now)
        .await?;
    assert_eq!(state.state, json!({ "guests": ["ada", "bob", "cy"] }));
    Ok(())
}

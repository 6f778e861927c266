//! What becomes of good commands.

use anyhow::Result;
use millrace::command::inbox::{CommandOutcome, InboxOptions, reply_id};
use millrace::log::headers;
use tests::hall::{ReleaseSeat, ReserveSeat, SEATS};
use tests::stock;
use uuid::Uuid;

use super::rig::{COMMANDS, GROUP, Rig, unique};

fn reserve(guest: &str) -> ReserveSeat {
    ReserveSeat {
        guest: guest.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_from_kafka_takes_effect_and_is_answered_under_a_derived_id() -> Result<()> {
    let rig = Rig::shared("inbox_accepts").await?;
    let member = rig.member(InboxOptions::default()).await?;
    let (hall, id) = (unique("h"), Uuid::now_v7().to_string());
    let (_, payload) = rig.registry.codec().encode_command(&reserve("ada"))?;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    rig.send_raw(
        &hall,
        &payload,
        &[
            (headers::ID, &id),
            (headers::CORRELATION_ID, "chain"),
            (headers::TENANT_ID, "acme"),
            (headers::TRACEPARENT, traceparent),
        ],
    )?;
    rig.flush()?;
    let replies = rig.replies(std::slice::from_ref(&id), 1)?;
    let (seen, reply) = &replies[&id][0];
    assert_eq!(reply.outcome, CommandOutcome::Accepted);
    assert_eq!((reply.version, reply.event_ids.len()), (Some(1), 1));
    assert_eq!(reply.command_type, "ReserveSeat");
    assert_eq!(seen.key.as_deref(), Some(hall.as_bytes()));
    for (name, value) in [
        (headers::ID, reply_id(&id).to_string().as_str()),
        (headers::TYPE, "hall.command_accepted"),
        (headers::SUBJECT, &hall),
        (headers::CORRELATION_ID, "chain"),
        (headers::TENANT_ID, "acme"),
        (headers::TRACEPARENT, traceparent),
        (headers::CONTENT_TYPE, "application/avro"),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    assert_eq!(rig.guests(&hall).await?, ["ada"]);
    rig.until_committed().await?;
    let signed = rig.committed()?;
    let ours = |(next, text): &(i64, String)| {
        text.starts_with("v1;") && text.ends_with(&format!(";{next}"))
    };
    assert!(signed.values().all(ours), "{signed:?}");
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_comes_again_is_answered_again_and_takes_effect_once() -> Result<()> {
    let rig = Rig::shared("inbox_repeats").await?;
    let member = rig.member(InboxOptions::default()).await?;
    let (hall, id) = (unique("h"), unique("c"));
    rig.send(&hall, &id, &reserve("ada"))?;
    rig.send(&hall, &id, &reserve("ada"))?;
    rig.send(&hall, &id, &reserve("bob"))?;
    rig.flush()?;
    let replies = rig.replies(std::slice::from_ref(&id), 3)?;
    let of = |outcome| {
        let one =
            |(_, reply): &&(_, millrace::command::inbox::CommandReply)| reply.outcome == outcome;
        replies[&id].iter().filter(one).count()
    };
    assert_eq!(of(CommandOutcome::Accepted), 2);
    assert_eq!(
        of(CommandOutcome::Conflict),
        1,
        "other data under the same id"
    );
    let first = &replies[&id][0].0;
    let ids_repeat =
        |(seen, _): &(super::rig::Seen, _)| seen.header(headers::ID) == first.header(headers::ID);
    assert!(replies[&id].iter().all(ids_repeat));
    assert_eq!(rig.guests(&hall).await?, ["ada"]);
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_one_key_are_decided_in_the_order_of_the_topic() -> Result<()> {
    let rig = Rig::shared("inbox_order").await?;
    // Fewer than there are commands, so that the bound is met and let go again and again.
    let member = rig
        .member(InboxOptions {
            inbox_commands_max: 16,
            ..InboxOptions::default()
        })
        .await?;
    let (one, other) = (unique("one"), unique("other"));
    let mut ids = Vec::new();
    let mut wanted = Vec::new();
    for round in 0..150 {
        let guest = format!("g{round}");
        for hall in [&one, &other] {
            for release in [false, true] {
                let id = unique("c");
                match release {
                    false => rig.send(hall, &id, &reserve(&guest))?,
                    true => rig.send(
                        hall,
                        &id,
                        &ReleaseSeat {
                            guest: guest.clone(),
                        },
                    )?,
                }
                ids.push(id);
            }
        }
        wanted.extend([guest.clone(), format!("-{guest}")]);
    }
    rig.flush()?;
    rig.replies(&ids, 1)?;
    // A release that overtook its reservation would have been a no-op.
    assert_eq!(rig.guests(&one).await?, wanted);
    assert_eq!(rig.guests(&other).await?, wanted);
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_race_for_fifty_seats_over_two_members_and_fifty_get_one() -> Result<()> {
    let rig = Rig::shared("inbox_race").await?;
    let one = rig.member(InboxOptions::default()).await?;
    let two = rig.member(InboxOptions::default()).await?;
    let halls: Vec<String> = (0..4).map(|_| unique("h")).collect();
    let mut ids = Vec::new();
    for guest in 0..200 {
        for hall in &halls {
            let id = unique("c");
            rig.send(hall, &id, &reserve(&format!("g{guest}")))?;
            ids.push(id);
        }
    }
    rig.flush()?;
    // One leaves in the middle: what it did not answer, the other one does.
    one.stop().await?;
    let replies = rig.replies(&ids, 1)?;
    let accepted = replies
        .values()
        .filter(|all| all[0].1.outcome == CommandOutcome::Accepted)
        .count();
    assert_eq!(accepted, halls.len() * SEATS);
    for all in replies.values() {
        let same = |(_, reply): &(_, millrace::command::inbox::CommandReply)| {
            (reply.outcome, &reply.event_ids) == (all[0].1.outcome, &all[0].1.event_ids)
        };
        assert!(all.iter().all(same), "two answers to one command differ");
    }
    for hall in &halls {
        assert_eq!(rig.guests(hall).await?.len(), SEATS);
    }
    two.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_tool_resets_the_group_and_nothing_happens_twice() -> Result<()> {
    let rig = Rig::shared("inbox_reset").await?;
    let member = rig.member(InboxOptions::default()).await?;
    let hall = unique("h");
    let ids: Vec<String> = (0..60).map(|_| unique("c")).collect();
    for (guest, id) in ids.iter().enumerate() {
        rig.send(&hall, id, &reserve(&format!("g{guest}")))?;
    }
    rig.flush()?;
    let before = rig.replies(&ids, 1)?;
    rig.until_committed().await?;
    member.stop().await?;
    let guests = rig.guests(&hall).await?;
    assert_eq!(guests.len(), SEATS);
    tokio::task::block_in_place(|| {
        stock::reset_offsets(rig.servers, GROUP, COMMANDS, &["--to-earliest"])
    })?;
    let member = rig.member(InboxOptions::default()).await?;
    let after = rig.replies(&ids, 2)?;
    rig.until_committed().await?;
    assert_eq!(rig.guests(&hall).await?, guests);
    for id in &ids {
        let (first, again) = (&before[id][0], &after[id][1]);
        assert_eq!(first.0.header(headers::ID), again.0.header(headers::ID));
        assert_eq!(first.1.outcome, again.1.outcome);
        assert_eq!(first.1.event_ids, again.1.event_ids);
        assert_eq!(first.1.version, again.1.version);
        assert!(again.1.repeated);
    }
    member.stop().await
}

//! Records that are no commands.

use anyhow::Result;
use millrace::codec::frame;
use millrace::command::inbox::{CommandOutcome, InboxOptions};
use millrace::log::headers;
use rdkafka::producer::BaseRecord;
use tests::hall::{HallEvent, HallSeatReserved, ReserveSeat};

use super::rig::{COMMANDS, LETTERS, Rig, Seen, unique};

/// What is wrong, the value, and the headers.
type Case<'c> = (&'c str, &'c [u8], Vec<(&'c str, &'c str)>);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_becomes_a_dead_letter_with_its_bytes_and_the_others_go_on() -> Result<()>
{
    let rig = Rig::shared("inbox_letters").await?;
    let hall = unique("h");
    let good = ReserveSeat {
        guest: "ada".to_owned(),
    };
    let (schema_id, command) = rig.registry.codec().encode_command(&good)?;
    let (_, event) = rig
        .registry
        .codec()
        .encode(&HallEvent::from(HallSeatReserved {
            guest: "eve".to_owned(),
        }))?;
    let mut long = command.clone();
    long.extend_from_slice(b"more");
    let id = unique("c");
    let own = [(headers::ID, id.as_str()), ("mark", hall.as_str())];
    let cases: Vec<Case> = vec![
        ("wire format", b"{\"guest\":\"ada\"}", own.to_vec()),
        ("shorter than five bytes", &[0, 1], own.to_vec()),
        (
            "neither in the journal nor in the registry",
            &[0, 0x7f, 0xff, 0xff, 0xff, 1],
            own.to_vec(),
        ),
        ("record HallSeatReserved is none of", &event, own.to_vec()),
        ("left over", &long, own.to_vec()),
        ("header ce_id is missing", &command, vec![own[1]]),
        (
            "keyed by its aggregate's id",
            &command,
            vec![own[0], own[1], (headers::SUBJECT, "another")],
        ),
        (
            "command id is empty",
            &command,
            vec![(headers::ID, ""), own[1]],
        ),
        (
            "not a version",
            &command,
            vec![own[0], own[1], ("ce_expectedversion", "x")],
        ),
    ];
    let broken = frame(schema_id, &[0x80]);
    for (_, payload, with) in &cases {
        rig.send_raw(&hall, payload, with)?;
    }
    rig.send_raw(&hall, &broken, &own)?;
    // No value at all, and the code of the aggregate panics on this one.
    let mark = rdkafka::message::OwnedHeaders::new().insert(rdkafka::message::Header {
        key: "mark",
        value: Some(&hall),
    });
    let empty: BaseRecord<'_, str, [u8]> =
        BaseRecord::to(COMMANDS).key(hall.as_str()).headers(mark);
    rig.producer.send(empty).map_err(|(error, _)| error)?;
    let devil = ReserveSeat {
        guest: "the devil".to_owned(),
    };
    let (_, panics) = rig.registry.codec().encode_command(&devil)?;
    rig.send_raw(&hall, &panics, &[(headers::ID, &unique("c")), own[1]])?;
    let last = unique("c");
    rig.send(&hall, &last, &good)?;
    rig.flush()?;

    let member = rig.member(InboxOptions::default()).await?;
    let replies = rig.replies(std::slice::from_ref(&last), 1)?;
    assert_eq!(replies[&last][0].1.outcome, CommandOutcome::Accepted);
    assert_eq!(rig.guests(&hall).await?, ["ada"]);
    rig.until_committed().await?;
    let mut letters: Vec<Seen> = Vec::new();
    rig.read(LETTERS, |seen| {
        if seen.header("mark") == hall {
            letters.push(seen);
        }
        Ok(letters.len() == cases.len() + 3)
    })?;
    letters.sort_by_key(|letter| letter.header("millrace_dlq_offset").parse::<i64>().unwrap());
    for ((reason, payload, with), letter) in cases.iter().zip(&letters) {
        let told = letter.header("millrace_dlq_reason");
        assert!(told.contains(reason), "{told:?} does not say {reason:?}");
        assert_eq!(letter.payload.as_deref(), Some(*payload), "{reason}");
        assert_eq!(letter.key.as_deref(), Some(hall.as_bytes()));
        for (name, value) in with {
            assert_eq!(letter.header(name), *value);
        }
        assert_eq!(letter.header("millrace_dlq_topic"), COMMANDS);
        assert_eq!(
            letter.header("millrace_dlq_partition"),
            letter.partition.to_string()
        );
    }
    let [.., broken_one, without_value, panicked] = &letters[..] else {
        panic!("there are more than three letters");
    };
    assert_eq!(broken_one.payload.as_deref(), Some(broken.as_slice()));
    assert_eq!(without_value.payload, None);
    assert!(panicked.header("millrace_dlq_reason").contains("fault"));
    member.stop().await
}

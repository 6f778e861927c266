//! What only a broker can show: members that die, sleep or are fenced.

use std::sync::Arc;

use anyhow::Result;
use millrace::processor::Topology;
use millrace::processor::command_id;
use tests::hall::HallSeatReserved;

use super::kafka::World;
use super::seats::{Mirror, Weather};

pub(super) fn reserved(guest: &str) -> tests::hall::HallEvent {
    HallSeatReserved {
        guest: guest.to_owned(),
    }
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_a_command_and_its_offset_is_committed_with_it() -> Result<()> {
    let weather = Arc::new(Weather::default());
    let mut world = World::new(&Topology::new().processor(Mirror(weather.clone())), 1).await?;
    let event = world.produce("h", &reserved("couple"))?;
    let running = world.start();
    let commands = world.until_commands(2).await?;
    assert_eq!(commands.len(), 2);
    for (ordinal, one) in commands.iter().enumerate() {
        assert_eq!(one.aggregate_id, "h-annex");
        assert_eq!(one.guest(), "couple");
        assert_eq!(
            one.id,
            command_id(event, "mirror", ("hall", "h-annex"), "ReserveSeat", ordinal)
        );
        let header = |name: &str| one.headers.get(name).map(String::as_str);
        assert_eq!(header("ce_type"), Some("hall.reserve_seat"));
        assert_eq!(header("ce_source"), Some("/millrace/processor/mirror"));
        assert_eq!(header("ce_subject"), Some("h-annex"));
        assert_eq!(header("ce_time"), Some("2026-01-02T03:04:05.678901Z"));
        assert_eq!(header("ce_correlationid"), Some("corr-h"));
        assert_eq!(header("ce_causationid"), Some(event.to_string().as_str()));
        assert_eq!(header("ce_tenantid"), Some("acme"));
    }
    running.stop().await?;
    assert_eq!(world.committed(0)?, Some((1, "v1;1;1".to_owned())));
    Ok(())
}

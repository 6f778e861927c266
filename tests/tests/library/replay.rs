//! Every handler of the library reads everything again.

use anyhow::Result;
use millrace::position::partition_of;

use super::Library;
use super::published::published;
use super::story::{TOLD, happens, is_told, shows};
use crate::again;
use crate::operate::world::PARTITIONS;

fn id_in(partition: i32, begins: &str) -> String {
    (0..)
        .map(|number| format!("{begins}-{number}"))
        .find(|id| partition_of(id, PARTITIONS) == partition)
        .unwrap()
}

/// A curator in every partition with a follower in every partition: when each follower was told of the curator's card,
/// every command that was sent to a profile or a recipient before was decided.
async fn a_fence(library: &Library) -> Result<usize> {
    let followers: Vec<String> = (0..PARTITIONS)
        .map(|of| id_in(of, "fence-follower"))
        .collect();
    for follower in &followers {
        library.reachable(follower).await?;
    }
    for partition in 0..PARTITIONS {
        let curator = id_in(partition, "fence-curator");
        let ids: Vec<&str> = followers.iter().map(String::as_str).collect();
        library.join(&curator, true, &ids).await?;
        library
            .add(&format!("fence-{partition}"), &curator, "", "")
            .await?;
    }
    let fenced = format!("{TOLD} AND aggregate_id LIKE 'fence%'");
    let told = followers.len() * PARTITIONS as usize;
    library.world.until_number(&fenced, told as i64).await?;
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_hears_of_it_once_and_a_reset_of_every_handler_changes_nothing() -> Result<()> {
    const EVENTS: &str = "SELECT count(*) FROM millrace.events
        WHERE aggregate_id NOT LIKE 'fence%' AND event_type NOT LIKE 'Notification%'";
    let library = Library::open()?;
    let up = library.up().await?;
    happens(&library).await?;
    shows(&library).await?;
    is_told(&library).await?;
    // What was told went out, so nothing moves any more.
    let sent = "SELECT count(*) FROM views.event_log WHERE event_type = 'NotificationSent'";
    library.world.until_number(sent, 9).await?;
    let told = published(&library, 9).await?;
    library.world.until_caught_up().await?;
    up.stop().await?;
    let rows = library.world.all_rows().await?;
    let events: i64 = library.world.journal(EVENTS).await?;
    let before = library.world.reset_all()?;

    let up = library.up().await?;
    library.world.until_back(&before).await?;
    library.world.until_caught_up().await?;
    again::same(&rows, &library.world.all_rows().await?)?;
    shows(&library).await?;

    // Each was published again under its old id, and nothing else.
    let again = published(&library, 2 * told.len()).await?;
    let twice: Vec<_> = told
        .iter()
        .flat_map(|one| [one.clone(), one.clone()])
        .collect();
    assert_eq!(again, twice);

    let fence = a_fence(&library).await?;
    assert_eq!(library.world.journal::<i64>(EVENTS).await?, events);
    is_told_once(&library, fence as i64).await?;
    up.stop().await
}

/// Besides the fence, nobody heard of anything a second time.
async fn is_told_once(library: &Library, fence: i64) -> Result<()> {
    library.world.until_number(TOLD, 9 + fence).await?;
    let twice = "SELECT count(*) FROM (
        SELECT FROM views.event_log WHERE event_type = 'NotificationRequested'
        GROUP BY aggregate_id, data->>'kind', data->>'source_event_id' HAVING count(*) > 1) AS twice";
    library.world.until_number(twice, 0).await
}

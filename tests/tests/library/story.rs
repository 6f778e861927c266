//! What happens in a library, and who hears of it.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::json;

use super::Library;

/// Who was told of what: recipient and kind of each notification that was requested.
pub(super) const TOLD: &str = "SELECT count(*) FROM views.event_log
    WHERE event_type = 'NotificationRequested'";

/// Three curators, of whom eve's profile is not public; four cards; four collections. Afterwards bob's copy of a card and
/// the only copy of another are gone.
pub(super) async fn happens(library: &Library) -> Result<()> {
    library.join("ada", true, &["bob", "joe"]).await?;
    library.join("bob", true, &[]).await?;
    library.join("eve", false, &["bob", "joe"]).await?;
    library.reachable("joe").await?;

    let text = "How events reach the log";
    library
        .add("outbox", "ada", "The outbox pattern", text)
        .await?;
    library
        .add("outbox", "bob", "The outbox pattern", text)
        .await?;
    let text = "An alternative to locks, with an outbox";
    library.add("saga", "ada", "Sagas", text).await?;
    library.add("relay", "eve", "Relays", "").await?;
    library.add("draft", "ada", "A draft", "Soon gone").await?;

    library
        .collect("logs", "ada", &["outbox", "saga", "draft"])
        .await?;
    library
        .collect("more", "bob", &["outbox", "saga", "relay"])
        .await?;
    library.collect("one", "bob", &["outbox"]).await?;
    library.collect("none", "joe", &[]).await?;

    let of = |curator: &str| json!({"curator_id": curator});
    library
        .command("card/outbox", "RemoveCardFromLibrary", of("bob"))
        .await?;
    library
        .command("card/draft", "RemoveCardFromLibrary", of("ada"))
        .await?;
    Ok(())
}

/// Each query shows it.
pub(super) async fn shows(library: &Library) -> Result<()> {
    library.world.until_caught_up().await?;
    // In the title counts more than in the description; what nobody has is not found.
    let found = library
        .until_listed(
            "/views/card-search?q=outbox",
            "card_id",
            &["outbox", "saga"],
        )
        .await?;
    ensure!(
        found[0]["rank"].as_i64() > found[1]["rank"].as_i64(),
        "{found:?}"
    );
    ensure!(found[0]["curators"] == 1, "{found:?}");
    for (q, cards) in [
        ("draft", &[][..]),
        ("locking", &["saga"]),
        ("outbox%20-locks", &["outbox"]),
        ("relays%20or%20sagas", &["relay", "saga"]),
    ] {
        let path = format!("/views/card-search?q={q}");
        library.until_listed(&path, "card_id", cards).await?;
    }
    library
        .until_listed(
            "/views/card-search",
            "card_id",
            &["outbox", "relay", "saga"],
        )
        .await?;

    let list = |collection: &str| format!("/views/recommendations?collection_id={collection}");
    let to_logs = library
        .until_listed(&list("logs"), "card_id", &["relay"])
        .await?;
    ensure!(
        to_logs[0]["together"] == 2 && to_logs[0]["title"] == "Relays",
        "{to_logs:?}"
    );
    library.until_listed(&list("more"), "card_id", &[]).await?;
    library
        .until_listed(&list("one"), "card_id", &["saga", "relay"])
        .await?;
    let first = ["outbox", "saga", "relay"];
    library
        .until_listed(&list("none"), "card_id", &first)
        .await?;

    for (event_type, events) in [
        ("CardAddedToLibrary", 5),
        ("CardRemovedFromLibrary", 2),
        ("CollectionCreated", 4),
        ("CollectionCardAdded", 7),
        ("ProfileFollowed", 4),
        ("ProfileCardAnnounced", 3),
        ("ProfileFirstCollectionStarted", 3),
    ] {
        // A story told around midnight has two days.
        let sql = format!(
            "SELECT sum(events)::bigint FROM views.library_activity WHERE event_type = '{event_type}'"
        );
        library.world.until_number(&sql, events).await?;
    }
    let path = "/views/library-activity?type=CollectionCreated";
    let (_, days) = library.get(path).await?;
    ensure!(days["items"][0]["events"].is_i64(), "{days}");

    for (owner, collections, cards) in [("ada", 1, 3), ("bob", 2, 4), ("joe", 1, 0)] {
        let path = format!("/views/owner-statistics/{owner}");
        let statistics = json!({"collections": collections, "cards": cards});
        library.until_shown(&path, &statistics).await?;
    }
    let eve = json!({"name": "eve", "public": false, "followers": 2});
    library.until_shown("/views/profiles/eve", &eve).await
}

/// Ada's three cards, told to her two followers; nobody of eve's, and nobody follows bob. And each owner's first collection.
pub(super) async fn is_told(library: &Library) -> Result<()> {
    for (user, kind, times) in [
        ("bob", "card_added", 3),
        ("joe", "card_added", 3),
        ("ada", "collection_welcome", 1),
        ("bob", "collection_welcome", 1),
        ("joe", "collection_welcome", 1),
    ] {
        let sql = format!("{TOLD} AND aggregate_id = '{user}' AND data->>'kind' = '{kind}'");
        library.world.until_number(&sql, times).await?;
    }
    library.world.until_number(TOLD, 9).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_added_once_per_curator_however_many_requests_race() -> Result<()> {
    let library = Library::open()?;
    let up = library.up().await?;
    let data = json!({"curator_id": "ada", "card_type": "article", "url": "https://a.example/"});
    let race = (0..40).map(|number| {
        let (library, mut data) = (&library, data.clone());
        data["curator_id"] = json!(["ada", "bob"][number % 2]);
        async move { library.ask("card/one", "AddCardToLibrary", data).await }
    });
    let answers = try_join_all(race).await?;
    let (accepted, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| *status == 201);
    ensure!(accepted.len() == 2, "{accepted:?}");
    for (status, problem) in refused {
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(
            status == 422 && detail.contains("in the library of"),
            "{problem}"
        );
    }
    library
        .until_shown("/views/card-search/one", &json!({"curators": 2}))
        .await?;
    up.stop().await
}

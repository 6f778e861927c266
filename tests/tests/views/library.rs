//! The library's views.

use millrace::projection::{fold, sql_projection, tally};
use millrace::testing::view::{TestError, ViewTest};
use projections::views::{
    card_search::CardSearch, library_activity::LibraryActivity, owner_statistics::OwnerStatistics,
    profiles::Profiles, recommendations::Recommendations,
};
use schemas::library::*;
use serde_json::{Value, json};

use super::{at, database};

fn added(curator: &str, title: &str, curators: i64) -> CardEvent {
    CardAddedToLibrary {
        curator_id: curator.to_owned(),
        card_type: "article".to_owned(),
        url: format!("https://a.example/{}", title.to_lowercase()),
        title: title.to_owned(),
        description: "On logs".to_owned(),
        curators,
    }
    .into()
}

fn removed(curator: &str, curators: i64) -> CardEvent {
    CardRemovedFromLibrary {
        curator_id: curator.to_owned(),
        curators,
    }
    .into()
}

fn created(owner: &str) -> CollectionEvent {
    CollectionCreated {
        owner_id: owner.to_owned(),
        name: "Reading".to_owned(),
    }
    .into()
}

fn put(owner: &str, card: &str) -> CollectionEvent {
    CollectionCardAdded {
        owner_id: owner.to_owned(),
        card_id: card.to_owned(),
    }
    .into()
}

fn taken(owner: &str, card: &str) -> CollectionEvent {
    CollectionCardRemoved {
        owner_id: owner.to_owned(),
        card_id: card.to_owned(),
    }
    .into()
}

fn followed(follower: &str) -> ProfileEvent {
    ProfileFollowed {
        follower_id: follower.to_owned(),
    }
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_found_while_anybody_has_it() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(CardSearch), &schemas::all()).await?;
    view.at(at());
    view.given("outbox", vec![added("ada", "Outbox", 1)])
        .await?;
    view.given("outbox", vec![added("bob", "Outbox", 2), removed("ada", 1)])
        .await?;
    view.given("saga", vec![added("ada", "Saga", 1)]).await?;
    let time = "2026-01-02T03:04:05.678+00:00";
    let mut rows = view.rows().await?;
    let document = rows[0].as_object_mut().unwrap().remove("document").unwrap();
    assert_eq!(
        rows[0],
        json!({"card_id": "outbox", "card_type": "article", "url": "https://a.example/outbox", "title": "Outbox",
               "description": "On logs", "curators": 1, "updated_at": time, "version": 3})
    );
    // Title, description and address are told apart by weight.
    let document = document.as_str().unwrap();
    assert!(document.contains("'outbox':1A"), "{document}");
    assert!(document.contains("'log':3B"), "{document}");
    assert_eq!(rows.len(), 2);
    view.given("outbox", vec![removed("bob", 0)]).await?;
    let rows = view.rows().await?;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["card_id"], "saga");
    view.given("outbox", vec![added("eve", "Outbox", 1)])
        .await?;
    assert_eq!(view.rows().await?.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_counts_each_event_once_by_its_type_and_day() -> Result<(), TestError> {
    let view = sql_projection(LibraryActivity);
    let mut view = ViewTest::start(&database().await?, view, &schemas::all()).await?;
    view.at(at());
    view.given(
        "outbox",
        vec![added("ada", "Outbox", 1), added("bob", "Outbox", 2)],
    )
    .await?;
    view.given("saga", vec![added("ada", "Saga", 1), removed("ada", 0)])
        .await?;
    view.given("c1", vec![created("ada")]).await?;
    view.at(at() + chrono::TimeDelta::days(1));
    view.given("outbox", vec![removed("bob", 1)]).await?;
    view.given("ada", vec![followed("bob")]).await?;
    assert_eq!(
        view.rows().await?,
        [
            json!({"day": "2026-01-02", "event_type": "CardAddedToLibrary", "events": 3}),
            json!({"day": "2026-01-02", "event_type": "CardRemovedFromLibrary", "events": 1}),
            json!({"day": "2026-01-02", "event_type": "CollectionCreated", "events": 1}),
            json!({"day": "2026-01-03", "event_type": "CardRemovedFromLibrary", "events": 1}),
            json!({"day": "2026-01-03", "event_type": "ProfileFollowed", "events": 1}),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_statistics_follow_their_collections() -> Result<(), TestError> {
    let view = tally(OwnerStatistics);
    let mut view = ViewTest::start(&database().await?, view, &schemas::all()).await?;
    view.given(
        "c1",
        vec![created("ada"), put("ada", "outbox"), put("ada", "saga")],
    )
    .await?;
    view.given("c2", vec![created("ada"), put("ada", "saga")])
        .await?;
    view.given("c1", vec![taken("ada", "outbox")]).await?;
    view.given("c3", vec![created("bob")]).await?;
    assert_eq!(
        view.rows().await?,
        [
            json!({"owner_id": "ada", "collections": 2, "cards": 2, "cards_added": 3}),
            json!({"owner_id": "bob", "collections": 1, "cards": 0, "cards_added": 0}),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_shows_how_many_follow_it_and_whether_it_tells_them() -> Result<(), TestError> {
    let mut view = ViewTest::start(&database().await?, fold(Profiles), &schemas::all()).await?;
    view.at(at());
    let profile = ProfileCreated {
        name: "Ada".to_owned(),
        public: true,
    };
    let unfollowed = ProfileUnfollowed {
        follower_id: "eve".to_owned(),
    };
    view.given(
        "ada",
        vec![profile.into(), followed("bob"), followed("eve")],
    )
    .await?;
    view.given::<ProfileEvent>("ada", vec![unfollowed.into()])
        .await?;
    view.given::<ProfileEvent>(
        "ada",
        vec![ProfileVisibilityChanged { public: false }.into()],
    )
    .await?;
    let greeted = ProfileFirstCollectionStarted {
        collection_id: "c1".to_owned(),
        name: "Reading".to_owned(),
    };
    view.given::<ProfileEvent>("joe", vec![greeted.into()])
        .await?;
    assert_eq!(
        view.rows().await?,
        [
            json!({"profile_id": "ada", "name": "Ada", "public": false, "followers": 1,
                "updated_at": "2026-01-02T03:04:05.678+00:00", "version": 5})
        ]
    );
    Ok(())
}

/// Of each row: collection, card and how often together.
async fn recommended(view: &mut ViewTest) -> Result<Vec<Value>, TestError> {
    let rows = view.rows().await?;
    let short = |row: &Value| json!([row["collection_id"], row["card_id"], row["together"]]);
    Ok(rows.iter().map(short).collect())
}

async fn recommendations() -> Result<ViewTest, TestError> {
    let view = sql_projection(Recommendations);
    ViewTest::start(&database().await?, view, &schemas::all()).await
}

/// Three cards that ada has, and three collections: outbox is with saga twice and with relay once.
async fn library(view: &mut ViewTest) -> Result<(), TestError> {
    for card in ["Outbox", "Saga", "Relay"] {
        view.given(&card.to_lowercase(), vec![added("ada", card, 1)])
            .await?;
    }
    let of = |cards: &[&str]| -> Vec<CollectionEvent> {
        let puts = cards.iter().map(|card| put("ada", card));
        std::iter::once(created("ada")).chain(puts).collect()
    };
    view.given("c1", of(&["outbox", "saga"])).await?;
    view.given("c2", of(&["saga", "outbox", "relay"])).await?;
    view.given("c3", of(&["outbox"])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_together_with_a_collections_cards_in_others_is_recommended_to_it()
-> Result<(), TestError> {
    let mut view = recommendations().await?;
    library(&mut view).await?;
    assert_eq!(
        recommended(&mut view).await?,
        [
            // With outbox and with saga, each in c2.
            json!(["c1", "relay", 2]),
            json!(["c3", "relay", 1]),
            json!(["c3", "saga", 2]),
        ]
    );
    view.given("c2", vec![taken("ada", "relay")]).await?;
    assert_eq!(recommended(&mut view).await?, [json!(["c3", "saga", 2])]);
    view.given("c2", vec![put("ada", "relay")]).await?;
    assert_eq!(recommended(&mut view).await?.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_without_cards_is_recommended_what_most_collections_hold()
-> Result<(), TestError> {
    let mut view = recommendations().await?;
    library(&mut view).await?;
    view.given("c4", vec![created("bob")]).await?;
    let of_c4 = |rows: Vec<Value>| -> Vec<Value> {
        rows.into_iter().filter(|row| row[0] == "c4").collect()
    };
    assert_eq!(
        of_c4(recommended(&mut view).await?),
        [
            json!(["c4", "outbox", 3]),
            json!(["c4", "relay", 1]),
            json!(["c4", "saga", 2]),
        ]
    );
    view.given("c4", vec![put("bob", "relay")]).await?;
    assert_eq!(
        of_c4(recommended(&mut view).await?),
        [json!(["c4", "outbox", 1]), json!(["c4", "saga", 1])]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_nobody_has_any_more_is_recommended_to_nobody_until_somebody_has_it()
-> Result<(), TestError> {
    let mut view = recommendations().await?;
    library(&mut view).await?;
    view.given("relay", vec![added("bob", "Relay", 2), removed("ada", 1)])
        .await?;
    assert_eq!(recommended(&mut view).await?.len(), 3);
    view.given("relay", vec![removed("bob", 0)]).await?;
    assert_eq!(recommended(&mut view).await?, [json!(["c3", "saga", 2])]);
    view.given("relay", vec![added("eve", "Relay", 1)]).await?;
    assert_eq!(recommended(&mut view).await?.len(), 3);
    Ok(())
}

/// The two topics have no order between them.
#[tokio::test(flavor = "multi_thread")]
async fn recommendations_are_the_same_whichever_topic_was_read_first() -> Result<(), TestError> {
    let mut cards_first = recommendations().await?;
    library(&mut cards_first).await?;
    let mut collections_first = recommendations().await?;
    let view = &mut collections_first;
    view.given("c3", vec![created("ada"), put("ada", "outbox")])
        .await?;
    view.given(
        "c2",
        vec![
            created("ada"),
            put("ada", "saga"),
            put("ada", "outbox"),
            put("ada", "relay"),
        ],
    )
    .await?;
    view.given(
        "c1",
        vec![created("ada"), put("ada", "outbox"), put("ada", "saga")],
    )
    .await?;
    assert_eq!(recommended(view).await?, [] as [Value; 0]);
    for card in ["Relay", "Saga", "Outbox"] {
        view.given(&card.to_lowercase(), vec![added("ada", card, 1)])
            .await?;
    }
    assert_eq!(view.rows().await?, cards_first.rows().await?);
    Ok(())
}

//! What one handler cannot apply, it alone cannot apply.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Library;

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_the_search_cannot_take_reaches_every_other_handler() -> Result<()> {
    let library = Library::open()?;
    let up = library.up().await?;
    library.join("ada", true, &["bob"]).await?;
    library.reachable("bob").await?;
    // The view's own tables refuse it, as they would what no index can hold.
    library
        .world
        .execute(
            "ALTER TABLE card_search_b1.card_search ADD CONSTRAINT sweet CHECK (title <> 'Sour')",
        )
        .await?;
    // The command knows nothing of it.
    let accepted = library.add("sour", "ada", "Sour", "").await?;
    library.add("sweet", "ada", "Sweet", "").await?;
    library.collect("both", "ada", &["sour", "sweet"]).await?;
    library.collect("half", "ada", &["sweet"]).await?;

    let path = "/views/recommendations?collection_id=half";
    library.until_listed(path, "card_id", &["sour"]).await?;
    let activity = "SELECT sum(events)::bigint FROM views.library_activity
        WHERE event_type = 'CardAddedToLibrary'";
    library.world.until_number(activity, 2).await?;
    let told = format!("{} AND aggregate_id = 'bob'", super::story::TOLD);
    library.world.until_number(&told, 2).await?;
    super::published::published(&library, 4).await?;
    // The view itself goes on with other cards, and says which one is missing.
    library
        .until_listed("/views/card-search", "card_id", &["sweet"])
        .await?;
    let token = accepted["token"].as_str().unwrap_or_default();
    let (status, problem) = library
        .get(&format!("/views/card-search/sour?after={token}"))
        .await?;
    ensure!(
        status == 409 && problem["aggregate_id"] == "sour",
        "{problem}"
    );

    library
        .world
        .execute("ALTER TABLE card_search_b1.card_search DROP CONSTRAINT sweet")
        .await?;
    library
        .world
        .done(&["parked", "retry", "card-search", "sour"])?;
    library
        .until_shown("/views/card-search/sour", &json!({"title": "Sour"}))
        .await?;
    up.stop().await
}

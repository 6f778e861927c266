//! The view `recommendations`: to each collection, the cards that are together with its own in others.
//!
//! Collections and cards come from two topics in no order between them. So both are kept as they are and brought together
//! by the SQL view: whichever came first, the same rows are shown, and a rebuild shows them too. A card that nobody has
//! any more is recommended no more, although collections still hold it; when somebody adds it again, it is.

use millrace::codec::{Codec, CodecError};
use millrace::event::{Event, Recorded};
use millrace::projection::sql::PgConnection;
use millrace::projection::{Payload, SqlError, SqlProjection, Start};
use schemas::library::{CardEvent, CollectionEvent};

/// Counts in how many collections two cards are together. A collection has a bounded number of cards, and a card that
/// comes or goes is counted with each of them in one statement.
pub struct Recommendations;

/// What it reads.
pub enum Change {
    /// Of a card.
    Card(CardEvent),
    /// Of a collection.
    Collection(CollectionEvent),
}

impl Payload for Change {
    fn read(codec: &Codec, payload: &[u8]) -> Result<Self, CodecError> {
        match codec.decode(payload) {
            Err(CodecError::UnknownRecord { .. }) => codec.decode(payload).map(Self::Collection),
            read => read.map(Self::Card),
        }
    }
}

impl SqlProjection for Recommendations {
    const NAME: &'static str = "recommendations";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/recommendations.sql");
    type Payload = Change;

    fn topics(&self) -> Vec<String> {
        vec![CardEvent::topic(), CollectionEvent::topic()]
    }

    async fn project(
        &self,
        events: &[&Recorded<Change>],
        tx: &mut PgConnection,
    ) -> Result<(), SqlError> {
        for event in events {
            match &event.event {
                Change::Card(CardEvent::CardAddedToLibrary(added)) => {
                    let shown = (added.curators, added.url.as_str(), added.title.as_str());
                    card(event, shown, tx).await?;
                }
                Change::Card(CardEvent::CardRemovedFromLibrary(removed)) => {
                    card(event, (removed.curators, "", ""), tx).await?;
                }
                Change::Collection(CollectionEvent::CollectionCreated(_)) => {
                    collection(event, tx).await?;
                }
                Change::Collection(CollectionEvent::CollectionCardAdded(added)) => {
                    if collection(event, tx).await? {
                        put(event, &added.card_id, tx).await?;
                    }
                }
                Change::Collection(CollectionEvent::CollectionCardRemoved(removed)) => {
                    if collection(event, tx).await? {
                        take(event, &removed.card_id, tx).await?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Keeps who has a card, and what the newest who added it said of it.
async fn card(
    event: &Recorded<Change>,
    (curators, url, title): (i64, &str, &str),
    tx: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO recommendation_cards AS card (card_id, source, version, curators, url, title)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (card_id) DO UPDATE
         SET version = excluded.version, curators = excluded.curators,
             url = coalesce(nullif(excluded.url, ''), card.url),
             title = CASE WHEN excluded.url = '' THEN card.title ELSE excluded.title END
         WHERE card.version < excluded.version",
    )
    .bind(&event.aggregate_id)
    .bind(event.source())
    .bind(event.sequence)
    .bind(curators)
    .bind(url)
    .bind(title)
    .execute(tx)
    .await?;
    Ok(())
}

/// Moves a collection on to this event; false where it was there already.
async fn collection(event: &Recorded<Change>, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "INSERT INTO recommendation_collections AS collection (collection_id, source, version)
         VALUES ($1, $2, $3)
         ON CONFLICT (collection_id) DO UPDATE SET version = excluded.version
         WHERE collection.version < excluded.version",
    )
    .bind(&event.aggregate_id)
    .bind(event.source())
    .bind(event.sequence)
    .execute(tx)
    .await?;
    Ok(moved.rows_affected() == 1)
}

async fn put(
    event: &Recorded<Change>,
    card_id: &str,
    tx: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    // The card is together with those that were there before the statement, and with itself.
    sqlx::query(
        "WITH put AS (
             INSERT INTO recommendation_members (collection_id, card_id, source)
             VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING card_id
         ), beside AS (
             SELECT held.card_id FROM recommendation_members held, put WHERE held.collection_id = $1
         ), pairs (card_id, other_id) AS (
             SELECT put.card_id, put.card_id FROM put
             UNION ALL SELECT put.card_id, beside.card_id FROM put, beside
             UNION ALL SELECT beside.card_id, put.card_id FROM put, beside
         )
         INSERT INTO recommendation_pairs AS pair (card_id, other_id, source, together)
         SELECT card_id, other_id, $3, 1 FROM pairs ORDER BY card_id, other_id
         ON CONFLICT (card_id, other_id, source) DO UPDATE SET together = pair.together + 1",
    )
    .bind(&event.aggregate_id)
    .bind(card_id)
    .bind(event.source())
    .execute(tx)
    .await?;
    Ok(())
}

async fn take(
    event: &Recorded<Change>,
    card_id: &str,
    tx: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    // Those that were there before the statement are the others and the card itself.
    sqlx::query(
        "WITH taken AS (
             DELETE FROM recommendation_members WHERE collection_id = $1 AND card_id = $2
             RETURNING card_id
         ), beside AS (
             SELECT held.card_id FROM recommendation_members held, taken
             WHERE held.collection_id = $1
         ), pairs (card_id, other_id) AS (
             SELECT $2, card_id FROM beside UNION SELECT card_id, $2 FROM beside
         )
         UPDATE recommendation_pairs pair SET together = pair.together - 1 FROM pairs
         WHERE pair.card_id = pairs.card_id AND pair.other_id = pairs.other_id
           AND pair.source = $3",
    )
    .bind(&event.aggregate_id)
    .bind(card_id)
    .bind(event.source())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "WITH apart AS (
             DELETE FROM recommendation_pairs
             WHERE card_id = $1 AND source = $2 AND together = 0 RETURNING other_id
         )
         DELETE FROM recommendation_pairs pair USING apart
         WHERE pair.card_id = apart.other_id AND pair.other_id = $1 AND pair.source = $2
           AND pair.card_id <> $1",
    )
    .bind(card_id)
    .bind(event.source())
    .execute(tx)
    .await?;
    Ok(())
}

//! `GET /events/stream`: every event once and in order, also for whoever was away meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, future, stream};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::world::{LONG, World};

/// One event as it came: its id, its name and its data; a sign of life has an id alone.
#[derive(Debug, Default, Clone, PartialEq)]
struct Sent {
    id: String,
    event: String,
    data: Value,
}

/// A reader that keeps, as a browser does, the last id for when it connects again.
struct Reader {
    url: String,
    last: Option<String>,
}

impl Reader {
    async fn open(&self) -> Result<Response> {
        let mut request = Client::new().get(&self.url);
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        Ok(request.send().await?)
    }

    /// Reads until `done` says of the last one that it is enough, or the stream ends.
    async fn read(&mut self, done: impl Fn(&[Sent]) -> bool) -> Result<Vec<Sent>> {
        let answer = self.open().await?.error_for_status()?;
        let mut chunks = answer.bytes_stream();
        let (mut text, mut sent) = (String::new(), Vec::new());
        while !done(&sent) {
            let chunk = tokio::time::timeout(LONG, chunks.next());
            let chunk = chunk.await.context("nothing came any more")?;
            let Some(Ok(chunk)) = chunk else { break };
            text.push_str(std::str::from_utf8(&chunk)?);
            while let Some(end) = text.find("\n\n") {
                let frame = parse(&text[..end])?;
                text.drain(..end + 2);
                self.last = Some(frame.id.clone());
                sent.push(frame);
            }
        }
        Ok(sent)
    }
}

fn parse(frame: &str) -> Result<Sent> {
    let mut sent = Sent::default();
    for line in frame.lines() {
        let (name, value) = line.split_once(':').context("no field")?;
        let value = value.trim_start();
        match name {
            "id" => value.clone_into(&mut sent.id),
            "event" => value.clone_into(&mut sent.event),
            "data" => sent.data = serde_json::from_str(value)?,
            other => bail!("field {other}"),
        }
    }
    Ok(sent)
}

async fn order(world: &World, id: usize, command: &str, data: Value) -> Result<()> {
    let answer = Client::new()
        .post(format!("{}/commands/order/{id}", world.url))
        .json(&json!({"type": command, "data": data}))
        .send()
        .await?;
    ensure!(
        answer.status() == StatusCode::CREATED,
        "{}",
        answer.text().await?
    );
    Ok(())
}

/// Two events each, from several callers at once.
async fn orders(world: &World, ids: std::ops::Range<usize>) -> Result<()> {
    stream::iter(ids)
        .map(|id| async move {
            let draft = json!({"customer_id": "ada", "currency": "EUR"});
            order(world, id, "DraftOrder", draft).await?;
            let item = json!({"product_id": "tea", "quantity": 1, "total_cents": 5});
            order(world, id, "AddItem", item).await
        })
        .buffer_unordered(8)
        .try_for_each(|()| future::ready(Ok(())))
        .await
}

/// Positions of all events of the journal, in its order, by a statement of our own.
async fn journal(world: &World) -> Result<Vec<String>> {
    let mut connection = PgConnection::connect(world.servers.database_url()).await?;
    Ok(sqlx::query_scalar(
        "SELECT format('%s:%s:%s', e.generation, e.xid, e.position)
         FROM millrace.events AS e ORDER BY e.generation, e.xid, e.position",
    )
    .fetch_all(&mut connection)
    .await?)
}

fn events(sent: &[Sent]) -> impl Iterator<Item = &Sent> {
    sent.iter().filter(|one| !one.event.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_sends_every_event_once_and_goes_on_where_its_reader_was_also_after_a_kill()
-> Result<()> {
    let world = World::start()?;
    let mut producer = world.producer()?;
    producer.ready().await?;
    orders(&world, 0..20).await?;
    let mut reader = Reader {
        url: format!("{}/events/stream?after=start", world.url),
        last: None,
    };
    let enough = |sent: &[Sent]| events(sent).count() >= 60;
    let (sent, read) = tokio::join!(orders(&world, 20..60), reader.read(enough));
    sent?;
    let mut seen = read?;
    drop(producer);
    let mut producer = world.producer()?;
    producer.ready().await?;
    orders(&world, 60..80).await?;
    let missing = 160 - events(&seen).count();
    seen.extend(reader.read(|sent| events(sent).count() >= missing).await?);
    let positions: Vec<String> = events(&seen).map(|one| one.id.clone()).collect();
    assert_eq!(positions, journal(&world).await?);

    // A filter that matches little: what it names comes, and signs of life say where the reader is.
    let url = format!(
        "{}/events/stream?aggregate=order&aggregate_id=7&event_type=OrderItemAdded",
        world.url
    );
    let mut filtered = Reader {
        url: format!("{url}&after=start"),
        last: None,
    };
    let sent = filtered
        .read(|sent| sent.iter().any(|one| one.event.is_empty()))
        .await?;
    let [added, sign] = &sent[..] else {
        bail!("{sent:?}");
    };
    assert_eq!(added.event, "order.item_added");
    assert_eq!(added.data["aggregate_id"], "7");
    assert_eq!(
        added.data["data"],
        json!({"product_id": "tea", "quantity": 1, "total_cents": 5})
    );
    assert_eq!(Some(&sign.id), positions.last());

    // Without a position: what comes from now on. The stream is there when it answers, so nothing is missed.
    let now = Reader {
        url: format!("{}/events/stream", world.url),
        last: None,
    };
    let answer = now.open().await?;
    orders(&world, 80..81).await?;
    let first = answer.bytes_stream().next().await.context("it ended")??;
    let first = std::str::from_utf8(&first)?;
    assert!(
        first.contains("event: order.drafted") && first.contains("\"80\""),
        "{first}"
    );

    let foreign = Reader {
        url: format!("{url}&after=9:1:1"),
        last: None,
    };
    assert_eq!(foreign.open().await?.status(), StatusCode::BAD_REQUEST);
    let unread = Reader {
        url: format!("{url}&after=here"),
        last: None,
    };
    assert_eq!(unread.open().await?.status(), StatusCode::BAD_REQUEST);
    // An open stream does not hold up the end of the process.
    let open = filtered.open().await?;
    // It drains for 60 s at most.
    tokio::time::timeout(Duration::from_secs(50), producer.stop()).await??;
    drop(open);
    Ok(())
}

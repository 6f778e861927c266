//! The example of `docs/guides/from-crud.md`: a table that is written all the while becomes a stream of events, and back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tests::dice::Dice;
use tests::wait::eventually;
use tokio_util::sync::CancellationToken;

use crate::operate::world::{World, path};

/// Rows that are there before anything else is.
const BEFORE: u32 = 100;

/// An application with its table, and the system that it moves to.
struct Move {
    world: World,
    crud_url: String,
    crud: PgPool,
    http: reqwest::Client,
}

fn file(name: &str) -> PathBuf {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/from-crud");
    guide.join(name)
}

impl Move {
    async fn begin() -> Result<Self> {
        let world = World::start()?;
        let crud_url = world.servers.fresh_database("crud").await?;
        Ok(Self {
            crud: PgPool::connect(&crud_url).await?,
            world,
            crud_url,
            http: reqwest::Client::new(),
        })
    }

    async fn sql(&self, name: &str) -> Result<()> {
        let sql = std::fs::read_to_string(file(name))?;
        let mut connection = self.crud.acquire().await?;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *connection)
            .await
            .with_context(|| name.to_owned())?;
        Ok(())
    }

    /// Runs a script of the guide; its exit code and what it printed.
    fn script(&self, name: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let output = Command::new(file(name))
            .args(arguments)
            .env("PATH", self.world.path_with_program()?)
            .env("CRUD_URL", &self.crud_url)
            .env(
                "VIEWS_DATABASE_URL",
                self.world.servers.views_database_url(),
            )
            .env("MILLRACE_URL", &self.world.url)
            .env("TMPDIR", self.world.dir.path())
            .current_dir(self.world.dir.path())
            .output()?;
        let printed = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&printed).into_owned(),
        ))
    }

    fn done(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let (done, printed) = self.script(name, arguments)?;
        ensure!(done, "{name}: {printed}");
        Ok(())
    }

    async fn sends_without_taking_out(&self) -> Result<()> {
        let lines: Vec<String> = sqlx::query_scalar("SELECT line::text FROM outbox ORDER BY id")
            .fetch_all(&self.crud)
            .await?;
        let file = self.world.dir.path().join("outbox.ndjson");
        std::fs::write(&file, lines.join("\n"))?;
        self.world.done(&["send", path(&file)]).map(drop)
    }

    async fn number(&self, sql: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.crud).await?)
    }

    /// The table and the view come to say the same.
    async fn agree(&self) -> Result<()> {
        let same = || async { self.script("compare.sh", &[]).is_ok_and(|(same, _)| same) };
        let agreed = eventually("the table and the view say the same", same).await;
        agreed.with_context(|| {
            format!(
                "{:?}\n{}",
                self.script("compare.sh", &[]),
                self.world.logs()
            )
        })
    }

    async fn command(&self, id: &str, kind: &str, data: Value) -> Result<Value> {
        let url = format!("{}/commands/product/{id}", self.world.url);
        let body = json!({"type": kind, "data": data});
        let answer = self.http.post(url).json(&body).send().await?;
        ensure!(answer.status() == 201, "{}", answer.text().await?);
        Ok(answer.json().await?)
    }

    async fn shown(&self, id: &str, token: &Value) -> Result<Value> {
        let token = token.as_str().context("no token")?;
        let url = format!("{}/views/products/{id}?after={token}", self.world.url);
        let answer = self.http.get(url).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }
}

async fn create(crud: &PgPool, number: u32) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO products VALUES ('p' || $1, 'Product ' || $1, 'EUR', 100)")
        .bind(i64::from(number))
        .execute(crud)
        .await
        .map(drop)
}

/// Writes the table as its application does, from several sessions, until it is told to stop; how many products there are.
async fn writes(crud: PgPool, stop: CancellationToken) -> Result<u32, sqlx::Error> {
    let mut dice = Dice::new(7);
    let mut products = BEFORE;
    // Fast enough to be in the way of everything, and no faster: each write is a command later.
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !stop.is_cancelled() {
        pace.tick().await;
        if dice.roll(4) == 0 {
            products += 1;
            create(&crud, products).await?;
        }
        // The same product from two sessions at a time, so that commands of one row race.
        let (product, price) = (dice.roll(products.into()) + 1, dice.roll(900) as i64);
        let price_it = |price: i64| {
            sqlx::query("UPDATE products SET price_cents = $2 WHERE product_id = 'p' || $1")
                .bind(product as i64)
                .bind(price)
                .execute(&crud)
        };
        tokio::try_join!(price_it(price), price_it(price + 1))?;
    }
    Ok(products)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_becomes_events_while_it_is_written_and_takes_over_again() -> Result<()> {
    let it = Move::begin().await?;
    it.sql("table.sql").await?;
    for number in 1..=BEFORE {
        create(&it.crud, number).await?;
    }
    let mut up = it.world.up()?;
    up.ready().await?;

    // Phase 1, back, and again.
    it.sql("dual_write.sql").await?;
    create(&it.crud, 0).await?;
    ensure!(it.number("SELECT count(*) FROM outbox").await? == 1);
    it.sql("dual_write_undo.sql").await?;
    it.sql("dual_write.sql").await?;
    let rename = sqlx::query("UPDATE products SET name = 'Other'");
    let refused = rename.execute(&it.crud).await.map(drop);
    ensure!(refused.is_err_and(|error| error.to_string().contains("no command renames")));

    // Phase 2, while the table is written.
    let stop = CancellationToken::new();
    let writer = tokio::spawn(writes(it.crud.clone(), stop.clone()));
    let waiting = || async {
        let outbox = it.number("SELECT count(*) FROM outbox").await;
        outbox.is_ok_and(|lines| lines > 50)
    };
    eventually("the writer writes", waiting).await?;
    it.sql("backfill.sql").await?;
    eventually("and goes on", waiting).await?;
    it.done("send.sh", &["backfill"])?;
    // As if it had crashed when all was sent, and nothing taken out: the second time changes nothing.
    it.sends_without_taking_out().await?;
    it.done("send.sh", &["outbox"])?;
    stop.cancel();
    let products = tokio::time::timeout(Duration::from_secs(30), writer).await???;
    it.done("send.sh", &["outbox"])?;
    ensure!(it.number("SELECT count(*) FROM outbox").await? == 0);
    it.agree().await?;
    // All products that there are, with the one of the first try.
    let created = "SELECT count(*) FROM views.event_log WHERE event_type = 'ProductCreated'";
    it.world
        .until_number(created, i64::from(products) + 1)
        .await?;

    // Phase 4. Phase 3, reading the view, is what `shown` does.
    it.sql("stop_writes.sql").await?;
    let written = sqlx::query("UPDATE products SET price_cents = 1")
        .execute(&it.crud)
        .await
        .map(drop);
    ensure!(written.is_err_and(|error| error.to_string().contains("are written by commands")));
    let price = json!({"currency": "EUR", "price_cents": 4_711});
    let accepted = it.command("p1", "PriceProduct", price).await?;
    let row = it.shown("p1", &accepted["token"]).await?;
    ensure!(row["price_cents"] == 4_711, "{row}");
    let new = json!({"name": "New", "currency": "EUR", "price_cents": 5});
    let accepted = it.command("new", "CreateProduct", new).await?;
    it.shown("new", &accepted["token"]).await?;
    let (same, differs) = it.script("compare.sh", &[])?;
    ensure!(!same && differs.contains("4711"), "{differs}");

    // Back: the table has it all, is written, and its writes go out as before.
    it.done("back.sh", &[])?;
    it.done("compare.sh", &[])?;
    ensure!(it.number("SELECT count(*) FROM outbox").await? == 0);
    sqlx::query("UPDATE products SET price_cents = price_cents + 1")
        .execute(&it.crud)
        .await?;
    it.done("send.sh", &["outbox"])?;
    it.agree().await?;
    up.stop().await
}

//! A view is repaired by the stock tool's reset of its offsets, while readers go on reading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use tests::stock;
use tokio::task::JoinHandle;

use super::world::{Orders, Process, Sums, World};

const GROUP: &str = "millrace.view.customer-totals";
const SUM_ORDERS: &str = "SELECT coalesce(sum(orders), 0)::bigint FROM views.customer_totals";
const OPEN: &str = "SELECT (SELECT count(*) FROM millrace_views.resets WHERE done_at IS NULL)
    + (SELECT count(*) FROM millrace_views.builds WHERE state = 'building')";

/// Polls the sums of the view until it is told to stop; every value it saw, without repeats.
struct Reader {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<Sums>>>,
}

impl Reader {
    async fn start(world: &World) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut connection = PgConnection::connect(world.servers.views_database_url()).await?;
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut seen: Vec<Sums> = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let sums: Sums = sqlx::query_as(
                    "SELECT sum(orders)::bigint, sum(total_cents)::bigint FROM views.customer_totals",
                )
                .fetch_one(&mut connection)
                .await?;
                if seen.last() != Some(&sums) {
                    seen.push(sums);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(seen)
        });
        Ok(Self { stop, task })
    }

    async fn stop(self) -> Result<Vec<Sums>> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await?
    }
}

fn sums(totals: &BTreeMap<String, Sums>) -> Sums {
    totals
        .values()
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Pauses, lowers the rows (of one partition alone, if given), resets with the stock tool, resumes, and demands that
/// the view becomes right again and that no reader sees anything but the lowered and the right sums. With a fail
/// point the projections are killed there and started again.
async fn lowered_rows_are_rebuilt(
    world: &World,
    projections: Process,
    right: &BTreeMap<String, Sums>,
    (partition, failpoint): (Option<i32>, Option<&str>),
) -> Result<Process> {
    world.done(&["pause", "customer-totals"])?;
    let status = world.status()?;
    let view = status["views"].as_array().context("no views")?.iter();
    let view = view
        .clone()
        .find(|view| view["view"] == "customer-totals")
        .context("the view is not in the status")?;
    ensure!(view["paused"] == true && view["members"] == 0, "{view}");
    let table = view["tables"][0].as_str().context("no table")?.to_owned();
    let only = partition.map_or(String::new(), |partition| {
        format!(" AND source = 'order.events/{partition}'")
    });
    world
        .execute(&format!(
            "UPDATE {table} SET orders = orders - 1, total_cents = total_cents / 2 WHERE orders > 1{only}"
        ))
        .await?;
    let lowered = sums(&world.customer_totals().await?);
    ensure!(lowered < sums(right), "nothing was lowered{only}");
    let topic = partition.map_or("order.events".to_owned(), |partition| {
        format!("order.events:{partition}")
    });
    stock::reset_offsets(&world.servers, GROUP, &topic, &["--to-earliest"])?;

    let projections = match failpoint {
        None => projections,
        Some(point) => {
            projections.stop().await?;
            let mut armed = world.projections(&format!("{point}=kill"))?;
            armed.ready().await?;
            armed
        }
    };
    let reader = Reader::start(world).await?;
    world.done(&["resume", "customer-totals"])?;
    let mut projections = match failpoint {
        None => projections,
        Some(_) => {
            let mut killed = projections;
            killed.ended().await?;
            drop(killed);
            world.projections("")?
        }
    };
    projections.ready().await?;
    world.until_number(SUM_ORDERS, sums(right).0).await?;
    world.until_number(OPEN, 0).await?;
    let seen = reader.stop().await?;
    // Where the claims take long, one build covers the partitions claimed so far and the next one the others.
    assert_eq!(seen.first(), Some(&lowered), "{partition:?} {failpoint:?}");
    assert_eq!(
        seen.last(),
        Some(&sums(right)),
        "{partition:?} {failpoint:?}"
    );
    assert!(
        seen.is_sorted_by(|before, after| before.0 <= after.0 && before.1 <= after.1),
        "a reader saw less than before: {seen:?}, {partition:?} {failpoint:?}"
    );
    assert_eq!(&world.customer_totals().await?, right);
    Ok(projections)
}

/// Skips events by `--to-latest`, killed right after the skip was recorded; it shows, and a rebuild brings them back.
async fn skipped_events_show_until_a_rebuild(
    world: &World,
    projections: Process,
    before: &Orders,
) -> Result<Process> {
    let right = before.of_customers();
    world.done(&["pause", "customer-totals"])?;
    let more = Orders::new(10_000, 50);
    world.send("more.ndjson", &more)?;
    // The relay has published all of it when another view shows it.
    let orders = before.accepted() + more.accepted();
    world
        .until_number("SELECT count(*) FROM views.orders", orders as i64)
        .await?;
    stock::reset_offsets(&world.servers, GROUP, "order.events", &["--to-latest"])?;
    projections.stop().await?;
    let mut killed = world.projections("sink.after-skip-recorded=kill")?;
    killed.ready().await?;
    world.done(&["resume", "customer-totals"])?;
    killed.ended().await?;
    drop(killed);
    let mut projections = world.projections("")?;
    projections.ready().await?;
    world.done(&["resume", "customer-totals", "--wait"])?;
    assert_eq!(world.customer_totals().await?, right, "nothing was skipped");

    let status = world.status()?;
    let view = status["views"].as_array().context("no views")?.iter();
    let mut skips = view
        .filter(|view| view["view"] == "customer-totals")
        .map(|view| view["skips"].as_array().map_or(0, Vec::len));
    assert!(skips.next().is_some_and(|skips| skips > 0), "{status}");
    let told = world.done(&["status"])?;
    assert!(
        told.contains("customer-totals skips order.events/"),
        "{told}"
    );
    let ack = world.lines("more.ndjson.acks")?.remove(0);
    let token = ack["token"].as_str().context("no token")?.to_owned();
    let customer = right.keys().next().context("no customer")?;
    let url = format!(
        "{}/views/customer-totals/{customer}?after={token}",
        world.url
    );
    assert_eq!(reqwest::get(&url).await?.status(), 410);

    world.done(&["rebuild", "customer-totals", "--wait"])?;
    let mut all = right;
    for (customer, (orders, cents)) in more.of_customers() {
        let sum = all.entry(customer).or_default();
        *sum = (sum.0 + orders, sum.1 + cents);
    }
    assert_eq!(world.customer_totals().await?, all);
    assert_eq!(reqwest::get(&url).await?.status(), 200);

    let told = world.done(&["rebuild", "--aggregate", "order", "--wait"])?;
    for view in ["customer-totals", "event-log", "orders"] {
        assert!(told.contains(&format!("{view} is rebuilt")), "{told}");
    }
    assert!(!told.contains("stock"), "{told}");
    assert_eq!(world.customer_totals().await?, all);
    let unknown = world.run(&["rebuild", "--aggregate", "nothing"])?;
    assert_eq!(unknown.status.code(), Some(2));
    Ok(projections)
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_right_and_a_reset_by_the_stock_tool_repairs_them_under_readers() -> Result<()> {
    let world = World::start()?;
    let mut producer = world.producer()?;
    let mut projections = world.projections("")?;
    producer.ready().await?;
    projections.ready().await?;

    let orders = Orders::new(0, 2_000);
    let right = orders.of_customers();
    let (summary, code) = world.send("orders.ndjson", &orders)?;
    assert_eq!(
        (&summary["accepted"], &summary["refused"]),
        (&1_980.into(), &20.into())
    );
    assert_eq!(code, 1);
    let rejects = world.lines("orders.ndjson.rejects.ndjson")?;
    assert_eq!(rejects.len(), 20);
    assert!(
        rejects.iter().all(|reject| reject["status"] == 422
            && reject["reason"]
                .as_str()
                .is_some_and(|why| why.contains("quantity"))),
        "{rejects:?}"
    );
    world
        .until_number("SELECT count(*) FROM views.orders", 1_980)
        .await?;
    world.until_number(SUM_ORDERS, 1_980).await?;
    assert_eq!(world.customer_totals().await?, right);
    let mut connection = PgConnection::connect(world.servers.views_database_url()).await?;
    let shown: Vec<(String, i64)> =
        sqlx::query_as("SELECT order_id, total_cents FROM views.orders WHERE status = 'placed'")
            .fetch_all(&mut connection)
            .await?;
    assert_eq!(
        shown.into_iter().collect::<BTreeMap<_, _>>(),
        orders.totals()
    );

    let (again, _) = world.send("orders.ndjson", &orders)?;
    assert_eq!(
        (&again["accepted"], &again["repeated"]),
        (&0.into(), &1_980.into()),
        "{again}"
    );
    assert_eq!(world.customer_totals().await?, right);

    let unknown = world.run(&["pause", "customers"])?;
    assert_eq!(unknown.status.code(), Some(2));
    let told = String::from_utf8_lossy(&unknown.stderr).into_owned();
    for known in ["customer-totals", "event-log", "orders"] {
        assert!(told.contains(known), "{told}");
    }

    for how in [
        (None, None),
        (Some(3), None),
        (None, Some("rebuild.before-swap")),
        (Some(3), Some("rebuild.in-swap")),
    ] {
        projections = lowered_rows_are_rebuilt(&world, projections, &right, how).await?;
    }
    let projections = skipped_events_show_until_a_rebuild(&world, projections, &orders).await?;
    let told = world.done(&["status"])?;
    assert!(told.contains("all is well"), "{told}");
    projections.stop().await?;
    producer.stop().await
}

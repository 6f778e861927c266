//! The example of `docs/guides/new-event-flow-view.md`: each part by itself, with nothing but Postgres for the view.

use std::path::Path;

use millrace::command::AggregateType;
use millrace::projection::fold;
use millrace::registry::SchemaSet;
use millrace::testing::contract;
use millrace::testing::given;
use millrace::testing::topology::TopologyLog;
use millrace::testing::view::{TestError, ViewTest};
use schemas::order::{Coordination, OrderEvent, OrderPaid};
use serde_json::json;
use tests::servers::Servers;

use tests::points::aggregate::{Points, Rejection};
use tests::points::flow::OrderPoints;
use tests::points::schema::{EarnPoints, PointsCommand, PointsEarned, PointsEvent};
use tests::points::view::PointsView;

fn earn(points: i64) -> EarnPoints {
    EarnPoints {
        order_id: "o1".to_owned(),
        points,
    }
}

fn earned(order: &str, points: i64) -> PointsEvent {
    PointsEarned {
        order_id: order.to_owned(),
        points,
    }
    .into()
}

fn paid(amount_cents: i64) -> OrderPaid {
    OrderPaid {
        customer_id: "ada".to_owned(),
        currency: "EUR".to_owned(),
        amount_cents,
        coordination: Coordination::Choreography,
    }
}

#[test]
fn an_order_earns_points_once() {
    given::<Points>([]).when(earn(7)).then([earned("o1", 7)]);
    given::<Points>([earned("o1", 7)]).when(earn(7)).then([]);
}

#[test]
fn nobody_earns_no_points() {
    given::<Points>([])
        .when(earn(0))
        .then_rejected(Rejection::NotAboveZero(0));
}

#[test]
fn the_structs_are_what_their_schema_files_say() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("avro/loyalty/golden");
    contract::check::<PointsEvent>(&[earned("o1", 7)], &golden);
    contract::check_commands::<PointsCommand>(&[earn(7).into()], &golden.join("commands"));
}

#[test]
fn a_sale_earns_a_point_for_each_unit_and_small_change_none() {
    // The line of the new processor, and the lines of the new schemas.
    let topology = processors::topology().processor(OrderPoints);
    let mut all = schemas::all();
    all.push(SchemaSet::of::<PointsEvent>());
    all.push(SchemaSet::of_commands::<PointsCommand>());
    let mut log = TopologyLog::new(&topology, &all);
    log.pipe::<OrderEvent>("o1", paid(799));
    log.pipe::<OrderEvent>("o2", paid(99));
    let emitted = log.drain::<PointsCommand>().into_iter();
    let emitted: Vec<_> = emitted.map(|one| (one.aggregate_id, one.command)).collect();
    assert_eq!(emitted, [("ada".to_owned(), earn(7).into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_shows_what_a_customer_has() -> Result<(), TestError> {
    let database = Servers::shared().fresh_database("points").await?;
    let schemas = [SchemaSet::of::<PointsEvent>()];
    let mut view = ViewTest::start(&database, fold(PointsView), &schemas).await?;
    view.given("ada", vec![earned("o1", 7), earned("o2", 3)])
        .await?;
    assert_eq!(
        view.rows().await?,
        [json!({"customer_id": "ada", "points": 10, "orders": 2, "version": 2})]
    );
    Ok(())
}

#[test]
fn the_line_of_the_new_aggregate_compiles() {
    const LINE: AggregateType = AggregateType::of::<Points>();
    assert_eq!(
        (LINE.name, LINE.command_types),
        ("points", &["EarnPoints"][..])
    );
}

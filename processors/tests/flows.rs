//! The flows on a topology without a broker: what each event leads to, and that it leads to it once.

#[path = "flows/recipients.rs"]
mod recipients;

use std::time::Duration;

use chrono::DateTime;
use millrace::testing::topology::TopologyLog;
use schemas::order::*;
use schemas::stock::*;

fn log() -> TopologyLog {
    TopologyLog::new(&processors::topology(), &schemas::all())
}

fn line(product: &str, quantity: i64) -> OrderLine {
    OrderLine {
        product_id: product.into(),
        quantity,
        total_cents: 500,
    }
}

fn placed(coordination: Coordination) -> OrderEvent {
    OrderPlaced {
        customer_id: "ada".into(),
        currency: "EUR".into(),
        placed_at: DateTime::UNIX_EPOCH,
        lines: vec![line("tea", 2), line("cup", 1), line("tea", 3)],
        coordination,
    }
    .into()
}

fn products() -> Vec<ProductQuantity> {
    ProductQuantity::of(&[line("cup", 1), line("tea", 5)])
}

fn cancelled() -> OrderEvent {
    OrderCancelled {
        reason: "changed my mind".into(),
        products: products(),
    }
    .into()
}

fn reserve(quantity: i64) -> StockCommand {
    ReserveStock {
        order_id: "1".into(),
        quantity,
        coordination: Coordination::Choreography,
    }
    .into()
}

fn release() -> StockCommand {
    ReleaseStock {
        order_id: "1".into(),
    }
    .into()
}

/// The commands to stocks since the last call: product and command.
fn to_stock(log: &mut TopologyLog) -> Vec<(String, StockCommand)> {
    let emitted = log.drain::<StockCommand>().into_iter();
    emitted.map(|one| (one.aggregate_id, one.command)).collect()
}

fn to_orders(log: &mut TopologyLog) -> Vec<(String, OrderCommand)> {
    let emitted = log.drain::<OrderCommand>().into_iter();
    emitted.map(|one| (one.aggregate_id, one.command)).collect()
}

fn both<C: Clone>(cup: C, tea: C) -> [(String, C); 2] {
    [("cup".to_owned(), cup), ("tea".to_owned(), tea)]
}

#[test]
fn a_placed_order_reserves_each_product_once_with_the_sum_of_its_lines() {
    let mut log = log();
    log.pipe::<OrderEvent>("1", placed(Coordination::Choreography));
    assert_eq!(to_stock(&mut log), both(reserve(1), reserve(5)));
    assert_eq!(to_orders(&mut log), []);
}

#[test]
fn an_orchestrated_order_reserves_nothing_by_itself() {
    let mut log = log();
    log.pipe::<OrderEvent>("1", placed(Coordination::Orchestration));
    assert_eq!(to_stock(&mut log), []);
}

#[test]
fn what_is_not_the_stocks_business_leads_to_nothing() {
    let mut log = log();
    let drafted = OrderDrafted {
        customer_id: "ada".into(),
        currency: "EUR".into(),
    };
    log.pipe::<OrderEvent>("1", drafted);
    log.pipe::<OrderEvent>("1", OrderConfirmed::default());
    log.pipe::<OrderEvent>("1", OrderDelivered::default());
    log.pipe::<StockEvent>("tea", StockReceived { quantity: 9 });
    let order_id = "1".to_owned();
    log.pipe::<StockEvent>(
        "tea",
        StockReleased {
            order_id,
            quantity: 2,
            coordination: Coordination::Choreography,
        },
    );
    assert_eq!(to_stock(&mut log), []);
    assert_eq!(to_orders(&mut log), []);
}

#[test]
fn a_cancelled_order_releases_its_products_after_it_reserved_them() {
    let mut log = log();
    log.pipe::<OrderEvent>("1", placed(Coordination::Choreography));
    log.pipe::<OrderEvent>("1", cancelled());
    let commands = to_stock(&mut log);
    for (product, quantity) in [("cup", 1), ("tea", 5)] {
        let of_product = commands.iter().filter(|(id, _)| id == product);
        let of_product: Vec<_> = of_product.map(|(_, command)| command.clone()).collect();
        assert_eq!(of_product, [reserve(quantity), release()], "{product}");
    }
}

#[test]
fn a_shipped_order_ships_out_its_products() {
    let mut log = log();
    let shipped = OrderShipped {
        tracking_code: None,
        products: products(),
        customer_id: "ada".into(),
    };
    log.pipe::<OrderEvent>("1", shipped);
    let order_id = "1".to_owned();
    let ship_out = StockCommand::from(ShipOutStock { order_id });
    assert_eq!(to_stock(&mut log), both(ship_out.clone(), ship_out));
}

#[test]
fn the_order_hears_what_the_stock_of_a_product_answers() {
    let mut log = log();
    let reserved = StockReserved {
        order_id: "1".into(),
        quantity: 5,
        tracked: false,
        coordination: Coordination::Choreography,
    };
    let refused = StockReservationRefused {
        order_id: "2".into(),
        quantity: 5,
        available: 4,
        coordination: Coordination::Choreography,
    };
    log.pipe::<StockEvent>("tea", reserved);
    log.pipe::<StockEvent>("tea", refused);
    let reservation = RecordReservation {
        product_id: "tea".into(),
        quantity: 5,
    };
    let shortage = RecordShortage {
        product_id: "tea".into(),
        quantity: 5,
        available: 4,
    };
    let mut answers = to_orders(&mut log);
    answers.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        answers,
        [
            ("1".to_owned(), reservation.into()),
            ("2".to_owned(), shortage.into())
        ]
    );
}

#[test]
fn a_replay_repeats_each_command_under_its_id() {
    let mut log = log();
    log.pipe::<OrderEvent>("1", placed(Coordination::Choreography));
    log.pipe::<OrderEvent>("1", cancelled());
    let first = log.drain::<StockCommand>();
    for partition in 0..3 {
        log.reset("order-stock", partition, 0);
    }
    log.advance(Duration::from_secs(60));
    let again = log.drain::<StockCommand>();
    let ids = |commands: &[millrace::testing::topology::Emitted<StockCommand>]| -> Vec<_> {
        commands.iter().map(|one| one.id).collect()
    };
    assert_eq!(first.len(), 4);
    assert_eq!(ids(&first), ids(&again));
}

#[test]
fn whatever_a_flow_emits_names_its_cause_and_goes_on_with_the_story() {
    let mut log = log();
    let event = log.pipe::<OrderEvent>("1", placed(Coordination::Choreography));
    let emitted = log.drain::<StockCommand>();
    assert_eq!(emitted.len(), 2);
    for one in emitted {
        let header = |wanted: &str| {
            let mut all = one.record.headers.iter();
            let (_, value) = all.find(|(name, _)| *name == wanted).unwrap();
            String::from_utf8(value.unwrap().to_vec()).unwrap()
        };
        assert_eq!(header("ce_causationid"), event.to_string());
        // The story of the command that the event came from, not one of the event's own.
        assert_eq!(header("ce_correlationid"), "story-1");
        assert_eq!(header("ce_source"), "/millrace/processor/order-stock");
    }
}

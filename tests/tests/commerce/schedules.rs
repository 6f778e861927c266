//! One paid order at a time, without servers, under schedules by chance: which processor reads next, which command is decided next, when
//! the gateway charges and when it says so (and whether it says so twice), which timer fires, and what a person does meanwhile.
//!
//! What is kept of the real thing: the aggregates, the processors and their Avro; events of one aggregate are read in their order by each
//! processor, commands of one aggregate are decided in the order in which they were sent, calls about one payment follow each other.
//! Everything else is left to chance, and a schedule is its seed.

use std::collections::{BTreeMap, VecDeque};

use millrace::aggregate::{Aggregate, Context};
use millrace::event::Event;
use millrace::processor::{Processor, Topology};
use millrace::testing::topology::TopologyLog;
use millrace::timer::TimerChange;
use processors::flows::{
    order_payment::OrderPayment, order_saga::OrderSaga as StartSaga, order_stock::OrderStock,
    payment_order::PaymentOrder, payment_saga::PaymentSaga, saga_steps::SagaSteps,
    stock_order::StockOrder, stock_saga::StockSaga,
};
use producer::aggregates::order::Order;
use producer::aggregates::order_saga::OrderSaga;
use producer::aggregates::payment::Payment;
use producer::aggregates::stock::Stock;
use schemas::order::*;
use schemas::order_saga::*;
use schemas::payment::*;
use schemas::stock::*;

const SCHEDULES: u64 = 1_500;
/// Far above what any schedule takes.
const MOVES_MAX: usize = 3_000;
const PRICE: i64 = 500;

/// Numbers that follow from their seed.
struct Chance(u64);

impl Chance {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// An aggregate with the commands that are on their way to it.
struct Stream<A: Aggregate> {
    id: String,
    state: A,
    events: Vec<A::Event>,
    inbox: VecDeque<A::Command>,
    timers: BTreeMap<&'static str, A::Command>,
}

impl<A: Aggregate> Stream<A> {
    fn new(id: String) -> Self {
        Self {
            id,
            state: A::default(),
            events: Vec::new(),
            inbox: VecDeque::new(),
            timers: BTreeMap::new(),
        }
    }

    /// Decides the next command; a rejection is an end like any other.
    fn decide(&mut self) {
        let Some(command) = self.inbox.pop_front() else {
            return;
        };
        let context = Context {
            aggregate_id: self.id.clone(),
            now: chrono::DateTime::UNIX_EPOCH,
        };
        for event in self.state.decide(command, &context).unwrap_or_default() {
            for change in A::timers(&event) {
                match change {
                    TimerChange::Set { name, command, .. } => {
                        self.timers.insert(name, command);
                    }
                    TimerChange::Cancel { name } => {
                        self.timers.remove(name);
                    }
                }
            }
            self.state.evolve(&event);
            self.events.push(event);
        }
    }

    fn fire(&mut self) {
        if let Some((_, command)) = self.timers.pop_first() {
            self.inbox.push_back(command);
        }
    }
}

/// What a processor reads.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    Order,
    Payment,
    Saga,
    Stock,
}

struct Reader {
    reads: Reads,
    log: TopologyLog,
}

fn readers() -> Vec<Reader> {
    fn reader(reads: Reads, processor: impl Processor) -> Reader {
        let topology = Topology::new().processor(processor);
        let log = TopologyLog::new(&topology, &schemas::all());
        Reader { reads, log }
    }
    vec![
        reader(Reads::Order, OrderStock),
        reader(Reads::Order, OrderPayment),
        reader(Reads::Order, StartSaga),
        reader(Reads::Stock, StockOrder),
        reader(Reads::Stock, StockSaga),
        reader(Reads::Payment, PaymentOrder),
        reader(Reads::Payment, PaymentSaga),
        reader(Reads::Saga, SagaSteps),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Read { reader: usize, stock: usize },
    DecideOrder,
    DecidePayment,
    DecideSaga,
    DecideStock(usize),
    Call,
    Answer(usize),
    FireOrder,
    FireSaga,
    Person,
}

/// What stands outside: the books of a gateway that charges a key once.
#[derive(Default)]
struct Gateway {
    charged: i64,
    refunded: i64,
    /// Events of the payment that it was called for, or that need no call.
    seen: usize,
    /// Answers on their way, each with whether the effect waits for it.
    answers: Vec<(PaymentCommand, bool)>,
}

struct World<'r> {
    readers: &'r mut [Reader],
    chance: Chance,
    order: Stream<Order>,
    payment: Stream<Payment>,
    saga: Stream<OrderSaga>,
    stocks: Vec<Stream<Stock>>,
    /// By reader, and by stock where it reads stocks.
    read: BTreeMap<(usize, usize), usize>,
    gateway: Gateway,
    /// What a person may still do.
    whims: usize,
}

impl<'r> World<'r> {
    fn new(seed: u64, readers: &'r mut [Reader]) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        let product = |name: &str| format!("{name}-{seed}");
        let mut stocks = Vec::new();
        for name in ["tea", "cup"] {
            let mut stock = Stream::new(product(name));
            // Enough, too little, or never tracked.
            let received = [10, 1, 0, 10][chance.roll(4)];
            if received > 0 {
                let received = ReceiveStock { quantity: received };
                stock.inbox.push_back(received.into());
            }
            stock.decide();
            stocks.push(stock);
        }
        let line = |name: &str| OrderLine {
            product_id: product(name),
            quantity: 2,
            total_cents: PRICE / 2,
        };
        let place = PlaceOrder {
            customer_id: Some("ada".to_owned()),
            currency: Some("EUR".to_owned()),
            lines: vec![line("tea"), line("cup")],
            coordination: match chance.roll(2) {
                0 => Coordination::Choreography,
                _ => Coordination::Orchestration,
            },
            payment: Some(PaymentMethod::Gateway),
            ..PlaceOrder::default()
        };
        let mut order = Stream::new(seed.to_string());
        order.inbox.push_back(place.into());
        let whims = chance.roll(3);
        Self {
            readers,
            chance,
            order,
            payment: Stream::new(seed.to_string()),
            saga: Stream::new(seed.to_string()),
            stocks,
            read: BTreeMap::new(),
            gateway: Gateway::default(),
            whims,
        }
    }

    fn unread(&self, reader: usize, stock: usize) -> bool {
        let there = match self.readers[reader].reads {
            Reads::Order => self.order.events.len(),
            Reads::Payment => self.payment.events.len(),
            Reads::Saga => self.saga.events.len(),
            Reads::Stock => self.stocks[stock].events.len(),
        };
        there > self.read.get(&(reader, stock)).copied().unwrap_or(0)
    }

    /// Everything that can happen next; nothing where all is done. What takes time (a timer, a person) is rare while other things can happen.
    fn moves(&mut self) -> Vec<Move> {
        let mut moves = Vec::new();
        for reader in 0..self.readers.len() {
            let stocks = match self.readers[reader].reads {
                Reads::Stock => self.stocks.len(),
                _ => 1,
            };
            for stock in 0..stocks {
                if self.unread(reader, stock) {
                    moves.push(Move::Read { reader, stock });
                }
            }
        }
        if !self.order.inbox.is_empty() {
            moves.push(Move::DecideOrder);
        }
        if !self.payment.inbox.is_empty() {
            moves.push(Move::DecidePayment);
        }
        if !self.saga.inbox.is_empty() {
            moves.push(Move::DecideSaga);
        }
        for (index, stock) in self.stocks.iter().enumerate() {
            if !stock.inbox.is_empty() {
                moves.push(Move::DecideStock(index));
            }
        }
        let waited_for = self
            .gateway
            .answers
            .iter()
            .any(|(_, waited_for)| *waited_for);
        if !waited_for && self.gateway.seen < self.payment.events.len() {
            moves.push(Move::Call);
        }
        moves.extend((0..self.gateway.answers.len()).map(Move::Answer));
        let now_and_then = moves.is_empty() || self.chance.roll(12) == 0;
        if now_and_then && self.whims > 0 {
            moves.push(Move::Person);
        }
        if now_and_then && !self.saga.timers.is_empty() {
            moves.push(Move::FireSaga);
        }
        if (moves.is_empty() || self.chance.roll(60) == 0) && !self.order.timers.is_empty() {
            moves.push(Move::FireOrder);
        }
        moves
    }

    fn make(&mut self, made: Move) {
        match made {
            Move::Read { reader, stock } => self.read_next(reader, stock),
            Move::DecideOrder => self.order.decide(),
            Move::DecidePayment => self.payment.decide(),
            Move::DecideSaga => self.saga.decide(),
            Move::DecideStock(index) => self.stocks[index].decide(),
            Move::Call => self.call(),
            Move::Answer(index) => {
                let (command, _) = self.gateway.answers.swap_remove(index);
                self.payment.inbox.push_back(command);
            }
            Move::FireOrder => self.order.fire(),
            Move::FireSaga => self.saga.fire(),
            Move::Person => self.person(),
        }
    }

    fn read_next(&mut self, reader: usize, stock: usize) {
        let next = self.read.entry((reader, stock)).or_default();
        let at = *next;
        *next += 1;
        let Reader { reads, log } = &mut self.readers[reader];
        fn pipe<A: Aggregate>(log: &mut TopologyLog, stream: &Stream<A>, at: usize)
        where
            A::Event: Event,
        {
            log.pipe::<A::Event>(&stream.id, stream.events[at].clone());
        }
        match reads {
            Reads::Order => pipe(log, &self.order, at),
            Reads::Payment => pipe(log, &self.payment, at),
            Reads::Saga => pipe(log, &self.saga, at),
            Reads::Stock => pipe(log, &self.stocks[stock], at),
        }
        for sent in log.drain::<OrderCommand>() {
            self.order.inbox.push_back(sent.command);
        }
        for sent in log.drain::<PaymentCommand>() {
            self.payment.inbox.push_back(sent.command);
        }
        for sent in log.drain::<OrderSagaCommand>() {
            self.saga.inbox.push_back(sent.command);
        }
        for sent in log.drain::<StockCommand>() {
            let mut stocks = self.stocks.iter_mut();
            let stock = stocks.find(|stock| stock.id == sent.aggregate_id).unwrap();
            stock.inbox.push_back(sent.command);
        }
    }

    fn call(&mut self) {
        let event = &self.payment.events[self.gateway.seen];
        self.gateway.seen += 1;
        let answer: PaymentCommand = match event {
            PaymentEvent::PaymentRequested(requested) => match self.chance.roll(4) {
                0 => {
                    let reason = "declined".to_owned();
                    RecordChargeFailure { reason }.into()
                }
                _ => {
                    self.gateway.charged += requested.amount_cents;
                    RecordCharge {
                        charge_id: "ch-1".to_owned(),
                        amount_cents: requested.amount_cents,
                    }
                    .into()
                }
            },
            PaymentEvent::PaymentRefundRequested(requested) => {
                self.gateway.refunded += requested.amount_cents;
                let refund_id = "re-1".to_owned();
                RecordRefund { refund_id }.into()
            }
            _ => return,
        };
        if self.chance.roll(3) == 0 {
            self.gateway.answers.push((answer.clone(), false));
        }
        self.gateway.answers.push((answer, true));
    }

    fn person(&mut self) {
        self.whims -= 1;
        let command: OrderCommand = match self.chance.roll(4) {
            0 => ConfirmOrder {}.into(),
            1 => {
                let tracking_code = None;
                ShipOrder { tracking_code }.into()
            }
            _ => {
                let reason = "changed my mind".to_owned();
                CancelOrder { reason }.into()
            }
        };
        self.order.inbox.push_back(command);
    }

    /// How the order stands at the end, if everything adds up.
    fn judge(&self) -> Result<&'static str, String> {
        let happened = |wanted: fn(&OrderEvent) -> bool| self.order.events.iter().any(wanted);
        let cancelled = happened(|event| matches!(event, OrderEvent::OrderCancelled(_)));
        let confirmed = happened(|event| matches!(event, OrderEvent::OrderConfirmed(_)));
        let shipped = happened(|event| matches!(event, OrderEvent::OrderShipped(_)));
        if !cancelled && !confirmed {
            return Err("the order is stuck".to_owned());
        }
        let kept = self.gateway.charged - self.gateway.refunded;
        let due = if cancelled { 0 } else { PRICE };
        if kept != due || self.gateway.charged > PRICE {
            return Err(format!("{kept} cents are kept, {due} are due"));
        }
        let begun = !self.saga.events.is_empty();
        let ended = |event: &OrderSagaEvent| matches!(event, OrderSagaEvent::OrderSagaEnded(_));
        if begun && !self.saga.events.iter().any(ended) {
            return Err("the saga is stuck".to_owned());
        }
        for stock in &self.stocks {
            let set_aside = set_aside(&stock.events);
            let reserved = if confirmed && !cancelled && !shipped {
                2
            } else {
                0
            };
            let tracked = |event: &StockEvent| matches!(event, StockEvent::StockReceived(_));
            let expected = if stock.events.iter().any(tracked) {
                reserved
            } else {
                0
            };
            if set_aside != expected {
                return Err(format!(
                    "{}: {set_aside} are set aside, not {expected}",
                    stock.id
                ));
            }
        }
        Ok(match (cancelled, shipped) {
            (true, _) => "cancelled",
            (false, true) => "shipped",
            (false, false) => "confirmed",
        })
    }
}

fn set_aside(events: &[StockEvent]) -> i64 {
    let change = |event: &StockEvent| match event {
        StockEvent::StockReserved(of) if of.tracked => of.quantity,
        StockEvent::StockReleased(of) => -of.quantity,
        StockEvent::StockShippedOut(of) => -of.quantity,
        _ => 0,
    };
    events.iter().map(change).sum()
}

#[test]
fn whatever_comes_first_money_and_goods_are_the_confirmed_orders_alone() {
    let mut readers = readers();
    let mut ends: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for seed in 0..SCHEDULES {
        let mut world = World::new(seed, &mut readers);
        let mut made = 0;
        loop {
            let moves = world.moves();
            if moves.is_empty() {
                break;
            }
            let next = moves[world.chance.roll(moves.len())];
            world.make(next);
            made += 1;
            assert!(made < MOVES_MAX, "schedule {seed} does not end: {next:?}");
        }
        let style = match world.saga.events.is_empty() {
            true => "choreography",
            false => "orchestration",
        };
        match world.judge() {
            Ok(end) => *ends.entry((style, end)).or_default() += 1,
            Err(wrong) => panic!(
                "schedule {seed}: {wrong}\n{:#?}\n{:#?}\n{:#?}",
                world.order.events, world.payment.events, world.saga.events
            ),
        }
    }
    // Chance reached every end in both styles, or it shows nothing.
    for style in ["choreography", "orchestration"] {
        for end in ["confirmed", "cancelled", "shipped"] {
            assert!(ends.contains_key(&(style, end)), "{style}, {end}: {ends:?}");
        }
    }
}

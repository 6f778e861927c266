//! Thousands of orders in which the commands of racing registrations can arrive, with the aggregates and the processors
//! that run for real, and without servers.
//!
//! What is free in it is what is free in Kafka: commands of one key to one key keep their order, all others overtake each
//! other at will. A registration may be out of time at any moment until it ends, users leave, and the tenant closes.
//!
//! Checked after every event: an address has one user at most who is not deactivated, and who has one has the claim to it.
//! Checked when nothing is on its way any more: every registration has ended, and a refused one has left nothing.

mod facts;

use std::collections::{BTreeMap, VecDeque};

use chrono::DateTime;
use facts::{Facts, Turns};
use millrace::aggregate::{Aggregate, Context};
use millrace::command::CommandSet;
use millrace::event::Event;
use millrace::testing::topology::TopologyLog;
use producer::aggregates::identity::{email, registration, tenant, user, workspace};
use schemas::identity::email::EmailCommand;
use schemas::identity::registration::*;
use schemas::identity::tenant::{DeactivateTenant, TenantCommand};
use schemas::identity::user::{DeactivateUser, UserCommand};
use schemas::identity::workspace::WorkspaceCommand;
use tests::dice::Dice;

const SCHEDULES: u64 = 3_000;

enum Command {
    Email(EmailCommand),
    Tenant(TenantCommand),
    Workspace(WorkspaceCommand),
    User(UserCommand),
    Registration(RegistrationCommand),
}

/// The states of one type of aggregate.
struct Node<A>(BTreeMap<String, A>);

impl<A: Aggregate> Node<A> {
    /// What the command leads to; nothing where it is rejected.
    fn decide(&mut self, id: &str, command: A::Command) -> Vec<A::Event> {
        let context = Context {
            aggregate_id: id.to_owned(),
            now: DateTime::UNIX_EPOCH,
        };
        let state = self.0.entry(id.to_owned()).or_default();
        let events = state.decide(command, &context).unwrap_or_default();
        for event in &events {
            state.evolve(event);
        }
        events
    }
}

struct Simulation {
    log: TopologyLog,
    emails: Node<email::Email>,
    tenants: Node<tenant::Tenant>,
    workspaces: Node<workspace::Workspace>,
    users: Node<user::User>,
    registrations: Node<registration::Registration>,
    /// By the key that they come from and the one that they go to.
    queues: BTreeMap<(String, String), VecDeque<(String, Command)>>,
    facts: Facts,
    turns: Turns,
}

impl Simulation {
    fn new() -> Self {
        Self {
            log: TopologyLog::new(&processors::topology(), &schemas::all()),
            emails: Node(BTreeMap::new()),
            tenants: Node(BTreeMap::new()),
            workspaces: Node(BTreeMap::new()),
            users: Node(BTreeMap::new()),
            registrations: Node(BTreeMap::new()),
            queues: BTreeMap::new(),
            facts: Facts::default(),
            turns: Turns::default(),
        }
    }

    /// Sends a command that comes from a key.
    fn send(&mut self, from: &str, to: (&str, &str), command: Command) {
        let (kind, id) = to;
        let way = (from.to_owned(), format!("{kind} {id}"));
        let queue = self.queues.entry(way).or_default();
        queue.push_back((id.to_owned(), command));
    }

    fn deliver(&mut self, id: &str, command: Command) {
        match command {
            Command::Email(command) => {
                for event in self.emails.decide(id, command) {
                    self.facts.of_email(id, &event);
                    self.published(id, event);
                }
            }
            Command::Tenant(command) => {
                for event in self.tenants.decide(id, command) {
                    self.facts.of_tenant(id, &event, &mut self.turns);
                    self.published(id, event);
                }
            }
            Command::Workspace(command) => {
                for event in self.workspaces.decide(id, command) {
                    self.facts.of_workspace(id, &event);
                    self.published(id, event);
                }
            }
            Command::User(command) => {
                for event in self.users.decide(id, command) {
                    self.facts.of_user(id, &event, &mut self.turns);
                    self.published(id, event);
                }
            }
            Command::Registration(command) => {
                for event in self.registrations.decide(id, command) {
                    self.facts.of_registration(id, &event, &mut self.turns);
                    self.published(id, event);
                }
            }
        }
    }

    /// What the processors make of an event is on its way.
    fn published<E: Event>(&mut self, id: &str, event: E) {
        let from = format!("{} {id}", E::AGGREGATE);
        self.log.pipe::<E>(id, event);
        self.drain(&from, Command::Email);
        self.drain(&from, Command::Tenant);
        self.drain(&from, Command::Workspace);
        self.drain(&from, Command::User);
        self.drain(&from, Command::Registration);
    }

    fn drain<C: CommandSet>(&mut self, from: &str, wrap: fn(C) -> Command) {
        for one in self.log.drain::<C>() {
            self.send(from, (C::AGGREGATE, &one.aggregate_id), wrap(one.command));
        }
    }

    /// Lets the first command of some queue arrive; false where none is on its way.
    fn step(&mut self, dice: &mut Dice) -> bool {
        let ways = self.queues.len() as u64;
        if ways == 0 {
            return false;
        }
        let way = self.queues.keys().nth(dice.roll(ways) as usize).cloned();
        let way = way.expect("the dice have as many sides as there are queues");
        let queue = self.queues.get_mut(&way).expect("its key is of the map");
        let first = queue.pop_front().expect("an empty queue is removed");
        if queue.is_empty() {
            self.queues.remove(&way);
        }
        self.deliver(&first.0, first.1);
        true
    }

    /// A registration that has not ended is out of time.
    fn expire(&mut self, dice: &mut Dice) {
        let running = self.facts.timers.len() as u64;
        if running > 0 {
            let at = dice.roll(running) as usize;
            let id = self
                .facts
                .timers
                .iter()
                .nth(at)
                .cloned()
                .unwrap_or_default();
            self.deliver(&id, Command::Registration(ExpireRegistration {}.into()));
        }
    }

    /// Somebody who is there leaves.
    fn leave(&mut self, dice: &mut Dice) {
        let there: Vec<String> = self.facts.live.values().flatten().cloned().collect();
        if !there.is_empty() {
            let id = there[dice.roll(there.len() as u64) as usize].clone();
            let reason = "left".to_owned();
            self.deliver(&id, Command::User(DeactivateUser { reason }.into()));
        }
    }
}

/// A registration of a schedule's tenant, with its id.
fn registration(of: u64, number: u64, name: &str, user: Option<String>) -> (String, RegisterUser) {
    let command = RegisterUser {
        tenant_id: format!("t{of}"),
        tenant_name: None,
        email: format!("{name}@example.com"),
        user_id: user,
        first_name: "Ada".to_owned(),
        last_name: String::new(),
        phone: None,
        timezone: None,
        language: None,
        workspace_name: None,
        credential_id: None,
    };
    (format!("s{of}r{number}"), command)
}

/// Four registrations of one new tenant: three of one address, of which one names a user of another's id.
fn registrations(of: u64) -> [(String, RegisterUser); 4] {
    [
        registration(of, 1, "ada", None),
        registration(of, 2, "ada", None),
        registration(of, 3, "ada", Some(format!("s{of}r4"))),
        registration(of, 4, "bob", None),
    ]
}

#[test]
fn no_order_of_arrival_gives_an_address_two_users_or_leaves_a_registration_half_done() {
    let mut simulation = Simulation::new();
    for number in 0..SCHEDULES {
        let mut dice = Dice::new(number);
        let registrations = registrations(number);
        for (id, command) in &registrations {
            let command = Command::Registration(command.clone().into());
            simulation.send(id, ("registration", id), command);
        }
        // A quarter of the schedules each: undisturbed, out of time, with leavers, and both with a tenant that closes.
        let (expire, leave) = (number % 2 == 1, number % 4 >= 2);
        let reason = "closed".to_owned();
        let close = DeactivateTenant { reason };
        if number % 4 == 3 {
            let tenant = format!("t{number}");
            let close = Command::Tenant(close.into());
            simulation.send("operator", ("tenant", &tenant), close);
        }
        while simulation.step(&mut dice) {
            if expire && dice.roll(12) == 0 {
                simulation.expire(&mut dice);
            }
            if leave && dice.roll(12) == 0 {
                simulation.leave(&mut dice);
            }
        }
        // Somebody who comes later finds the tenant and the address as the others left them.
        let (late, command) = registration(number, 5, "ada", None);
        let command = Command::Registration(command.into());
        simulation.send(&late, ("registration", &late), command);
        while simulation.step(&mut dice) {}
        for id in registrations.iter().map(|(id, _)| id).chain([&late]) {
            simulation.facts.check_end(id);
        }
        assert!(simulation.facts.timers.is_empty(), "{number}");
        simulation.facts = Facts::default();
        if number % 100 == 99 {
            let turns = std::mem::take(&mut simulation.turns);
            simulation = Simulation::new();
            simulation.turns = turns;
        }
    }
    let turns = &simulation.turns;
    println!("{turns:?}");
    assert!(turns.completed > SCHEDULES, "{turns:?}");
    for step in ["email", "tenant", "workspace", "user"] {
        assert!(
            turns.refused.get(step).is_some_and(|of| *of > 50),
            "{turns:?}"
        );
    }
    assert!(turns.withdrawn > 50, "{turns:?}");
    assert!(turns.reused > 50, "{turns:?}");
    assert!(turns.taken_back > 50, "{turns:?}");
}

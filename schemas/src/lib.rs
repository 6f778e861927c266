//! The contract of the reference system: Avro schemas in `avro/`, and the structs that carry them.
//!
//! `avro/<domain>/<Event>.v<N>.avsc`, `avro/<domain>/commands/<Command>.v<N>.avsc` and, of integration events,
//! `avro/<domain>/published/<Event>.v<N>.avsc` are never edited once released: a change is a new number, a breaking change a
//! new record. `tests/contract.rs` ties every struct to its newest file.

pub mod identity;
pub mod library;
pub mod notification;
pub mod order;
pub mod order_saga;
pub mod payment;
pub mod product;
pub mod sales_day;
pub mod stock;

use millrace::registry::SchemaSet;

/// The schemas of every aggregate type; what is registered at start.
pub fn all() -> Vec<SchemaSet> {
    vec![
        SchemaSet::of::<order::OrderEvent>(),
        SchemaSet::of_commands::<order::OrderCommand>(),
        SchemaSet::of_replies::<order::OrderCommand>(),
        SchemaSet::of::<stock::StockEvent>(),
        SchemaSet::of_commands::<stock::StockCommand>(),
        SchemaSet::of_replies::<stock::StockCommand>(),
        SchemaSet::of::<notification::RecipientEvent>(),
        SchemaSet::of_commands::<notification::RecipientCommand>(),
        SchemaSet::of_replies::<notification::RecipientCommand>(),
        SchemaSet::of::<identity::tenant::TenantEvent>(),
        SchemaSet::of_commands::<identity::tenant::TenantCommand>(),
        SchemaSet::of_replies::<identity::tenant::TenantCommand>(),
        SchemaSet::of::<identity::email::EmailEvent>(),
        SchemaSet::of_commands::<identity::email::EmailCommand>(),
        SchemaSet::of_replies::<identity::email::EmailCommand>(),
        SchemaSet::of::<identity::user::UserEvent>(),
        SchemaSet::of_commands::<identity::user::UserCommand>(),
        SchemaSet::of_replies::<identity::user::UserCommand>(),
        SchemaSet::of::<identity::workspace::WorkspaceEvent>(),
        SchemaSet::of_commands::<identity::workspace::WorkspaceCommand>(),
        SchemaSet::of_replies::<identity::workspace::WorkspaceCommand>(),
        SchemaSet::of::<identity::registration::RegistrationEvent>(),
        SchemaSet::of_commands::<identity::registration::RegistrationCommand>(),
        SchemaSet::of_replies::<identity::registration::RegistrationCommand>(),
        SchemaSet::of::<payment::PaymentEvent>(),
        SchemaSet::of_commands::<payment::PaymentCommand>(),
        SchemaSet::of_replies::<payment::PaymentCommand>(),
        SchemaSet::of::<product::ProductEvent>(),
        SchemaSet::of_commands::<product::ProductCommand>(),
        SchemaSet::of_replies::<product::ProductCommand>(),
        SchemaSet::of::<order_saga::OrderSagaEvent>(),
        SchemaSet::of_commands::<order_saga::OrderSagaCommand>(),
        SchemaSet::of_replies::<order_saga::OrderSagaCommand>(),
        SchemaSet::of::<sales_day::SalesDayEvent>(),
        SchemaSet::of_commands::<sales_day::SalesDayCommand>(),
        SchemaSet::of_replies::<sales_day::SalesDayCommand>(),
        SchemaSet::of::<library::CardEvent>(),
        SchemaSet::of_commands::<library::CardCommand>(),
        SchemaSet::of_replies::<library::CardCommand>(),
        SchemaSet::of::<library::CollectionEvent>(),
        SchemaSet::of_commands::<library::CollectionCommand>(),
        SchemaSet::of_replies::<library::CollectionCommand>(),
        SchemaSet::of::<library::ProfileEvent>(),
        SchemaSet::of_commands::<library::ProfileCommand>(),
        SchemaSet::of_replies::<library::ProfileCommand>(),
        SchemaSet::of_published::<library::LibraryPublished>(),
    ]
}

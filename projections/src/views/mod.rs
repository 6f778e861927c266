//! One file a view.

pub mod card_search;
pub mod customer_totals;
pub mod event_log;
pub mod identity;
pub mod library_activity;
pub mod notifications;
pub mod orders;
pub mod owner_statistics;
pub mod payments;
pub mod products;
pub mod profiles;
pub mod recommendations;
pub mod saga_instances;
pub mod saga_steps;
pub mod sales_digests;
pub mod stock;

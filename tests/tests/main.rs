//! The end-to-end suites, in one binary: each binary links librdkafka and OpenSSL once.
#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the place"
)]

mod again;
mod architecture;
mod caching;
mod commands;
mod commerce;
mod crash;
mod effects;
mod flow;
mod guides;
mod identity;
mod inbox;
mod library;
mod notifications;
mod operate;
mod overhead;
mod processors;
mod query;
mod rebuild;
mod relay;
mod servers;
mod sink;
mod site;
mod stage;
mod timers;
mod tour;
mod views;

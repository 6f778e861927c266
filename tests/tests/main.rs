//! The end-to-end suites, in one binary: each binary links librdkafka and OpenSSL once.
#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the place"
)]

mod architecture;
mod commands;
mod crash;
mod effects;
mod flow;
mod inbox;
mod operate;
mod overhead;
mod processors;
mod query;
mod rebuild;
mod relay;
mod servers;
mod sink;
mod stage;
mod timers;
mod views;

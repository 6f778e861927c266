//! HTTP: what every role serves, and the one shape of errors.

pub mod api;
pub mod commands;
pub mod forward;
pub mod health;
pub mod openapi;
pub mod problem;
pub mod reads;
pub mod server;
pub mod stream;

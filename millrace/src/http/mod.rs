//! HTTP: what every role serves, and the one shape of errors.

pub mod commands;
pub mod forward;
pub mod health;
pub mod problem;
pub mod server;
//! HTTP, as far as it is the same for every domain: problems, and the routes that read views.

pub mod problem;

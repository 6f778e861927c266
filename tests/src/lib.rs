//! What the end-to-end suites stand on: real servers that a test starts for itself, and the stock Kafka tools beside them.

pub mod dice;
pub mod event;
pub mod hall;
pub mod http;
pub mod points;
pub mod servers;
pub mod smtp;
pub mod stock;
pub mod table;
pub mod wait;

//! Commands from Kafka on a real broker, registry and Postgres: each takes effect once and is answered, whatever happens between.

mod away;
mod crash;
mod decide;
mod letters;
mod rig;

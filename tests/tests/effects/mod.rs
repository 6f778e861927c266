//! Effects on a real broker, a real Postgres and a real HTTP receiver: called once, whatever dies or is away.

mod crashes;
mod flow;
mod member;
mod receiver;
mod world;

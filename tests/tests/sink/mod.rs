//! The live sink on a real broker and Postgres: rows, checkpoints, resets, poison, and servers that go away.

mod members;
mod poison;
mod resets;
mod rows;
mod servers;
mod world;

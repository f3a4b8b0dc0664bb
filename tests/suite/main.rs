//! The real program against a real node and real databases, as a user would run it.

mod backfill;
mod harness;
mod profile;
mod refresh;
mod status;
mod sweep;
mod verify;
mod world;

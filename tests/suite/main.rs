//! The real program against a real node and real databases, as a user would run it.

mod backfill;
mod harness;
mod profile;
mod refresh;
mod scale;
mod status;
mod sweep;
mod verify;
mod words;
mod world;

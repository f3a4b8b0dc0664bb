//! The real program against a real node and real databases, as a user would run it.

mod backfill;
mod faults;
mod harness;
mod profile;
mod refresh;
mod scale;
mod secrets;
mod sharing;
mod status;
mod store;
mod sweep;
mod takeover;
mod unreadable;
mod verify;
mod watch;
mod watch_reorgs;
mod watch_sharing;
mod watch_volume;
mod watching;
mod words;
mod world;

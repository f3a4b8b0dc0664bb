//! The real program against a real node and real databases, as a user would run it.

mod faults;
mod harness;
mod refresh;
mod sharing;
mod store;
mod takeover;
mod secrets;
mod unreadable;

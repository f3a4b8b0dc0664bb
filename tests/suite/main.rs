//! The real program against a real node and real databases, as a user would run it.

mod faults;
mod harness;
mod refresh;
mod secrets;
mod unreadable;

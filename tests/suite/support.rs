//! Helpers that several test files share.

pub(crate) mod broken;
pub(crate) mod chains;
pub(crate) mod chromium;
pub(crate) mod cron;
pub(crate) mod database;
pub(crate) mod gzip;
pub(crate) mod kubernetes;
pub(crate) mod metrics;
pub(crate) mod original;
pub(crate) mod parts;
pub(crate) mod pgbouncer;
pub(crate) mod program;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod requests;
pub(crate) mod secrets;
pub(crate) mod snapshots;
pub(crate) mod table;
pub(crate) mod tables;
pub(crate) mod tokens;
pub(crate) mod traffic;
pub(crate) mod verify;
pub(crate) mod wallets;
pub(crate) mod watch;

//! What a URL leads to.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

/// What a URL leads to.
#[derive(Clone, Debug)]
pub(in crate::store::postgres) struct Target {
    /// The servers, in the order to try them; at least one.
    pub(in crate::store::postgres) hosts: Vec<PgConnectOptions>,
    /// Which of them serve.
    pub(in crate::store::postgres) session: TargetSession,
    /// How long connecting to one of them may take, unless the default applies.
    pub(in crate::store::postgres) connect_timeout: Option<Duration>,
    /// Where the tables are, if not where the role's search path leads.
    pub(in crate::store::postgres) schema: Option<String>,
}

/// libpq's `target_session_attrs`: which servers serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store::postgres) enum TargetSession {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

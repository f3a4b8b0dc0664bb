//! What errors of PostgreSQL, and of what stands in front of it, mean: a table of codes and words with what is wrong
//! and the remedy.

use std::io;

use rustls::{CertificateError, Error as TlsError};
use sqlx::postgres::PgDatabaseError;

use super::{
    super::{dialect::Explained, error::driver_text},
    faults::server_text,
    names::identifier,
};

/// A row of the table: which errors it is about, and what to say of them.
#[derive(Debug)]
pub(super) struct Rule {
    /// SQLSTATE codes; none for errors that are not the server's answers.
    pub(super) codes: &'static [&'static str],
    /// Words of the message, of which one must be in it, in lower case; none if any message will do.
    pub(super) words: &'static [&'static str],
    /// True if trying again does not help.
    pub(super) is_settings: bool,
    /// What is said: `{answer}`, `{place}`, `{role}`, `{database}` and the names for SQL `{grantee}` and `{catalog}`
    /// are filled in.
    pub(super) says: &'static str,
}

const fn settings(
    codes: &'static [&'static str],
    words: &'static [&'static str],
    says: &'static str,
) -> Rule {
    Rule { codes, words, is_settings: true, says }
}

const fn fails(
    codes: &'static [&'static str],
    words: &'static [&'static str],
    says: &'static str,
) -> Rule {
    Rule { codes, words, is_settings: false, says }
}

/// PgBouncer answers with this code, whatever is wrong, also where it passes on what the server said.
const POOLER: &str = "08P01";

const NO_DATABASE: &str =
    "database {database} does not exist on {place}; create it, or check --database-url";
const WRONG_PASSWORD: &str = "wrong password for role {role} on {place}, or no such role; check user and password in \
     --database-url";
const NO_ENTRY: &str = "{place} refuses role {role}: {answer}; add an entry to the server's pg_hba.conf, or check \
     --database-url";
const ENDED: &str = "the server ended the session: {answer}; run it again once the server is up";

/// The errors of servers and poolers; the first row that fits decides.
pub(super) static RULES: &[Rule] = &[
    // Who may connect to what.
    settings(&["3D000"], &[], NO_DATABASE),
    settings(&[POOLER], &["no such database", "database \""], NO_DATABASE),
    settings(&["28P01"], &[], WRONG_PASSWORD),
    settings(&[POOLER], &["authentication failed", "auth failed", "no such user"], WRONG_PASSWORD),
    settings(
        &["28000"],
        &["no encryption", "ssl off"],
        "{place} refuses role {role}: {answer}; write sslmode=require in --database-url if the server wants TLS, or \
         add an entry to its pg_hba.conf",
    ),
    settings(&["28000", POOLER], &["pg_hba.conf", "login rejected"], NO_ENTRY),
    settings(
        &["28000"],
        &["not permitted to log in"],
        "{place} refuses role {role}: {answer}; run: alter role {grantee} login",
    ),
    settings(
        &["28000"],
        &["peer authentication", "ident authentication"],
        "{place} refuses role {role}: {answer}; run as the system user of that name, or connect by host with a password",
    ),
    settings(
        &["28000"],
        &["certificate"],
        "{place} refuses role {role}: {answer}; give the role's certificate as sslcert and sslkey in --database-url",
    ),
    settings(
        &["28000", POOLER],
        &["role \"", "authentication failed", "no such user"],
        "{place} refuses role {role}: {answer}; check the user in --database-url and the server's pg_hba.conf",
    ),
    settings(
        &[POOLER],
        &["ssl required"],
        "{place} wants TLS: {answer}; write sslmode=require in --database-url",
    ),
    settings(
        &["42501"],
        &["permission denied for database"],
        "role {role} may not connect to the database on {place}: {answer}; run: grant connect on database {catalog} to \
         {grantee}",
    ),
    // Poolers.
    settings(
        &[POOLER],
        &["unsupported startup parameter"],
        "the pooler refuses a parameter of the session: {answer}; add its name to ignore_startup_parameters of the \
         pooler, or remove it from --database-url",
    ),
    settings(
        &[POOLER, "0A000"],
        &["statement pooling mode"],
        "the pooler is in statement mode, which has no transactions; set pool_mode=transaction or pool_mode=session for \
         this database",
    ),
    fails(
        &[POOLER],
        &["no more connections allowed"],
        "the pooler has no free connection: {answer}; raise max_client_conn of the pooler, or run fewer clients at once",
    ),
    fails(
        &[POOLER, "57014"],
        &["query_wait_timeout"],
        "the pooler has no free server connection: {answer}; raise its default_pool_size: a run needs two",
    ),
    fails(
        &[POOLER],
        &[
            "cannot connect to server",
            "server login",
            "server_login_retry",
            "server conn crashed",
            "server closed",
        ],
        "the pooler has no connection to its server: {answer}; check that the server is up, and the pooler's log",
    ),
    fails(
        &["26000", "42P05"],
        &["prepared statement"],
        "a pooler mixes the statements of its clients: {answer}; set pool_mode=session, or use PgBouncer 1.21 or later \
         with max_prepared_statements",
    ),
    fails(
        &[POOLER],
        &[
            "pgbouncer",
            "pooler",
            "client_idle_timeout",
            "idle transaction timeout",
            "query_timeout",
            "query timeout",
        ],
        "the pooler ended the connection: {answer}; raise that limit of the pooler, or run it again",
    ),
    // Too many.
    fails(
        &["53300"],
        &["for role", "for user"],
        "{answer}; run: alter role {grantee} connection limit 10, or run fewer clients at once",
    ),
    fails(
        &["53300"],
        &["for database"],
        "{answer}; run: alter database {catalog} connection limit -1, or run fewer clients at once",
    ),
    fails(&["53300"], &[], "{answer}; raise max_connections, or run fewer clients at once"),
    // Resources of the server.
    fails(
        &["53100"],
        &[],
        "the server's disk is full: {answer}; free some space there, and run it again",
    ),
    fails(
        &["53200"],
        &[],
        "the server is out of memory: {answer}; give it more, or run fewer clients at once",
    ),
    fails(&["53400"], &[], "a limit of the server is reached: {answer}; raise that limit"),
    fails(
        &["58030", "58P01"],
        &[],
        "the server cannot read or write its files: {answer}; check its disk and its log",
    ),
    fails(
        &["XX002"],
        &[],
        "an index is damaged on the server: {answer}; run: reindex table eth_wallet_balances",
    ),
    fails(
        &["XX001"],
        &[],
        "a table is damaged on the server: {answer}; check its disk, and restore the table from a backup",
    ),
    // A server that comes or goes.
    fails(
        &["57P03"],
        &[],
        "the server takes no sessions: {answer}; run it again once the server is up",
    ),
    fails(&["57P01", "57P02", "57P04"], &[], ENDED),
    fails(
        &["57P05"],
        &[],
        "the server ended the session: {answer}; raise idle_session_timeout for role {role}",
    ),
    fails(
        &["25P03"],
        &[],
        "the server ended the session: {answer}; raise idle_in_transaction_session_timeout for role {role}",
    ),
    fails(
        &["25P04"],
        &[],
        "the server ended the session: {answer}; raise transaction_timeout for role {role}",
    ),
    // Waits.
    fails(
        &["55P03"],
        &[],
        "{answer}; end the transaction of the session that holds the lock, or try again later",
    ),
    fails(
        &["57014"],
        &["statement timeout"],
        "{answer}; raise statement_timeout for role {role}, or look for what slows the server down",
    ),
    fails(
        &["57014"],
        &["user request"],
        "somebody cancelled the statement: {answer}; run it again",
    ),
    fails(
        &["40001"],
        &["conflict with recovery"],
        "{answer}; raise max_standby_streaming_delay of the standby, or run it again",
    ),
    fails(
        &["40001", "40P01"],
        &[],
        "another session changed the same rows: {answer}; run it again",
    ),
    // Servers and tables that do not fit.
    settings(&["25006"], &[], "{answer}; --database-url must name the primary server"),
    settings(
        &["42P10"],
        &[],
        "eth_wallet_balances has no primary key on wallet alone: {answer}; add one, as migrations/README.md shows",
    ),
    settings(&["23514"], &["no partition"], "{answer}; add the missing partition"),
    settings(
        &["42P01", "42703"],
        &[],
        "the tables are not as this version needs them: {answer}; run `ethtally migrate`, or check --schema",
    ),
    settings(
        &["3F000"],
        &[],
        "there is no schema to create the tables in: {answer}; give --schema, or run: grant usage, create on schema \
         public to {grantee}",
    ),
    settings(
        &["42704"],
        &["configuration parameter"],
        "{answer}; correct `options` in --database-url",
    ),
    settings(&["22023"], &["parameter"], "{answer}; correct `options` in --database-url"),
];

/// The names that a rule's text speaks of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) place: &'a str,
    pub(super) role: &'a str,
    pub(super) database: &'a str,
}

impl Names<'_> {
    /// A text of the table with the names filled in.
    fn fill(&self, says: &str, answer: &str) -> String {
        says.replace("{place}", self.place)
            .replace("{role}", &format!("{:?}", self.role))
            .replace("{database}", &format!("{:?}", self.database))
            .replace("{grantee}", &identifier(self.role))
            .replace("{catalog}", &identifier(self.database))
            .replace("{answer}", answer)
    }
}

/// The row for an error of a server or pooler.
pub(super) fn rule_for(code: &str, message: &str) -> Option<&'static Rule> {
    let message = message.to_lowercase();
    RULES.iter().find(|rule| {
        rule.codes.contains(&code)
            && (rule.words.is_empty() || rule.words.iter().any(|words| message.contains(words)))
    })
}

/// What is wrong by the answer of a server or pooler.
pub(super) fn explain_answer(error: &PgDatabaseError, names: Names<'_>) -> Explained {
    let answer = server_text(error);
    match rule_for(error.code(), error.message()) {
        Some(rule) => {
            Explained { is_settings: rule.is_settings, text: names.fill(rule.says, &answer) }
        }
        None => Explained { is_settings: false, text: answer },
    }
}

/// What is wrong where no server, or none of PostgreSQL, has answered.
pub(super) fn explain_driver(error: &sqlx::Error, place: &str) -> Explained {
    let text = driver_text(error);
    let settings = |text: String| Explained { is_settings: true, text };
    let down = |text: String| Explained { is_settings: false, text };
    match error {
        sqlx::Error::Tls(_) if text.contains("does not support TLS") => settings(format!(
            "{place} has no TLS, which sslmode in --database-url asks for; turn it on at the server (ssl = on), or \
             write sslmode=prefer"
        )),
        sqlx::Error::Tls(_) => {
            settings(format!("{text}; check the ssl parameters in --database-url"))
        }
        sqlx::Error::Configuration(_) => {
            settings(format!("{text}; check the parameters in --database-url"))
        }
        sqlx::Error::Protocol(_) if text.contains("authentication method") => settings(format!(
            "the server asks for a login that ethtally does not have: {text}; use scram-sha-256 in its pg_hba.conf"
        )),
        sqlx::Error::Protocol(_) => settings(format!(
            "what answers is not PostgreSQL; check the host and port in --database-url: {text}"
        )),
        sqlx::Error::Io(error) => match tls_error(error) {
            Some(tls) => settings(tls_text(tls)),
            None if error.kind() == io::ErrorKind::NotFound => down(format!(
                "no server listens there, or a file of --database-url is missing: {text}"
            )),
            None => down(format!(
                "no connection; check that the server is up, and the host and port in --database-url: {text}"
            )),
        },
        _ => down(text),
    }
}

/// The error of TLS inside one of input and output.
fn tls_error(error: &io::Error) -> Option<&TlsError> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inner.source()?.downcast_ref())
}

/// What is wrong with TLS, and the remedy.
fn tls_text(error: &TlsError) -> String {
    let remedy = match error {
        TlsError::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired; renew it there"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet; check the clocks"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name; use that name as the host in --database-url, or write \
                 sslmode=verify-ca"
            }
            CertificateError::UnknownIssuer => {
                "the server's certificate is signed by none that is known here; give its issuer's as sslrootcert in \
                 --database-url"
            }
            CertificateError::Revoked => "the server's certificate is revoked; renew it there",
            _ => {
                "the server's certificate is not valid; renew it there, or give its issuer's as sslrootcert in \
                 --database-url"
            }
        },
        TlsError::AlertReceived(_) => {
            "the server refuses our side of TLS; if it wants a certificate, give sslcert and sslkey in --database-url"
        }
        TlsError::InvalidMessage(_) => {
            "what answers does not speak PostgreSQL's TLS; check the host and port in --database-url"
        }
        _ => "no TLS connection; check the ssl parameters in --database-url",
    };
    format!("{remedy}: {error}")
}

#[cfg(test)]
mod tests;

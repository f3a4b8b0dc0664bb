use super::*;

const NAMES: Names<'_> = Names { place: "db:5432", role: "app", database: "tally" };

/// What is said of an answer with this code and message, and whether the settings are at fault.
fn said(code: &str, message: &str) -> (String, bool) {
    let rule = rule_for(code, message).unwrap_or_else(|| panic!("no row for {code} {message}"));
    (NAMES.fill(rule.says, message), rule.is_settings)
}

/// Messages of PostgreSQL 15 and of PgBouncer 1.18 to 1.24, and what must be said of them.
const EXAMPLES: &[(&str, &str, bool, &str)] = &[
    (
        "3D000",
        "database \"tally\" does not exist",
        true,
        "database \"tally\" does not exist on db:5432; create it",
    ),
    (
        "08P01",
        "no such database: tally",
        true,
        "database \"tally\" does not exist on db:5432; create it",
    ),
    (
        "28P01",
        "password authentication failed for user \"app\"",
        true,
        "wrong password for role \"app\" on db:5432",
    ),
    ("08P01", "SASL authentication failed", true, "wrong password for role \"app\" on db:5432"),
    ("08P01", "password authentication failed", true, "wrong password for role \"app\" on db:5432"),
    ("08P01", "no such user: app", true, "or no such role"),
    (
        "28000",
        "no pg_hba.conf entry for host \"10.0.0.1\", user \"app\", database \"tally\", no encryption",
        true,
        "write sslmode=require",
    ),
    (
        "28000",
        "no pg_hba.conf entry for host \"10.0.0.1\", user \"app\", database \"tally\", SSL encryption",
        true,
        "add an entry to the server's pg_hba.conf",
    ),
    (
        "28000",
        "pg_hba.conf rejects connection for host \"::1\", user \"app\", database \"tally\", SSL off",
        true,
        "sslmode=require",
    ),
    ("08P01", "login rejected", true, "pg_hba.conf"),
    ("28000", "role \"app\" does not exist", true, "check the user in --database-url"),
    ("28000", "role \"app\" is not permitted to log in", true, "run: alter role app login"),
    ("28000", "Peer authentication failed for user \"app\"", true, "run as the system user"),
    ("28000", "connection requires a valid client certificate", true, "sslcert and sslkey"),
    ("08P01", "SSL required", true, "sslmode=require"),
    (
        "42501",
        "permission denied for database \"tally\"",
        true,
        "run: grant connect on database tally to app",
    ),
    (
        "08P01",
        "unsupported startup parameter: extra_float_digits",
        true,
        "ignore_startup_parameters",
    ),
    (
        "08P01",
        "unsupported startup parameter in options: work_mem",
        true,
        "ignore_startup_parameters",
    ),
    (
        "08P01",
        "transaction blocks not allowed in statement pooling mode",
        true,
        "pool_mode=transaction",
    ),
    (
        "0A000",
        "transaction blocks not allowed in statement pooling mode",
        true,
        "pool_mode=transaction",
    ),
    ("08P01", "no more connections allowed (max_client_conn)", false, "raise max_client_conn"),
    ("08P01", "query_wait_timeout", false, "raise its default_pool_size"),
    ("57014", "query_wait_timeout", false, "raise its default_pool_size"),
    (
        "08P01",
        "pgbouncer cannot connect to server",
        false,
        "check that the server is up, and the pooler's log",
    ),
    (
        "08P01",
        "server login has been failing, try again later (server_login_retry)",
        false,
        "the pooler's log",
    ),
    ("08P01", "server conn crashed?", false, "the pooler's log"),
    ("08P01", "the database system is shutting down (pgbouncer)", false, "run it again"),
    ("08P01", "pgbouncer is shutting down", false, "run it again"),
    ("08P01", "client_idle_timeout", false, "raise that limit"),
    ("08P01", "query timeout", false, "raise that limit"),
    ("26000", "prepared statement \"sqlx_s_1\" does not exist", false, "pool_mode=session"),
    ("42P05", "prepared statement \"sqlx_s_1\" already exists", false, "max_prepared_statements"),
    ("53300", "sorry, too many clients already", false, "raise max_connections"),
    (
        "53300",
        "remaining connection slots are reserved for non-replication superuser connections",
        false,
        "raise max_connections",
    ),
    ("53300", "too many connections for role \"app\"", false, "alter role app connection limit"),
    (
        "53300",
        "too many connections for database \"tally\"",
        false,
        "alter database tally connection limit",
    ),
    (
        "53100",
        "could not extend file \"base/1/2\": No space left on device",
        false,
        "the server's disk is full",
    ),
    ("53200", "out of memory", false, "the server is out of memory"),
    ("53400", "temporary file size exceeds temp_file_limit (1kB)", false, "raise that limit"),
    (
        "58030",
        "could not read block 7 in file \"base/1/2\": Input/output error",
        false,
        "check its disk",
    ),
    (
        "58P01",
        "could not open file \"base/1/2\": No such file or directory",
        false,
        "check its disk",
    ),
    (
        "XX001",
        "invalid page in block 7 of relation base/1/2",
        false,
        "restore the table from a backup",
    ),
    (
        "XX002",
        "index \"eth_wallet_balances_pkey\" contains unexpected zero page at block 1",
        false,
        "run: reindex table",
    ),
    (
        "57P01",
        "terminating connection due to administrator command",
        false,
        "the server ended the session",
    ),
    (
        "57P02",
        "terminating connection because of crash of another server process",
        false,
        "the server ended the session",
    ),
    ("57P03", "the database system is starting up", false, "run it again once the server is up"),
    (
        "57P03",
        "the database system is in recovery mode",
        false,
        "run it again once the server is up",
    ),
    (
        "57P05",
        "terminating connection due to idle-session timeout",
        false,
        "raise idle_session_timeout for role \"app\"",
    ),
    (
        "25P03",
        "terminating connection due to idle-in-transaction timeout",
        false,
        "raise idle_in_transaction_session_timeout for role \"app\"",
    ),
    (
        "25P04",
        "terminating connection due to transaction timeout",
        false,
        "raise transaction_timeout",
    ),
    (
        "55P03",
        "canceling statement due to lock timeout",
        false,
        "end the transaction of the session",
    ),
    (
        "57014",
        "canceling statement due to statement timeout",
        false,
        "raise statement_timeout for role \"app\"",
    ),
    ("57014", "canceling statement due to user request", false, "somebody cancelled the statement"),
    (
        "40001",
        "canceling statement due to conflict with recovery",
        false,
        "max_standby_streaming_delay",
    ),
    ("40001", "could not serialize access due to concurrent update", false, "run it again"),
    ("40P01", "deadlock detected", false, "run it again"),
    (
        "25006",
        "cannot execute INSERT in a read-only transaction",
        true,
        "must name the primary server",
    ),
    (
        "42P10",
        "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        true,
        "no primary key on wallet alone",
    ),
    (
        "23514",
        "no partition of relation \"eth_wallet_balances\" found for row",
        true,
        "add the missing partition",
    ),
    ("42P01", "relation \"eth_wallet_balances\" does not exist", true, "run `ethtally migrate`"),
    ("42703", "column \"read_block\" does not exist", true, "run `ethtally migrate`"),
    (
        "3F000",
        "no schema has been selected to create in",
        true,
        "grant usage, create on schema public to app",
    ),
    ("42704", "unrecognized configuration parameter \"work_men\"", true, "correct `options`"),
    ("22023", "invalid value for parameter \"work_mem\": \"x\"", true, "correct `options`"),
];

#[test]
fn every_usual_error_is_said_with_its_remedy() {
    for (code, message, is_settings, words) in EXAMPLES {
        let (text, by_settings) = said(code, message);
        assert!(text.contains(words), "{code} {message}: {text}");
        assert_eq!(by_settings, *is_settings, "{code} {message}");
        assert!(!text.contains(['{', '\n']), "{text}");
    }
}

#[test]
fn every_row_has_an_example() {
    for rule in RULES {
        let fits = |(code, message, _, _): &&(&str, &str, bool, &str)| {
            rule_for(code, message).is_some_and(|found| std::ptr::eq(found, rule))
        };
        assert!(EXAMPLES.iter().any(|example| fits(&example)), "{rule:?}");
    }
}

#[test]
fn a_name_that_needs_quotes_gets_them() {
    let names = Names { place: "db:5432", role: "my-app", database: "user" };
    let rule = rule_for("42501", "permission denied for database \"user\"").unwrap();
    assert!(
        names.fill(rule.says, "").ends_with("grant connect on database \"user\" to \"my-app\"")
    );
}

#[test]
fn errors_without_a_server_are_said_with_their_remedy() {
    let io = |error: TlsError| sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, error));
    let certificate = |error| io(TlsError::InvalidCertificate(error));
    let rows = [
        (certificate(CertificateError::Expired), true, "has expired; renew it"),
        (certificate(CertificateError::NotValidYet), true, "check the clocks"),
        (certificate(CertificateError::NotValidForName), true, "use that name as the host"),
        (certificate(CertificateError::UnknownIssuer), true, "give its issuer's as sslrootcert"),
        (certificate(CertificateError::Revoked), true, "is revoked"),
        (certificate(CertificateError::BadSignature), true, "is not valid"),
        (
            io(TlsError::AlertReceived(rustls::AlertDescription::CertificateRequired)),
            true,
            "give sslcert and sslkey",
        ),
        (
            io(TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType)),
            true,
            "does not speak PostgreSQL's TLS",
        ),
        (sqlx::Error::Tls("server does not support TLS".into()), true, "write sslmode=prefer"),
        (
            sqlx::Error::Protocol("unexpected response from SSLRequest: 0x48".into()),
            true,
            "what answers is not PostgreSQL",
        ),
        (
            sqlx::Error::Protocol("unsupported authentication method: Gss".into()),
            true,
            "use scram-sha-256",
        ),
        (
            sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into()),
            false,
            "check that the server is up",
        ),
        (sqlx::Error::Io(io::ErrorKind::NotFound.into()), false, "no server listens there"),
    ];
    for (error, is_settings, words) in rows {
        let explained = explain_driver(&error, "db:5432");
        assert!(explained.text.contains(words), "{error:?}: {}", explained.text);
        assert_eq!(explained.is_settings, is_settings, "{error:?}");
    }
}

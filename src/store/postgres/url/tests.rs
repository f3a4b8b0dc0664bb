use sqlx::postgres::PgConnectOptions;

use super::*;

fn parsed(url: &str) -> Target {
    parse(url, None).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// The error of a URL that is refused.
fn error(url: &str) -> String {
    match parse(url, None) {
        Ok(_) => panic!("{url} is taken"),
        Err(error) => error.to_string(),
    }
}

/// Hosts, or folders of sockets, with their ports.
fn places(url: &str) -> Vec<(String, u16)> {
    let place = |host: &PgConnectOptions| {
        let name = match host.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => host.get_host().to_owned(),
        };
        (name, host.get_port())
    };
    parsed(url).hosts.iter().map(place).collect()
}

#[test]
fn hosts_are_found_in_every_form() {
    let rows: [(&str, &[(&str, u16)]); 22] = [
        ("postgres://db/tally", &[("db", 5432)]),
        ("postgresql://db:6432/tally", &[("db", 6432)]),
        ("postgres://db", &[("db", 5432)]),
        ("postgres://u:p@db:/tally", &[("db", 5432)]),
        ("postgres://a:1,b:2/tally", &[("a", 1), ("b", 2)]),
        ("postgres://u:p@a,b:2,c/tally", &[("a", 5432), ("b", 2), ("c", 5432)]),
        ("postgres://[::1]:6432/tally", &[("::1", 6432)]),
        ("postgres://u@[2001:db8::1],[::2]:7/tally", &[("2001:db8::1", 5432), ("::2", 7)]),
        ("postgres://%2Fvar%2Frun%2Fpostgresql/tally", &[("/var/run/postgresql", 5432)]),
        ("postgres://u:p@%2Frun:6432/tally", &[("/run", 6432)]),
        ("postgres:///tally?host=/run/pg&port=6432", &[("/run/pg", 6432)]),
        ("postgres://u@/tally?host=%2Frun%2Fpg", &[("/run/pg", 5432)]),
        ("postgres:///tally?host=a,b", &[("a", 5432), ("b", 5432)]),
        ("postgres:///tally?host=a,b&port=1,2", &[("a", 1), ("b", 2)]),
        ("postgres:///tally?host=a,b&port=6432", &[("a", 6432), ("b", 6432)]),
        ("postgres://other:1/tally?host=a&port=2", &[("a", 2)]),
        ("postgres://db/tally?hostaddr=10.0.0.1", &[("10.0.0.1", 5432)]),
        ("postgres:///t?host=a,b&hostaddr=10.0.0.1,::1&port=1,", &[("10.0.0.1", 1), ("::1", 5432)]),
        ("host=db port=6432 dbname=tally", &[("db", 6432)]),
        ("host=/run/pg dbname=tally", &[("/run/pg", 5432)]),
        ("jdbc:postgresql://db:6432/tally?user=app", &[("db", 6432)]),
        ("postgresql+asyncpg://app@db/tally", &[("db", 5432)]),
    ];
    for (url, expected) in rows {
        let expected: Vec<_> =
            expected.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        assert_eq!(places(url), expected, "{url}");
    }
    let mut both = places("postgres://a,b/tally?load_balance_hosts=random");
    both.sort();
    assert_eq!(both, [("a".to_owned(), 5432), ("b".to_owned(), 5432)]);
}

#[test]
fn user_password_and_database_are_decoded() {
    // sqlx has no getter for the password; its own form of a URL has it.
    let seen = |url: &str| {
        use sqlx::ConnectOptions;
        let host = &parsed(url).hosts[0];
        let url = host.to_url_lossy();
        let password = url.password().map(crate::redact::percent_decoded).unwrap_or_default();
        let database = host.get_database().unwrap_or_default().to_owned();
        (host.get_username().to_owned(), password, database)
    };
    for (url, expected) in [
        ("postgres://app:word@db/tally", ("app", "word", "tally")),
        ("postgres://a%40pp:w%2Fo%23r%3Fd%3A@db/my%2Ftally", ("a@pp", "w/o#r?d:", "my/tally")),
        ("postgres://app:p@ss@db/tally", ("app", "p@ss", "tally")),
        ("postgres://app:a:b+c,d@db/tally", ("app", "a:b+c,d", "tally")),
        ("postgres://app:100%@db/tally", ("app", "100%", "tally")),
        ("postgres://app@db/tally?password=a+b%26c%3Dd", ("app", "a+b&c=d", "tally")),
        ("postgres://db?user=app&password=word&dbname=tally", ("app", "word", "tally")),
        ("jdbc:postgresql://db/tally?user=app&password=word", ("app", "word", "tally")),
        (
            r"host=db user = app password='it\'s \\ here' dbname=tally",
            ("app", r"it's \ here", "tally"),
        ),
        (r"user=app password=a\ b:c@d dbname=tally host=db", ("app", "a b:c@d", "tally")),
        ("user=app password='' dbname=tally host=db", ("app", "", "tally")),
    ] {
        let (user, password, database) = expected;
        assert_eq!(seen(url), (user.into(), password.into(), database.into()), "{url}");
    }
}

#[test]
fn parameters_have_their_effect() {
    let options = |url: &str| parsed(url).hosts[0].get_options().map(str::to_owned);
    for (url, expected) in [
        ("postgres://db/t?options=-c%20geqo%3Doff", "-c geqo=off"),
        ("postgres://db/t?options=-c+geqo=off", "-c geqo=off"),
        ("postgres://db/t?options=--geqo%3Doff%20-cjit=off", "--geqo=off -cjit=off"),
        (
            "postgres://db/t?options[geqo]=off&options[work_mem]=4%20MB",
            r"-c geqo=off -c work_mem=4\ MB",
        ),
        ("postgres://db/t?options=endpoint%3Dep-cool-1", "endpoint=ep-cool-1"),
        ("host=db options='-c geqo=off'", "-c geqo=off"),
    ] {
        assert_eq!(options(url).as_deref(), Some(expected), "{url}");
    }
    let application = |url: &str| parsed(url).hosts[0].get_application_name().map(str::to_owned);
    for (url, expected) in [
        ("postgres://db/t", "ethtally"),
        ("postgres://db/t?application_name=sweeper", "sweeper"),
        ("postgres://db/t?fallback_application_name=other", "other"),
        ("postgres://db/t?application_name=a&fallback_application_name=b", "a"),
        ("postgres://db/t?ApplicationName=jdbc", "jdbc"),
    ] {
        assert_eq!(application(url).as_deref(), Some(expected), "{url}");
    }
    for (url, expected) in [
        ("postgres://db/t", TargetSession::Any),
        ("postgres://a,b/t?target_session_attrs=any", TargetSession::Any),
        ("postgres://a,b/t?target_session_attrs=read-write", TargetSession::ReadWrite),
        ("postgres://a,b/t?target_session_attrs=read-only", TargetSession::ReadOnly),
        ("postgres://a,b/t?target_session_attrs=primary", TargetSession::Primary),
        ("postgres://a,b/t?target_session_attrs=standby", TargetSession::Standby),
        ("postgres://a,b/t?target_session_attrs=prefer-standby", TargetSession::PreferStandby),
        ("jdbc:postgresql://a,b/t?targetServerType=preferSecondary", TargetSession::PreferStandby),
    ] {
        assert_eq!(parsed(url).session, expected, "{url}");
    }
    let timeout = |url: &str| parsed(url).connect_timeout.map(|timeout| timeout.as_secs());
    for (url, expected) in [
        ("postgres://db/t", None),
        ("postgres://db/t?connect_timeout=7", Some(7)),
        ("postgres://db/t?connect_timeout=0", None),
        ("postgres://db/t?connect_timeout=-1", None),
    ] {
        assert_eq!(timeout(url), expected, "{url}");
    }
}

#[test]
fn every_mode_of_tls_is_taken() {
    let ca = tempfile::NamedTempFile::new().unwrap();
    let with_ca = format!("postgres://db/t?sslmode=require&sslrootcert={}", ca.path().display());
    for (url, expected) in [
        ("postgres://db/t", "Prefer"),
        ("postgres://db/t?sslmode=disable", "Disable"),
        ("postgres://db/t?sslmode=allow", "Prefer"),
        ("postgres://db/t?sslmode=prefer", "Prefer"),
        ("postgres://db/t?sslmode=require", "Require"),
        ("postgres://db/t?ssl-mode=verify-ca", "VerifyCa"),
        ("postgres://db/t?sslmode=verify-full", "VerifyFull"),
        (&with_ca, "VerifyCa"),
        ("postgres://db/t?sslrootcert=system", "VerifyFull"),
        ("postgres://db/t?sslmode=verify-full&sslrootcert=system", "VerifyFull"),
        ("jdbc:postgresql://db/t?ssl=true", "VerifyFull"),
        ("postgres://db/t?ssl=require", "Require"),
        ("postgres://db/t?ssl=true&sslmode=require", "Require"),
    ] {
        assert_eq!(format!("{:?}", parsed(url).hosts[0].get_ssl_mode()), expected, "{url}");
    }
}

#[test]
fn a_schema_is_taken_from_every_drivers_parameter() {
    for url in [
        "postgres://db/t?schema=tally",
        "postgres://db/t?search_path=tally",
        "postgres://db/t?currentSchema=tally",
        "postgres://db/t?schema=%22tally%22",
        "postgres://db/t?schema=tally&search_path=tally",
        "postgres://db/t?options=-c%20search_path%3Dtally",
        "postgres://db/t?options=-csearch_path=tally",
        "postgres://db/t?options=--search_path=tally",
        "postgres://db/t?options[search_path]=tally",
        "host=db options='-c search_path=tally'",
    ] {
        assert_eq!(parsed(url).schema.as_deref(), Some("tally"), "{url}");
        let same = parse(url, Some("tally")).unwrap();
        assert_eq!(same.schema.as_deref(), Some("tally"), "{url}");
        let differ = parse(url, Some("other")).unwrap_err().to_string();
        assert!(differ.contains("name different schemas"), "{url}: {differ}");
    }
    assert_eq!(parsed("postgres://db/t?schema=").schema, None);
    assert_eq!(parse("postgres://db/t", Some("")).unwrap().schema, None);
    assert_eq!(parse("postgres://db/t", Some("My \"own\"")).unwrap().schema.unwrap(), "My \"own\"");
    // The server resolves a path of several.
    assert_eq!(parsed("postgres://db/t?options=-csearch_path=a,b").schema, None);
}

#[test]
fn what_changes_nothing_is_taken() {
    for parameters in [
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000",
        "gssencmode=disable&channel_binding=prefer&client_encoding=UTF8&sslcompression=0&sslsni=1",
        "ssl_min_protocol_version=TLSv1.2&krbsrvname=postgres&replication=false&sslnegotiation=postgres",
        "pgbouncer=true&connection_limit=1&pool_timeout=10&statement_cache_size=0&socket_timeout=5",
        "prepareThreshold=0&binaryTransfer=false&reWriteBatchedInserts=true&tcpKeepAlive=true",
        "pool_max_conns=5&default_query_exec_mode=simple_protocol&statement_cache_capacity=0",
        "prepared_statement_cache_size=0&prepared_statements=false&binary_parameters=yes&supa=x",
        "sslaccept=accept_invalid_certs&pool=5&timezone=Asia/Kolkata&",
    ] {
        let target = parsed(&format!("postgres://u:p@db/t?{parameters}"));
        assert_eq!((target.schema, target.session), (None, TargetSession::Any), "{parameters}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    for (url, parts) in [
        ("postgres://db/t?service=prod-secret", ["\"service\"", "write host, database and user"]),
        ("postgres://db/t?passfile=/secret", ["\"passfile\"", "PGPASSFILE"]),
        ("postgres://db/t?channel_binding=require", ["\"channel_binding\"", "sslmode=verify-full"]),
        ("postgres://db/t?gssencmode=require", ["\"gssencmode\"", "sslmode=verify-full"]),
        ("postgres://db/t?require_auth=scram-sha-256", ["\"require_auth\"", "remove it"]),
        ("postgres://db/t?sslcrl=/secret", ["\"sslcrl\"", "remove it"]),
        ("postgres://db/t?sslaccept=strict", ["\"sslaccept\"", "sslmode=verify-full"]),
        ("postgres://db/t?replication=database", ["\"replication\"", "remove it"]),
        ("postgres://db/t?client_encoding=LATIN1", ["\"client_encoding\"", "UTF-8"]),
        ("postgres://db/t?statement_timeout=5s", ["\"statement_timeout\"", "options="]),
        ("postgres://db/t?sslpassword=secret", ["\"sslpassword\"", "unencrypted key"]),
        ("postgres://db/t?sslmod=secret", ["unknown parameter \"sslmod\"", "correct its name"]),
        ("host=db pasword=secret", ["unknown parameter \"pasword\"", "correct its name"]),
        ("postgres://db/t?sslmode=secret", ["sslmode", "verify-full"]),
        ("postgres://db/t?target_session_attrs=secret", ["target_session_attrs", "read-write"]),
        ("postgres://db/t?connect_timeout=secret", ["connect_timeout", "whole number"]),
        ("postgres://db/t?load_balance_hosts=secret", ["load_balance_hosts", "unknown value"]),
        ("postgres://db/t?sslrootcert=/nowhere", ["\"/nowhere\" as sslrootcert", "No such file"]),
        (
            "postgres://db/t?sslrootcert=system&sslmode=require",
            ["sslrootcert=system", "verify-full"],
        ),
        ("postgres://db/t?sslcert=/dev/null", ["sslcert", "sslkey"]),
        ("postgres://a,b/t?port=1,2,3", ["lists", "different lengths"]),
        ("postgres://a/t?port=secret", ["port", "1 to 65535"]),
        ("postgres://a/t?port=0", ["port", "1 to 65535"]),
        ("postgres:///t?host=a,b&hostaddr=10.0.0.1", ["lists", "different lengths"]),
        (
            "postgres://a/t?hostaddr=10.0.0.1&sslmode=verify-full",
            ["host and hostaddr", "sslmode=verify-ca"],
        ),
        ("postgres://db/t?search_path=a,public", ["several schemas", "ethtally's tables"]),
        ("postgres://db/t?schema=a&currentSchema=b", ["two schemas", "ethtally's tables"]),
        ("postgres://db/t?secret", ["parameter without a value", "%26"]),
        ("postgres://db/t?password=a&secret=b", ["parameter that nobody knows", "%26"]),
        ("postgres://app:47/secret@db/tally", ["not a valid", "percent-encode"]),
        ("postgres://app:se#cret@db/tally", ["not a valid", "percent-encode"]),
        ("postgres://app:se@cr/et@db/tally", ["not a valid", "percent-encode"]),
        ("postgres://app:secret/tally", ["not a valid", "USER:PASSWORD@HOST:PORT/DATABASE"]),
        ("postgres:secret", ["not a valid", "USER:PASSWORD@HOST:PORT/DATABASE"]),
        ("postgres:/db/secret", ["not a valid", "USER:PASSWORD@HOST:PORT/DATABASE"]),
        ("postgres://[::1/t", ["not a valid", "USER:PASSWORD@HOST:PORT/DATABASE"]),
        ("host=db password='secret", ["list of settings", "NAME='VALUE'"]),
        ("host=db secret", ["list of settings", "NAME='VALUE'"]),
    ] {
        let error = error(url);
        for part in parts {
            assert!(error.contains(part), "{url}: {error}");
        }
        assert!(!error.contains("secret"), "{url}: {error}");
        assert_eq!(error.contains("percent-encode"), parts.contains(&"percent-encode"), "{error}");
    }
}

#[test]
fn other_texts_are_not_of_postgres() {
    for text in ["", "sqlite:a=b.db", "foo.db", "mysql://db/t", "/data/host=1.db", "a=b", "secret"]
    {
        assert!(!is_postgres(text), "{text}");
    }
    for text in ["postgres://", "postgresql://db", "postgres:secret", "dbname=tally", "host = db"] {
        assert!(is_postgres(text), "{text}");
    }
}

//! Every form of a PostgreSQL URL, on a real server, and the schema of the tables.

use ethtally_testbed::{
    Chain,
    postgres::{self, Cluster, DatabaseOptions},
};
use serde_json::json;

use crate::support::{
    database::Database,
    program::{Ethtally, ethtally},
    table::store_unread,
    wallets::address,
    watch::{caught_up, start_connected, watch},
};

/// Prepares a command for a database at this URL.
fn at(url: &str, arguments: &[&str]) -> Ethtally {
    ethtally(arguments.iter().copied()).env("DATABASE_URL", url)
}

/// Panics unless the tables of this database can be read by way of `url`.
#[track_caller]
fn leads_to(url: &str, wallets: u64) {
    let status = at(url, &["status", "--json"]).run().expect(0).json();
    assert_eq!(status["wallets"], wallets, "{url}");
}

#[test]
fn every_form_of_a_url_leads_to_the_database() {
    let cluster = Cluster::start().unwrap();
    let url = cluster.url_with_password("app", "p@ss/w#rd?+:&=,%").unwrap();
    let name = url.rsplit('/').next().unwrap().to_owned();
    let port = cluster.port();
    let folder = cluster.folder().display().to_string();
    store_unread(&Database::at(url.clone()), 0..3);
    let encoded = "p%40ss%2Fw%23rd%3F%2B%3A%26%3D%2C%25";
    let socket = folder.replace('/', "%2F");
    for url in [
        url.clone(),
        format!("postgresql://app:{encoded}@127.0.0.1:{port}/{name}?sslmode=disable"),
        format!("postgres://app:{encoded}@127.0.0.1:{port}/{name}?sslmode=prefer"),
        format!("postgres://127.0.0.1:{port}/{name}?user=app&password={encoded}"),
        format!(
            "postgres:///?host=127.0.0.1&port={port}&dbname={name}&user=app&password={encoded}"
        ),
        format!("postgres://app:{encoded}@/{name}?hostaddr=127.0.0.1&port={port}"),
        // One that nobody listens at comes first.
        format!("postgres://app:{encoded}@127.0.0.1:1,127.0.0.1:{port}/{name}"),
        format!("postgres://app:{encoded}@/{name}?host=127.0.0.1,127.0.0.1&port=1,{port}"),
        format!(
            "postgres://app:{encoded}@127.0.0.1:1,127.0.0.1:{port}/{name}?target_session_attrs=read-write"
        ),
        // The socket asks for no password.
        format!("postgres://app@{socket}:{port}/{name}"),
        format!("postgres:///{name}?host={folder}&port={port}&user=app"),
        format!("postgres://app@:{port}/{name}?host={socket}"),
        format!("host={folder} port={port} dbname={name} user=app"),
        format!(r"host=127.0.0.1 port={port} dbname={name} user=app password='p@ss/w#rd?+:&=,%'"),
        format!("jdbc:postgresql://127.0.0.1:{port}/{name}?user=app&password={encoded}&ssl=false"),
        format!("postgresql+asyncpg://app:{encoded}@127.0.0.1:{port}/{name}"),
        format!("{url}?pgbouncer=true&connection_limit=1&schema=public&connect_timeout=5"),
        format!("{url}?keepalives=1&keepalives_idle=5&gssencmode=disable&channel_binding=prefer"),
    ] {
        leads_to(&url, 3);
    }
    // Variables stand for what the URL leaves out.
    let short = at("postgres://", &["status", "--json"])
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", &port.to_string())
        .env("PGUSER", "app")
        .env("PGPASSWORD", "p@ss/w#rd?+:&=,%")
        .env("PGDATABASE", &name);
    assert_eq!(short.run().expect(0).json()["wallets"], 3);
    let home = tempfile::tempdir().unwrap();
    let passwords = home.path().join(".pgpass");
    std::fs::write(&passwords, format!("127.0.0.1:{port}:*:app:p@ss/w#rd?+\\:&=,%\n")).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&passwords, private).unwrap();
    let of_file = format!("postgres://app@127.0.0.1:{port}/{name}");
    let ran = at(&of_file, &["status"]).env("HOME", home.path().to_str().unwrap()).run();
    ran.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_has_the_name_and_the_options_of_the_url() {
    let database = Database::postgres();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let chain = Chain::builder().start().await.unwrap();
    let url =
        format!("{}?application_name=night%20shift&options=-c%20work_mem%3D5MB", database.url);
    let watching = start_connected(watch("", chain.url(), &Database::at(url)));
    let named = "select count(*) > 0 from pg_stat_activity
        where application_name = 'night shift' and datname = current_database()";
    assert_eq!(database.value(named).await, "t");
    watching.stop();
    // The options reach the server, which knows none of this name.
    let url = format!("{}?options=-c%20no_such_setting%3D1", database.url);
    let error = at(&url, &["status"]).run().refused();
    assert!(error.contains("\"no_such_setting\"; correct `options`"), "{error}");
}

#[test]
fn a_server_is_chosen_by_target_session_attrs() {
    let (open, closed) = (Cluster::start().unwrap(), Cluster::start().unwrap());
    let database = open.create_database("same").unwrap();
    let name = database.rsplit('/').next().unwrap().to_owned();
    let name = name.as_str();
    let options =
        DatabaseOptions { locale: None, settings: &[("default_transaction_read_only", "on")] };
    let read_only = closed.create_database_with("same", &options).unwrap();
    assert_eq!(read_only.rsplit('/').next().unwrap(), name);
    store_unread(&Database::at(database), 0..3);
    let tables = |cluster: &Cluster, wallets| {
        let url = format!("{}?options=-cdefault_transaction_read_only%3Doff", cluster.url(name));
        store_unread(&Database::at(url), 0..wallets);
    };
    tables(&closed, 5);
    let both = |first: &Cluster, second: &Cluster, wanted: &str| {
        let places = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), second.port());
        format!("postgres://postgres@{places}/{name}?target_session_attrs={wanted}")
    };
    for (wanted, wallets) in [("any", 5), ("read-write", 3), ("read-only", 5), ("primary", 5)] {
        leads_to(&both(&closed, &open, wanted), wallets);
    }
    for (wanted, wallets) in
        [("any", 3), ("read-write", 3), ("read-only", 5), ("prefer-standby", 3)]
    {
        leads_to(&both(&open, &closed, wanted), wallets);
    }
    // What writes takes the one that can be written to.
    at(&both(&closed, &open, "any"), &["migrate"]).run().expect(0);
    let ran = at(&both(&closed, &open, "standby"), &["status"]).run().expect(4);
    assert!(ran.error().contains("no server is standby"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_two_schemas_do_not_meet() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::postgres();
    store_unread(&database, 0..3);
    let (flag, odd) = ("tally", "My \"odd\" user");
    for (schema, wallets) in [(flag, 2), (odd, 1), ("user", 1)] {
        let run = |arguments: &[&str]| {
            at(&database.url, arguments).env("ETHTALLY_SCHEMA", schema).node(chain.url())
        };
        let applied = run(&["migrate", "--json"]).run().expect(0).json();
        assert_ne!(applied["applied"], json!([]));
        assert_eq!(run(&["migrate", "--json"]).run().expect(0).json()["applied"], json!([]));
        let addresses: Vec<_> = (10..10 + wallets).map(address).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        run(&[&["refresh"], &addresses[..]].concat()).run().expect(0);
        run(&["sweep", "--all"]).run().expect(0);
        run(&["verify", &address(10)]).run().expect(0);
        assert_eq!(run(&["status", "--json"]).run().expect(0).json()["wallets"], wallets);
        assert_eq!(
            run(&["verify", "--sample", "9", "--json"]).run().expect(0).json()["sampled"],
            wallets
        );
    }
    assert_eq!(at(&database.url, &["status", "--json"]).run().json()["wallets"], 3);
    let tables =
        "select schemaname from pg_tables where tablename = 'eth_wallet_balances' order by 1";
    assert_eq!(database.sql(tables).await, [odd, "public", flag, "user"]);

    // Other drivers' parameters name the same schema.
    for parameter in ["schema", "search_path", "currentSchema"] {
        leads_to(&format!("{}?{parameter}=tally", database.url), 2);
    }
    leads_to(&format!("{}?options=-c%20search_path%3Dtally", database.url), 2);
    let url = format!("{}?schema=tally", database.url);
    let same = at(&url, &["status", "--schema", "tally"]).run();
    same.expect(0);
    let error = at(&url, &["status", "--schema", "other"]).run().refused();
    assert!(error.contains("name different schemas"), "{error}");

    // Each schema has a watch of its own.
    let tally = Database::at(url);
    let watching = start_connected(watch("", chain.url(), &tally));
    let other = start_connected(watch("", chain.url(), &database));
    caught_up(&chain, &database).await;
    other.stop();
    watching.stop();
}

#[test]
fn a_schema_that_cannot_be_used_is_named_with_the_remedy() {
    let database = Database::postgres();
    let name = database.url.rsplit('/').next().unwrap();
    let label = database.url.split('@').nth(1).unwrap().split('/').next().unwrap();
    let label = format!("database postgres://{label}");
    let role = format!("limited_{name}");
    let sql = format!("create role {role} login; create schema closed; create schema shut;");
    postgres::psql(&database.url, &sql).unwrap();
    let limited = database.url.replace("//postgres@", &format!("//{role}@"));
    let run =
        |url: &str, schema: &str, command: &str| at(url, &[command, "--schema", schema]).run();

    let missing = run(&database.url, "typo", "status").expect(2);
    assert_eq!(
        missing.error(),
        format!(
            "error: {label}: schema \"typo\" does not exist; run `ethtally migrate` to create it, \
             or check --schema"
        )
    );
    let forbidden = run(&limited, "closed", "status").expect(4);
    assert_eq!(
        forbidden.error(),
        format!(
            "error: {label}: role {role:?} may not use schema \"closed\"; run: grant usage on \
             schema closed to {role}"
        )
    );
    // The remedy helps, as far as it goes.
    let grant = |error: &str| {
        postgres::psql(&database.url, error.split("run: ").nth(1).unwrap()).unwrap();
    };
    grant(&forbidden.error());
    let empty = run(&limited, "closed", "status").expect(2);
    assert!(empty.error().contains("`ethtally migrate`"), "{empty:?}");
    let create = run(&limited, "new", "migrate").expect(4);
    assert!(create.error().contains(&format!("grant create on database {name} to")), "{create:?}");
    let create = run(&limited, "closed", "migrate").expect(4);
    assert!(create.error().contains("grant usage, create on schema closed to"), "{create:?}");
    grant(&create.error());
    run(&limited, "closed", "migrate").expect(0);
    run(&limited, "closed", "status").expect(0);

    // Rights of rows are named with the schema.
    run(&database.url, "shut", "migrate").expect(0);
    postgres::psql(&database.url, &format!("grant usage on schema shut to {role}")).unwrap();
    let rows = run(&limited, "shut", "status").expect(4);
    assert!(rows.error().contains("grant select on shut.eth_wallet_balances, "), "{rows:?}");
    grant(&rows.error());
    run(&limited, "shut", "status").expect(0);

    let file = at("sqlite:tally.db", &["status", "--schema", "tally"]).run().refused();
    assert!(file.contains("--schema needs PostgreSQL"), "{file}");
    let long = "x".repeat(64);
    let long = run(&database.url, &long, "status").refused();
    assert!(long.contains("is not a name in PostgreSQL"), "{long}");
}

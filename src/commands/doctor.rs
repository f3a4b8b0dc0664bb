//! `doctor`: checks node, database, profile and rights before they matter.

use std::{sync::Arc, time::Duration};

use itertools::Itertools;
use serde::Serialize;
use url::Url;

use crate::{
    app::App,
    events::try_subscription,
    read::MethodChoice,
    redact,
    report::{BAD, CommandOutput, GOOD, NOTE, Styler, Verdict},
    rpc::{Client, Needs},
    store::Access,
    tally::{Check, CheckStatus, RunError},
};

/// A request that fails is tried once more; a person waits.
const RETRIES: u32 = 1;
/// How long a WebSocket may take.
const SOCKET_LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Checked {
    command: &'static str,
    checks: Vec<Check>,
}

impl CommandOutput for Checked {
    fn text(&self, styler: &Styler) -> String {
        let line = |check: &Check| {
            let (word, style) = match check.status {
                CheckStatus::Ok => ("ok  ", GOOD),
                CheckStatus::Warn => ("warn", NOTE),
                CheckStatus::Fail => ("fail", BAD),
            };
            let Check { name, target, detail, .. } = check;
            let remedy = check.remedy.as_ref().map(|remedy| format!("; {remedy}"));
            let remedy = remedy.unwrap_or_default();
            format!("{} {name:<13} {target}: {detail}{remedy}", styler.style(style, word))
        };
        self.checks.iter().map(line).join("\n")
    }
}

pub(super) async fn run(app: &App) -> Result<Verdict, RunError> {
    let mut checks = Vec::new();
    let newest_stored = database(app, &mut checks).await;
    endpoints(app, newest_stored, &mut checks).await;
    if !app.profile.events.is_empty() {
        checks.extend(socket(app).await);
    }
    if app.shutdown.is_requested() {
        return Err(RunError::stopped());
    }
    // Errors of other programs may hold anything.
    for check in &mut checks {
        check.target = redact::clean(&check.target);
        check.detail = redact::excerpt(&check.detail);
        check.remedy = check.remedy.as_deref().map(redact::excerpt);
    }
    let has_failed = checks.iter().any(|check| check.status == CheckStatus::Fail);
    app.report.result(&Checked { command: "doctor", checks })?;
    Ok(if has_failed { Verdict::Fail } else { Verdict::Pass })
}

/// Checks the database; returns the newest block that it was read at.
async fn database(app: &App, checks: &mut Vec<Check>) -> Option<u64> {
    let store = match app.open(Access::Read).await {
        Ok(store) => store,
        Err(error) => {
            checks.push(labelled(Check::error(
                "database",
                "database",
                &error,
                "check --database-url",
            )));
            return None;
        }
    };
    let label = store.label();
    checks.push(Check::ok("database", &label, "reached"));
    checks.extend(store.examine().await);
    let has_tables = |check: &Check| check.name == "tables" && check.status == CheckStatus::Ok;
    if !checks.iter().any(has_tables) {
        return None;
    }
    let adopt = "give the --profile that the table was filled with";
    checks.push(match store.profile().await {
        Ok(None) => Check::ok(
            "profile",
            &label,
            "none on record; the first run that stores something records it",
        ),
        _ => match app.check_table(store.as_ref()).await {
            Ok(()) => Check::ok("profile", &label, format!("{}, as on record", app.profile.name)),
            Err(error) => Check::error("profile", &label, &error, adopt),
        },
    });
    store.newest_read_block().await.ok().flatten()
}

/// The same with the database as its target, where the detail begins with it.
fn labelled(check: Check) -> Check {
    let Some((before, rest)) = check.detail.split_once("database ") else { return check };
    let Some((label, detail)) = rest.split_once(": ") else { return check };
    // Names of databases are quoted.
    if label.starts_with('"') {
        return check;
    }
    let (target, detail) = (format!("database {label}"), format!("{before}{detail}"));
    Check { target, detail, ..check }
}

/// Checks each endpoint on its own.
async fn endpoints(app: &App, newest_stored: Option<u64>, checks: &mut Vec<Check>) {
    let endpoints = app.endpoints();
    if endpoints.is_empty() {
        let remedy = "give --rpc-url URL or set ETH_RPC_URL";
        checks.push(Check::fail("chain", "node", "no node to read from", remedy));
    }
    let profile = &app.profile;
    let needs = Needs {
        multicall3: profile.multicall3,
        overrides: app.reader_settings().method == MethodChoice::Packed,
        event_contracts: profile.events.iter().map(|event| event.contract).unique().collect(),
    };
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        let number = format!("endpoint {}", index + 1);
        match endpoint.and_then(|url| client(app, url)) {
            Ok(client) => {
                if let Some(block) = newest_stored {
                    client.has_stored(block);
                }
                checks.extend(client.preflight(&needs).await);
            }
            Err(error) => {
                checks.push(Check::error("chain", &number, &error, "check --rpc-url"));
            }
        }
        if app.shutdown.is_requested() {
            return;
        }
    }
}

fn client(app: &App, url: Url) -> Result<Arc<Client>, RunError> {
    let retries = app.settings.node.retries.min(RETRIES);
    app.client_of(url, retries)
}

/// Checks the WebSocket that `watch` would use.
async fn socket(app: &App) -> Option<Check> {
    let (name, remedy) = ("websocket", "give --ws-url; without one, watch polls every few seconds");
    let url = match app.ws_url() {
        Ok(url) => url,
        // Without any endpoint there is a check that says so.
        Err(_) if app.endpoints().is_empty() => return None,
        Err(error) => {
            return Some(Check::error(name, "--ws-url", &error, remedy));
        }
    };
    let target = url.origin().ascii_serialization();
    let limit = SOCKET_LIMIT.min(Duration::from_secs(app.settings.node.timeout));
    Some(match try_subscription(&url, &app.profile, limit).await {
        Ok(()) => Check::ok(name, &target, "takes subscriptions"),
        Err(error) => {
            let text = redact::clean_error(error.as_ref());
            Check::warn(name, &target, format!("no WebSocket: {text}"), remedy)
        }
    })
}

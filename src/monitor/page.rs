//! The page at `/`: one static page that shows what `/state` says. Nothing on it comes from elsewhere.

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{
        HeaderName, HeaderValue,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{SecondsFormat, Utc};
use serde_json::json;
use url::form_urlencoded;

use super::Monitors;

/// What a browser may load and run: this server's own files, and nothing that is written into the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page, its parts, and what it shows.
pub(super) fn routes() -> Router<Monitors> {
    let file =
        |kind: &'static str, text: &'static str| get(move || async move { of_file(kind, text) });
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/state", get(state))
}

fn of_file(kind: &'static str, text: &'static str) -> Response {
    let header = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    let headers = [
        header(CONTENT_TYPE, kind),
        header(CONTENT_SECURITY_POLICY, POLICY),
        header(X_CONTENT_TYPE_OPTIONS, "nosniff"),
        header(REFERRER_POLICY, "no-referrer"),
        // A new version has a new page.
        header(CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// What is known, from memory: of the profile that the query names, or of the first.
async fn state(State(monitors): State<Monitors>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "profile");
    let monitor = monitors.of(named.as_ref().map(|(_, profile)| &**profile));
    let health = monitor.health();
    let (table, mut runs) = monitor.looked_up();
    // By command, the newest first: of each command the newest.
    runs.dedup_by(|later, first| later.command == first.command);
    let body = json!({
        "time": Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        "version": env!("CARGO_PKG_VERSION"),
        "profile": monitor.profile(),
        "profiles": monitors.names(),
        "head_timestamp": health.head_timestamp,
        "health": health,
        "table": table,
        "last_runs": runs,
    });
    ([(X_CONTENT_TYPE_OPTIONS, "nosniff"), (CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

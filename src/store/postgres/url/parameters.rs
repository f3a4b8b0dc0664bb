//! What was given, under libpq's names, and what it means for the session.

use std::{collections::BTreeMap, env, fs::File, str::FromStr, time::Duration};

use rand::seq::SliceRandom;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::form_urlencoded::Serializer;

use super::{
    forms::{Given, refused},
    known::{Use, use_of},
    target::TargetSession,
};
use crate::tally::RunError;

/// The name of our sessions, unless another one is given.
const APPLICATION: &str = "ethtally";
/// Bytes of a name in PostgreSQL, at most.
const LONGEST_NAME: usize = 63;

/// What was given, under libpq's names.
pub(super) struct Parameters {
    values: BTreeMap<&'static str, String>,
    /// sqlx's form of `options`, one by one.
    options: String,
}

impl Parameters {
    /// Sorts out what has an effect, and refuses what should have one that it cannot have.
    pub(super) fn of(given: Given) -> Result<Self, RunError> {
        let mut known = Self { values: BTreeMap::new(), options: String::new() };
        let mut before = String::new();
        for (name, value) in given {
            let option = name.strip_prefix("options[").and_then(|name| name.strip_suffix(']'));
            if let Some(option) = option {
                let escaped = value.replace('\\', r"\\").replace(' ', r"\ ");
                known.options.push_str(&format!(" -c {option}={escaped}"));
                continue;
            }
            let Some(use_of) = use_of(&name) else {
                // It may be the rest of a password.
                let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                if before == "password" || name.is_empty() || !name.chars().all(is_plain) {
                    return Err(refused(
                        "has a parameter that nobody knows; write & and = in a value as %26 and %3D",
                    ));
                }
                return Err(refused(format_args!(
                    "has an unknown parameter {name:?}; remove it, or correct its name"
                )));
            };
            let lower = value.to_lowercase();
            match use_of {
                Use::As("schema") => known.set_schema(&value)?,
                Use::As(name) => drop(known.values.insert(name, value)),
                Use::Harmless => {}
                Use::Only(values, _) if values.contains(&lower.as_str()) => {}
                Use::Only(_, remedy) | Use::Refused(remedy) => {
                    return Err(refused(format_args!(
                        "has a parameter {name:?} that ethtally does not support; {remedy}"
                    )));
                }
            }
            before = name;
        }
        Ok(known)
    }

    fn set_schema(&mut self, value: &str) -> Result<(), RunError> {
        let quoted = value.trim().strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        let name =
            quoted.map_or_else(|| value.trim().to_owned(), |name| name.replace("\"\"", "\""));
        if quoted.is_none() && name.contains(',') {
            return Err(refused("names several schemas; name the one of ethtally's tables"));
        }
        match self.values.insert("schema", name.clone()) {
            Some(other) if other != name => {
                Err(refused("names two schemas; name the one of ethtally's tables"))
            }
            _ => Ok(()),
        }
    }

    fn given(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value of a parameter, or else of its environment variable, and where it is from.
    fn value(&self, name: &'static str, variable: &'static str) -> Option<(String, String)> {
        let of_url = || Some((self.given(name)?.to_owned(), format!("{name} in --database-url")));
        of_url().or_else(|| {
            let value = env::var(variable).ok().filter(|value| !value.is_empty())?;
            Some((value, variable.to_owned()))
        })
    }

    /// The servers, each with all that is said about the session.
    pub(super) fn hosts(&self) -> Result<Vec<PgConnectOptions>, RunError> {
        let list = |value: Option<(String, String)>| -> Option<Vec<String>> {
            Some(value?.0.split(',').map(|one| one.trim().to_owned()).collect())
        };
        let names = list(self.value("host", "PGHOST"));
        // An address of the environment belongs to a host of the environment.
        let address_variable = if self.given("host").is_some() { "" } else { "PGHOSTADDR" };
        let addresses = list(self.value("hostaddr", address_variable));
        let ports = list(self.value("port", "PGPORT")).unwrap_or_default();
        let mode = self.ssl_mode()?;
        if matches!(mode, PgSslMode::VerifyFull) && names.is_some() && addresses.is_some() {
            return Err(refused(
                "has both host and hostaddr, and the certificate cannot be checked for the host; \
                 remove hostaddr, or write sslmode=verify-ca",
            ));
        }
        let of_both = names.as_ref().zip(addresses.as_ref());
        let differ = of_both.is_some_and(|(names, addresses)| names.len() != addresses.len());
        let hosts = addresses.or(names).unwrap_or_else(|| vec![String::new()]);
        if differ || ports.len() > 1 && ports.len() != hosts.len() {
            return Err(refused("has lists of hosts, addresses and ports of different lengths"));
        }
        let port_of =
            |index: usize| ports.get(index).or(ports.first().filter(|_| ports.len() == 1));
        let mut servers = hosts
            .iter()
            .enumerate()
            .map(|(index, host)| self.server(host, port_of(index).map_or("", String::as_str), mode))
            .collect::<Result<Vec<_>, _>>()?;
        match self.value("load_balance_hosts", "PGLOADBALANCEHOSTS").as_ref().map(|(v, _)| &**v) {
            Some("random" | "true") => servers.shuffle(&mut rand::rng()),
            Some("disable" | "false") | None => {}
            Some(_) => return Err(refused("has an unknown value of load_balance_hosts")),
        }
        Ok(servers)
    }

    /// One server, by way of sqlx's own URL, which also takes in the variables and the file of passwords.
    fn server(
        &self,
        host: &str,
        port: &str,
        mode: PgSslMode,
    ) -> Result<PgConnectOptions, RunError> {
        let mut query = Serializer::new("postgres:?".to_owned());
        let mut give = |name: &str, value: &str| {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        };
        give("host", host);
        if !port.is_empty() && port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(refused("has a port that is not a number from 1 to 65535"));
        }
        give("port", if port.is_empty() { "5432" } else { port });
        for name in ["user", "password", "dbname"] {
            give(name, self.given(name).unwrap_or_default());
        }
        for name in ["sslrootcert", "sslcert", "sslkey"] {
            let file = self.given(name).filter(|file| (name, *file) != ("sslrootcert", "system"));
            if let Some(file) = file {
                File::open(file).map_err(|error| {
                    let file = file.to_owned();
                    refused(format_args!("names a file {file:?} as {name}: {error}"))
                })?;
                give(name, file);
            }
        }
        if self.given("sslcert").is_some() != self.given("sslkey").is_some() {
            return Err(refused("needs sslcert and sslkey together"));
        }
        give("options", &self.options());
        let options = PgConnectOptions::from_str(&query.finish())
            .map_err(|_| refused("is not a valid postgres:// URL"))?;
        let application = self.value("application_name", "PGAPPNAME").map(|(name, _)| name);
        let application = application.as_deref().or(self.given("fallback_application_name"));
        Ok(options
            .ssl_mode(mode)
            .application_name(application.unwrap_or(APPLICATION))
            // A pooler knows neither our named statements nor this parameter.
            .statement_cache_capacity(0)
            .extra_float_digits(None))
    }

    /// The command-line options of the session.
    fn options(&self) -> String {
        // Where a plus stands for a space, as in forms.
        let options = self.given("options").unwrap_or_default().replace("-c+", "-c ");
        format!("{options}{}", self.options).trim().to_owned()
    }

    fn ssl_mode(&self) -> Result<PgSslMode, RunError> {
        let mode = self.value("sslmode", "PGSSLMODE");
        let (mode, origin) = match (mode, self.given("ssl")) {
            (None, Some("true" | "1")) => ("verify-full".to_owned(), String::new()),
            (None, Some("false" | "0")) => ("prefer".to_owned(), String::new()),
            (None, Some(mode)) => (mode.to_owned(), "ssl in --database-url".to_owned()),
            (Some(mode), _) => mode,
            (None, None) => match self.given("sslrootcert") {
                Some("system") => ("verify-full".to_owned(), String::new()),
                _ => ("prefer".to_owned(), String::new()),
            },
        };
        let mode = match mode.as_str() {
            "disable" => PgSslMode::Disable,
            // TLS where the server has it does what either asks for.
            "allow" | "prefer" => PgSslMode::Prefer,
            // As libpq does.
            "require" if self.given("sslrootcert").is_some() => PgSslMode::VerifyCa,
            "require" | "no-verify" => PgSslMode::Require,
            "verify-ca" => PgSslMode::VerifyCa,
            "verify-full" => PgSslMode::VerifyFull,
            _ => {
                return Err(RunError::settings(format!(
                    "unknown value of {origin}; write disable, allow, prefer, require, verify-ca \
                     or verify-full"
                )));
            }
        };
        if self.given("sslrootcert") == Some("system") && !matches!(mode, PgSslMode::VerifyFull) {
            return Err(refused("has sslrootcert=system, which needs sslmode=verify-full"));
        }
        Ok(mode)
    }

    pub(super) fn session(&self) -> Result<TargetSession, RunError> {
        let Some((value, origin)) = self.value("target_session_attrs", "PGTARGETSESSIONATTRS")
        else {
            return Ok(TargetSession::Any);
        };
        // JDBC's words are taken, too.
        Ok(match value.to_lowercase().as_str() {
            "any" => TargetSession::Any,
            "read-write" => TargetSession::ReadWrite,
            "read-only" => TargetSession::ReadOnly,
            "primary" | "master" => TargetSession::Primary,
            "standby" | "secondary" | "slave" => TargetSession::Standby,
            "prefer-standby" | "prefersecondary" | "preferslave" => TargetSession::PreferStandby,
            _ => {
                return Err(RunError::settings(format!(
                    "unknown value of {origin}; write any, read-write, read-only, primary, standby \
                     or prefer-standby"
                )));
            }
        })
    }

    pub(super) fn connect_timeout(&self) -> Result<Option<Duration>, RunError> {
        let Some((value, origin)) = self.value("connect_timeout", "PGCONNECT_TIMEOUT") else {
            return Ok(None);
        };
        let seconds: i64 = value.trim().parse().map_err(|_| {
            RunError::settings(format!("the value of {origin} is not a whole number of seconds"))
        })?;
        // Without a limit there is ours: no wait is without an end.
        Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
    }

    /// The schema of `--schema`, or of the URL.
    pub(super) fn schema(&self, flag: Option<&str>) -> Result<Option<String>, RunError> {
        let flag = flag.filter(|name| !name.is_empty());
        let of_url = self.given("schema").map(str::to_owned).or_else(|| self.search_path());
        let schema = match (flag, of_url) {
            (Some(flag), Some(of_url)) if flag != of_url => {
                return Err(RunError::settings(
                    "--schema and --database-url name different schemas; name one of them",
                ));
            }
            (flag, of_url) => flag.map(str::to_owned).or(of_url),
        };
        if schema.as_ref().is_some_and(|name| name.len() > LONGEST_NAME || name.contains('\0')) {
            return Err(RunError::settings(format!(
                "--schema is not a name in PostgreSQL: it has more than {LONGEST_NAME} bytes, or a \
                 zero byte"
            )));
        }
        Ok(schema)
    }

    /// The schema that `options` sets, if it is only one.
    fn search_path(&self) -> Option<String> {
        let options = self.options();
        let mut words = options.split_whitespace().filter_map(|word| {
            let word = word.strip_prefix("-c").or(word.strip_prefix("--")).unwrap_or(word);
            word.strip_prefix("search_path=")
        });
        words.next_back().filter(|path| !path.contains([',', '"', '\\', '$'])).map(str::to_owned)
    }
}

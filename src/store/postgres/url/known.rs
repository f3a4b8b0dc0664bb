//! The parameters of a database URL: libpq's, and those that other drivers know.
//!
//! A table says of each what ethtally does with it: nothing is ignored in silence that could matter.

/// What is done with a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// It has the effect of libpq's parameter of this name.
    As(&'static str),
    /// It changes nothing here: it tunes another driver, or what ethtally sees to by itself.
    Harmless,
    /// It changes nothing with one of these values (in lower case); others are refused with this remedy.
    Only(&'static [&'static str], &'static str),
    /// It is refused with this remedy.
    Refused(&'static str),
}

use Use::{As, Harmless, Only, Refused};

/// Names without `_` and `-`, in lower case, as drivers spell them in many ways.
const PARAMETERS: &[(&[&str], Use)] = &[
    (&["host"], As("host")),
    (&["hostaddr"], As("hostaddr")),
    (&["port"], As("port")),
    (&["dbname", "database"], As("dbname")),
    (&["user", "username"], As("user")),
    (&["password"], As("password")),
    (&["options"], As("options")),
    (&["applicationname"], As("application_name")),
    (&["fallbackapplicationname"], As("fallback_application_name")),
    (&["connecttimeout", "logintimeout"], As("connect_timeout")),
    (&["sslmode"], As("sslmode")),
    (&["ssl"], As("ssl")),
    (&["sslrootcert", "sslca"], As("sslrootcert")),
    (&["sslcert"], As("sslcert")),
    (&["sslkey"], As("sslkey")),
    (&["targetsessionattrs", "targetservertype"], As("target_session_attrs")),
    (&["loadbalancehosts"], As("load_balance_hosts")),
    (&["schema", "searchpath", "currentschema"], As("schema")),
    // ethtally has keepalives and timeouts of its own.
    (
        &[
            "keepalives",
            "keepalivesidle",
            "keepalivesinterval",
            "keepalivescount",
            "tcpkeepalive",
            "tcpusertimeout",
            "sockettimeout",
            "commandtimeout",
        ],
        Harmless,
    ),
    // It uses no named statements, which is what these are for.
    (
        &[
            "pgbouncer",
            "preparethreshold",
            "preparedstatements",
            "preparedstatementcachequeries",
            "preparedstatementcachesize",
            "preparedstatementcachesizemib",
            "statementcachecapacity",
            "statementcachemode",
            "statementcachesize",
            "descriptioncachecapacity",
            "defaultqueryexecmode",
            "binaryparameters",
            "binarytransfer",
            "rewritebatchedinserts",
        ],
        Harmless,
    ),
    // It has few connections, and closes them at its end.
    (
        &[
            "connectionlimit",
            "idletimeout",
            "maxconnections",
            "maxlifetime",
            "maxpoolsize",
            "minpoolsize",
            "pool",
            "poolhealthcheckperiod",
            "poolmaxconnidletime",
            "poolmaxconnlifetime",
            "poolmaxconnlifetimejitter",
            "poolmaxconns",
            "poolminconns",
            "pooling",
            "poolsize",
            "pooltimeout",
        ],
        Harmless,
    ),
    // Every transaction sets its own.
    (&["timezone", "datestyle"], Harmless),
    // Obsolete, of hosters, or for logins by Kerberos.
    (&["tty", "authtype", "sslcompression", "supa", "workaround", "uselibpqcompat"], Harmless),
    (&["krbsrvname", "gsslib"], Harmless),
    (
        &["clientencoding", "encoding", "charset"],
        Only(&["utf8", "utf-8", "unicode", "auto"], "remove it: ethtally speaks UTF-8"),
    ),
    (&["gssencmode"], Only(&["disable", "prefer", "allow"], "write sslmode=verify-full instead")),
    (&["gssdelegation"], Only(&["", "0"], "remove it")),
    (
        &["channelbinding"],
        Only(
            &["disable", "prefer"],
            "remove it, and write sslmode=verify-full to be sure of the server",
        ),
    ),
    (&["sslaccept"], Only(&["accept_invalid_certs"], "write sslmode=verify-full instead")),
    (&["sslnegotiation"], Only(&["postgres"], "remove it")),
    (&["sslsni"], Only(&["1"], "remove it")),
    (&["sslcertmode"], Only(&["allow"], "remove it")),
    (
        &["sslminprotocolversion"],
        Only(&["", "tlsv1", "tlsv1.1", "tlsv1.2"], "remove it, and set it at the server"),
    ),
    (&["sslmaxprotocolversion"], Only(&["", "tlsv1.3"], "remove it, and set it at the server")),
    (&["minprotocolversion"], Only(&["", "3.0"], "remove it")),
    (&["maxprotocolversion"], Only(&["", "3.0", "3.2", "latest"], "remove it")),
    (&["requiressl"], Only(&["", "0"], "write sslmode=require instead")),
    (&["replication"], Only(&["", "0", "false", "off", "no"], "remove it")),
    (
        &["requireauth"],
        Refused("remove it, and write sslmode=verify-full to be sure of the server"),
    ),
    (&["requirepeer"], Refused("remove it")),
    (&["passfile"], Refused("set the variable PGPASSFILE instead")),
    (&["service", "servicefile"], Refused("write host, database and user into --database-url")),
    (&["sslcrl", "sslcrldir"], Refused("revoked certificates are not checked; remove it")),
    (
        &["sslpassword", "sslidentity"],
        Refused("give an unencrypted key in PEM files, as sslcert and sslkey"),
    ),
    (
        &[
            "statementtimeout",
            "locktimeout",
            "idleintransactionsessiontimeout",
            "idlesessiontimeout",
            "transactiontimeout",
            "defaulttransactionreadonly",
            "role",
        ],
        Refused("write it into `options`, as options=-c%20NAME%3DVALUE"),
    ),
];

/// What is done with the parameter of this name; `None` if nobody knows it.
pub(super) fn use_of(name: &str) -> Option<Use> {
    let plain: String =
        name.chars().filter(|c| !matches!(c, '_' | '-')).collect::<String>().to_ascii_lowercase();
    let row = PARAMETERS.iter().find(|(names, _)| names.contains(&plain.as_str()));
    row.map(|(_, use_of)| *use_of)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_stands_in_the_table_once_and_plain() {
        let mut seen = BTreeSet::new();
        for name in PARAMETERS.iter().flat_map(|(names, _)| *names) {
            assert!(seen.insert(name), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{name}");
        }
    }

    #[test]
    fn every_parameter_of_libpq_is_known() {
        for name in [
            "host",
            "hostaddr",
            "port",
            "dbname",
            "user",
            "password",
            "passfile",
            "require_auth",
            "channel_binding",
            "connect_timeout",
            "client_encoding",
            "options",
            "application_name",
            "fallback_application_name",
            "keepalives",
            "keepalives_idle",
            "keepalives_interval",
            "keepalives_count",
            "tcp_user_timeout",
            "replication",
            "gssencmode",
            "sslmode",
            "requiressl",
            "sslnegotiation",
            "sslcompression",
            "sslcert",
            "sslkey",
            "sslpassword",
            "sslcertmode",
            "sslrootcert",
            "sslcrl",
            "sslcrldir",
            "sslsni",
            "requirepeer",
            "ssl_min_protocol_version",
            "ssl_max_protocol_version",
            "min_protocol_version",
            "max_protocol_version",
            "krbsrvname",
            "gsslib",
            "gssdelegation",
            "service",
            "target_session_attrs",
            "load_balance_hosts",
        ] {
            assert!(use_of(name).is_some(), "{name}");
        }
        for name in ["", "pasword", "sslmod", "host2"] {
            assert!(use_of(name).is_none(), "{name}");
        }
    }
}

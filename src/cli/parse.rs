//! From the arguments of a process to [`Cli`], or to an error that clap can print.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    ArgMatches, Command, FromArgMatches, ValueEnum,
    error::{ContextKind, ContextValue, Error, ErrorKind},
    parser::ValueSource,
};

use super::{build::command, commands::Cli, settings::Settings};
use crate::report::LogFormat;

/// Parses the arguments of a process, its name first.
///
/// # Errors
/// When they are wrong, or ask for help or the version. A missing command asks for the short help.
pub fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Cli, Error> {
    let command = command();
    let parsed = command.clone().try_get_matches_from(arguments).and_then(|matches| {
        let mut cli = Cli::from_arg_matches(&matches)?;
        let of_command = matches.subcommand().map_or(&matches, |(_, matches)| matches);
        let source = of_command.value_source("database_url");
        cli.settings.database.is_default = source == Some(ValueSource::DefaultValue);
        split_variables(&mut cli.settings, of_command);
        given_twice(of_command).map_or(Ok(cli), |error| Err(error.with_cmd(&command)))
    });
    parsed.map_err(|error| match error.kind() {
        ErrorKind::MissingSubcommand => short_help(command).unwrap_or(error),
        _ => with_variable(error, command),
    })
}

/// The format of stderr that arguments which do not parse ask for.
pub fn log_format(arguments: impl IntoIterator<Item = OsString>) -> LogFormat {
    let arguments: Vec<_> =
        arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let flags = arguments.iter().take_while(|argument| *argument != "--");
    let given = flags.zip(arguments.iter().skip(1).map(Some).chain([None]));
    let given =
        given.filter_map(|(argument, next)| match argument.strip_prefix("--log-format")? {
            "" => next.cloned(),
            value => value.strip_prefix('=').map(str::to_owned),
        });
    let format = given.last().or_else(|| std::env::var("ETHTALLY_LOG_FORMAT").ok());
    format.and_then(|format| LogFormat::from_str(&format, false).ok()).unwrap_or_default()
}

/// Splits the variables that hold a value for each profile. Flags are repeated instead, as a comma may stand in a path.
fn split_variables(settings: &mut Settings, matches: &ArgMatches) {
    let is_variable = |id: &str| matches.value_source(id) == Some(ValueSource::EnvVariable);
    let split = |given: &[String], separator: char| {
        let pieces = given.iter().flat_map(|text| text.split(separator).map(str::trim));
        let pieces: Vec<_> = pieces.filter(|piece| !piece.is_empty()).map(str::to_owned).collect();
        // An empty one is a mistake that is named later.
        if pieces.is_empty() { given.to_vec() } else { pieces }
    };
    if is_variable("profile") {
        let given = settings.node.profile.iter().map(|path| path.to_string_lossy().into_owned());
        let given: Vec<_> = given.collect();
        settings.node.profile = split(&given, ',').into_iter().map(PathBuf::from).collect();
    }
    if is_variable("schema") {
        settings.database.schema = split(&settings.database.schema, ',');
    }
    if is_variable("database_url") {
        settings.database.database_url = split(&settings.database.database_url, '\n');
    }
}

/// The error for a URL that is given both by itself and in a file.
fn given_twice(matches: &ArgMatches) -> Option<Error> {
    let given = |id: &str, flag: &str, variable: &str| match matches.value_source(id)? {
        ValueSource::CommandLine => Some(format!("--{flag}")),
        ValueSource::EnvVariable => Some(variable.to_owned()),
        _ => None,
    };
    let pairs = [
        ("rpc_url", "rpc-url", "ETH_RPC_URL"),
        ("ws_url", "ws-url", "ETH_WS_URL"),
        ("database_url", "database-url", "DATABASE_URL"),
    ];
    let (url, file) = pairs.into_iter().find_map(|(id, flag, variable)| {
        // A variable that is set to nothing gives nothing.
        let mut values = matches.get_many::<String>(id)?;
        let url = given(id, flag, variable).filter(|_| values.any(|url| !url.trim().is_empty()))?;
        let (id, flag) = (format!("{id}_file"), format!("{flag}-file"));
        Some((url, given(&id, &flag, &format!("{variable}_FILE"))?))
    })?;
    let mut error = Error::new(ErrorKind::ArgumentConflict);
    error.insert(ContextKind::InvalidArg, ContextValue::String(url));
    error.insert(ContextKind::PriorArg, ContextValue::String(file));
    Some(error)
}

/// The short help, as an error: clap gives it for an empty command line and no variables.
fn short_help(command: Command) -> Option<Error> {
    let command = command.mut_args(|arg| arg.env(None::<&str>)).arg_required_else_help(true);
    command.try_get_matches_from(["ethtally"]).err()
}

/// Names the environment variable in the error, if that is where the wrong value came from.
fn with_variable(mut error: Error, mut command: Command) -> Error {
    command.build();
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let variable = text(ContextKind::InvalidArg).zip(text(ContextKind::InvalidValue)).and_then(
        |(shown, value)| {
            let arg = command.get_arguments().find(|arg| arg.to_string() == shown)?;
            let name = arg.get_env()?;
            (std::env::var(name).ok()? == value).then(|| name.to_string_lossy().into_owned())
        },
    );
    if let Some(variable) = variable {
        error.insert(ContextKind::Custom, ContextValue::String(variable));
    }
    error
}

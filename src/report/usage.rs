//! The words of a usage error: what is wrong, and the remedy, in one line.
//!
//! Made from the kind and the context of clap's error, not from its rendering.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::redact;

/// What is wrong, and the remedy.
pub(super) fn line(error: &Error) -> String {
    let arg = plain(&text(error, ContextKind::InvalidArg));
    let value = text(error, ContextKind::InvalidValue);
    let help = help_of(error);
    match error.kind() {
        ErrorKind::InvalidValue if value.is_empty() => {
            let valid = one_of(&list(error, ContextKind::ValidValue));
            let valid = if valid.is_empty() { help } else { format!("give {valid}") };
            format!("'{arg}' needs a value; {valid}")
        }
        ErrorKind::InvalidValue => {
            let valid = one_of(&list(error, ContextKind::ValidValue));
            format!("{}: must be {valid}", bad_value(error))
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map_or_else(|| help.clone(), ToString::to_string);
            format!("{}: {reason}", bad_value(error))
        }
        ErrorKind::TooManyValues => format!("'{arg}' takes no value; leave out '{value}'"),
        ErrorKind::UnknownArgument => {
            // As it was typed: its marks are not those of a usage line.
            let arg = text(error, ContextKind::InvalidArg);
            let remedy = did_you_mean(error).or_else(|| meant_by(&command_of(error), &arg));
            format!("unexpected argument '{arg}'; {}", remedy.unwrap_or(help))
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand);
            let remedy = did_you_mean(error).unwrap_or(help);
            format!("unknown command '{name}'; {remedy}")
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = list(error, ContextKind::InvalidArg);
            let missing = missing.iter().map(|arg| plain(arg)).collect::<Vec<_>>().join(" and ");
            format!("missing {missing}; {help}")
        }
        ErrorKind::ArgumentConflict => {
            let others = list(error, ContextKind::PriorArg);
            let others: Vec<_> = others.iter().map(|other| plain(other)).collect();
            if others.is_empty() || others == [arg.as_str()] {
                format!("'{arg}' is given more than once; give it once")
            } else {
                let others = others.join("' and '");
                format!("'{arg}' cannot be used with '{others}'; leave one of them out")
            }
        }
        // What this command line cannot bring about, in clap's words.
        _ => {
            let rendered = redact::hide(&error.render().to_string());
            let what = rendered.split("\n\n").next().unwrap_or_default();
            format!("{}; {help}", what.strip_prefix("error: ").unwrap_or(what).trim())
        }
    }
}

/// The value, its flag and, if it came from there, the variable.
fn bad_value(error: &Error) -> String {
    let arg = plain(&text(error, ContextKind::InvalidArg));
    let value = text(error, ContextKind::InvalidValue);
    match text(error, ContextKind::Custom).as_str() {
        "" => format!("invalid value '{value}' for '{arg}'"),
        variable => format!("invalid value '{value}' for '{arg}' (from {variable})"),
    }
}

/// What clap found to be similar.
fn did_you_mean(error: &Error) -> Option<String> {
    [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg]
        .into_iter()
        .find_map(|kind| list(error, kind).into_iter().next())
        .map(|similar| format!("did you mean '{similar}'?"))
}

/// What was meant by a value for which a command has no place.
fn meant_by(command: &str, value: &str) -> Option<String> {
    let meant = match command {
        "ethtally backfill" => "--from-csv",
        "ethtally profile" => "--profile",
        "ethtally status" if value.starts_with("0x") => "ethtally verify",
        "ethtally sweep" | "ethtally watch" if value.starts_with("0x") => "ethtally refresh",
        _ => return None,
    };
    (!value.starts_with('-')).then(|| format!("did you mean '{meant} {value}'?"))
}

/// Where the help for this command line is.
fn help_of(error: &Error) -> String {
    match command_of(error).as_str() {
        "" => "see --help".to_owned(),
        command => format!("see `{command} --help`"),
    }
}

/// The command of this command line, such as `ethtally sweep`.
fn command_of(error: &Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    // Its first words are the command, such as in `Usage: ethtally sweep [OPTIONS]`.
    let is_name = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
    let command: Vec<_> = usage.split_whitespace().skip(1).take_while(is_name).collect();
    command.join(" ")
}

/// An argument without the marks of a usage line: `ADDR` for `<ADDR>...`.
fn plain(arg: &str) -> String {
    let arg = arg.strip_suffix("...").unwrap_or(arg);
    let bare = [('<', '>'), ('[', ']')]
        .into_iter()
        .find_map(|(open, close)| arg.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)));
    bare.unwrap_or(arg).replace('|', " or ")
}

fn text(error: &Error, kind: ContextKind) -> String {
    list(error, kind).into_iter().next().unwrap_or_default()
}

/// Texts of the error without secrets: once a text is changed, a secret in it is not found again.
fn list(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![redact::hide(text)],
        Some(ContextValue::Strings(list)) => list.iter().map(|text| redact::hide(text)).collect(),
        _ => Vec::new(),
    }
}

/// `a, b or c`.
fn one_of(values: &[String]) -> String {
    match values {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

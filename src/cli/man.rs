//! The manual page of a command, with the sections that man-pages(7) asks for.

use std::io;

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{
    build::command,
    examples::{examples_of, exit_status},
};

/// Returns the page of ethtally itself, or of one of its commands, as roff.
///
/// # Errors
/// When there is no command of that name.
pub fn manual_page(subcommand: Option<&str>) -> io::Result<String> {
    // The command `help` has no page.
    let mut all = command().disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    all.build();
    let mut shown = match subcommand {
        None => all,
        Some(name) => all.find_subcommand(name).ok_or(io::ErrorKind::NotFound)?.clone(),
    };
    let variables = variables(&shown, subcommand.is_none());
    let usage = shown.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let page = shown
        .override_usage(usage)
        // One section for all flags, and one for the variables.
        .mut_args(|arg| arg.help_heading(None::<&str>).hide_env(true));
    let has_commands = page.has_subcommands();
    // An empty date would let the source take its place.
    let page = Man::new(page).date(" ").source(concat!("ethtally ", env!("CARGO_PKG_VERSION")));

    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if has_commands {
        page.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    if !variables.is_empty() {
        rest.control("SH", ["ENVIRONMENT"]);
        rest.text([roman("A flag on the command line takes precedence over its variable.")]);
        for (name, meaning) in variables {
            rest.control("TP", []).text([bold(name)]).text([roman(meaning)]);
        }
    }
    verbatim(&mut rest, "EXIT STATUS", exit_status());
    verbatim(&mut rest, "EXAMPLES", examples_of(subcommand.unwrap_or("ethtally")));
    rest.to_writer(&mut text)?;
    String::from_utf8(text).map_err(io::Error::other)
}

/// A section whose lines stay as they are.
fn verbatim(roff: &mut Roff, heading: &str, lines: &str) {
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    roff.control("fi", []);
}

/// The variables that a command reads; the page of ethtally itself explains those of all commands.
fn variables(command: &Command, of_all: bool) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for arg in command.get_arguments().filter(|arg| of_all || !arg.is_hide_set()) {
        let flag = arg.get_long().unwrap_or_default();
        if let Some(name) = arg.get_env() {
            let help = arg.get_help().filter(|_| of_all).map(|help| format!(": {help}"));
            let meaning = format!("Same as --{flag}{}", help.unwrap_or_default());
            variables.push((name.to_string_lossy().into_owned(), meaning));
        }
        let (name, meaning) = match flag {
            "shard" => ("JOB_COMPLETION_INDEX", "I for --shard /N; Kubernetes sets it"),
            "verbose" => ("ETHTALLY_LOG", "What is logged, such as info,hyper=debug"),
            "color" => ("NO_COLOR", "No colours unless --color always is given"),
            _ => continue,
        };
        variables.push((name.to_owned(), meaning.to_owned()));
    }
    variables
}

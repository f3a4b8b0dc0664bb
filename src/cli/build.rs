//! Builds clap's commands: each subcommand shows the shared flags that it uses, and no others.
//!
//! Parsing, help, manual pages and completions all come from here.

use clap::{Arg, Args, Command, CommandFactory, Subcommand, builder::PossibleValuesParser};

use super::{
    commands::{self, Cli},
    examples::{command_names, examples_of, exit_status},
    settings::{NODE, OUTPUT, Settings},
};

/// Where the shared flags begin in a help text: after those of the command.
const FIRST_SHARED: usize = 100;

/// Printed below the list of commands.
const MORE_HELP: &str = "Run `ethtally COMMAND --help` for the flags and examples of a command.";

/// The help of `--block` where `latest` is refused.
const BLOCK_OF_SNAPSHOT: &str = "Block to read at: a number, safe or finalized";

/// Whether a command uses the shared flag of this name, under this heading.
fn uses(command: &str, flag: &str, heading: Option<&str>) -> bool {
    // What only prints has none.
    if flag == "metrics-file" && command == "profile" {
        return false;
    }
    match command {
        "sweep" | "refresh" | "backfill" | "verify" | "snapshot" => !flag.starts_with("ws-url"),
        "watch" | "doctor" => flag != "block",
        "migrate" | "status" => flag == "profile" || heading != Some(NODE),
        "profile" => flag == "profile" || heading == Some(OUTPUT),
        // `completions` and `man`.
        _ => false,
    }
}

/// Whether a command uses this shared flag, which its help then shows.
pub fn uses_flag(name: &str, flag: &str) -> bool {
    let command = command();
    let mut arguments = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    arguments.any(|arg| arg.get_long() == Some(flag) && !arg.is_hide_set())
}

/// The command line of ethtally: every shared flag may stand before or after the command's name, and is
/// hidden where the command does not use it.
pub fn command() -> Command {
    with_shared_flags(Cli::command().mut_args(|arg| arg.hide(true)), true)
        .mut_args(negative_numbers_are_values)
        .after_help(MORE_HELP)
        .after_long_help(format!("{MORE_HELP}\n\nExit status:\n{}", exit_status()))
}

/// The same for completion scripts, which offer hidden flags too: without them.
pub fn command_for_completions() -> Command {
    let command = Command::new("ethtally").version(env!("CARGO_PKG_VERSION"));
    let command = commands::Command::augment_subcommands(command.propagate_version(true));
    with_shared_flags(command, false)
}

fn with_shared_flags(command: Command, keep_hidden: bool) -> Command {
    // clap passes a global flag on to a subcommand only if it has none of that name.
    let shared = Settings::augment_args(Command::new("shared"));
    let shared = shared.get_arguments().cloned().enumerate();
    let shared: Vec<_> =
        shared.map(|(index, arg)| arg.display_order(FIRST_SHARED + index)).collect();
    command
        .mut_subcommands(|subcommand| {
            let name = subcommand.get_name().to_owned();
            let flags = shared.iter().cloned().filter_map(|arg| {
                let flag = arg.get_long().unwrap_or_default();
                let is_used = uses(&name, flag, arg.get_help_heading());
                let arg = if name == "snapshot" && flag == "block" {
                    // The newest block may be replaced, so that two runs would differ.
                    arg.hide_default_value(true).help(BLOCK_OF_SNAPSHOT)
                } else if flag == "profile" && ["snapshot", "profile"].contains(&&*name) {
                    // They take one.
                    arg.long_help(None::<&str>)
                } else {
                    arg
                };
                (is_used || keep_hidden).then(|| arg.hide(!is_used))
            });
            let examples = format!("Examples:\n{}", examples_of(&name));
            subcommand.args(flags).mut_args(negative_numbers_are_values).after_help(examples)
        })
        .mut_subcommand("man", |man| {
            let names = PossibleValuesParser::new(command_names());
            man.mut_arg("subcommand", |arg| arg.value_parser(names))
        })
}

/// `--batch -1` is a wrong number, not an unknown flag `-1`.
fn negative_numbers_are_values(arg: Arg) -> Arg {
    let takes_values = arg.get_action().takes_values();
    arg.allow_negative_numbers(takes_values)
}

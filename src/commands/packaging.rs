//! `completions` and `man`: what packagers ship beside the program.

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{app::App, cli::Cli, report::Verdict, tally::RunError};

pub(super) fn completions(app: &App, shell: Shell) -> Result<Verdict, RunError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ethtally", &mut script);
    app.report.text(&String::from_utf8_lossy(&script))?;
    Ok(Verdict::Pass)
}

pub(super) fn man(app: &App, subcommand: Option<&str>) -> Result<Verdict, RunError> {
    let mut command = Cli::command();
    command.build();
    let command = match subcommand {
        None => command,
        Some(name) => command
            .find_subcommand(name)
            .with_context(|| format!("there is no subcommand {name:?}; see `ethtally --help`"))?
            .clone(),
    };
    let mut page = Vec::new();
    Man::new(command).render(&mut page).context("the page cannot be rendered")?;
    app.report.text(&String::from_utf8_lossy(&page))?;
    Ok(Verdict::Pass)
}

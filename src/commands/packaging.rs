//! `completions` and `man`: what packages ship beside the program.

use anyhow::Context;
use clap_complete::Shell;

use crate::{app::App, cli, report::Verdict, tally::RunError};

pub(super) fn completions(app: &App, shell: Shell) -> Result<Verdict, RunError> {
    let mut script = Vec::new();
    let mut command = cli::command_for_completions();
    clap_complete::generate(shell, &mut command, "ethtally", &mut script);
    app.report.text(&String::from_utf8_lossy(&script))?;
    Ok(Verdict::Pass)
}

pub(super) fn man(app: &App, subcommand: Option<&str>) -> Result<Verdict, RunError> {
    let page = cli::manual_page(subcommand).context("cannot render the manual page")?;
    app.report.text(&page)?;
    Ok(Verdict::Pass)
}

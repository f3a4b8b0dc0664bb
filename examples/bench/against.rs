//! This build and another one, in turns: each sweeps a table of its own.

use anyhow::Context;

use crate::{
    Bench, Method,
    program::{Program, Usage},
    report::say,
};

impl Bench {
    /// Sweeps all wallets with this build and another one in turns; how they compare.
    pub(crate) async fn against(&self, method: Method, node: &str) -> anyhow::Result<String> {
        let path = self.arguments.against.clone().context("--only against needs --against PATH")?;
        let builds = [&self.program, &Program::at(path)];
        let mut runs = [Vec::new(), Vec::new()];
        for turn in 0..self.arguments.turns {
            for index in [turn as usize % 2, (turn as usize + 1) % 2] {
                let table = self.fixture.table().await?;
                table.keep_only_totals().await?;
                let migrate = self.command("migrate", method, node, &table);
                builds[index].run(&[migrate])?;
                let command = self.command("sweep --all", method, node, &table);
                let usage = builds[index].run(&[command])?;
                table.check_read(&self.fixture).await?;
                table.drop().await?;
                say(format_args!("{method}, turn {turn}, build {index}: {usage:?}"));
                runs[index].push(usage);
            }
        }
        Ok(format!("sweep --all, {method}: {}", compared(&runs)))
    }
}

/// The speed of the first build in that of the second one, and the medians of what each took.
fn compared([ours, theirs]: &[Vec<Usage>; 2]) -> String {
    let seconds = |usage: &Usage| usage.time.as_secs_f64();
    let cpu = |usage: &Usage| usage.cpu.as_secs_f64();
    let peak = |usage: &Usage| usage.peak_kib.unwrap_or_default() as f64 / 1024.0;
    let calls = |usage: &Usage| usage.calls as f64;
    let both = |of: &dyn Fn(&Usage) -> f64| {
        [ours, theirs].map(|runs| median(runs.iter().map(of).collect()))
    };
    let [our_seconds, their_seconds] = both(&seconds);
    let [our_cpu, their_cpu] = both(&cpu);
    let [our_peak, their_peak] = both(&peak);
    let [our_calls, their_calls] = both(&calls);
    // The two runs of a turn meet the machine in the same state.
    let ratio = |(ours, theirs): (&Usage, &Usage)| seconds(theirs) / seconds(ours);
    let ratio = median(ours.iter().zip(theirs).map(ratio).collect());
    format!(
        "{ratio:.2} of the other build's speed ({our_seconds:.2} s and {their_seconds:.2} s), \
         CPU {our_cpu:.2} s and {their_cpu:.2} s, memory {our_peak:.0} and {their_peak:.0} MiB, \
         {our_calls:.0} and {their_calls:.0} calls (medians of {} turns)",
        ours.len(),
    )
}

/// The middle one of some values, or the mean of the middle two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(lower, upper)
}

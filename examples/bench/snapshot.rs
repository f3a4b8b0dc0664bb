//! Snapshots, and reading alone beside each of them.

use anyhow::{Context, ensure};

use crate::{
    Bench, Method, alone, mean,
    report::{Row, What, say},
};

impl Bench {
    /// Snapshots of a table, and reading alone beside each of them.
    pub(crate) async fn snapshot(&self, method: Method) -> anyhow::Result<(Row, String)> {
        let what = What::Snapshot(method);
        let table = self.fixture.table().await?;
        let node = self.fixture.chain.url();
        // Reading an older state takes Anvil twice as long.
        let block = self.fixture.chain.block_number().await?;
        let (mut snapshots, mut readings) = (Vec::new(), Vec::new());
        for _ in 0..self.arguments.rounds {
            readings.push(alone::reading(&self.fixture, method, &self.arguments).await?.time);
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("totals.csv");
            say(format_args!("{what} …"));
            let command = self.command("snapshot --block", method, &node, &table);
            let command = command.arg(block.to_string()).arg("--out").arg(&file);
            let usage = self.program.run(&[command])?;
            let rows = std::fs::read_to_string(&file)?.lines().count() as u64 - 1;
            ensure!(rows == self.arguments.wallets, "the snapshot has {rows} rows");
            say(format_args!("after {:?} of reading alone: {usage:?}", readings.last()));
            snapshots.push(usage);
        }
        table.drop().await?;
        let reading = mean(readings.into_iter());
        let time = mean(snapshots.iter().map(|usage| usage.time));
        let ratio = time.div_duration_f64(reading);
        let [of_snapshots, of_readings] = [time, reading].map(|time| time.as_secs_f64());
        let last = snapshots.last().context("no snapshot")?;
        let peak_kib = snapshots.iter().filter_map(|usage| usage.peak_kib).max();
        let row = Row { time, peak_kib, ..Row::of_program(what, self.arguments.wallets, last) };
        let sentence = format!(
            "{what}: {ratio:.2} times as long as reading alone ({of_snapshots:.1} s and {of_readings:.1} s, means of {} turns)",
            snapshots.len()
        );
        Ok((row, sentence))
    }
}

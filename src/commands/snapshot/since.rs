//! What changed from one snapshot to another.

use std::path::Path;

use serde::Serialize;

use super::files::{blocking, manifest_of};
use crate::{
    app::App,
    report::{CommandOutput, Styler, Verdict},
    snapshot::{DifferenceCounts, write_differences},
    tally::RunError,
};

#[derive(Serialize)]
struct Compared<'a> {
    command: &'static str,
    since: &'a Path,
    file: &'a Path,
    out: &'a Path,
    from_block: u64,
    to_block: u64,
    #[serde(flatten)]
    counts: DifferenceCounts,
}

impl CommandOutput for Compared<'_> {
    fn text(&self, _: &Styler) -> String {
        let DifferenceCounts { added, gone, changed, unchanged } = self.counts;
        format!(
            "snapshot compared added:{added} gone:{gone} changed:{changed} unchanged:{unchanged} from block {} to {}",
            self.from_block, self.to_block
        )
    }
}

pub(super) async fn run(
    app: &App,
    since: &Path,
    file: &Path,
    out: &Path,
) -> Result<Verdict, RunError> {
    let (older, newer) = (manifest_of(app, since)?, manifest_of(app, file)?);
    let (from_block, to_block) = (older.block.number, newer.block.number);
    let paths = (since.to_owned(), file.to_owned(), out.to_owned());
    let counts =
        blocking(move || write_differences((&paths.0, older), (&paths.1, newer), &paths.2)).await?;
    app.report.result(&Compared {
        command: "snapshot",
        since,
        file,
        out,
        from_block,
        to_block,
        counts,
    })?;
    Ok(Verdict::Pass)
}

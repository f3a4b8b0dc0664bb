//! A CSV file with wallets, as `backfill` and `snapshot` take it in.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    app::App,
    intake::{self, Intake, Reject},
    report::Report,
    tally::RunError,
};

/// How many bad rows are shown; all of them go to `--rejects`.
const REJECTS_SHOWN: u64 = 10;

/// A file that was opened, or standard input.
pub(super) struct CsvFile {
    path: PathBuf,
    input: Box<dyn Read + Send>,
}

impl CsvFile {
    /// Opens the file of `--from-csv`; `-` is standard input.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let input: Box<dyn Read + Send> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            let cannot_be_read =
                || format!("{}: cannot be read; check the path of --from-csv", name_of(path));
            Box::new(File::open(path).with_context(cannot_be_read)?)
        };
        Ok(Self { path: path.to_owned(), input })
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> String {
        name_of(&self.path)
    }

    /// Reads it, and writes the rows without a wallet to the file `rejects`; when a stop is asked for meanwhile, nothing
    /// is taken in.
    ///
    /// # Errors
    /// If it cannot be read as CSV, or has no such column.
    pub(super) async fn read(
        self,
        app: &App,
        column: Option<&str>,
        rejects: Option<&Path>,
    ) -> Result<Intake, RunError> {
        let name = self.name();
        if rejects.is_some_and(|rejects| is_same_file(rejects, &self.path)) {
            return Err(RunError::settings(format!(
                "{name}: --rejects would overwrite it; give another file"
            )));
        }
        let mut rejects = Rejects::new(app.report.clone(), rejects)?;
        let (column, shutdown) = (column.map(str::to_owned), app.shutdown.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let intake =
                intake::read(self.input, column.as_deref(), &shutdown, |row| rejects.take(row))?;
            rejects.finish()?;
            Ok::<_, RunError>(intake)
        });
        tokio::select! {
            read = reading => match read {
                Ok(Err(_)) if app.shutdown.is_requested() => Ok(Intake::default()),
                Ok(read) => read.map_err(|error| error.context(name)),
                Err(panicked) => Err(RunError::settings(panicked)),
            },
            // Standard input may never end.
            () = app.shutdown.requested() => Ok(Intake::default()),
        }
    }
}

fn name_of(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "standard input".into()
    } else {
        format!("file {}", path.display())
    }
}

/// Whether both paths lead to one file that exists, by whatever links.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    id(one).is_some_and(|found| id(other) == Some(found))
}

/// Rows without a valid wallet address: the first ones are noted on stderr, all are written to a file.
struct Rejects {
    report: Report,
    file: Option<(PathBuf, csv::Writer<File>)>,
    seen: u64,
}

impl Rejects {
    fn new(report: Report, path: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            let file = File::create(path).with_context(|| {
                format!("file {}: cannot be written; check the path of --rejects", path.display())
            })?;
            let mut writer = csv::Writer::from_writer(file);
            writer.write_record(["line", "value", "reason"])?;
            anyhow::Ok((path.to_owned(), writer))
        };
        Ok(Self { report, file: path.map(open).transpose()?, seen: 0 })
    }

    fn take(&mut self, reject: &Reject) -> Result<(), RunError> {
        self.seen += 1;
        if self.seen <= REJECTS_SHOWN {
            self.report.note(&reject.to_string());
        }
        if self.seen == REJECTS_SHOWN + 1 {
            self.report.note("further bad rows are not shown; --rejects FILE lists all of them");
        }
        let Some((path, writer)) = &mut self.file else { return Ok(()) };
        writer
            .write_record([&reject.line.to_string(), &reject.value, &reject.reason])
            .with_context(|| format!("file {}: cannot be written", path.display()))?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        let Some((path, mut writer)) = self.file else { return Ok(()) };
        writer.flush().with_context(|| format!("file {}: cannot be written", path.display()))
    }
}

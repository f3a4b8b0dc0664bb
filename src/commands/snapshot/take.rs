//! Taking a snapshot: at which block, of which wallets, and whether it is complete. `reading` reads them.

use std::{path::Path, time::Instant};

use alloy::primitives::B256;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    files::{blocking, require_profile},
    reading::Run,
    wallets::Source,
};
use crate::{
    app::App,
    cli::SnapshotArgs,
    commands::plan::Plan,
    read::NodeReader,
    report::{CommandOutput, RunOutcome, Styler, Verdict},
    rpc::{BlockChoice, BlockRef, Client, ErrorKind, Header, NodeError},
    snapshot::{Manifest, Origin, Part, SnapshotBlock, Unfinished, manifest_path},
    tally::RunError,
};

/// What was written, or how far it is.
#[derive(Serialize)]
struct Taken<'a> {
    command: &'static str,
    out: &'a Path,
    manifest: std::path::PathBuf,
    #[serde(flatten)]
    block: SnapshotBlock,
    wallets: u64,
    rows: u64,
    missing: usize,
    /// Rows of the CSV file without a wallet.
    rejected: u64,
    sum: Option<&'a str>,
    sha256: Option<&'a str>,
    root: Option<B256>,
    calls: u64,
    elapsed_ms: u128,
    interrupted: bool,
}

impl CommandOutput for Taken<'_> {
    fn text(&self, _: &Styler) -> String {
        let counts = format!(
            "wallets:{} rows:{} missing:{} calls:{} block:{} in {} ms",
            self.wallets, self.rows, self.missing, self.calls, self.block.number, self.elapsed_ms
        );
        let (Some(sum), Some(sha256)) = (self.sum, self.sha256) else {
            return format!("snapshot interrupted {counts}");
        };
        let root = self.root.map_or_else(String::new, |root| format!("\nroot    {root}"));
        format!(
            "snapshot complete {counts}\nfile    {}\nblock   {}\nsum     {sum}\nsha256  {sha256}{root}",
            self.out.display(),
            self.block.hash
        )
    }

    fn outcome(&self) -> RunOutcome {
        match (self.sha256, self.missing) {
            (None, _) => RunOutcome::Interrupted,
            (_, 0) => RunOutcome::Complete,
            _ => RunOutcome::Partial,
        }
    }
}

pub(super) async fn run(app: &App, args: &SnapshotArgs) -> Result<Verdict, RunError> {
    let choice = app.settings.node.block;
    match &args.out {
        _ if args.dry_run => dry_run(app, args, choice).await,
        Some(out) => take(app, args, out, choice).await,
        None => Err(RunError::settings("snapshot needs --out FILE, the file to write")),
    }
}

/// Refuses the newest block.
fn require_fixed(choice: BlockChoice) -> Result<(), RunError> {
    match choice {
        BlockChoice::Latest => Err(RunError::settings(
            "snapshot needs --block with a number, safe or finalized: the newest block may still be replaced",
        )),
        _ => Ok(()),
    }
}

/// Refuses a path that cannot be written, before anything is read.
fn require_folder(out: &Path) -> Result<(), RunError> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let is_folder = folder.is_none_or(Path::is_dir) && !out.is_dir();
    match is_folder && out.file_name().is_some() {
        true => Ok(()),
        false => Err(RunError::settings(format!(
            "--out {}: must be a file in a folder that exists",
            out.display()
        ))),
    }
}

/// What a snapshot would cost; with a node, also whether that has the block's state.
async fn dry_run(app: &App, args: &SnapshotArgs, choice: BlockChoice) -> Result<Verdict, RunError> {
    require_fixed(choice)?;
    let source = Source::open(app, args).await?;
    if app.endpoints().is_empty() {
        app.report.note(
            "no --rpc-url is given, so it is not known whether a node has the state of that block",
        );
    } else {
        let client = app.client_at(choice)?;
        let header = header(&client, choice).await?;
        probe(&app.reader_through(client), &header).await?;
    }
    let wallets = match source {
        Source::Table(store) => store.counts().await?.wallets,
        csv @ Source::Csv(_) => {
            let (wallets, _) = csv.wallets(app, args).await?;
            blocking(move || {
                let mut count = 0;
                for wallet in wallets {
                    wallet?;
                    count += 1;
                }
                Ok(count)
            })
            .await?
        }
    };
    app.report.result(&Plan::new(app, "snapshot", wallets, None))?;
    Ok(Verdict::Pass)
}

async fn header(client: &Client, choice: BlockChoice) -> Result<Header, RunError> {
    let number = client.block_number(choice).await?;
    Ok(client.header_by_number(number).await?)
}

/// Reads once at this block, so that a node without its state is found out at once.
async fn probe(reader: &NodeReader, header: &Header) -> Result<(), RunError> {
    let block = BlockRef { number: header.number.to(), hash: Some(header.hash) };
    let what = || format!("block {} cannot be read", block.number);
    reader.probe(block).await.map_err(|error| error.context(what()))
}

fn block_of(header: &Header) -> SnapshotBlock {
    let seconds = i64::try_from(header.timestamp.to::<u64>()).unwrap_or(i64::MAX);
    let time = DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or_default();
    SnapshotBlock { number: header.number.to(), hash: header.hash, time }
}

async fn take(
    app: &App,
    args: &SnapshotArgs,
    out: &Path,
    choice: BlockChoice,
) -> Result<Verdict, RunError> {
    let started = Instant::now();
    require_fixed(choice)?;
    require_folder(out)?;
    let unfinished = match args.resume {
        true => resume(app, out, choice).await?,
        false => None,
    };
    let source = match unfinished {
        Some(_) => None,
        None => Some(Source::open(app, args).await?),
    };
    let choice = match &unfinished {
        Some(unfinished) => BlockChoice::Number(unfinished.origin().block.number),
        None => choice,
    };
    let client = app.client_at(choice)?;
    let block = header(&client, choice).await?;
    let reader = app.reader_through(client.clone());
    if let Some(unfinished) = &unfinished {
        require_same_block(out, unfinished.origin().block, &block)?;
    }
    probe(&reader, &block).await?;
    let mut rejected = 0;
    let unfinished = match (unfinished, source) {
        (Some(unfinished), _) => unfinished,
        (None, None) => return Err(RunError::settings("snapshot has no wallets")),
        (None, Some(source)) => {
            let (wallets, without) = source.wallets(app, args).await?;
            rejected = without;
            let origin = Origin::new(block_of(&block), &app.profile);
            let out = out.to_owned();
            blocking(move || Unfinished::create(&out, origin, wallets)).await?
        }
    };
    let run = Run { app, args, reader, block: block_of(&block) };
    let (unfinished, ended) = run.read(unfinished).await?;
    let (wallets, rows, missing) = (unfinished.count(), unfinished.rows(), unfinished.missing());
    let mut taken = Taken {
        command: "snapshot",
        out,
        manifest: manifest_path(out),
        block: run.block,
        wallets,
        rows,
        missing,
        rejected,
        sum: None,
        sha256: None,
        root: None,
        calls: run.reader.calls(),
        elapsed_ms: started.elapsed().as_millis(),
        interrupted: app.shutdown.signal().is_some(),
    };
    let is_over = unfinished.left() == 0;
    if !is_over || ended.is_err() {
        if !is_replaced(&ended) {
            app.report.note("what was read is kept; run it again with --resume to continue");
        }
        ended?;
        app.report.result(&taken)?;
        return Ok(Verdict::Pass);
    }
    require_canonical(&client, run.block).await?;
    if rows == 0 && missing > 0 {
        return Err(RunError::Unreadable(format!(
            "not one of {wallets} wallets could be read; check the profile and --block"
        )));
    }
    let root = args.root;
    let manifest = blocking(move || unfinished.finish(root)).await?;
    let Manifest { sum, sha256, root, .. } = &manifest;
    (taken.sum, taken.sha256, taken.root) = (Some(sum.as_str()), Some(sha256.as_str()), *root);
    taken.elapsed_ms = started.elapsed().as_millis();
    app.report.result(&taken)?;
    Ok(Verdict::Pass)
}

/// The unfinished snapshot that is continued.
async fn resume(
    app: &App,
    out: &Path,
    choice: BlockChoice,
) -> Result<Option<Unfinished>, RunError> {
    let path = out.to_owned();
    let Some(unfinished) = blocking(move || Unfinished::resume(&path)).await? else {
        app.report.note("there is no unfinished snapshot to continue; starting a new one");
        return Ok(None);
    };
    let origin = unfinished.origin();
    let what = format!("the unfinished {}", out.display());
    require_profile(app, &what, &origin.profile, &origin.identity)?;
    if origin.parts != Part::all_of(&app.profile) {
        return Err(RunError::settings(format!(
            "{what} has other columns than this run's profile; give the --profile that it was begun with, or run \
             without --resume to start again"
        )));
    }
    let number = origin.block.number;
    match choice {
        BlockChoice::Number(other) if other != number => Err(RunError::settings(format!(
            "{what} is of block {number}; give --block {number}, or run without --resume to start again"
        ))),
        _ => {
            app.report.note(&format!(
                "continuing at block {number}, with {} of {} wallets read",
                unfinished.rows(),
                unfinished.count()
            ));
            Ok(Some(unfinished))
        }
    }
}

fn require_same_block(out: &Path, was: SnapshotBlock, is: &Header) -> Result<(), RunError> {
    if was.hash == is.hash {
        return Ok(());
    }
    Err(RunError::settings(format!(
        "the unfinished {} is of block {} with hash {}, which the chain no longer has (it is {} now); run \
         without --resume to start again",
        out.display(),
        was.number,
        was.hash,
        is.hash
    )))
}

/// Fails if the block was replaced while it was read.
async fn require_canonical(client: &Client, block: SnapshotBlock) -> Result<(), RunError> {
    let now = client.header_by_number(block.number).await?.hash;
    if now == block.hash {
        return Ok(());
    }
    Err(RunError::node(format!(
        "block {} was replaced while it was read: its hash was {} and is {now}; run it again without --resume, \
         with an older --block or finalized",
        block.number, block.hash
    )))
}

/// True if a read failed because its block is no longer part of the chain.
fn is_replaced(ended: &Result<(), RunError>) -> bool {
    let Err(RunError::Node(error)) = ended else { return false };
    let failure = error.downcast_ref::<NodeError>();
    failure.is_some_and(|failure| failure.kind == ErrorKind::BlockReplaced)
}

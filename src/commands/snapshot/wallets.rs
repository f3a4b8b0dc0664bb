//! Which wallets a snapshot is of: those of the table, or of a CSV file.

use std::{io, sync::Arc};

use alloy::primitives::Address;

use crate::{
    app::App,
    cli::SnapshotArgs,
    commands::csv_file::CsvFile,
    external_sort::ExternalSort,
    intake::Intake,
    store::{Access, Store},
    tally::{RunError, Wallet},
};

/// Wallets that are listed at once: few bytes each, while each query takes a millisecond.
const LISTED_AT_ONCE: u32 = 50_000;

/// Wallets, sorted and each once.
pub(super) type Wallets = Box<dyn Iterator<Item = io::Result<Wallet>> + Send>;

/// Where wallets come from; opened, so that mistakes in the settings are found before anything is read.
pub(super) enum Source {
    Table(Arc<dyn Store>),
    Csv(CsvFile),
}

impl Source {
    pub(super) async fn open(app: &App, args: &SnapshotArgs) -> Result<Self, RunError> {
        match &args.from_csv {
            Some(path) => Ok(Self::Csv(CsvFile::open(path)?)),
            None => Ok(Self::Table(app.store(Access::Read).await?)),
        }
    }

    /// The wallets, and how many rows of the file hold none.
    pub(super) async fn wallets(
        self,
        app: &App,
        args: &SnapshotArgs,
    ) -> Result<(Wallets, u64), RunError> {
        match self {
            Self::Csv(file) => {
                let name = file.name();
                let read = file.read(app, args.column.as_deref(), args.rejects.as_deref()).await?;
                let Intake { rejected, without_wallets, wallets, .. } = read;
                match without_wallets {
                    Some(found) => Err(RunError::settings(format!("{name}: {found}"))),
                    None if app.shutdown.is_requested() => Err(RunError::stopped()),
                    None => Ok((wallets, rejected)),
                }
            }
            Self::Table(store) => Ok((of_table(app, store.as_ref()).await?, 0)),
        }
    }
}

/// All wallets of the table. Sorted here, as the order of keys is the database's own.
async fn of_table(app: &App, store: &dyn Store) -> Result<Wallets, RunError> {
    let mut sort = ExternalSort::default();
    let mut after = String::new();
    let mut is_empty = true;
    loop {
        let (wallets, last) = store.wallets_page(&after, LISTED_AT_ONCE).await?;
        is_empty &= wallets.is_empty();
        for wallet in wallets {
            sort.push(wallet.address().into_array())?;
        }
        match last {
            Some(last) => after = last,
            None => break,
        }
        if app.shutdown.is_requested() {
            return Err(RunError::stopped());
        }
    }
    if is_empty {
        return Err(RunError::settings(
            "the table is empty; fill it with `ethtally backfill`, or give --from-csv FILE",
        ));
    }
    let wallet = |key: io::Result<[u8; 20]>| Ok(Wallet::from(Address::from(key?)));
    Ok(Box::new(sort.into_sorted().map(wallet)))
}

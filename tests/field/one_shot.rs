//! A life of one run: some wallets are read once and stored, as by `sweep` and `refresh`.

use std::time::Duration;

use ethtally::tally::{
    Pipeline, Progress, Retries, RunError, RunSummary, Shutdown, Wallet, pages_of,
};

use tokio::time::sleep;

use crate::{life::Life, world::World};

/// How long a run may take once it was asked to stop, its batch stored.
const LONGEST_STOP: Duration = Duration::from_secs(8);

/// Nobody watches a bar.
pub(crate) struct Silent;

impl Progress for Silent {
    fn wallets(&self, _: u64, _: u64) {}
}

/// Reads these wallets and stores them.
pub(crate) async fn sweep(world: &World, wallets: Vec<Wallet>, shutdown: &Shutdown) -> RunSummary {
    let reader = world.reader(world.client(shutdown), shutdown);
    if world.seed.is_multiple_of(2) {
        reader.check_ahead();
        // Until the database is open.
        sleep(Duration::from_millis(world.seed * 7 % 3_000)).await;
    }
    let pipeline = Pipeline {
        reader: reader.as_ref(),
        ledger: world.database.as_ref(),
        shutdown,
        progress: &Silent,
        retries: &Retries::default(),
    };
    pipeline.run(pages_of(wallets, 5_000), |_, _, _| {}).await
}

/// How the verdict of a command has it: an error, or nothing.
pub(crate) fn error_of(run: &mut RunSummary) -> Option<RunError> {
    let reads_nothing = run.has_only_failures();
    run.error.take().or_else(|| {
        let first = run.first_failure.as_ref().filter(|_| reads_nothing)?;
        Some(RunError::Unreadable(first.reason.clone()))
    })
}

/// An error with its causes, as people see it.
pub(crate) fn text(error: &RunError) -> String {
    match error {
        RunError::Settings(error) | RunError::Node(error) | RunError::Database(error) => {
            format!("{error:#}")
        }
        error => format!("{error:#}"),
    }
}

/// Asks for a stop when it is time.
async fn stop(world: &World, shutdown: &Shutdown) {
    if let Some(at) = world.stop {
        sleep(at).await;
        world.field.tell("a stop is asked for");
        shutdown.request();
    }
    std::future::pending().await
}

/// The whole life.
pub(crate) async fn live(life: &mut Life) {
    let world = &life.world;
    let shutdown = Shutdown::default();
    let wallets = world.wallets();
    let mut run = tokio::select! {
        biased;
        run = sweep(world, wallets, &shutdown) => run,
        () = world.mine() => unreachable!("there are blocks enough"),
        () = stop(world, &shutdown) => unreachable!("it waits for ever"),
    };
    let is_late = world.stop.is_some_and(|at| world.field.now() > at + LONGEST_STOP);
    let error = error_of(&mut run);
    let told = error.as_ref().map(text);
    world.field.tell(format!("ended: {:?}, error {told:?}", run.counts));
    let is_stopped = shutdown.is_requested();
    if is_late {
        life.wrong("stop not heeded", format!("asked for at {:?}", life.world.stop));
    }
    life.check_run(error.as_ref());
    life.check_rows_of_run(error.is_none() && !is_stopped);
}

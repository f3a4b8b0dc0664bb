//! SIGINT and SIGTERM, heard on a thread of their own: also while the program is stuck somewhere.

use std::{process, thread};

use anyhow::Context;
use ethtally::{
    report::Report,
    tally::{RunError, Shutdown},
};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

/// Hears signals from now on. The first one prints `note` and asks for a shutdown, which saves what is in
/// progress; the second one ends the process at once.
///
/// # Errors
/// When the system does not let it.
pub(crate) fn listen(
    shutdown: Shutdown,
    report: Report,
    note: Option<&'static str>,
) -> Result<(), RunError> {
    let runtime = Builder::new_current_thread().enable_io().build().context("signals")?;
    let signals = runtime.block_on(async { Signals::new() }).context("signals")?;
    let heard = async move {
        let mut signals = signals;
        let first = signals.next().await;
        if let Some(note) = note {
            report.note(note);
        }
        shutdown.interrupt(first);
        signals.next().await;
        // The one exit besides the return of `main`, which may never come.
        process::exit(128 + first);
    };
    let listening = move || runtime.block_on(heard);
    thread::Builder::new().name("signals".to_owned()).spawn(listening).context("signals")?;
    Ok(())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

//! `watch` for several profiles of one chain: one connection, one `eth_getLogs` for a new block.
//!
//! A mistake in the settings of one ends all at the start. From then on each follows for itself, with its own table, lock
//! and checkpoint: where one fails, it retries, and the others continue.

use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use tracing::warn;

use super::{
    Watch, failure, heads,
    lines::{ConnectionPrinter, EventBody, EventPrinter, print_event},
    report_end, say_that_it_runs, serve,
    setup::{access, check_settings, open_node, overdue},
};
use crate::{
    app::{App, shared_client},
    cli::WatchArgs,
    events::{Events, Heads, Listeners, SharedLogs},
    follow::Observer,
    monitor::{Monitor, RunningServer},
    read::NodeReader,
    report::{Report, Verdict},
    store::Store,
    tally::RunError,
};

/// One profile, before its table is opened.
struct Member<'a> {
    app: &'a App,
    reader: Arc<NodeReader>,
    events: Arc<Events>,
    monitor: Arc<Monitor>,
}

/// What several profiles share.
struct Together<'a> {
    args: &'a WatchArgs,
    members: Vec<Member<'a>>,
    listeners: Arc<Listeners>,
    heads: Heads,
}

/// A failure, and the profile that it is of; `None` if of all.
type FailureOf<'a> = (Option<&'a App>, RunError);

/// Watches until a shutdown is requested. `report` prints what is of all profiles. Returns how it ended for each, or only
/// for the one that ended all.
pub(in crate::commands) async fn run_together(
    apps: &[App],
    args: &WatchArgs,
    report: &Report,
) -> Vec<(Report, Result<Verdict, RunError>)> {
    let ended = watch(apps, args, report).await;
    let mut runs = Vec::new();
    match ended {
        Ok(()) => {
            for app in apps {
                let ended = Ok(Verdict::Pass);
                app.record_run("watch", None, &ended).await;
                runs.push((app.report.clone(), ended));
            }
        }
        Err((of, error)) => {
            let ended = Err(error);
            if let Some(app) = of {
                app.record_run("watch", None, &ended).await;
            }
            runs.push((of.map_or(report, |app| &app.report).clone(), ended));
        }
    }
    join_all(apps.iter().map(App::close)).await;
    runs
}

async fn watch<'a>(
    apps: &'a [App],
    args: &'a WatchArgs,
    report: &Report,
) -> Result<(), FailureOf<'a>> {
    for app in apps {
        check_settings(app).map_err(|error| (Some(app), error))?;
    }
    let together = Together::of(apps, args, report).map_err(|error| (None, error))?;
    let shutdown = &apps[0].shutdown;
    let mut server = None;
    tokio::select! {
        ended = together.watch(report, &mut server) => ended?,
        // Nothing is lost: what is not stored comes after the checkpoints.
        () = overdue(shutdown) => warn!("node or database take too long; stopping without waiting for them"),
    }
    if let Some(server) = server {
        server.stop().await;
    }
    for Member { app, monitor, .. } in &together.members {
        report_end(app, monitor).map_err(|error| (Some(*app), error))?;
    }
    Ok(())
}

impl<'a> Together<'a> {
    fn of(apps: &'a [App], args: &'a WatchArgs, report: &Report) -> Result<Self, RunError> {
        let first = &apps[0];
        let client = shared_client(apps)?;
        let shared = Arc::new(SharedLogs::new(
            Arc::clone(&client),
            apps.iter().map(|app| &app.profile),
            first.settings.node.concurrency as usize,
            first.shutdown.clone(),
        ));
        let member = |app: &'a App| {
            let (reader, events, monitor) = open_node(app, args, Arc::clone(&client));
            let events = Arc::new(events.sharing(Arc::clone(&shared)));
            Member { app, reader, events, monitor }
        };
        let members: Vec<_> = apps.iter().map(member).collect();
        let printer: Arc<dyn Observer> = Arc::new(ConnectionPrinter(report.clone()));
        let listeners = Arc::new(Listeners::new(Some(printer)));
        let (url, events) = (first.ws_url()?, Arc::clone(&members[0].events));
        let heads = heads(first, args, url, events, Arc::clone(&listeners));
        Ok(Self { args, members, listeners, heads })
    }

    /// Opens every table and follows the chain. `server` is set once it answers, and left running.
    async fn watch(
        &self,
        report: &Report,
        server: &mut Option<RunningServer>,
    ) -> Result<(), FailureOf<'a>> {
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for Member { app, .. } in &self.members {
            stores.push(app.store(access(self.args)).await.map_err(|error| (Some(*app), error))?);
        }
        if let Some(listen) = &self.args.listen {
            let monitors = self.members.iter().map(|member| Arc::clone(&member.monitor));
            let address = serve(listen, monitors.collect(), server).await;
            let address = address.map_err(|error| (None, error))?;
            print_event(report, EventBody::Listening { address });
        }
        let watches = self.members.iter().zip(&stores).map(|(member, store)| {
            let Member { app, reader, events, monitor } = member;
            let observer: Arc<dyn Observer> = Arc::new(EventPrinter {
                monitor: Arc::clone(monitor),
                report: app.report.clone(),
                shares_connection: true,
            });
            let (events, reader) = (Arc::clone(events), Arc::clone(reader));
            let (store, listeners) = (store.as_ref(), Arc::clone(&self.listeners));
            Watch { app, args: self.args, events, reader, store, observer, listeners }
        });
        let watches: Vec<_> = watches.collect();
        for (watch, Member { app, .. }) in watches.iter().zip(&self.members) {
            watch.check(&mut None).await.map_err(|error| (Some(*app), error))?;
            if app.shutdown.is_requested() {
                return Ok(());
            }
            app.claim_table(watch.store).await.map_err(|error| (Some(*app), error))?;
        }
        for Member { app, .. } in &self.members {
            app.record_running("watch", None).await;
        }
        let beside =
            watches.iter().zip(&self.members).map(|(watch, Member { app, monitor, .. })| {
                Box::pin(async move {
                    tokio::select! {
                        never = watch.every_minute(monitor) => never,
                        never = say_that_it_runs(app, monitor) => never,
                    }
                })
            });
        let follow = join_all(watches.iter().map(Watch::run));
        tokio::select! {
            ended = follow => match ended.into_iter().zip(&self.members).find(|(ended, _)| ended.is_err()) {
                Some((Err(error), Member { app, .. })) => Err((Some(*app), error)),
                _ => Ok(()),
            },
            never = self.heads.run() => match never {},
            error = failure(server) => Err((None, error)),
            (never, _, _) = select_all(beside) => match never {},
        }
    }
}

//! Those who follow what one connection announces: a follower for each profile, while it holds its lock.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{Events, filter::Log};
use crate::follow::{BlockReads, Observer, Signal, SignalSender, Transport, WatchEvent};

/// One who follows.
pub struct Listener {
    /// Which logs it is about.
    pub events: Arc<Events>,
    /// Receives connections and blocks as events.
    pub observer: Arc<dyn Observer>,
    /// Where signals go.
    pub signals: SignalSender,
}

/// Those who follow.
pub struct Listeners {
    state: Mutex<State>,
    /// How many there are.
    count: watch::Sender<usize>,
    /// Receives connections once, however many there are.
    observer: Option<Arc<dyn Observer>>,
}

#[derive(Default)]
struct State {
    listeners: Vec<(u64, Listener)>,
    next: u64,
    /// How blocks are received now.
    connected: Option<(Transport, String)>,
}

/// Keeps a listener among the others until it is dropped.
pub struct Listening<'a> {
    listeners: &'a Listeners,
    id: u64,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let mut state = self.listeners.state();
        state.listeners.retain(|(id, _)| *id != self.id);
        self.listeners.count.send_replace(state.listeners.len());
    }
}

impl Listeners {
    /// None so far. `observer` receives connections, beside the observers of the listeners.
    pub fn new(observer: Option<Arc<dyn Observer>>) -> Self {
        Self { state: Mutex::default(), count: watch::Sender::new(0), observer }
    }

    /// Adds a listener. It hears of a connection that is open already, and has to ask for earlier blocks itself.
    pub fn join(&self, listener: Listener) -> Listening<'_> {
        let mut state = self.state();
        if let Some((via, endpoint)) = state.connected.clone() {
            listener.observer.notify(&WatchEvent::Connected { via, endpoint });
        }
        let id = state.next;
        state.next += 1;
        state.listeners.push((id, listener));
        self.count.send_replace(state.listeners.len());
        Listening { listeners: self, id }
    }

    /// Returns once there is one.
    pub(super) async fn any(&self) {
        self.reaches(|count| count > 0).await;
    }

    /// Returns once there is none.
    pub(super) async fn none(&self) {
        self.reaches(|count| count == 0).await;
    }

    async fn reaches(&self, is_so: impl Fn(usize) -> bool) {
        let mut count = self.count.subscribe();
        if count.wait_for(|count| is_so(*count)).await.is_err() {
            // The sender lives as long as this.
            pending().await
        }
    }

    /// A connection was made.
    pub(super) fn connected(&self, via: Transport, endpoint: &str) {
        self.state().connected = Some((via, endpoint.to_owned()));
        self.of_connection(&WatchEvent::Connected { via, endpoint: endpoint.to_owned() });
        self.send(&Signal::Missed);
    }

    /// The connection was lost, or none could be made.
    pub(super) fn disconnected(&self, event: &WatchEvent) {
        self.state().connected = None;
        self.of_connection(event);
    }

    /// The connection was given up, as nobody listens.
    pub(super) fn forget_connection(&self) {
        self.state().connected = None;
    }

    fn of_connection(&self, event: &WatchEvent) {
        if let Some(observer) = &self.observer {
            observer.notify(event);
        }
        self.notify(event);
    }

    pub(super) fn notify(&self, event: &WatchEvent) {
        for (_, listener) in &self.state().listeners {
            listener.observer.notify(event);
        }
    }

    pub(super) fn send(&self, signal: &Signal) {
        for (_, listener) in &self.state().listeners {
            // A receiver is gone only when its follower is about to end.
            listener.signals.send(signal.clone());
        }
    }

    /// A log was removed: each listener receives those of its wallets that it names.
    pub(super) fn removed(&self, log: &Log) {
        for (_, listener) in &self.state().listeners {
            let wallets = listener.events.wallets_in(log);
            let (number, hash) = (log.block_number.to(), log.block_hash);
            listener.signals.send(Signal::Removed(BlockReads { number, hash, wallets }));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

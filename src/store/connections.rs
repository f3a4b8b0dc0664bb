//! The connections of a store: opened when needed, used again while they answer, closed when they no longer serve.
//!
//! sqlx's own pool retries a failed connection until its time is over and then does not say why, and it waits for a
//! connection that the server refuses while others are free. Here a refusal lowers the number of connections.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::Connection as _;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::{
    dialect::{ConnectionOf, Dialect},
    error::StoreError,
};

/// Connections at once, at most.
const LIMIT: usize = 5;
/// A connection that was idle for longer has to answer before it is used.
const FRESH: Duration = Duration::from_secs(1);
/// How long that answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// The connections of one process to one database.
pub(super) struct Connections<D: Dialect> {
    idle: Mutex<Vec<Idle<D>>>,
    permits: Semaphore,
    /// Connections that exist, idle or in use.
    open: AtomicUsize,
}

struct Idle<D: Dialect> {
    connection: ConnectionOf<D>,
    since: Instant,
}

impl<D: Dialect> Connections<D> {
    pub(super) fn new() -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(LIMIT),
            open: AtomicUsize::new(0),
        }
    }

    /// An idle connection that still answers, or a new one.
    ///
    /// # Errors
    /// If there is none and the database refuses another one, or after [`Connections::close`].
    pub(super) async fn acquire(&self, dialect: &D) -> Result<Leased<'_, D>, StoreError> {
        loop {
            let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            while let Some(Idle { mut connection, since }) = self.pop() {
                let lives = since.elapsed() < FRESH
                    || matches!(timeout(ANSWER, connection.ping()).await, Ok(Ok(())));
                if lives {
                    return Ok(Leased {
                        connection: Some(connection),
                        pool: self,
                        _permit: permit,
                    });
                }
                self.open.fetch_sub(1, Relaxed);
            }
            match dialect.connect().await {
                Ok(connection) => {
                    self.open.fetch_add(1, Relaxed);
                    return Ok(Leased {
                        connection: Some(connection),
                        pool: self,
                        _permit: permit,
                    });
                }
                // Others are at work: wait for one of them, and never ask for as many again.
                Err(error) if error.is_out_of_connections() && self.open.load(Relaxed) > 0 => {
                    permit.forget();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes this connection the only one.
    pub(super) fn adopt(&self, connection: ConnectionOf<D>) {
        while let Ok(permit) = self.permits.try_acquire() {
            permit.forget();
        }
        self.open.fetch_add(1, Relaxed);
        self.idle().push(Idle { connection, since: Instant::now() });
        self.permits.add_permits(1);
    }

    /// Closes the idle connections: the server that they lead to no longer serves, or another one needs their place.
    pub(super) async fn close_idle(&self) {
        while let Some(Idle { connection, .. }) = self.pop() {
            self.open.fetch_sub(1, Relaxed);
            let _ = timeout(ANSWER, connection.close()).await;
        }
    }

    /// Closes the idle connections. Connections that are in use close when they are given back.
    pub(super) async fn close(&self) {
        self.permits.close();
        self.close_idle().await;
    }

    fn pop(&self) -> Option<Idle<D>> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle<D>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Dropping it closes it: only [`Leased::give_back`] knows that it is in order.
pub(super) struct Leased<'a, D: Dialect> {
    connection: Option<ConnectionOf<D>>,
    pool: &'a Connections<D>,
    _permit: SemaphorePermit<'a>,
}

impl<D: Dialect> Leased<'_, D> {
    /// The connection.
    ///
    /// # Errors
    /// Never before [`Leased::give_back`], which consumes this.
    pub(super) fn get(&mut self) -> Result<&mut ConnectionOf<D>, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Sql(sqlx::Error::PoolClosed))
    }

    /// Leaves the connection, outside of any transaction, to whoever needs one next.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            if self.pool.permits.is_closed() {
                self.pool.open.fetch_sub(1, Relaxed);
                return;
            }
            self.pool.idle().push(Idle { connection, since: Instant::now() });
        }
    }
}

impl<D: Dialect> Drop for Leased<'_, D> {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.pool.open.fetch_sub(1, Relaxed);
        }
    }
}

//! The service from start to end.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use longreel_film::EngineOptions;
use longreel_jobs::{ArtifactError, Artifacts, SqliteStore, StoreError, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::films::Films;
use crate::http;
use crate::live::Live;
use crate::process::WorkerCommand;
use crate::shared::{Ending, Shared, Slots, remove_folder};
use crate::{supervisor, upkeep};

/// How long connections may take to end when everything else has.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// What a service is started with.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Database, films, and films in the making. Made when it is missing; one server at a time.
    pub data: PathBuf,
    /// Worker processes, each with a model of its own. At least 1.
    pub workers: usize,
    /// How they are started.
    pub worker: WorkerCommand,
    /// A worker that gives no sign of life for so long is killed and another one started.
    pub patience: Duration,
    /// The model.
    pub engine: EngineOptions,
}

/// Why a service could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Listening where others can reach it, without keys.
    #[error(
        "cannot listen on {address}: there are no API keys yet, so whoever reaches the server could use \
         it; listen on 127.0.0.1 or [::1] and put a proxy that asks who is there in front of it"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address is taken, or is not one of this machine.
    #[error("cannot listen on {address}: {cause}; choose another address or port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// Another server works there.
    #[error("the data folder {} is used by another server; stop it or choose another folder", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The data folder cannot be used.
    #[error("the data folder {} cannot be used: {cause}", folder.display())]
    Data {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of the films cannot be used.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// Signals or the network failed.
    #[error("the server failed: {0}")]
    Io(#[from] io::Error),
}

/// Serves until it is told to end: once by Ctrl-C or SIGTERM for an end after the segments in work,
/// twice for an end at once. `listening` is called when clients can connect.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(
    options: ServeOptions,
    films: Arc<dyn Films>,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let address = options.listen;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback { address });
    }
    let (data, _lock) = open_data(&options.data)?;
    let store = SqliteStore::open(data.join("jobs.db"), StoreOptions::default()).await?;
    let artifacts = Artifacts::local(data.join("films"))?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|cause| ServeError::Listen { address, cause })?;
    let shared = Arc::new(Shared {
        store: Arc::new(store.clone()),
        artifacts,
        films,
        live: Live::default(),
        wakes: watch::channel(0).0,
        ending: watch::channel(Ending::No).0,
        work: data.join("work"),
        uploads: data.join("uploads"),
        engine: options.engine,
        worker: options.worker,
        patience: options.patience,
        slots: Slots::new(options.workers),
    });
    // Of a server that was killed while they came.
    remove_folder(&shared.uploads).await;
    supervisor::recover(&shared).await?;
    let cursor = shared.store.changes(None).await?.cursor;

    let signals = listen_to_signals(shared.clone())?;
    let mut helpers = JoinSet::new();
    helpers.spawn(signals);
    let live = shared.clone();
    helpers.spawn(async move { live.live.poll(live.store.as_ref(), cursor).await });
    let mut workers = JoinSet::new();
    for slot in 0..options.workers {
        workers.spawn(supervisor::run(shared.clone(), slot));
    }
    let upkeep = tokio::spawn(upkeep::run(shared.clone()));

    let mut closed = shared.ending.subscribe();
    let bound = listener.local_addr()?;
    let listener = listener.tap_io(|stream| {
        // Events are small and should not wait for one another.
        let _ = stream.set_nodelay(true);
    });
    let http =
        axum::serve(listener, http::router(shared.clone())).with_graceful_shutdown(async move {
            // The sender is in `shared`, which lives as long as the service.
            let _ = closed.wait_for(|ending| *ending == Ending::Closed).await;
        });
    let http = tokio::spawn(async move { http.await });
    listening(bound);

    // Clients can look at what happens until the last segment is finished.
    while let Some(worker) = workers.join_next().await {
        if let Err(error) = worker {
            tracing::error!(%error, "a supervisor failed");
        }
    }
    shared.ending.send_replace(Ending::Closed);
    match timeout(CLOSE_TIME, http).await {
        Ok(Ok(result)) => result?,
        Ok(Err(error)) => tracing::error!(%error, "the network failed"),
        // Whoever does not read is not waited for.
        Err(_) => {}
    }
    let _ = timeout(CLOSE_TIME, upkeep).await;
    helpers.shutdown().await;
    store.close().await;
    Ok(())
}

/// The data folder, made and locked. The lock goes with the process, however it ends.
fn open_data(folder: &Path) -> Result<(PathBuf, File), ServeError> {
    let failed = |cause| ServeError::Data { folder: folder.to_owned(), cause };
    std::fs::create_dir_all(folder.join("work")).map_err(failed)?;
    let folder = folder.canonicalize().map_err(failed)?;
    let lock = File::create(folder.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok((folder, lock)),
        Err(TryLockError::WouldBlock) => Err(ServeError::InUse { folder }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// Turns signals into [`Ending`]. Registered before it returns, so that none is missed.
fn listen_to_signals(shared: Arc<Shared>) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    let mut signals = {
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    Ok(async move {
        for ending in [Ending::AfterSegment, Ending::Now] {
            #[cfg(unix)]
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
            }
            #[cfg(not(unix))]
            if tokio::signal::ctrl_c().await.is_err() {
                return;
            }
            match ending {
                Ending::AfterSegment => tracing::info!(
                    "ending after the segments in work; once more ends at once, nothing is lost"
                ),
                _ => tracing::info!("ending now"),
            }
            shared.ending.send_replace(ending);
        }
    })
}

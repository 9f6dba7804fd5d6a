//! The service from start to end.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use longreel_jobs::{
    ArtifactError, Artifacts, Clock, KeyStore, Limits, Retention, SigningSecret, SqliteStore,
    StoreError, StoreOptions, SystemClock,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::access::{Access, AccessOptions, SecretFileError, secret_in};
use crate::fetch::Fetcher;
use crate::films::{Catalogue, Films};
use crate::http;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::notify::{self, Notifier, NotifyOptions};
use crate::process::WorkerCommand;
use crate::recovery::OnOutOfMemory;
use crate::runpod::{self, RunPodOptions};
use crate::shared::{Ending, Shared, Slots, remove_folder};
use crate::traces::Traces;
use crate::{supervisor, upkeep, webhooks};

/// Files that may be open at once, where the system lets us have as many.
#[cfg(unix)]
const FILES_MAX: u64 = 65_536;
/// The database, in the data folder.
pub const DATABASE: &str = "jobs.db";
/// The secret that webhooks are signed with, in the data folder, unless another one is given.
pub const WEBHOOK_SECRET: &str = "webhook-secret";
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
    /// A worker whose memory has grown by more bytes than this since it was ready is replaced when it
    /// has finished a film; `None` is half of it and 512 MiB.
    pub max_growth: Option<u64>,
    /// What is done when a film's worker dies because memory ran out.
    pub on_out_of_memory: OnOutOfMemory,
    /// Who may call.
    pub access: AccessOptions,
    /// How much is taken in.
    pub limits: Limits,
    /// Longest body of a request, in bytes.
    pub body_bytes: usize,
    /// How long finished films are kept.
    pub retention: Retention,
    /// Signs webhooks; `None` is a secret of the data folder, made when it is missing.
    pub webhook_secret: Option<SigningSecret>,
    /// Who is told of what happens to the service.
    pub notify: NotifyOptions,
    /// Where jobs come from beside HTTP, on RunPod.
    pub runpod: Option<RunPodOptions>,
    /// Whoever may ask for films may have any installed model served, not only whoever may do all.
    pub serve_installed: bool,
    /// Call addresses that clients give even where they lead to this machine and its neighbours.
    pub allow_private: bool,
}

/// Why a service could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Listening where others can reach it, without keys.
    #[error(
        "cannot listen on {address}: there are no API keys yet, and without them whoever reaches the \
         server could use it; make one with `longreel keys create NAME --data {}`, or listen on \
         127.0.0.1",
        folder.display()
    )]
    NoKeys {
        /// The address.
        address: SocketAddr,
        /// The data folder.
        folder: PathBuf,
    },
    /// Pages of all origins could use a server that asks for no keys.
    #[error(
        "* lets pages of all origins call, and this server asks for no keys; require keys, or name the origins"
    )]
    AnyOrigin,
    /// Two models cannot be told apart.
    #[error("two models have the name {0:?}; name each once")]
    SameName(String),
    /// A secret cannot be read or made.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
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
/// twice for an end at once. Films are made by the models `served`, of which the first is the default
/// until another one is chosen; those of the `catalogue` can join them. `listening` is called when clients can connect.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(
    options: ServeOptions,
    served: Vec<Arc<dyn Films>>,
    catalogue: Arc<dyn Catalogue>,
    listening: impl FnOnce(SocketAddr, &str),
) -> Result<(), ServeError> {
    raise_file_limit();
    let address = options.listen;
    let is_public = !address.ip().is_loopback();
    let needs_keys = is_public || options.access.require_keys;
    if !needs_keys && options.access.origins.is_any() {
        return Err(ServeError::AnyOrigin);
    }
    let no_keys = || ServeError::NoKeys { address, folder: options.data.clone() };
    // Nothing is made for nothing.
    if is_public && !options.data.join(DATABASE).exists() {
        return Err(no_keys());
    }
    let (data, _lock) = open_data(&options.data)?;
    let store_options = StoreOptions { limits: options.limits.clone(), ..StoreOptions::default() };
    let store = SqliteStore::open(data.join(DATABASE), store_options).await?;
    if needs_keys && !has_keys(&store).await? {
        if is_public {
            return Err(no_keys());
        }
        tracing::warn!("there are no API keys yet; make one with `longreel keys create NAME`");
    }
    let access = Access::new(&options.access, needs_keys, secret_in(&data.join("session-secret"))?);
    let webhook_secret = match options.webhook_secret {
        Some(secret) => secret,
        None => secret_in(&data.join(WEBHOOK_SECRET))?,
    };
    let artifacts = Artifacts::local(data.join("films"))?;
    let models = Models::new(served, catalogue, options.serve_installed, &data);
    let models = models.map_err(ServeError::SameName)?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|cause| ServeError::Listen { address, cause })?;
    let (notifier, outbox) = Notifier::new(options.notify);
    let shared = Arc::new(Shared {
        store: Arc::new(store.clone()),
        artifacts,
        models,
        live: Live::default(),
        wakes: watch::channel(0).0,
        ending: watch::channel(Ending::No).0,
        work: data.join("work"),
        uploads: data.join("uploads"),
        worker: options.worker,
        patience: options.patience,
        max_growth: options.max_growth,
        on_out_of_memory: options.on_out_of_memory,
        slots: Slots::new(options.workers),
        metrics: Metrics::default(),
        traces: Traces::from_environment(|name| std::env::var(name).ok()),
        access,
        body_bytes: options.body_bytes,
        retention: options.retention,
        notifier,
        fetcher: Fetcher::new(options.allow_private),
        webhook_secret,
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
    let webhooks = tokio::spawn(webhooks::run(shared.clone()));
    if let Some(outbox) = outbox {
        helpers.spawn(notify::run(shared.clone(), outbox));
    }
    if let Some(runpod) = options.runpod {
        helpers.spawn(runpod::run(shared.clone(), runpod));
    }

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
    listening(bound, &shared.models.default().model().name);

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
    let _ = timeout(CLOSE_TIME, webhooks).await;
    helpers.shutdown().await;
    store.close().await;
    // A film that was finished last is told of too.
    let _ = tokio::task::spawn_blocking(move || shared.traces.flush(CLOSE_TIME)).await;
    Ok(())
}

/// Each client that listens to events holds a connection, and systems begin with 1024 or fewer open
/// files for a process, though it may have many more.
fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(FILES_MAX, |maximum| maximum.min(FILES_MAX));
        // No number is no limit.
        if limit.current.is_none_or(|current| current >= wanted) {
            return;
        }
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "no more files than before can be open");
        }
    }
}

/// Whether there is a key that somebody could call with.
async fn has_keys(store: &SqliteStore) -> Result<bool, StoreError> {
    let now_ms = SystemClock.now_ms();
    let keys = store.list_keys().await?;
    Ok(keys.iter().any(|key| {
        key.revoked_ms.is_none() && key.asked.expires_ms.is_none_or(|expires| expires > now_ms)
    }))
}

/// The data folder, made and locked. The lock goes with the process, however it ends.
fn open_data(folder: &Path) -> Result<(PathBuf, File), ServeError> {
    let failed = |cause| ServeError::Data { folder: folder.to_owned(), cause };
    std::fs::create_dir_all(folder.join("work")).map_err(failed)?;
    let folder = folder.canonicalize().map_err(failed)?;
    let lock = File::create(folder.join("lock")).map_err(failed)?;
    match longreel_media::lock(&lock) {
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

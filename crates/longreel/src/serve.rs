//! `longreel serve`, and the workers under it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use longreel_jobs::{Limits, OwnerLimits, RateLimit, Retention, SigningSecret};
use longreel_server::log::ACCESS;
use longreel_server::{
    AccessOptions, Films, NotifyOptions, OnOutOfMemory, Origins, RunPodOptions, ServeError,
    ServeOptions, Topic, WorkerCommand,
};
use tracing::Metadata;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::amounts::{Bytes, Days, Rate};
use crate::args::Common;
use crate::installed::Installed;
use crate::keys;
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{Verbosity, print, print_json};
use crate::rolling::RollingFile;
use crate::serve_args::{OnOutOfMemoryArg, ServeArgs};
use crate::values::Span;

/// Where it listens, where nothing is said.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
/// The data folder, where none is said.
pub const DATA: &str = "longreel-data";
/// The variable that holds the secret of webhooks, where no file does.
const WEBHOOK_SECRET: &str = "LONGREEL_WEBHOOK_SECRET";
/// How long a film may wait, in seconds, until people are told.
const QUEUE_TOLD: f64 = 3600.0;
/// How little room on the disk people are told of.
const DISK_TOLD: u64 = 5 << 30;
const WORKER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a key may call that was made without a rate of its own.
const RATE: Rate = Rate { per_minute: 1_200, burst: 300 };
/// Room of a log file, and how many full ones are kept.
const LOG_BYTES: Bytes = Bytes(50 << 20);
const LOGS_KEPT: u32 = 5;
/// Least room of a log file.
const LOG_BYTES_MIN: u64 = 4 << 10;
/// Longest body of a request: a prompt has room in it, a picture has not.
const BODY: Bytes = Bytes(1 << 20);
/// How long what a request waits for may take when the server has ended.
const END_TIME: Duration = Duration::from_secs(1);

/// Serves until Ctrl-C or SIGTERM.
pub fn serve(args: &ServeArgs, common: &Common, verbosity: Verbosity) -> Result<u8> {
    log(verbosity, args)?;
    let workers = usize::from(args.workers.unwrap_or(1));
    let installed = Installed::new(
        args.model.clone(),
        common.device.clone().unwrap_or_default(),
        common.config.clone(),
        args.enhancer.clone(),
    );
    let served = served(args, &installed)?;
    let options = ServeOptions {
        listen: args.listen.unwrap_or(LISTEN),
        data: args.data.clone().unwrap_or_else(|| PathBuf::from(DATA)),
        workers,
        worker: worker_command(common, workers)?,
        patience: patience(args.worker_timeout)?,
        max_growth: args.worker_max_growth.map(|Bytes(bytes)| bytes),
        on_out_of_memory: match args.on_out_of_memory {
            Some(OnOutOfMemoryArg::Fail) => OnOutOfMemory::Fail,
            Some(OnOutOfMemoryArg::Smaller) | None => OnOutOfMemory::Smaller,
        },
        access: access(args)?,
        limits: limits(args)?,
        body_bytes: body_bytes(args.max_body)?,
        retention: Retention {
            max_age_ms: args.keep_days.map(Days::ms),
            max_total_bytes: args.keep_bytes.map(|Bytes(bytes)| bytes),
        },
        webhook_secret: webhook_secret(args.webhook_secret_file.as_deref())?,
        notify: notify(args)?,
        runpod: RunPodOptions::of_environment(|name| std::env::var(name).ok())
            .map_err(bad_input)?,
        serve_installed: args.serve_installed == Some(true),
        allow_private: args.allow_private_webhooks == Some(true),
    };
    let listening = move |address: SocketAddr, model: &str| match verbosity {
        Verbosity { json: true, .. } => print_json(&serde_json::json!({
            "event": "listening",
            "address": format!("http://{address}"),
            "model": model,
        })),
        Verbosity { quiet: true, .. } => {}
        _ => print(&format!("http://{address}  (model {model}; Ctrl-C ends it)")),
    };
    let needs_keys = !options.listen.ip().is_loopback() || options.access.require_keys;
    if needs_keys && args.first_key == Some(true) {
        keys::make_first(&options.data, verbosity.json)?;
    }
    // The processor is for films: a server's work is little, and on a small machine threads that wake
    // each other cost a film more than they bring.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 4).clamp(1, 8))
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    let served =
        runtime.block_on(longreel_server::serve(options, served, Arc::new(installed), listening));
    // A receiver of a webhook that does not answer is not waited for.
    runtime.shutdown_timeout(END_TIME);
    match served {
        Ok(()) => Ok(EXIT_DONE),
        Err(error @ (ServeError::NoKeys { .. } | ServeError::Listen { .. })) => {
            Err(bad_input(format!("--listen: {error}")))
        }
        Err(error @ ServeError::SameName(_)) => Err(bad_input(format!("--with-model: {error}"))),
        Err(error @ ServeError::AnyOrigin) => Err(bad_input(format!("--cors-origin: {error}"))),
        Err(error @ ServeError::Secret(_)) => Err(bad_input(error.to_string())),
        Err(error @ (ServeError::InUse { .. } | ServeError::Data { .. })) => {
            Err(bad_input(format!("--data: {error}")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes films as the server says.
pub fn work() -> Result<u8> {
    longreel_server::worker::run()?;
    Ok(EXIT_DONE)
}

/// The models, the default first.
fn served(args: &ServeArgs, installed: &Installed) -> Result<Vec<Arc<dyn Films>>> {
    let others = args.with_model.iter().map(|model| installed.args(model.clone()));
    let all = std::iter::once(args.model.clone()).chain(others);
    all.map(|model| installed.films(&model)).collect()
}

/// This program again. Workers share the processor's threads unless somebody says how many.
fn worker_command(common: &Common, workers: usize) -> Result<WorkerCommand> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut arguments = vec!["worker".into()];
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let shared = (workers > 1).then_some(all.div_ceil(workers));
    if let Some(threads) = common.threads.map(usize::from).or(shared) {
        arguments.extend(["--threads".into(), threads.to_string().into()]);
    }
    if let Some(config) = &common.config {
        arguments.extend(["--config".into(), config.into()]);
    }
    Ok(WorkerCommand { program, arguments })
}

fn access(args: &ServeArgs) -> Result<AccessOptions> {
    let Rate { per_minute, burst } = args.rate_limit.unwrap_or(RATE);
    let origins = Origins::new(&args.cors_origin);
    Ok(AccessOptions {
        require_keys: args.require_keys == Some(true),
        origins: origins.map_err(|error| bad_input(format!("--cors-origin: {error}")))?,
        rate_limit: RateLimit { per_minute, burst },
    })
}

fn limits(args: &ServeArgs) -> Result<Limits> {
    let usual = Limits::default();
    let at_least_one = |flag: &str, typed: Option<u64>, usual: u64| match typed {
        Some(0) => Err(bad_input(format!("{flag} 0: nothing would be taken in; use 1 or more"))),
        typed => Ok(typed.unwrap_or(usual)),
    };
    let owner = usual.owner;
    Ok(Limits {
        queue_length: at_least_one("--queue-length", args.queue_length, usual.queue_length)?,
        owner: OwnerLimits {
            queued: at_least_one("--owner-queued", args.owner_queued, owner.queued)?,
            running: at_least_one("--owner-running", args.owner_running, owner.running)?,
            frames: match args.max_frames {
                Some(_) => Some(at_least_one("--max-frames", args.max_frames, 1)?),
                None => owner.frames,
            },
        },
    })
}

fn body_bytes(typed: Option<Bytes>) -> Result<usize> {
    let Bytes(bytes) = typed.unwrap_or(BODY);
    match usize::try_from(bytes) {
        Ok(bytes) if (1 << 10..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err(bad_input(format!(
            "--max-body {bytes}: it can be 1KiB to 1GiB; a body is held in memory"
        ))),
    }
}

/// The secret of webhooks that somebody gave; `None` where it is that of the data folder.
pub fn webhook_secret(file: Option<&Path>) -> Result<Option<SigningSecret>> {
    let variable = std::env::var_os(WEBHOOK_SECRET).filter(|secret| !secret.is_empty());
    match (file, variable) {
        (None, None) => Ok(None),
        (Some(file), None) => longreel_server::read_secret(file)
            .map(Some)
            .map_err(|e| bad_input(format!("--webhook-secret-file: {e}"))),
        (None, Some(secret)) => SigningSecret::parse(&secret.to_string_lossy())
            .map(Some)
            .map_err(|e| bad_input(format!("{WEBHOOK_SECRET}: {e}"))),
        (Some(_), Some(_)) => Err(bad_input(format!(
            "--webhook-secret-file and {WEBHOOK_SECRET} contradict each other; keep one"
        ))),
    }
}

fn notify(args: &ServeArgs) -> Result<NotifyOptions> {
    let queue = match args.notify_queue {
        None => QUEUE_TOLD,
        Some(Span::Seconds(seconds)) if (1.0..=31_536_000.0).contains(&seconds) => seconds,
        Some(_) => return Err(bad_input("--notify-queue: it can be 1s to 365d; 1h is usual")),
    };
    let usual = [Topic::Failed, Topic::Worker, Topic::Disk, Topic::Queue];
    Ok(NotifyOptions {
        receivers: args.notify.clone(),
        topics: if args.notify_on.is_empty() { usual.to_vec() } else { args.notify_on.clone() },
        queue_ms: (queue * 1000.0) as i64,
        disk_bytes: args.notify_disk.map_or(DISK_TOLD, |Bytes(bytes)| bytes),
    })
}

fn patience(typed: Option<Span>) -> Result<Duration> {
    match typed {
        None => Ok(WORKER_TIMEOUT),
        // A worker gives a sign of life every two seconds.
        Some(Span::Seconds(seconds)) if (5.0..=86_400.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        Some(_) => Err(bad_input("--worker-timeout: it can be 5s to 24h; 1m is usual")),
    }
}

/// What happens goes to stderr, a line each; requests and what went wrong also to files of their own, as
/// JSON.
fn log(verbosity: Verbosity, args: &ServeArgs) -> Result<()> {
    let Bytes(bytes) = args.log_size.unwrap_or(LOG_BYTES);
    if bytes < LOG_BYTES_MIN {
        return Err(bad_input(format!(
            "--log-size {bytes}: a line has to find room in a file; it can be 4KiB or more"
        )));
    }
    let kept = args.log_keep.unwrap_or(LOGS_KEPT);
    let level = match verbosity.quiet {
        true => LevelFilter::WARN,
        false => LevelFilter::INFO,
    };
    let open = |folder: &Path, name: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(folder)
            .and_then(|()| RollingFile::open(path.clone(), bytes, kept))
            .map(Mutex::new)
            .map_err(|e| bad_input(format!("--log-folder {}: {e}; choose another", path.display())))
    };
    let (access, errors) = match &args.log_folder {
        Some(folder) => (Some(open(folder, "access.log")?), Some(open(folder, "error.log")?)),
        None => (None, None),
    };
    let is_access = |metadata: &Metadata| metadata.target() == ACCESS;
    let stderr = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let access = access.map(|file| {
        fmt::layer().json().flatten_event(true).with_writer(file).with_filter(filter_fn(is_access))
    });
    let errors = errors.map(|file| {
        fmt::layer().json().flatten_event(true).with_writer(file).with_filter(LevelFilter::WARN)
    });
    tracing_subscriber::registry()
        .with(stderr.with_filter(filter_fn(move |m| *m.level() <= level && !is_access(m))))
        .with(access)
        .with(errors)
        .init();
    Ok(())
}

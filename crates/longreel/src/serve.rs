//! `longreel serve`, and the workers under it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use longreel_server::{ServeError, ServeOptions, WorkerCommand};

use crate::args::{Common, ServeArgs};
use crate::films::TypedFilms;
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{Verbosity, print, print_json};
use crate::run;
use crate::values::Span;

const PORT: u16 = 8000;
const DATA: &str = "longreel-data";
const WORKER_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves until Ctrl-C or SIGTERM.
pub fn serve(args: &ServeArgs, common: &Common, verbosity: Verbosity) -> Result<u8> {
    log(verbosity);
    let workers = usize::from(args.workers.unwrap_or(1));
    let engine = run::options(&args.model)?;
    let films = TypedFilms::open(&args.model, &engine, common.config.as_deref())?;
    let options = ServeOptions {
        listen: args.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))),
        data: args.data.clone().unwrap_or_else(|| PathBuf::from(DATA)),
        workers,
        worker: worker_command(common, workers)?,
        patience: patience(args.worker_timeout)?,
        engine,
    };
    let model = longreel_server::Films::model(&films).name.clone();
    let listening = move |address: SocketAddr| match verbosity {
        Verbosity { json: true, .. } => print_json(&serde_json::json!({
            "event": "listening",
            "address": format!("http://{address}"),
            "model": model,
        })),
        Verbosity { quiet: true, .. } => {}
        _ => print(&format!("http://{address}  (model {model}; Ctrl-C ends it)")),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    let served = runtime.block_on(longreel_server::serve(options, Arc::new(films), listening));
    match served {
        Ok(()) => Ok(EXIT_DONE),
        Err(error @ (ServeError::NotLoopback { .. } | ServeError::Listen { .. })) => {
            Err(bad_input(format!("--listen: {error}")))
        }
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

/// What happens goes to stderr, a line each.
fn log(verbosity: Verbosity) {
    let level = match verbosity.quiet {
        true => tracing::Level::WARN,
        false => tracing::Level::INFO,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(false)
        .init();
}

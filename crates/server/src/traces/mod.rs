//! Spans for OpenTelemetry, when the environment names a collector.
//!
//! The variables are those of the OpenTelemetry specification: `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`,
//! `OTEL_SDK_DISABLED`, `OTEL_BSP_SCHEDULE_DELAY`, also with `TRACES_` where the specification has it. A
//! service has a handful of kinds of spans, and the official exporter with its protocol buffers would be a
//! tenth of all that is compiled for them.
//!
//! ```text
//!  POST /v1/videos          the client's trace goes on, if it has one
//!  └─ film                  from the request to the end; without a client's trace it begins one whose id is
//!     ├─ queue              the job's; each time that it waits
//!     ├─ worker             each time that a worker has it
//!     │  ├─ segment
//!     │  └─ store           the whole film goes to where films are kept
//!     └─ webhook            each attempt
//! ```
//!
//! A request's headers are those of its span when a handler sees them, and a job keeps them, so that what
//! is done for it, by whichever process, belongs to its trace. A client's trace that is not recorded (W3C's
//! flag `sampled`) is not recorded here either, and is carried on as it came.

mod collector;
mod context;
mod film;

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderMap;
use longreel_jobs::{Event, Job, TraceContext};
use serde_json::Value;

use self::collector::{Collector, Told, send_all};
use self::context::{Context, SAMPLED, hex};

/// Spans that wait to be sent; beyond them spans are dropped.
const WAITING: usize = 4096;

/// One span.
#[derive(Debug, Clone, PartialEq)]
struct Span {
    /// Its own place.
    context: Context,
    parent: Option<[u8; 8]>,
    name: String,
    kind: Kind,
    begin: SystemTime,
    end: SystemTime,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

/// As OTLP counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// A span that has not ended, or none, where none is wanted.
pub struct Begun {
    span: Option<(Box<Span>, Instant)>,
    /// Where what is done meanwhile belongs.
    context: Option<Context>,
}

impl Begun {
    /// What a call to another service takes along.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        self.context.clone().into_iter().flat_map(|context| context.headers().collect::<Vec<_>>())
    }

    /// The trace that it is part of, for the log.
    pub fn trace_id(&self) -> Option<String> {
        self.context.as_ref().map(|context| hex(&context.trace))
    }

    fn about(mut self, attributes: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        if let Some((span, _)) = &mut self.span {
            span.attributes.extend(attributes);
        }
        self
    }
}

/// Where spans go; nowhere when no collector is named.
#[derive(Default)]
pub struct Traces(Option<SyncSender<Told>>);

impl Traces {
    /// Begins to send when `variable` names a collector.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let Some(collector) = Collector::of(&variable) else { return Self::default() };
        tracing::info!(url = collector.url, "traces are sent");
        let (sender, spans) = sync_channel(WAITING);
        std::thread::spawn(move || send_all(&spans, &collector));
        Self(Some(sender))
    }

    /// Whether anybody wants spans.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Sends what waits, for `patience` at most: a collector that does not answer keeps nobody from ending.
    pub fn flush(&self, patience: Duration) {
        let Some(sender) = &self.0 else { return };
        let (sent, is_sent) = sync_channel(1);
        if sender.try_send(Told::Flush(sent)).is_ok() {
            // Either it is sent, or it is not waited for any longer.
            let _ = is_sent.recv_timeout(patience);
        }
    }

    fn give(&self, span: Span) {
        let Some(sender) = &self.0 else { return };
        if let Err(TrySendError::Full(_)) = sender.try_send(Told::Span(Box::new(span))) {
            tracing::debug!("a span is dropped: the collector is too slow");
        }
    }

    /// A request that has come. Where its client has a trace, its headers are those of the span from here
    /// on; what is not well formed is taken out of them.
    pub fn request(&self, headers: &mut HeaderMap, method: &str, path: &str) -> Begun {
        let client = Context::of(headers);
        let begun = self.begin(client.as_ref(), Kind::Server, format!("{method} {path}"));
        Context::replace(headers, client.and(begun.context.as_ref()));
        begun.about([("http.request.method", method.into()), ("http.route", path.into())])
    }

    /// A job's film that is whole is being stored.
    pub fn store(&self, job: &Job) -> Begun {
        self.begin(self.within(job, job.attempts).as_ref(), Kind::Internal, "store".into())
    }

    /// A webhook is being sent, for the so-manieth time beyond the first.
    pub fn webhook(&self, job: &Job, resent: u32) -> Begun {
        let begun = self.begin(self.within(job, 0).as_ref(), Kind::Client, "webhook".into());
        begun.about([
            ("http.request.method", "POST".into()),
            ("http.request.resend_count", resent.into()),
        ])
    }

    /// What was begun is over: `status` is that of an HTTP answer, `error` what went wrong.
    pub fn end(&self, begun: Begun, status: Option<u16>, error: Option<String>) {
        let status = status.map(|status| ("http.response.status_code", status.into()));
        let Some((mut span, since)) = begun.about(status).span else { return };
        span.end = span.begin + since.elapsed();
        span.error = error;
        self.give(*span);
    }

    /// A job that came to its end, with its events.
    pub fn film(&self, job: &Job, events: &[Event]) {
        let kept = kept(job);
        let wanted = self.is_on() && kept.as_ref().is_none_or(Context::is_sampled);
        if wanted && let Some(context) = self.within(job, 0) {
            let spans = film::spans_of(job, events, &context, kept.map(|kept| kept.span));
            spans.into_iter().for_each(|span| self.give(span));
        }
    }

    /// A span within `parent`; where there is none it begins a trace. In a trace that is not recorded, or
    /// with nobody to send it to, it is none, and `parent` is carried on.
    fn begin(&self, parent: Option<&Context>, kind: Kind, name: String) -> Begun {
        if !self.is_on() || parent.is_some_and(|parent| !parent.is_sampled()) {
            return Begun { span: None, context: parent.cloned() };
        }
        let span = random();
        let context = match parent {
            Some(parent) => Context { span, ..parent.clone() },
            None => Context { trace: random(), span, flags: SAMPLED, state: String::new() },
        };
        let now = SystemTime::now();
        let span = Span {
            context: context.clone(),
            parent: parent.map(|parent| parent.span),
            name,
            kind,
            begin: now,
            end: now,
            attributes: Vec::new(),
            error: None,
        };
        Begun { span: Some((Box::new(span), Instant::now())), context: Some(context) }
    }

    /// Where what is done for a job belongs: in the span of that attempt at it or, for 0, of its film; where
    /// these are not sent, in that of the request.
    fn within(&self, job: &Job, attempt: u32) -> Option<Context> {
        let span = film::span_id(job, attempt);
        match kept(job) {
            Some(kept) if self.is_on() && kept.is_sampled() => Some(Context { span, ..kept }),
            None if self.is_on() => {
                let trace = job.id.number().to_be_bytes();
                Some(Context { trace, span, flags: SAMPLED, state: String::new() })
            }
            kept => kept,
        }
    }
}

/// The place in a trace that a request has, for the job that it asks for.
pub fn asked_in(headers: &HeaderMap) -> Option<TraceContext> {
    Context::of(headers).map(|context| context.kept())
}

fn kept(job: &Job) -> Option<Context> {
    job.asked.trace.as_ref().and_then(Context::of_kept)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // All zeros means no id; so bad a day as to have no random numbers has no traces either.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

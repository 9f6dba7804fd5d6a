//! Spans for OpenTelemetry, when the environment names a collector.
//!
//! OTLP over HTTP in JSON (opentelemetry-proto 1.x, `v1/traces`), with the variables of the
//! OpenTelemetry specification: `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_SDK_DISABLED`, `OTEL_BSP_SCHEDULE_DELAY`, also
//! with `TRACES_` where the specification has it. A service has two kinds of
//! spans, requests and films, and the official exporter with its protocol buffers would be a tenth of
//! all that is compiled for them.
//!
//! A film is a trace whose id is the job's: the span of the job, and one for each segment.

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longreel_jobs::{Event, EventKind, Job, JobState};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// Spans that wait to be sent; beyond them spans are dropped.
const WAITING: usize = 4096;
/// Spans are sent together, at least so often where nothing else is said.
const EVERY: Duration = Duration::from_secs(5);
const TOGETHER: usize = 512;
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    name: String,
    is_server: bool,
    begin: SystemTime,
    end: SystemTime,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

/// What is told to whoever sends.
enum Told {
    Span(Box<Span>),
    /// Send what there is, and answer.
    Flush(SyncSender<()>),
}

/// Where spans go; nowhere when no collector is named.
#[derive(Default)]
pub struct Traces(Option<SyncSender<Told>>);

/// A collector, as the environment names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Collector {
    url: String,
    headers: Vec<(String, String)>,
    service: String,
    /// Spans are sent together, at least so often.
    every: Duration,
}

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

    /// A request that was answered. `traceparent` is the client's, as the W3C defines it.
    pub fn request(
        &self,
        traceparent: Option<&str>,
        method: &str,
        path: &str,
        status: u16,
        took: Duration,
    ) {
        if !self.is_on() {
            return;
        }
        let (trace, parent) = match traceparent.and_then(parse_parent) {
            Some((trace, parent)) => (trace, Some(parent)),
            None => (random(), None),
        };
        let end = SystemTime::now();
        self.give(Span {
            trace,
            id: random(),
            parent,
            name: format!("{method} {path}"),
            is_server: true,
            begin: end.checked_sub(took).unwrap_or(end),
            end,
            attributes: vec![
                ("http.request.method", method.into()),
                ("http.route", path.into()),
                ("http.response.status_code", status.into()),
            ],
            error: (status >= 500).then(|| format!("status {status}")),
        });
    }

    /// A job that came to its end, with its events.
    pub fn film(&self, job: &Job, events: &[Event]) {
        if self.is_on() {
            spans_of(job, events).into_iter().for_each(|span| self.give(span));
        }
    }
}

/// The span of a job, and one for each finished segment.
fn spans_of(job: &Job, events: &[Event]) -> Vec<Span> {
    let trace = trace_of(job);
    let timings = &job.timings;
    let end = at(timings.finished_ms.unwrap_or(timings.created_ms));
    let root = Span {
        trace,
        id: random(),
        parent: None,
        name: "film".into(),
        is_server: false,
        begin: at(timings.created_ms),
        end,
        attributes: vec![
            ("longreel.job", job.id.to_string().into()),
            ("longreel.model", job.asked.model.clone().into()),
            ("longreel.state", job.state.as_str().into()),
            ("longreel.attempts", job.attempts.into()),
            ("longreel.frames", job.frames_done.into()),
        ],
        error: (job.state == JobState::Failed)
            .then(|| job.error.as_ref().map(|error| error.code.clone()).unwrap_or_default()),
    };
    let mut begin = timings.started_ms.unwrap_or(timings.created_ms);
    let mut spans = Vec::new();
    for event in events.iter().filter(|event| event.kind == EventKind::Segment) {
        spans.push(Span {
            id: random(),
            parent: Some(root.id),
            name: "segment".into(),
            begin: at(begin),
            end: at(event.at_ms),
            attributes: vec![
                ("longreel.segment", event.data["segment"].clone()),
                ("longreel.frames", event.data["frames"].clone()),
            ],
            error: None,
            ..root.clone()
        });
        begin = event.at_ms;
    }
    spans.push(root);
    spans
}

/// A job's id is a UUID, as long as the id of a trace.
fn trace_of(job: &Job) -> [u8; 16] {
    let hex: String = job.id.to_string().chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&hex, 16).map(u128::to_be_bytes).unwrap_or_else(|_| random())
}

fn at(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // All zeros means no id; so bad a day as to have no random numbers has no traces either.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// `00-<32 hex>-<16 hex>-<2 hex>`.
fn parse_parent(text: &str) -> Option<([u8; 16], [u8; 8])> {
    let mut parts = text.trim().split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = version.len() == 2 && trace.len() == 32 && parent.len() == 16;
    let trace = u128::from_str_radix(trace, 16).ok().filter(|&id| whole && id != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|&id| id != 0)?;
    Some((trace.to_be_bytes(), parent.to_be_bytes()))
}

impl Collector {
    fn of(variable: &impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let url = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            let base = set("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some(format!("{}/v1/traces", base.trim_end_matches('/')))
        })?;
        let headers = set("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
            .or_else(|| set("OTEL_EXPORTER_OTLP_HEADERS"))
            .unwrap_or_default()
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.trim().to_owned(), decoded(value.trim())))
            .collect();
        let service = set("OTEL_SERVICE_NAME").unwrap_or_else(|| "longreel".into());
        let every = set("OTEL_BSP_SCHEDULE_DELAY").and_then(|ms| ms.parse().ok());
        let every = every.map_or(EVERY, Duration::from_millis);
        Some(Self { url, headers, service, every })
    }

    fn send(&self, spans: &[Span]) -> Result<(), ureq::Error> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
        let mut request = agent.post(&self.url).header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.send(written(spans, &self.service).to_string()).map(drop)
    }
}

/// The specification has values of headers as those of W3C's baggage: percent-encoded. What is not encoded
/// stays as it is, and so does a value that is no text.
fn decoded(value: &str) -> String {
    let plain = percent_decode_str(value).decode_utf8();
    plain.map_or_else(|_| value.to_owned(), Cow::into_owned)
}

/// Sends until every sender is gone. A collector that does not answer loses spans, not films.
fn send_all(told: &Receiver<Told>, collector: &Collector) {
    let mut is_told = false;
    loop {
        let Ok(mut next) = told.recv() else { return };
        let (mut together, mut asked) = (Vec::new(), None);
        let until = Instant::now() + collector.every;
        loop {
            match next {
                Told::Span(span) => together.push(*span),
                Told::Flush(sent) => {
                    asked = Some(sent);
                    break;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if together.len() == TOGETHER {
                break;
            }
            match told.recv_timeout(left) {
                Ok(told) => next = told,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let sent = if together.is_empty() { Ok(()) } else { collector.send(&together) };
        if let Some(asked) = asked {
            // Whoever asked may have lost patience.
            let _ = asked.send(());
        }
        match sent {
            Ok(()) => is_told = false,
            Err(error) if !is_told => {
                is_told = true;
                tracing::warn!(%error, url = collector.url, "traces cannot be sent");
            }
            Err(_) => {}
        }
    }
}

/// As OTLP has it in JSON: ids in hexadecimal, times and large integers as texts.
fn written(spans: &[Span], service: &str) -> Value {
    let spans: Vec<Value> = spans.iter().map(span_written).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            attribute("service.name", &service.into()),
            attribute("service.version", &env!("CARGO_PKG_VERSION").into()),
        ]},
        "scopeSpans": [{"scope": {"name": "longreel"}, "spans": spans}],
    }]})
}

fn span_written(span: &Span) -> Value {
    let nanoseconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()).to_string()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let attributes: Vec<Value> = span.attributes.iter().map(|(k, v)| attribute(k, v)).collect();
    let mut written = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "name": span.name,
        // Internal is 1, server 2.
        "kind": if span.is_server { 2 } else { 1 },
        "startTimeUnixNano": nanoseconds(span.begin),
        "endTimeUnixNano": nanoseconds(span.end),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        written["parentSpanId"] = hex(&parent).into();
    }
    if let Some(message) = &span.error {
        written["status"] = json!({"code": 2, "message": message});
    }
    written
}

fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        other => json!({"stringValue": other.to_string()}),
    };
    json!({"key": key, "value": value})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_is_the_one_that_the_environment_names() {
        let of = |pairs: &[(&str, &str)]| {
            Collector::of(&|name: &str| {
                pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
            })
        };
        assert_eq!(of(&[]), None);
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let found =
            of(&[base, ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, c = d=e%20f%")]).expect("named");
        assert_eq!(found.url, "http://collector:4318/v1/traces");
        let headers = [("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d=e f%".to_owned())];
        assert_eq!(found.headers, headers);
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other/x");
        assert_eq!(of(&[base, own]).expect("named").url, "http://other/x");
        assert_eq!(of(&[base]).expect("named").every, EVERY);
        let often = of(&[base, ("OTEL_BSP_SCHEDULE_DELAY", "20")]).expect("named");
        assert_eq!(often.every, Duration::from_millis(20));
        assert_eq!(of(&[base, ("OTEL_SDK_DISABLED", "true")]), None);
    }

    #[test]
    fn a_clients_trace_is_gone_on_with_and_nonsense_is_not() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, parent) = parse_parent(text).expect("a parent");
        assert_eq!((trace[0], trace[15], parent[0], parent[7]), (0x0a, 0x9c, 0xb7, 0x31));
        for text in ["", "00", "00-0-0-00", &text.replace('a', "x"), &"0".repeat(55)] {
            assert_eq!(parse_parent(text), None, "{text}");
        }
        let zeros = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        assert_eq!(parse_parent(&zeros), None);
    }

    #[test]
    fn a_span_is_written_as_the_protocol_wants_it() {
        let begin = UNIX_EPOCH + Duration::new(1, 5);
        let span = Span {
            trace: [0xab; 16],
            id: [1; 8],
            parent: Some([2; 8]),
            name: "GET /health".into(),
            is_server: true,
            begin,
            end: begin + Duration::from_millis(1),
            attributes: vec![("http.response.status_code", 503.into())],
            error: Some("status 503".into()),
        };
        let written = written(&[span], "films");
        let span = &written["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "ab".repeat(16));
        assert_eq!(span["parentSpanId"], "02".repeat(8));
        assert_eq!(span["startTimeUnixNano"], "1000000005");
        assert_eq!(span["attributes"][0]["value"], json!({"intValue": "503"}));
        assert_eq!(span["status"]["code"], 2);
    }
}

//! Whoever gets the spans: a collector that takes OTLP over HTTP in JSON (opentelemetry-proto 1.x,
//! `v1/traces`).

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::Span;
use super::context::hex;

/// Spans are sent together, at least so often where nothing else is said.
const EVERY: Duration = Duration::from_secs(5);
const TOGETHER: usize = 512;
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is told to whoever sends.
pub enum Told {
    Span(Box<Span>),
    /// Send what there is, and answer.
    Flush(SyncSender<()>),
}

/// A collector, as the environment names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    pub url: String,
    headers: Vec<(String, String)>,
    service: String,
    /// Spans are sent together, at least so often.
    every: Duration,
}

impl Collector {
    /// The one that `variable` names; `None` when it names none, or nobody is to send anything.
    pub fn of(variable: &impl Fn(&str) -> Option<String>) -> Option<Self> {
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
pub fn send_all(told: &Receiver<Told>, collector: &Collector) {
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
    let attributes: Vec<Value> = span.attributes.iter().map(|(k, v)| attribute(k, v)).collect();
    let mut written = json!({
        "traceId": hex(&span.context.trace),
        "spanId": hex(&span.context.span),
        "flags": span.context.flags,
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": nanoseconds(span.begin),
        "endTimeUnixNano": nanoseconds(span.end),
        "attributes": attributes,
    });
    if !span.context.state.is_empty() {
        written["traceState"] = span.context.state.as_str().into();
    }
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
        Value::Bool(is) => json!({"boolValue": is}),
        other => json!({"stringValue": other.to_string()}),
    };
    json!({"key": key, "value": value})
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::context::{Context, SAMPLED};
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
    fn a_span_is_written_as_the_protocol_wants_it() {
        let begin = UNIX_EPOCH + Duration::new(1, 5);
        let state = "vendor=1".to_owned();
        let span = Span {
            context: Context { trace: [0xab; 16], span: [1; 8], flags: SAMPLED, state },
            parent: Some([2; 8]),
            name: "GET /health".into(),
            kind: Kind::Server,
            begin,
            end: begin + Duration::from_millis(1),
            attributes: vec![("http.response.status_code", 503.into())],
            error: Some("status 503".into()),
        };
        let written = written(&[span], "films");
        let span = &written["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "ab".repeat(16));
        assert_eq!(span["parentSpanId"], "02".repeat(8));
        assert_eq!((&span["kind"], &span["flags"]), (&json!(2), &json!(1)));
        assert_eq!(span["traceState"], "vendor=1");
        assert_eq!(span["startTimeUnixNano"], "1000000005");
        assert_eq!(span["attributes"][0]["value"], json!({"intValue": "503"}));
        assert_eq!(span["status"]["code"], 2);
    }
}

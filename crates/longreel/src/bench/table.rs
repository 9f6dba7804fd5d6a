//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use longreel_film::{human_bytes, human_seconds};
use longreel_kernels::spans::Span;
use serde_json::{Value, json};

use super::Measured;
use super::networks::Way;

/// Sums over all calls of one operation.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    calls: usize,
    seconds: f64,
    flops: f64,
    bytes: f64,
}

fn sums(spans: &[Span]) -> Vec<(&'static str, Sum)> {
    let mut sums: BTreeMap<&'static str, Sum> = BTreeMap::new();
    for span in spans {
        let sum = sums.entry(span.name).or_default();
        sum.calls += 1;
        sum.seconds += span.took.as_secs_f64();
        sum.flops += span.flops;
        sum.bytes += span.bytes;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    sums
}

/// A few lines: the pass, then each operation.
pub fn of(measured: &Measured, peak: f64) -> String {
    let Measured { name, what, seconds, flops, instead, kept_share, spans, .. } = measured;
    let rate = flops / seconds;
    let counted = instead.as_ref().map(|instead| format!(" (counted up from {instead})"));
    let counted = counted.unwrap_or_default();
    let mut text = format!(
        "\n{name}: {what}: {}{counted}, {:.0} GFLOP/s, {:.0}% of the large product's",
        human_seconds(*seconds),
        rate / 1e9,
        100.0 * rate / peak
    );
    if let Some(share) = kept_share {
        // Writing to a text does not fail.
        let _ = write!(
            text,
            "\n  attention keeps {:.1}% of the keys where it leaves some out; of random weights more than of a model's",
            100.0 * share
        );
    }
    let whole: f64 = spans.iter().map(|span| span.took.as_secs_f64()).sum();
    for (name, Sum { calls, seconds, flops, bytes }) in sums(spans) {
        let rate = match flops > 0.0 {
            true => format!("{:7.0} GFLOP/s", flops / seconds / 1e9),
            false => " ".repeat(15),
        };
        // Writing to a text does not fail.
        let _ = write!(
            text,
            "\n  {name:<14}{:5.1}%  {:>10}  {calls:5} calls  {rate}  {:>9}/s",
            100.0 * seconds / whole,
            human_seconds(seconds),
            human_bytes((bytes / seconds) as u64)
        );
    }
    text
}

/// A line: how much faster another way is.
pub fn of_way(way: &Way) -> String {
    let Way { what, times, layers } = way;
    let times =
        times.map_or("no room for it".to_owned(), |times| format!("{times:.2} times as fast"));
    format!("  {what}: {times} ({layers} layers)")
}

/// That for programs.
pub fn json_of_way(way: &Way) -> Value {
    json!({"what": way.what, "times_as_fast": way.times, "layers_measured": way.layers})
}

/// The same for programs.
pub fn json(measured: &Measured, peak: f64) -> Value {
    let Measured { name, what, seconds, flops, layers, instead, kept_share, spans } = measured;
    let operations = sums(spans).into_iter().map(|(name, Sum { calls, seconds, flops, bytes })| {
        json!({"name": name, "calls": calls, "seconds": seconds, "flops": flops, "bytes": bytes})
    });
    json!({
        "name": name,
        "what": what,
        "seconds": seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "share_of_probe": flops / seconds / peak,
        "layers_measured": layers.0,
        "layers": layers.1,
        "measured_instead": instead,
        "kept_share": kept_share,
        "operations": operations.collect::<Vec<_>>(),
    })
}

/// All operations in the trace event format, which Perfetto and Chrome read.
pub fn trace(measured: &[Measured]) -> Value {
    let events = measured.iter().enumerate().flat_map(|(thread, network)| {
        let name = json!({
            "name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": network.name},
        });
        let spans = network.spans.iter().map(move |span| {
            json!({
                "name": span.name,
                "ph": "X",
                "pid": 1,
                "tid": thread,
                "ts": span.at.as_secs_f64() * 1e6,
                "dur": span.took.as_secs_f64() * 1e6,
                "args": {"flops": span.flops, "bytes": span.bytes},
            })
        });
        std::iter::once(name).chain(spans)
    });
    json!({"traceEvents": events.collect::<Vec<_>>(), "displayTimeUnit": "ms"})
}

//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use longreel_film::{human_bytes, human_seconds};
use longreel_kernels::spans::Span;
use serde_json::{Value, json};

use super::rates::{Marks, Rates};
use super::transformer::Way;
use super::{Brought, Measured};

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

/// Seconds for people, of which those of a step are told to a hundredth.
fn human_time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 1e-3 => format!("{:.0} us", 1e6 * seconds),
        _ if seconds < 1.0 => format!("{:.1} ms", 1e3 * seconds),
        _ if seconds < 100.0 => format!("{seconds:.2} s"),
        _ => human_seconds(seconds),
    }
}

/// Operations a second for people.
pub fn human_rate(flops: f64) -> String {
    match flops {
        _ if flops < 1e12 => format!("{:.0} GFLOP/s", flops / 1e9),
        _ if flops < 1e14 => format!("{:.1} TFLOP/s", flops / 1e12),
        _ => format!("{:.0} TFLOP/s", flops / 1e12),
    }
}

/// A few lines: the pass, then each operation.
pub fn of(measured: &Measured, marks: &Marks) -> String {
    let Measured { name, what, seconds, work, chosen, instead, kept_share, brought, spans, .. } =
        measured;
    let mut told = match seconds.tries {
        1 => "one try".to_owned(),
        tries => format!("best of {tries}, median {}", human_time(seconds.median)),
    };
    if let Some(instead) = instead {
        told += &format!(", counted up from {instead}");
    }
    let mut text = format!(
        "\n{name}: {what}: {} ({told}), {}, {}",
        human_time(seconds.best),
        human_rate(work.total() / seconds.best),
        marks.shares(*work, seconds.best)
    );
    // Writing to a text does not fail.
    if let Some(Brought { bytes, bytes_per_second }) = brought {
        let measured = instead.as_ref().map(|instead| format!(" for {instead}"));
        let _ = write!(
            text,
            "\n  weights brought meanwhile{}: {}, {}/s from the host",
            measured.unwrap_or_default(),
            human_bytes(*bytes),
            human_bytes(*bytes_per_second as u64)
        );
    }
    if let Some(share) = kept_share {
        let _ = write!(
            text,
            "\n  attention keeps {:.1}% of the keys where it leaves some out; of random weights more than of a model's",
            100.0 * share
        );
    }
    if spans.is_empty() {
        return text;
    }
    let best = if marks.peak.is_some() { "of peak" } else { "of product" };
    let _ = write!(
        text,
        "\n  {:<17}{:>6}{:>11}{:>8}{:>15}{:>12}{:>14}",
        "operation", "share", "time", "calls", "reached", best, "moved"
    );
    let whole: f64 = spans.iter().map(|span| span.took.as_secs_f64()).sum();
    let rates = marks.peak.unwrap_or(marks.product);
    for (name, Sum { calls, seconds, flops, bytes }) in sums(spans) {
        let rate = if chosen.has(name) { rates.chosen } else { rates.others };
        let (reached, share) = match flops > 0.0 {
            true => {
                let reached = flops / seconds;
                (human_rate(reached), format!("{:.0}%", 100.0 * reached / rate))
            }
            false => (String::new(), String::new()),
        };
        let _ = write!(
            text,
            "\n  {name:<17}{:5.1}%{:>11}{calls:>8}{reached:>15}{share:>12}{:>12}/s",
            100.0 * seconds / whole,
            human_time(seconds),
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
pub fn json(measured: &Measured, marks: &Marks) -> Value {
    let Measured { name, what, seconds, work, chosen, layers, instead, kept_share, brought, spans } =
        measured;
    let share = |rates: Rates| rates.share(*work, seconds.best);
    let operations = sums(spans).into_iter().map(|(name, sum)| {
        let Sum { calls, seconds, flops, bytes } = sum;
        let share = |rates: Rates| {
            let rate = if chosen.has(name) { rates.chosen } else { rates.others };
            (flops > 0.0).then(|| flops / seconds / rate)
        };
        json!({
            "name": name,
            "calls": calls,
            "seconds": seconds,
            "flops": flops,
            "bytes": bytes,
            "share_of_peak": marks.peak.and_then(share),
            "share_of_probe": share(marks.product),
        })
    });
    json!({
        "name": name,
        "what": what,
        "seconds": seconds.best,
        "median_seconds": seconds.median,
        "passes": seconds.tries,
        "flops": work.total(),
        "flops_per_second": work.total() / seconds.best,
        "share_of_peak": marks.peak.map(share),
        "share_of_probe": share(marks.product),
        "layers_measured": layers.0,
        "layers": layers.1,
        "measured_instead": instead,
        "kept_share": kept_share,
        "brought_bytes_measured": brought.map(|brought| brought.bytes),
        "brought_bytes_per_second": brought.map(|brought| brought.bytes_per_second),
        "operations": operations.collect::<Vec<_>>(),
    })
}

/// All operations in the trace event format, which Perfetto and Chrome read.
pub fn trace(measured: &[Measured]) -> Value {
    let shown = measured.iter().filter(|network| !network.spans.is_empty());
    let events = shown.enumerate().flat_map(|(thread, network)| {
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

//! `longreel bench` at small sizes.

use std::path::Path;

use serde_json::Value;

use crate::program::Place;

#[test]
fn each_network_is_measured_by_operation_and_the_trace_holds_every_call() {
    let place = Place::new();
    let words = ["bench", "--size", "64x64", "--num-frames", "5", "--layers", "1", "--budget", "1"];
    let words: Vec<&str> = words.into_iter().chain(["--json", "--trace", "trace.json"]).collect();
    let ran = place.run(&words).expect_code(0);
    let report = &ran.events()[0];
    let networks = report["networks"].as_array().expect("a list");
    let names: Vec<&str> = networks.iter().filter_map(|network| network["name"].as_str()).collect();
    let [pass, step] = ["transformer", "step with guidance"];
    assert_eq!(names, [pass, step, "VAE decoder", "VAE encoder", "text encoder"]);
    assert_eq!(networks[0]["measured_instead"], "1 of 30 layers");
    let number = |network: &Value, key: &str| network[key].as_f64().expect("a number");
    // Both passes, one after the other.
    assert_eq!(number(&networks[1], "flops"), 2.0 * number(&networks[0], "flops"));
    assert!(number(&networks[1], "seconds") > number(&networks[0], "seconds"), "{report:#}");
    let mut calls = 0;
    for network in networks {
        assert!(network["flops_per_second"].as_f64() > Some(1e6), "{network:#}");
        assert!(number(network, "passes") >= 1.0, "{network:#}");
        assert!(number(network, "median_seconds") >= number(network, "seconds"), "{network:#}");
        // A processor has no data sheet, and brings no weights.
        assert!(network["share_of_peak"].is_null(), "{network:#}");
        assert!(network["brought_bytes_measured"].is_null(), "{network:#}");
        let operations = network["operations"].as_array().expect("a list");
        calls += operations.iter().filter_map(|operation| operation["calls"].as_u64()).sum::<u64>();
        // The operations of a step are those of its passes.
        if network["name"] == step {
            assert!(operations.is_empty(), "{network:#}");
            continue;
        }
        let sum: f64 =
            operations.iter().filter_map(|operation| operation["seconds"].as_f64()).sum();
        assert!(sum > 0.0, "{network:#}");
    }
    let trace: Value = serde_json::from_slice(&place.read("trace.json")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let spans = events.iter().filter(|event| event["ph"] == "X").count() as u64;
    assert_eq!(spans, calls);
}

/// `benches/gpu.sh` looks for the figures of the aims by the words that their lines begin with.
#[test]
fn the_lines_that_have_aims_begin_with_the_words_by_which_they_are_looked_for() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/gpu.sh");
    let script = std::fs::read_to_string(script).expect("a script");
    let aims = script.lines().filter(|line| line.starts_with("aim "));
    let words: Vec<&str> = aims.map(|line| line.split('"').nth(1).expect("words")).collect();
    assert_eq!(words.len(), 5, "{words:?}");
    let words_of_bench =
        ["bench", "--size", "64x64", "--num-frames", "5", "--layers", "1", "--budget", "1"];
    let ran = Place::new().run(&words_of_bench).expect_code(0);
    for words in words {
        let found = ran.stdout.lines().any(|line| line.trim_start().starts_with(words));
        assert!(found, "no line begins with {words:?} in {}", ran.stdout);
    }
}

#[test]
fn products_in_8_bits_are_measured_and_said() {
    let place = Place::new();
    let words = ["bench", "--size", "64x64", "--num-frames", "5", "--layers", "1", "--budget", "1"];
    let words: Vec<&str> = words.into_iter().chain(["--json", "--dtype", "fp8"]).collect();
    let ran = place.run(&words).expect_code(0);
    let report = &ran.events()[0];
    assert_eq!(report["dtype"], "fp8");
    let rate = report["networks"][0]["flops_per_second"].as_f64();
    assert!(rate > Some(1e6), "{report:#}");
}

#[test]
fn attention_that_leaves_keys_out_is_measured_and_says_how_many_it_keeps() {
    let place = Place::new();
    let words = ["bench", "--size", "64x64", "--num-frames", "5", "--layers", "2", "--budget", "1"];
    let words = || words.into_iter().chain(["--json"]);
    let kept = |more: &[&str]| {
        let words: Vec<&str> = words().chain(more.iter().copied()).collect();
        let ran = place.run(&words).expect_code(0);
        ran.events()[0]["networks"][0]["kept_share"].clone()
    };
    // Two latent frames of 16 tokens are one block, which sees itself.
    assert_eq!(kept(&["--sparse-attention", "0.9"]), 1.0);
    assert!(kept(&[]).is_null());
}

#[test]
fn several_devices_and_a_batch_are_measured_beside_one_device_pass_by_pass() {
    let place = Place::new();
    let words = ["bench", "--size", "64x64", "--num-frames", "5", "--layers", "1", "--budget", "1"];
    let words: Vec<&str> = words.into_iter().chain(["--json", "--device", "cpu,cpu"]).collect();
    let ran = place.run(&words).expect_code(0);
    let report = &ran.events()[0];
    let ways = report["ways"].as_array().expect("a list");
    let what: Vec<&str> = ways.iter().filter_map(|way| way["what"].as_str()).collect();
    assert!(what[0].contains("one batch") && what[1].starts_with("2 devices"), "{what:?}");
    for way in ways {
        let times = way["times_as_fast"].as_f64().expect("a number");
        assert!(times > 0.05 && times < 20.0, "{way:#}");
    }
    // Half of the tokens (two latent frames of 16) of half of the heads to the other one, four times.
    let exchange = &report["exchange"];
    assert_eq!(exchange["bytes"], 4 * 16 * 768 * 4, "{exchange:#}");
    assert!(exchange["seconds"].as_f64() > Some(0.0) && exchange["way"].is_null(), "{exchange:#}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let place = Place::new();
    for (words, part) in [
        (&["bench", "gpt"][..], "SkyReels-V2-DF-14B-720P"),
        (&["bench", "--num-frames", "96"], "93 or 97"),
        (&["bench", "--size", "100x100"], "16"),
        (&["bench", "--layers", "31"], "has 30"),
        (&["bench", "--sparse-attention", "1.5"], "above 0, at most 1; use 0.9"),
        (&["bench", "--device", "cpu,cpu,cpu,cpu,cpu"], "5 devices cannot share the 12 heads"),
    ] {
        let ran = place.run(words).expect_code(2);
        assert!(ran.stderr.contains(part), "{words:?}: {}", ran.stderr);
    }
}

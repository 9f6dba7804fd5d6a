//! `longreel bench` at small sizes.

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
    assert_eq!(names, ["transformer", "VAE decoder", "text encoder"]);
    assert_eq!(networks[0]["measured_instead"], "1 of 30 layers");
    // Nothing is brought to the processor.
    assert!(report["host"].is_null() && report.get("host").is_some(), "{report:#}");
    let mut calls = 0;
    for network in networks {
        assert!(network["flops_per_second"].as_f64() > Some(1e6), "{network:#}");
        let operations = network["operations"].as_array().expect("a list");
        calls += operations.iter().filter_map(|operation| operation["calls"].as_u64()).sum::<u64>();
        // What was run is the larger part of the pass, counted up or not.
        let sum: f64 =
            operations.iter().filter_map(|operation| operation["seconds"].as_f64()).sum();
        assert!(sum > 0.0, "{network:#}");
    }
    let trace: Value = serde_json::from_slice(&place.read("trace.json")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let spans = events.iter().filter(|event| event["ph"] == "X").count() as u64;
    assert_eq!(spans, calls);
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

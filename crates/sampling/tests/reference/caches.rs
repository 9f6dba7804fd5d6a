use longreel_sampling::{Branch, Decision, EasyCache, Observed, TeaCache, TeaCacheFamily};

use crate::{assert_close, count, fixture, floats, list, number, tensor};

#[test]
fn teacache_decides_as_the_simulation_for_every_published_polynomial() {
    let fixture = fixture("caches");
    let cases = list(&fixture["teacache"]);
    assert_eq!(cases.len(), 16);
    let mut reused_anywhere = 0;
    for case in cases {
        let family = match case["family"].as_str().unwrap() {
            "Text1_3B" => TeaCacheFamily::Text1_3B,
            "Text14B" => TeaCacheFamily::Text14B,
            "Image540P" => TeaCacheFamily::Image540P,
            "Image720P" => TeaCacheFamily::Image720P,
            other => panic!("unknown family {other}"),
        };
        let (ret, threshold) =
            (case["use_ret_steps"].as_bool().unwrap(), number(&case["threshold"]));
        let observed: Vec<Vec<f32>> = list(&case["observed"]).iter().map(floats).collect();
        let mut cache = TeaCache::new(family, threshold, ret, observed.len()).unwrap();
        assert_eq!(
            cache.observed(),
            if ret { Observed::TimeProjection } else { Observed::TimeEmbedding }
        );
        let mut before: Option<&[f32]> = None;
        for (row, (observed, computed)) in observed.iter().zip(list(&case["computed"])).enumerate()
        {
            let change = before.map(|before| relative_change(observed, before));
            before = Some(observed);
            let expected =
                if computed.as_bool().unwrap() { Decision::Compute } else { Decision::Reuse };
            let decision = cache.decide(row, change);
            assert_eq!(decision, expected, "{family:?} ret {ret} threshold {threshold} row {row}");
        }
        let skipped = list(&case["computed"]).iter().filter(|c| !c.as_bool().unwrap()).count();
        assert_eq!(cache.reused(), skipped);
        reused_anywhere += skipped;
    }
    assert!(reused_anywhere > 50);
}

fn relative_change(now: &[f32], before: &[f32]) -> f64 {
    let sum = |terms: &mut dyn Iterator<Item = f32>| -> f64 { terms.map(f64::from).sum() };
    let change = sum(&mut now.iter().zip(before).map(|(n, b)| (n - b).abs()));
    change / sum(&mut before.iter().map(|b| b.abs()))
}

#[test]
fn easycache_decides_and_answers_as_the_simulation() {
    for case in list(&fixture("caches")["easycache"]) {
        let (threshold, warmup) = (number(&case["threshold"]), count(&case["warmup"]));
        let rows = list(&case["inputs"]).len();
        let mut cache = EasyCache::new(threshold, warmup, rows).unwrap();
        for row in 0..rows {
            let [input, output] = ["inputs", "outputs"].map(|of| tensor(&floats(&case[of][row])));
            let decision = cache.decide(row, &input).unwrap();
            let expected = if case["computed"][row].as_bool().unwrap() {
                Decision::Compute
            } else {
                Decision::Reuse
            };
            assert_eq!(decision, expected, "threshold {threshold} row {row}");
            let mut values = input.clone();
            if decision == Decision::Compute {
                cache.store(Branch::Cond, &input, &output).unwrap();
                cache.store(Branch::Uncond, &input, &input).unwrap();
                values = output;
            } else {
                let mut other = input.clone();
                cache.reuse(Branch::Uncond, &mut other).unwrap();
                assert_eq!(other, input, "the residual of its own branch");
                cache.reuse(Branch::Cond, &mut values).unwrap();
            }
            // The fixture adds in f64; input + (output - input) rounds twice in f32.
            assert_close(
                &format!("row {row}"),
                values.data(),
                &floats(&case["results"][row]),
                3e-7,
            );
        }
    }
}

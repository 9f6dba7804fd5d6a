//! Work of a card that is captured and done again.

use longreel_kernels::gpu::{
    Address, Arg, Element, MatMul, Operands, SoftmaxAttention, Stream, Vendor, VendorWork,
};

use super::{NARROW, captured, card_alone, fractions, get, get_bf16, numbers, put, put_bf16};

#[test]
fn captured_work_is_done_again_with_what_lies_at_its_addresses_then() {
    let Some(card) = card_alone() else { return };
    let (rows, inputs, outputs) = (24, 64, 40);
    let (w, b) = (numbers(outputs * inputs, 2), numbers(outputs, 3));
    let (weight, bias) = (put_bf16(&*card, &w), put(&*card, &b));
    let given = card.alloc(rows * inputs * 4).expect("memory");
    let [x, out] =
        [rows * inputs, rows * outputs].map(|count| card.alloc(count * 2).expect("some"));
    // A kernel, a product by the vendor with its bias, and copies: all that a forward is made of.
    let product = MatMul {
        x,
        weight,
        out,
        bias: Some(bias),
        rows,
        inputs,
        outputs,
        operands: Operands::Plain(Element::Bf16),
        out_element: Element::Bf16,
        gelu: false,
        add: false,
    };
    let kept = card.alloc(rows * outputs * 2).expect("memory");
    let mut has_products = true;
    let mut work = || {
        let args = [Arg::Pointer(x), Arg::Pointer(given), Arg::Long((rows * inputs) as i64)];
        card.launch(&NARROW, &args).expect("to start");
        has_products = card.matmul(&product).expect("no failure");
        card.zero(kept, rows * outputs * 2).expect("to zero");
        card.copy(kept, out, rows * outputs * 2).expect("to copy");
    };
    // As films do it: what is captured was done before.
    work();
    card.wait().expect("done");
    let mut reserved = Address(0);
    let Some(graph) = captured(&*card, || {
        work();
        reserved = card.alloc(1 << 20).expect("memory may be reserved meanwhile");
    }) else {
        return;
    };
    if !has_products {
        eprintln!("cuBLASLt is not there, or has no way for {product:?}");
        return;
    }
    card.free(reserved);
    for seed in 5..9 {
        let values = numbers(rows * inputs, seed);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        card.upload(Stream::Compute, given, &bytes).expect("to copy");
        // Written over, so that nothing is left of the time before.
        card.zero(out, rows * outputs * 2).expect("to zero");
        card.replay(graph).expect("to start");
        for (n, got) in get_bf16(&*card, kept, rows * outputs).into_iter().enumerate() {
            let (row, column) = (n / outputs, n % outputs);
            let sum: f32 =
                (0..inputs).map(|k| values[row * inputs + k] * w[column * inputs + k]).sum();
            assert_eq!(got, half::bf16::from_f32(sum + b[column]).to_f32(), "value {n}");
        }
    }
    card.replay(graph).expect("to start");
    card.discard(graph);
    card.wait().expect("done");
}

#[test]
fn what_waits_or_brings_values_is_refused_while_work_is_captured() {
    let Some(card) = card_alone() else { return };
    let address = put(&*card, &[1.0; 64]);
    let mut bytes = vec![0; 256];
    let graph = captured(&*card, || {
        let refused = [
            card.upload(Stream::Compute, address, &[0; 256]),
            card.upload(Stream::Copy, address, &[0; 256]),
            card.download(address, &mut bytes),
            card.follow(Stream::Compute),
            card.follow(Stream::Copy),
            card.wait(),
        ];
        for refused in refused {
            let error = refused.expect_err("refused").to_string();
            assert!(error.contains("cannot be part of a CUDA graph"), "{error}");
        }
        card.zero(address, 128).expect("that can be done again");
    });
    let Some(graph) = graph else { return };
    assert_eq!(get(&*card, address, 64), [1.0; 64], "what is captured is not done");
    card.replay(graph).expect("to start");
    assert_eq!(get(&*card, address, 64), [[0.0; 32], [1.0; 32]].concat());
    // What is not discarded goes with the card.
}

#[test]
fn attention_by_the_vendor_is_captured_where_its_way_was_used_before() {
    let Some(card) = card_alone() else { return };
    let (queries, keys, heads, size) = (64, 48, 2, 64);
    let values = |seed| put_bf16(&*card, &fractions(queries * heads * size, seed));
    let (q, k, v, out) = (values(1), values(2), values(3), values(4));
    let what = SoftmaxAttention { q, k, v, out, queries, keys, heads, size, scale: 0.125 };
    if card.attention(&what).expect("no failure") == Vendor::Refused {
        eprintln!("cuDNN is not there, or has no way for {what:?}: {:?}", card.notes());
        return;
    }
    let count = queries * heads * size;
    let expected = get_bf16(&*card, out, count);
    let graph = captured(&*card, || {
        assert_eq!(card.attention(&what).expect("no failure"), Vendor::Done);
        // The first result of a way is compared with our kernel's, for which somebody waits.
        let other = SoftmaxAttention { keys: keys - 1, ..what };
        let error = card.attention(&other).expect_err("not now").to_string();
        assert!(error.contains("cuDNN has no plan for attention of 64 queries and 47"), "{error}");
    });
    let Some(graph) = graph else { return };
    card.zero(out, 2 * count).expect("to zero");
    card.replay(graph).expect("to start");
    assert_eq!(get_bf16(&*card, out, count), expected);
    card.distrust(VendorWork::Attention, "this test says so");
    let error = card.replay(graph).expect_err("it would be used still").to_string();
    assert!(error.contains("cuDNN's plans are other ones"), "{error}");
}

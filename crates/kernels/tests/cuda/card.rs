//! A real card, where there is one.

mod convolution;
mod graphs;
mod memory;
mod plans;

use std::ops::Deref;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use longreel_kernels::cuda::{Kind, open, probe};
use longreel_kernels::gpu::{
    Address, Arg, Captured, Driver, Element, Gpu, GpuError, Launch, MatMul, Operands,
    SoftmaxAttention, Stream, Vendor, VendorWork,
};

/// Tests that capture work have the card to themselves: others would wait for it meanwhile.
static TURN: RwLock<()> = RwLock::new(());

/// A card, and whose turn it is with it.
struct Card<G>(Box<dyn Driver>, G);

impl<G> Deref for Card<G> {
    type Target = dyn Driver;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

fn first<G>(turn: G) -> Option<Card<G>> {
    match open(0) {
        Ok(driver) => Some(Card(driver, turn)),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// The first card, or a word about why the test is skipped.
fn card() -> Option<Card<RwLockReadGuard<'static, ()>>> {
    first(TURN.read().unwrap_or_else(PoisonError::into_inner))
}

/// The same for one test alone.
fn card_alone() -> Option<Card<RwLockWriteGuard<'static, ()>>> {
    first(TURN.write().unwrap_or_else(PoisonError::into_inner))
}

/// What `body` asks for, written down; `None`, said aloud, where there is no way for that.
fn captured(card: &dyn Driver, body: impl FnOnce()) -> Option<Captured> {
    let say = |why: GpuError| eprintln!("graphs are not there: {why}");
    card.begin_capture().map_err(say).ok()?;
    body();
    card.end_capture().map_err(say).ok()
}

fn put(card: &dyn Driver, values: &[f32]) -> Address {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let address = card.alloc(bytes.len()).expect("a little memory");
    card.upload(Stream::Compute, address, &bytes).expect("to copy");
    address
}

fn put_bf16(card: &dyn Driver, values: &[f32]) -> Address {
    let bytes: Vec<u8> =
        values.iter().flat_map(|&value| half::bf16::from_f32(value).to_ne_bytes()).collect();
    let address = card.alloc(bytes.len()).expect("a little memory");
    card.upload(Stream::Compute, address, &bytes).expect("to copy");
    address
}

fn get(card: &dyn Driver, from: Address, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; count * 4];
    card.download(from, &mut bytes).expect("to copy");
    bytes.chunks(4).map(|b| f32::from_ne_bytes(b.try_into().expect("four"))).collect()
}

fn get_bf16(card: &dyn Driver, from: Address, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; count * 2];
    card.download(from, &mut bytes).expect("to copy");
    let values = bytes.chunks(2).map(|b| half::bf16::from_ne_bytes(b.try_into().expect("two")));
    values.map(|value| value.to_f32()).collect()
}

/// Whole numbers from -3 to 3: products and sums of them are exact in every order.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|n| ((n * 2_654_435_761 + seed * 40_503) >> 7) % 7)
        .map(|n| n as f32 - 3.0)
        .collect()
}

#[test]
fn what_is_found_is_what_is_opened() {
    let Some(card) = card() else { return };
    let found = probe();
    assert!(found.driver.is_ok(), "{found:?}");
    let (free, total) = card.memory().expect("told");
    assert!(free <= total && total as u64 <= found.cards[0].total_bytes, "{found:?}");
    assert!(found.cards[0].multiprocessors > 0 && !found.cards[0].name.is_empty(), "{found:?}");
    let cudnn = found.libraries.iter().find(|(kind, _)| *kind == Kind::Cudnn);
    println!("doctor: {:?}", cudnn.expect("a row").1);
    println!("a kernel has at most {:e} operations", card.most_flops());
    println!("bus: {:?}, {:?} free", found.cards[0].pcie, found.cards[0].free_bytes);
}

#[test]
fn a_rate_from_the_host_is_measured_and_leaves_the_cards_memory_as_it_was() {
    let Some(card) = card() else { return };
    let (free, _) = card.memory().expect("told");
    let Card(driver, _turn) = card;
    let gpu = Gpu::new(driver, Element::Bf16);
    let rate = gpu.host_rate().expect("measured");
    assert!(rate.is_finite() && rate > 1e6, "{rate} bytes a second");
    assert_eq!(gpu.host_rate().expect("known"), rate, "measured once");
    // Nothing but what the driver has for itself, and what other tests have of the card for a while.
    let is_back = || gpu.driver().memory().expect("told").0 + (32 << 20) > free;
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !is_back() {
        assert!(std::time::Instant::now() < patience, "memory is gone");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn bytes_come_back_as_they_went_while_the_host_changes_them() {
    let Some(card) = card() else { return };
    // More than all pinned buffers hold, no multiple of one, and each of them with other content.
    let count = (300 << 20) + 13;
    for stream in [Stream::Compute, Stream::Copy] {
        let mut bytes: Vec<u8> =
            (0..count).map(|n: usize| (n * 31 + (n >> 13) + 7 * (n >> 22)) as u8).collect();
        let sent = bytes.clone();
        let address = card.alloc(count).expect("memory");
        card.upload(stream, address, &bytes).expect("to copy");
        bytes.fill(0xee);
        card.follow(Stream::Compute).expect("to follow");
        card.download(address, &mut bytes).expect("to copy");
        assert!(bytes == sent, "{stream:?}");
        card.zero(address.plus(5), 100).expect("to zero");
        card.copy(address.plus(1000), address, 200).expect("to copy");
        card.download(address, &mut bytes[..1200]).expect("to copy");
        assert!(bytes[5..105].iter().all(|&b| b == 0) && bytes[..5] == sent[..5]);
        assert!(bytes[1000..1200] == bytes[..200]);
        card.free(address);
    }
}

/// Singles to bf16, by one block: the arguments are where to, where from, and how many.
const NARROW: Launch = Launch {
    module: "convert",
    kernel: "convert_f32_bf16",
    grid: [1, 1, 1],
    threads: 256,
    shared_bytes: 0,
};

#[test]
fn a_kernel_gets_its_arguments_and_a_missing_one_is_told() {
    let Some(card) = card() else { return };
    let x = numbers(1000, 1);
    let (from, to) = (put(&*card, &x), card.alloc(2000).expect("memory"));
    let args = [Arg::Pointer(to), Arg::Pointer(from), Arg::Long(1000)];
    card.launch(&NARROW, &args).expect("to start");
    assert_eq!(get_bf16(&*card, to, 1000), x);
    // More shared memory than a kernel has without being asked.
    card.zero(to, 2000).expect("to zero");
    card.launch(&Launch { shared_bytes: 64 << 10, ..NARROW }, &args).expect("to start");
    assert_eq!(get_bf16(&*card, to, 1000), x);
    let missing = Launch { kernel: "there_is_none", ..NARROW };
    let error = card.launch(&missing, &[]).expect_err("there is none").to_string();
    assert!(error.contains("convert") && error.contains("there_is_none"), "{error}");
    let too_large = Launch { threads: 4096, ..NARROW };
    let error = card.launch(&too_large, &args).expect_err("no block has so many").to_string();
    assert!(error.contains("convert_f32_bf16") && error.contains("CUDA_ERROR"), "{error}");
    card.wait().expect("the card is usable after it");
}

#[test]
fn more_memory_than_there_is_is_refused_with_numbers_and_the_card_goes_on() {
    let Some(card) = card() else { return };
    match card.alloc(1 << 50) {
        Err(GpuError::Memory { asked, free, total }) => {
            assert!(asked == 1 << 50 && free <= total && total > 0);
        }
        other => panic!("{other:?}"),
    }
    let address = card.alloc(1 << 20).expect("a little memory");
    card.free(address);
}

#[test]
fn products_by_the_vendor_have_the_operands_in_their_places() {
    let Some(card) = card() else { return };
    // Sums that bf16 does not hold, so that one in parts of that type is off; and few rows, which have parts.
    let (rows, inputs, outputs) = (24, 4096, 40);
    let (x, w, b) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
    let before = numbers(rows * outputs, 4);
    let product = |n: usize| -> f32 {
        let (row, column) = (n / outputs, n % outputs);
        (0..inputs).map(|k| x[row * inputs + k] * w[column * inputs + k]).sum()
    };
    let bias = put(&*card, &b);
    for element in [Element::Bf16, Element::F32] {
        let (x, weight) = match element {
            Element::Bf16 => (put_bf16(&*card, &x), put_bf16(&*card, &w)),
            Element::F32 => (put(&*card, &x), put(&*card, &w)),
        };
        for (out_element, has_bias, add) in [
            (element, false, false),
            (element, true, false),
            (element, true, true),
            (Element::F32, true, false),
        ] {
            let out = match out_element {
                Element::Bf16 => put_bf16(&*card, &before),
                Element::F32 => put(&*card, &before),
            };
            let what = MatMul {
                x,
                weight,
                out,
                bias: has_bias.then_some(bias),
                rows,
                inputs,
                outputs,
                operands: Operands::Plain(element),
                out_element,
                gelu: false,
                add,
            };
            if !card.matmul(&what).expect("no failure") {
                eprintln!("cuBLASLt is not there, or has no way for {what:?}");
                continue;
            }
            let got = match out_element {
                Element::Bf16 => get_bf16(&*card, out, rows * outputs),
                Element::F32 => get(&*card, out, rows * outputs),
            };
            for (n, got) in got.into_iter().enumerate() {
                let mut expected = product(n);
                expected += if has_bias { b[n % outputs] } else { 0.0 };
                expected += if add { before[n] } else { 0.0 };
                let expected = match out_element {
                    Element::Bf16 => half::bf16::from_f32(expected).to_f32(),
                    Element::F32 => expected,
                };
                assert_eq!(got, expected, "value {n} of {what:?}");
            }
        }
    }
}

/// Whole numbers in e4m3, with a factor for each row and column, or none.
#[test]
fn products_of_eight_bits_have_operands_and_factors_in_their_places() {
    let Some(card) = card() else { return };
    eprintln!("takes factors: {}", card.takes_factors());
    let (rows, inputs, outputs) = (21, 64, 48);
    let (x, w, b) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
    let before = numbers(rows * outputs, 4);
    let code = |&value: &f32| match value.abs() as u8 {
        0 => 0,
        size => [0x38, 0x40, 0x44][usize::from(size) - 1] | if value < 0.0 { 0x80 } else { 0 },
    };
    let put_codes = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().map(code).collect();
        let address = card.alloc(bytes.len()).expect("a little memory");
        card.upload(Stream::Compute, address, &bytes).expect("to copy");
        address
    };
    let of_row = |row: usize| [1.0, 2.0, 0.5, -4.0][row % 4];
    let of_column = |column: usize| [0.25, -1.0, 8.0][column % 3];
    let factors = [
        put(&*card, &(0..rows).map(of_row).collect::<Vec<_>>()),
        put(&*card, &(0..outputs).map(of_column).collect::<Vec<_>>()),
    ];
    let (x_codes, weight, bias) = (put_codes(&x), put_codes(&w), put(&*card, &b));
    let product = |n: usize| -> f32 {
        let (row, column) = (n / outputs, n % outputs);
        (0..inputs).map(|k| x[row * inputs + k] * w[column * inputs + k]).sum()
    };
    for (factors, has_bias, add, out_element) in [
        (None, false, false, Element::Bf16),
        (Some(factors), false, false, Element::Bf16),
        (Some(factors), true, false, Element::Bf16),
        (Some(factors), true, true, Element::F32),
        (Some(factors), true, false, Element::F32),
    ] {
        let out = match out_element {
            Element::Bf16 => put_bf16(&*card, &before),
            Element::F32 => put(&*card, &before),
        };
        let what = MatMul {
            x: x_codes,
            weight,
            out,
            bias: has_bias.then_some(bias),
            rows,
            inputs,
            outputs,
            operands: Operands::E4m3 { factors },
            out_element,
            gelu: false,
            add,
        };
        if !card.matmul(&what).expect("no failure") {
            eprintln!("cuBLASLt has no 8-bit way for {what:?}");
            continue;
        }
        let got = match out_element {
            Element::Bf16 => get_bf16(&*card, out, rows * outputs),
            Element::F32 => get(&*card, out, rows * outputs),
        };
        for (n, got) in got.into_iter().enumerate() {
            let (row, column) = (n / outputs, n % outputs);
            let mut expected = product(n);
            expected *= if factors.is_some() { of_row(row) * of_column(column) } else { 1.0 };
            expected += if has_bias { b[column] } else { 0.0 };
            expected += if add { before[n] } else { 0.0 };
            let expected = match out_element {
                Element::Bf16 => half::bf16::from_f32(expected).to_f32(),
                Element::F32 => expected,
            };
            assert_eq!(got, expected, "value {n} of {what:?}");
        }
        // What is not at multiples of 16 bytes is ours to do.
        let elsewhere = MatMul { inputs: 40, ..what };
        assert_eq!(card.matmul(&elsewhere), Ok(false));
    }
}

#[test]
fn gelu_follows_the_bias() {
    let Some(card) = card() else { return };
    let (rows, inputs, outputs) = (8, 32, 16);
    // Small enough for GELU to matter.
    let small = |count, seed| numbers(count, seed).into_iter().map(|v| v / 8.0).collect::<Vec<_>>();
    let (x, w, b) = (small(rows * inputs, 1), small(outputs * inputs, 2), small(outputs, 3));
    let out = card.alloc(rows * outputs * 4).expect("memory");
    let what = MatMul {
        x: put_bf16(&*card, &x),
        weight: put_bf16(&*card, &w),
        out,
        bias: Some(put(&*card, &b)),
        rows,
        inputs,
        outputs,
        operands: Operands::Plain(Element::Bf16),
        out_element: Element::F32,
        gelu: true,
        add: false,
    };
    if !card.matmul(&what).expect("no failure") {
        eprintln!("cuBLASLt is not there, or has no way for {what:?}");
        return;
    }
    for (n, got) in get(&*card, out, rows * outputs).into_iter().enumerate() {
        let (row, column) = (n / outputs, n % outputs);
        let sum = (0..inputs).map(|k| x[row * inputs + k] * w[column * inputs + k]).sum::<f32>();
        let v = f64::from(sum + b[column]);
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v * v * v);
        let expected = 0.5 * v * (1.0 + inner.tanh());
        // The library's tanh is a fast one on some cards.
        assert!((f64::from(got) - expected).abs() < 2e-3, "value {n}: {got}, not {expected}");
    }
}

/// Values in [-1, 1) that bf16 holds.
fn fractions(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|n| ((n * 2_654_435_761 + seed * 40_503) >> 9) % 256)
        .map(|n| n as f32 / 128.0 - 1.0)
        .collect()
}

#[test]
fn attention_by_the_vendor_is_softmax_attention_in_each_head() {
    let Some(card) = card() else { return };
    // Lengths that are no multiple of a tile, fewer keys than queries and more, one query.
    for (queries, keys, heads, size) in
        [(130, 70, 2, 64), (37, 201, 3, 128), (1, 65, 1, 128), (64, 64, 2, 64), (9, 20, 2, 80)]
    {
        let row = heads * size;
        let (q, k, v) =
            (fractions(queries * row, 1), fractions(keys * row, 2), fractions(keys * row, 3));
        // Behind the last value lies one that nothing may touch.
        let out = put_bf16(&*card, &vec![7.0; queries * row + 1]);
        let what = SoftmaxAttention {
            q: put_bf16(&*card, &q),
            k: put_bf16(&*card, &k),
            v: put_bf16(&*card, &v),
            out,
            queries,
            keys,
            heads,
            size,
            scale: 4.0 / (size as f32).sqrt(),
        };
        let first = card.attention(&what).expect("no failure");
        if first == Vendor::Refused {
            let notes = card.notes();
            eprintln!("cuDNN is not there, or has no way for {what:?}: {notes:?}");
            continue;
        }
        assert_eq!(first, Vendor::First);
        assert_eq!(card.attention(&what).expect("no failure"), Vendor::Done);
        let found = get_bf16(&*card, out, queries * row + 1);
        assert_eq!(found[queries * row], 7.0, "behind the last value of {what:?}");
        for (query, head) in (0..queries).flat_map(|query| (0..heads).map(move |h| (query, h))) {
            let of = |values: &[f32], at: usize| -> Vec<f64> {
                values[at * row + head * size..][..size].iter().map(|&v| f64::from(v)).collect()
            };
            let ours = of(&q, query);
            let score = |key| -> f64 {
                let product: f64 = ours.iter().zip(of(&k, key)).map(|(a, b)| a * b).sum();
                product * f64::from(what.scale)
            };
            let weights: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (n, found) in found[query * row + head * size..][..size].iter().enumerate() {
                let parts = weights.iter().enumerate().map(|(key, weight)| weight * of(&v, key)[n]);
                let expected = parts.sum::<f64>() / total;
                let error = (f64::from(*found) - expected).abs();
                assert!(
                    error < 6e-3,
                    "{what:?}: query {query}, value {n}: {found}, not {expected}"
                );
            }
        }
        // No address of a way that is known is kept.
        let other =
            SoftmaxAttention { out: put_bf16(&*card, &vec![7.0; queries * row + 1]), ..what };
        assert_eq!(card.attention(&other).expect("no failure"), Vendor::Done);
        assert_eq!(get_bf16(&*card, other.out, queries * row + 1), found);
        let unaligned = SoftmaxAttention { q: Address(what.q.0 + 2), ..what };
        assert_eq!(card.attention(&unaligned).expect("no failure"), Vendor::Refused);
    }
}

fn small_attention(card: &dyn Driver) -> SoftmaxAttention {
    let values = fractions(64 * 64, 1);
    let [q, k, v, out] = [0; 4].map(|_| put_bf16(card, &values));
    SoftmaxAttention { q, k, v, out, queries: 64, keys: 64, heads: 1, size: 64, scale: 0.1 }
}

#[test]
fn a_vendor_that_is_not_trusted_any_more_does_nothing_and_is_told_of_once() {
    let Some(card) = card() else { return };
    let what = small_attention(&*card);
    if card.attention(&what).expect("no failure") == Vendor::Refused {
        eprintln!("cuDNN is not there, or has no way for {what:?}: {:?}", card.notes());
        return;
    }
    card.distrust(VendorWork::Attention, "this test says so");
    assert_eq!(card.attention(&what).expect("no failure"), Vendor::Refused);
    let notes = card.notes();
    let warnings: Vec<_> = notes.iter().filter(|note| note.warning).collect();
    assert_eq!(warnings.len(), 1, "{notes:?}");
    assert!(warnings[0].text.ends_with("this test says so"), "{notes:?}");
}

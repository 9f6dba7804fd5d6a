//! That the shim does what a card does, and sees what a card would not say.

use std::path::Path;

use longreel_kernels::gpu::{
    Address, Arg, Driver, Element, Launch, MatMul, Operands, SOURCES, Stream,
};
use longreel_shim::{Shim, Sources};

static KERNELS: Sources = &[("common", SOURCES[0].1), ("probe", include_str!("probe.cu"))];

fn shim() -> Option<Shim> {
    Some(Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?.with_sources(KERNELS))
}

fn launch(kernel: &'static str, blocks: u32, threads: u32, shared_bytes: u32) -> Launch {
    Launch { module: "probe", kernel, grid: [blocks, 1, 1], threads, shared_bytes }
}

fn upload<const N: usize>(shim: &Shim, values: impl IntoIterator<Item = [u8; N]>) -> Address {
    let bytes: Vec<u8> = values.into_iter().flatten().collect();
    let address = shim.alloc(bytes.len()).expect("there is memory");
    shim.upload(Stream::Compute, address, &bytes).expect("it fits");
    address
}

fn floats(shim: &Shim, values: impl IntoIterator<Item = f32>) -> Address {
    upload(shim, values.into_iter().map(f32::to_le_bytes))
}

fn words(shim: &Shim, at: Address, len: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * len];
    shim.download(at, &mut bytes).expect("it is there");
    bytes.as_chunks::<4>().0.iter().map(|&four| u32::from_le_bytes(four)).collect()
}

fn download(shim: &Shim, at: Address, len: usize) -> Vec<f32> {
    words(shim, at, len).into_iter().map(f32::from_bits).collect()
}

/// What a launch is refused for.
fn failure(shim: &Shim, launch: Launch, args: &[Arg]) -> String {
    shim.launch(&launch, args).expect_err("this must not pass").to_string()
}

#[test]
fn blocks_of_threads_meet_at_barriers_and_share_memory() {
    let Some(shim) = shim() else { return };
    let (blocks, threads) = (300, 96);
    let x = floats(&shim, (0..blocks * threads).map(|i| (i % 1000) as f32));
    let out = shim.alloc(4 * blocks as usize).expect("there is memory");
    let args = [Arg::Pointer(out), Arg::Pointer(x)];
    shim.launch(&launch("sum_of_block", blocks, threads, 0), &args).expect("it runs");
    for (block, found) in download(&shim, out, blocks as usize).into_iter().enumerate() {
        // Halves of 96 are 48, 24, 12, 6, 3, 1: the last halving leaves one of three out.
        let at = |i: usize| ((block * threads as usize + i) % 1000) as f32;
        let expected: f32 = (0..96).filter(|i| i % 3 != 2).map(at).sum();
        assert_eq!(found, expected, "block {block}");
    }
}

#[test]
fn a_missing_barrier_shows_as_nan_whichever_side_it_is_missing_on() {
    let Some(shim) = shim() else { return };
    for step in [-1, 1] {
        let out = shim.alloc(4 * 2 * 64).expect("there is memory");
        let how = launch("neighbours_without_barrier", 2, 64, 4 * 64);
        shim.launch(&how, &[Arg::Pointer(out), Arg::Int(step)]).expect("it runs");
        let found = download(&shim, out, 2 * 64);
        assert!(found.iter().filter(|v| v.is_nan()).count() >= 63, "step {step}: {found:?}");
    }
}

#[test]
fn threads_that_have_left_are_not_waited_for() {
    let Some(shim) = shim() else { return };
    let out = upload(&shim, (0..96).map(|_| 0u32.to_le_bytes()));
    shim.launch(&launch("leave_early", 1, 96, 0), &[Arg::Pointer(out)]).expect("it runs");
    for (thread, found) in words(&shim, out, 96).into_iter().enumerate() {
        assert_eq!(found, if thread % 3 == 0 { 0 } else { 32 }, "thread {thread}");
    }
}

#[test]
fn lanes_exchange_values_as_the_isa_says() {
    let Some(shim) = shim() else { return };
    let out = shim.alloc(4 * 32 * 7).expect("there is memory");
    shim.launch(&launch("shuffles", 1, 32, 0), &[Arg::Pointer(out)]).expect("it runs");
    let found = words(&shim, out, 32 * 7);
    for lane in 0..32u32 {
        let expected = [
            105,
            100 + (lane ^ 3),
            100 + if lane < 30 { lane + 2 } else { lane },
            100 + if lane < 2 { lane } else { lane - 2 },
            100 + lane / 8 * 8 + 1,
            0xaaaa_aaaa,
            100 + lane / 16 * 16,
        ];
        for (i, expected) in expected.into_iter().enumerate() {
            assert_eq!(found[i * 32 + lane as usize], expected, "shuffle {i}, lane {lane}");
        }
    }
}

/// Small whole numbers, whose products and sums are exact in any order.
fn small(i: usize) -> f32 {
    ((i * 7 + i / 5) % 11) as f32 - 5.0
}

fn bf16(values: impl IntoIterator<Item = f32>) -> impl Iterator<Item = [u8; 2]> {
    values.into_iter().map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes())
}

/// `c + a b` for the matrices made by `small`.
fn expected_product() -> Vec<f32> {
    let value = |row: usize, column: usize| {
        let terms = (0..16).map(|k| small(row * 16 + k) * small(1000 + k * 8 + column));
        small(5000 + row * 8 + column) + terms.sum::<f32>()
    };
    (0..128).map(|i| value(i / 8, i % 8)).collect()
}

#[test]
fn a_product_of_fragments_is_the_product_of_the_matrices() {
    let Some(shim) = shim() else { return };
    let a = upload(&shim, bf16((0..256).map(small)));
    let b_rows = upload(&shim, bf16((0..128).map(|i| small(1000 + i))));
    let b_columns = upload(&shim, bf16((0..128).map(|i| small(1000 + i % 16 * 8 + i / 16))));
    let c = floats(&shim, (0..128).map(|i| small(5000 + i)));
    let d = shim.alloc(4 * 128).expect("there is memory");
    let args = |b| [d, a, b, c].map(Arg::Pointer);
    shim.launch(&launch("tensor_product", 1, 32, 0), &args(b_columns)).expect("it runs");
    assert_eq!(download(&shim, d, 128), expected_product());

    let how = launch("tensor_product_from_shared", 1, 32, 768);
    let mut with_wait = args(b_rows).to_vec();
    with_wait.push(Arg::Int(1));
    shim.zero(d, 4 * 128).expect("it is there");
    shim.launch(&how, &with_wait).expect("it runs");
    assert_eq!(download(&shim, d, 128), expected_product());

    // Without the wait the copies have not come.
    let mut without = args(b_rows).to_vec();
    without.push(Arg::Int(0));
    shim.launch(&how, &without).expect("it runs");
    assert!(download(&shim, d, 128).iter().all(|v| v.is_nan()));
}

#[test]
fn a_copy_under_way_is_poison_and_what_it_does_not_read_is_zero() {
    let Some(shim) = shim() else { return };
    let x = upload(&shim, [1u32, 2, 3, 4].map(u32::to_le_bytes));
    let out = shim.alloc(32).expect("there is memory");
    let args = [Arg::Pointer(out), Arg::Pointer(x), Arg::Int(8)];
    shim.launch(&launch("copy_in_part", 1, 1, 32), &args).expect("it runs");
    assert_eq!(words(&shim, out, 8), [1, 2, 0, 0, !0, !0, !0, !0]);
}

#[test]
fn arguments_arrive_and_those_of_another_type_or_number_are_refused() {
    let Some(shim) = shim() else { return };
    let out = shim.alloc(4).expect("there is memory");
    let how = launch("every_argument", 1, 1, 0);
    let args = [Arg::Pointer(out), Arg::Int(-3), Arg::Long(1 << 40), Arg::Float(0.5)];
    shim.launch(&how, &args).expect("it runs");
    assert_eq!(download(&shim, out, 1), [(1u64 << 40) as f32 - 3.0 + 0.5]);
    let error = failure(&shim, how, &args[..3]);
    assert!(error.contains("takes pilf, not pil"), "{error}");
    let swapped = [args[0], Arg::Long(1), Arg::Int(1), args[3]];
    assert!(failure(&shim, how, &swapped).contains("takes pilf, not plif"));
    let elsewhere = [Arg::Pointer(out.plus(1 << 40)), args[1], args[2], args[3]];
    assert!(failure(&shim, how, &elsewhere).contains("not in the device's memory"));
    assert!(failure(&shim, launch("nothing", 1, 1, 0), &[]).contains("no kernel nothing"));
    assert!(failure(&shim, launch("every_argument", 1, 1025, 0), &args).contains("1025"));
}

#[test]
fn every_block_of_a_large_grid_runs_once() {
    let Some(shim) = shim() else { return };
    let at = upload(&shim, [0u32.to_le_bytes()]);
    let how = Launch { grid: [17, 5, 3], ..launch("count_up", 1, 64, 0) };
    shim.launch(&how, &[Arg::Pointer(at)]).expect("it runs");
    assert_eq!(words(&shim, at, 1), [17 * 5 * 3 * 64]);
}

#[test]
fn what_no_kernel_may_do_fails_the_launch_and_says_where() {
    let Some(shim) = shim() else { return };
    let x = floats(&shim, [0.0; 64]);
    let one = |kernel, arg| failure(&shim, launch(kernel, 1, 1, 64), &[Arg::Pointer(x), arg]);
    let said = [
        ("index_in_array", Arg::Int(8), "probe.cu:"),
        ("index_in_array", Arg::Int(-1), "an index outside its array"),
        ("read_unaligned", Arg::Pointer(x), "not aligned"),
        ("divide", Arg::Int(0), "a division by zero"),
        ("write_in_shared", Arg::Int(16), "writes 0 bytes behind its 64 bytes"),
    ];
    for (kernel, arg, reason) in said {
        let error = one(kernel, arg);
        assert!(error.contains(kernel) && error.contains(reason), "{error}");
    }
    let stuck = failure(&shim, launch("wait_for_each_other", 1, 32, 0), &[Arg::Pointer(x)]);
    assert!(stuck.contains("wait for each other"), "{stuck}");
    // The device is as good as before.
    let out = [Arg::Pointer(x), Arg::Int(7)];
    shim.launch(&launch("index_in_array", 1, 1, 0), &out).expect("it runs");
}

#[test]
fn a_launch_that_a_card_or_the_kernel_does_not_take_is_refused() {
    let Some(shim) = shim() else { return };
    let out = floats(&shim, [0.0; 64]);
    let args = [Arg::Pointer(out)];
    let fits = launch("bounded", 1, 64, 99 << 10);
    shim.launch(&fits, &args).expect("it runs");
    for (how, reason) in [
        (Launch { threads: 96, ..fits }, "cannot be started"),
        (Launch { grid: [1, 0, 1], ..fits }, "cannot be started"),
        (Launch { shared_bytes: (99 << 10) + 1, ..fits }, "too large for a card"),
        (Launch { grid: [1 << 31, 1, 1], ..fits }, "too large for a card"),
        (Launch { grid: [1, 1 << 16, 1], ..fits }, "too large for a card"),
        (Launch { grid: [1, 1, 1 << 16], ..fits }, "too large for a card"),
    ] {
        let error = failure(&shim, how, &args);
        assert!(error.contains("bounded") && error.contains(reason), "{error}");
    }
}

#[test]
fn the_end_of_a_long_array_is_reached_and_an_offset_that_32_bits_do_not_hold_is_seen() {
    let Some(shim) = shim() else { return };
    let (rows, columns) = (600_000, 4_000);
    let shim = shim.with_ends_of_launches(rows * columns, 2);
    let Ok(out) = shim.alloc(rows * columns) else {
        eprintln!("skipped: the host does not give so much memory");
        return;
    };
    let args = [Arg::Pointer(out), Arg::Int(columns as i32)];
    let error = failure(&shim, launch("narrow_offset", rows as u32, 1, 0), &args);
    assert!(error.contains("narrow_offset, block (599998, 0, 0)"), "{error}");
    assert!(error.contains("a product that overflows"), "{error}");
    shim.launch(&launch("wide_offset", rows as u32, 1, 0), &args).expect("it runs");
    let written = |row: usize| {
        let mut value = [7];
        shim.download(out.plus(row * columns), &mut value).expect("it is there");
        value[0]
    };
    let found = [1, 2, rows / 2, rows - 3, rows - 2, rows - 1].map(written);
    assert_eq!(found, [1, 0, 0, 0, 1, 1], "two blocks at either end, and zeros between");
}

#[test]
fn writes_beside_an_allocation_are_seen() {
    for (at, reason) in [(64, "wrote 0 bytes behind"), (-1, "wrote 1 bytes before")] {
        let Some(shim) = shim() else { return };
        let x = floats(&shim, [0.0; 64]);
        let args = [Arg::Pointer(x), Arg::Long(at)];
        let error = failure(&shim, launch("write_at", 1, 1, 0), &args);
        assert!(error.contains(reason) && error.contains("256 bytes"), "{error}");
    }
}

#[test]
fn memory_holds_nan_until_it_is_written() {
    let Some(shim) = shim() else { return };
    let fresh = shim.alloc(64).expect("there is memory");
    assert!(download(&shim, fresh, 16).iter().all(|v| v.is_nan()));
    // Each block begins with shared memory that nobody has written.
    let out = shim.alloc(4 * 40).expect("there is memory");
    shim.launch(&launch("read_unset", 40, 64, 0), &[Arg::Pointer(out)]).expect("it runs");
    for (block, found) in download(&shim, out, 40).into_iter().enumerate() {
        assert_eq!(found.is_nan(), block % 2 == 1, "block {block}: {found}");
    }
}

#[test]
fn memory_is_counted_and_runs_out() {
    let Some(shim) = shim() else { return };
    let shim = shim.with_memory(1000);
    let half = shim.alloc(600).expect("there is memory");
    assert_eq!(shim.memory(), Ok((400, 1000)));
    let error = shim.alloc(401).expect_err("there is not enough").to_string();
    assert!(error.contains("401 bytes") && error.contains("400 of 1000"), "{error}");
    shim.free(half);
    assert_eq!(shim.memory(), Ok((1000, 1000)));
    assert!(shim.copy(Address(1 << 50), Address(1 << 50), 4).is_err());
}

#[test]
fn the_library_of_products_is_there_when_it_is_asked_for() {
    let Some(plain) = shim() else { return };
    let shim = shim().expect("as before").with_products();
    let x = upload(&shim, bf16([1.0, 2.0, 3.0, 4.0]));
    let weight = upload(&shim, bf16([0.5, 1.0, -1.0, 2.0, 0.0, 1.0]));
    let bias = floats(&shim, [10.0, 20.0, 30.0]);
    let out = floats(&shim, [1.0; 6]);
    let what = MatMul {
        x,
        weight,
        out,
        bias: Some(bias),
        rows: 2,
        inputs: 2,
        outputs: 3,
        operands: Operands::Plain(Element::Bf16),
        out_element: Element::F32,
        gelu: false,
        add: true,
    };
    assert_eq!(plain.matmul(&what), Ok(false));
    assert_eq!(shim.matmul(&what), Ok(true));
    assert_eq!(download(&shim, out, 6), [13.5, 24.0, 33.0, 16.5, 26.0, 35.0]);
    let gelu = MatMul { bias: None, gelu: true, add: false, ..what };
    assert_eq!(shim.matmul(&gelu), Ok(true));
    let found = download(&shim, out, 6);
    assert!((found[0] - 2.4849).abs() < 1e-3 && (found[2] - 1.9546).abs() < 1e-3, "{found:?}");
    // 1, 2, -3, 0.5 by 1, 1, 2, -1 in e4m3, alone and with a factor for each row of either.
    let x = upload(&shim, [[0x38], [0x40], [0xc4], [0x30]]);
    let weight = upload(&shim, [[0x38], [0x38], [0x40], [0xb8]]);
    let factors = Some([floats(&shim, [1.0, 10.0]), floats(&shim, [1.0, 0.5])]);
    for (factors, expected) in [(None, [3.0, 0.0, -2.5, -6.5]), (factors, [3.0, 0.0, -25.0, -32.5])]
    {
        let operands = Operands::E4m3 { factors };
        let codes = MatMul { x, weight, outputs: 2, gelu: false, operands, ..gelu };
        assert_eq!(shim.matmul(&codes), Ok(true));
        assert_eq!(download(&shim, out, 4), expected);
    }
}

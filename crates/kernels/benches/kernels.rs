//! Speed of the operations at the shapes of real models: GFLOP/s (or GB/s) and the share of this
//! machine's measured peak.
//!
//! `cargo bench -p longreel-kernels` runs all; words after `--` choose those whose name has one of
//! them. `benches/against_torch.py` prints the same table for torch, and runs both in turn.
//! `LONGREEL_ISA` (plain, avx2, avx512) compares instruction sets.

use std::hint::black_box;
use std::time::Instant;

use longreel_kernels::ops::*;
use longreel_kernels::{
    Activation, Attention, Bytes, Conv3d, DType, Device, Isa, Linear, Mask, Products, Sample,
    Sparse, Tensor, UpsampledConv, Weight,
};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let Ok(name) = std::env::var("LONGREEL_ISA") {
        let isa = match name.as_str() {
            "plain" => Isa::Plain,
            "avx2" => Isa::Avx2,
            "avx512" => Isa::Avx512,
            other => panic!("LONGREEL_ISA is {other}; plain, avx2 or avx512 are known"),
        };
        assert!(isa.choose(), "this CPU has no {isa:?}");
    }
    let threads = rayon::current_num_threads();
    println!("{:?}, {threads} threads", Isa::current());
    // Inside the pool, as the program runs, so that no call has to wake it.
    rayon::scope(|_| {
        for (name, work, make) in cases() {
            if words.is_empty() || words.iter().any(|w| name.contains(w.as_str())) {
                let seconds = best_of(make());
                let (rate, unit) = match work {
                    Work::Flops(n) => (n / seconds / 1e9, "GFLOP/s"),
                    Work::Bytes(n) => (n / seconds / 1e9, "GB/s"),
                };
                println!("{name:32} {rate:8.1} {unit:8} {:9.3} ms", seconds * 1e3);
            }
        }
    });
}

enum Work {
    Flops(f64),
    Bytes(f64),
}

/// Name, work, and what makes the operands of a case and gives its body.
type Case = (String, Work, Box<dyn FnOnce() -> Body>);
type Body = Box<dyn FnMut()>;

fn tensor(shape: &[usize]) -> Tensor {
    let mut state = 1u32;
    let values = (0..shape.iter().product()).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    });
    Tensor::from_vec(shape, values.collect())
}

fn weight(shape: &[usize], dtype: DType) -> Weight {
    let values = tensor(shape);
    match dtype {
        DType::BF16 => {
            let bytes: Vec<u8> =
                values.data().iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
            Weight::new(shape, dtype, Bytes::from(bytes)).expect("sizes fit")
        }
        DType::F32 => Weight::from_f32(shape, values.data()),
        _ => {
            // Zeros: their conversion takes as long as any.
            let bytes = vec![0; dtype.byte_len(values.len()).expect("whole blocks")];
            Weight::new(shape, dtype, Bytes::from(bytes)).expect("sizes fit")
        }
    }
}

fn linear_case(rows: usize, k: usize, n: usize, dtype: DType) -> Case {
    (
        format!("linear {rows}x{k}x{n} {}", dtype.name()),
        Work::Flops(2.0 * (rows * n * k) as f64),
        Box::new(move || {
            let x = tensor(&[rows, k]);
            let layer = Linear::new(weight(&[n, k], dtype), Some(vec![0.1; n]));
            Box::new(move || drop(black_box(linear(&x, &layer, Activation::None))))
        }),
    )
}

/// Both sides bf16 where the processor multiplies those.
fn linear_of_pairs_case(rows: usize, k: usize, n: usize) -> Case {
    (
        format!("linear {rows}x{k}x{n} bf16 x bf16"),
        Work::Flops(2.0 * (rows * n * k) as f64),
        Box::new(move || {
            let x = tensor(&[rows, k]);
            let layer = Linear::new(weight(&[n, k], DType::BF16), Some(vec![0.1; n]))
                .with_products(Products::Bf16);
            Box::new(move || drop(black_box(linear(&x, &layer, Activation::None))))
        }),
    )
}

fn attention_case(
    heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    products: Products,
) -> Case {
    let scale = 1.0 / (size as f32).sqrt();
    let how = Attention { heads, scale, mask: Mask::None, bias: Bias::None, products };
    let of = if products == Products::Bf16 { " bf16" } else { "" };
    (
        format!("attention {heads}x{queries}x{keys}x{size}{of}"),
        Work::Flops(4.0 * (heads * queries * keys * size) as f64),
        Box::new(move || {
            let q = tensor(&[queries, heads * size]);
            let k = tensor(&[keys, heads * size]);
            let v = tensor(&[keys, heads * size]);
            Box::new(move || drop(black_box(attention(&q, &k, &v, &how))))
        }),
    )
}

/// Attention of a video whose quarters have nothing to do with each other, all of it and what `mass` keeps, which
/// is about a quarter; both are given the operations of all of it.
fn video_attention_case(heads: usize, size: usize, grid: [usize; 3], mass: f32) -> Case {
    let [frames, rows, columns] = grid;
    let tokens = frames * rows * columns;
    let how = Attention {
        heads,
        scale: 1.0 / (size as f32).sqrt(),
        mask: Mask::None,
        bias: Bias::None,
        products: Products::F32,
    };
    (
        format!("attention {heads}x{frames}x{rows}x{columns}x{size}, {mass} kept"),
        Work::Flops(4.0 * (heads * tokens * tokens * size) as f64),
        Box::new(move || {
            let of_quarters = tensor(&[4, heads * size]);
            let mut qk = tensor(&[tokens, heads * size]);
            for (token, values) in qk.data_mut().chunks_exact_mut(heads * size).enumerate() {
                let place = [token / columns % rows * 2 / rows, token % columns * 2 / columns];
                let quarter = (place[0] * 2 + place[1]) * heads * size;
                let common = &of_quarters.data()[quarter..];
                values.iter_mut().zip(common).for_each(|(value, common)| *value += 3.0 * common);
            }
            let v = tensor(&[tokens, heads * size]);
            let blocks = TokenBlocks::new(frames, [rows, columns], frames, &Device::Cpu);
            let blocks = blocks.expect("on the host");
            Box::new(move || {
                let sparse = Sparse { blocks: &blocks, mass, whole: &[], counter: None };
                let sample = Sample::of(&qk, &v, how);
                drop(black_box(sparse_attention_of_samples(&qk, &[sample], &sparse)));
            })
        }),
    )
}

fn conv_case(size: [usize; 3], i: usize, o: usize, kernel: [usize; 3]) -> Case {
    let [t, h, w] = size;
    let [kt, kh, kw] = kernel;
    (
        format!("conv3d {i}->{o} {kt}x{kh}x{kw} {t}x{h}x{w}"),
        Work::Flops(2.0 * (t * h * w * i * o * kt * kh * kw) as f64),
        Box::new(move || {
            let x = tensor(&[t, h, w, i]);
            let weight = weight(&[o, i, kt, kh, kw], DType::F32);
            let padding = [kh / 2, kh / 2, kw / 2, kw / 2];
            let conv = Conv3d::new(&weight, Some(vec![0.1; o]), [1; 3], padding);
            let history = (kt > 1).then(|| tensor(&[kt - 1, h, w, i]));
            Box::new(move || drop(black_box(conv3d(&x, history.as_ref(), &conv))))
        }),
    )
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![(
        "peak (fused multiply-add)".into(),
        Work::Flops(1e9 * rayon::current_num_threads() as f64),
        Box::new(|| {
            Box::new(|| {
                rayon::broadcast(|_| black_box(multiply_add(black_box(1_000_000_000))));
            })
        }),
    )];
    cases.push(linear_case(2048, 1536, 1536, DType::F32));
    cases.push(linear_case(2048, 1536, 8960, DType::F32));
    cases.push(linear_case(2048, 8960, 1536, DType::F32));
    cases.push(linear_case(2048, 1536, 1536, DType::BF16));
    for (k, n) in [(1536, 1536), (1536, 8960), (8960, 1536)] {
        cases.push(linear_of_pairs_case(2048, k, n));
    }
    cases.push(linear_case(2048, 1536, 1536, DType::Q4K));
    cases.push(linear_case(900, 192, 192, DType::F32));
    cases.push(linear_case(900, 192, 768, DType::F32));
    cases.push(linear_case(64, 256, 256, DType::F32));
    cases.push(linear_case(144, 192, 192, DType::F32));
    cases.push(linear_case(144, 192, 512, DType::F32));
    cases.push(linear_case(144, 512, 192, DType::F32));
    cases.push(linear_case(1, 1536, 9216, DType::BF16));
    cases.push(linear_case(5, 1536, 1536, DType::F32));
    cases.push(attention_case(12, 2048, 2048, 128, Products::F32));
    cases.push(attention_case(12, 2048, 512, 128, Products::F32));
    cases.push(attention_case(12, 2048, 2048, 128, Products::Bf16));
    cases.push(attention_case(12, 2048, 512, 128, Products::Bf16));
    cases.push(attention_case(4, 900, 900, 64, Products::F32));
    cases.push(attention_case(4, 900, 64, 48, Products::F32));
    cases.push(attention_case(2, 500, 500, 20, Products::F32));
    cases.push(attention_case(6, 144, 144, 32, Products::F32));
    cases.push(video_attention_case(3, 128, [4, 30, 52], 1.0));
    cases.push(video_attention_case(3, 128, [4, 30, 52], 0.9));
    cases.push(attention_case(6, 144, 12, 32, Products::F32));
    cases.push(conv_case([4, 120, 208], 96, 96, [3, 3, 3]));
    cases.push(conv_case([1, 30, 52], 384, 384, [3, 3, 3]));
    cases.push(conv_case([4, 60, 104], 192, 192, [1, 3, 3]));
    cases.push(conv_case([4, 128, 128], 16, 16, [3, 3, 3]));
    cases.push(conv_case([4, 32, 32], 64, 64, [3, 3, 3]));
    cases.push(conv_case([1, 16, 16], 64, 64, [3, 3, 3]));
    cases.push(conv_case([4, 128, 128], 16, 3, [3, 3, 3]));
    cases.push(conv_case([4, 128, 128], 3, 16, [3, 3, 3]));
    cases.push(conv_case([33, 64, 64], 8, 8, [3, 3, 3]));
    cases.push(conv_case([33, 64, 64], 8, 3, [3, 3, 3]));
    cases.push(conv_case([33, 64, 64], 12, 12, [3, 3, 3]));
    cases.push(conv_case([33, 32, 32], 16, 16, [3, 3, 3]));
    cases.push(conv_case([33, 32, 32], 24, 24, [3, 3, 3]));
    cases.push(conv_case([4, 60, 104], 192, 384, [3, 1, 1]));
    cases.push(conv_case([4, 64, 64], 96, 192, [1, 1, 1]));

    cases.push((
        "upsampled_conv 192->96 4x60x104".into(),
        // What doubling first would take.
        Work::Flops(2.0 * 4.0 * 120.0 * 208.0 * 192.0 * 96.0 * 9.0),
        Box::new(|| {
            let x = tensor(&[4, 60, 104, 192]);
            let conv = UpsampledConv::new(&weight(&[96, 192, 3, 3], DType::F32), None);
            Box::new(move || drop(black_box(upsampled_conv(&x, &conv))))
        }),
    ));
    cases.push(pass_case("channel_norm silu 96 4x120x208", &[4, 120, 208, 96], |x| {
        channel_norm(x, &vec![1.0; 96].into(), None, true);
    }));
    cases.push(pass_case("layer_norm 2048x1536", &[2048, 1536], |x| {
        drop(black_box(layer_norm(x, None, 1e-6, None)));
    }));
    cases.push(pass_case("rms_norm 2048x1536", &[2048, 1536], |x| {
        rms_norm_rope(x, Some(&vec![1.0; 1536].into()), 1e-6, None);
    }));
    cases.push(pass_case("gelu_tanh 2048x1536", &[2048, 1536], |x| {
        activate_inplace(x, Activation::GeluTanh);
    }));
    cases
}

/// A pass over memory: every value is read and written once.
fn pass_case(name: &str, shape: &'static [usize], pass: fn(&mut Tensor)) -> Case {
    (
        name.to_owned(),
        Work::Bytes(8.0 * shape.iter().product::<usize>() as f64),
        Box::new(move || {
            let mut x = tensor(shape);
            Box::new(move || pass(black_box(&mut x)))
        }),
    )
}

/// The best of some rounds: other programs only ever slow one down. With one thread CPU time, in
/// which they count least.
fn best_of(mut body: Body) -> f64 {
    body();
    let (start, mut best, mut rounds) = (Instant::now(), f64::INFINITY, 0);
    while rounds < 3 || (start.elapsed().as_secs_f64() < 0.35 && rounds < 2000) {
        let (round, cpu) = (Instant::now(), cpu_seconds());
        body();
        let wall = round.elapsed().as_secs_f64();
        best = best.min(match (cpu, cpu_seconds()) {
            (Some(before), Some(after)) if rayon::current_num_threads() == 1 => after - before,
            _ => wall,
        });
        rounds += 1;
    }
    best
}

/// What this thread has used, where the system tells (Linux).
fn cpu_seconds() -> Option<f64> {
    // Giving way makes the kernel bring the number up to date.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? * 1e-9)
}

/// `flops / 2` multiply-adds that depend on nothing but registers.
fn multiply_add(flops: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(rounds: usize) -> f32 {
            use std::arch::x86_64::*;
            let mut sums = [_mm256_set1_ps(1.0); 12];
            let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(*sum, a, b);
                }
            }
            let mut out = [0.0; 8];
            for sum in sums {
                // SAFETY: a vector of eight fits.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
                black_box(out);
            }
            out[0]
        }
        // SAFETY: the CPU has the features, as just found.
        return unsafe { avx2(flops / (2 * 8 * 12)) };
    }
    let mut sums = [1.0f32; 16];
    for _ in 0..flops / 32 {
        for sum in &mut sums {
            *sum = *sum * 0.999 + 1e-3;
        }
    }
    sums.iter().sum()
}

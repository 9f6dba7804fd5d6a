//! What is asked of a device for layers whose results in between are too large to stand in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::gpu::ops::{Codes, DenseCodes, feed_forward_residual_codes};
use crate::gpu::{Driver, GpuError, Launch, Stream, lock};

/// Addresses without memory, and a list of the products and launches.
#[derive(Debug)]
struct Asked {
    /// The library for products has a way for so many rows or more.
    library_rows: usize,
    next: AtomicU64,
    products: Mutex<Vec<MatMul>>,
    launches: Mutex<Vec<(&'static str, Vec<Arg>)>>,
}

impl Asked {
    fn new(library_rows: usize) -> Arc<Self> {
        let (products, launches) = (Mutex::default(), Mutex::default());
        Arc::new(Self { library_rows, next: AtomicU64::new(1 << 40), products, launches })
    }
}

impl Driver for Arc<Asked> {
    fn name(&self) -> String {
        "a list".into()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        Ok(Address(self.next.fetch_add(bytes as u64, Ordering::Relaxed)))
    }

    fn free(&self, _: Address) {}

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok((usize::MAX, usize::MAX))
    }

    fn upload(&self, _: Stream, _: Address, _: &[u8]) -> Result<(), GpuError> {
        Ok(())
    }

    fn download(&self, _: Address, _: &mut [u8]) -> Result<(), GpuError> {
        Ok(())
    }

    fn copy(&self, _: Address, _: Address, _: usize) -> Result<(), GpuError> {
        Ok(())
    }

    fn zero(&self, _: Address, _: usize) -> Result<(), GpuError> {
        Ok(())
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        lock(&self.launches).push((launch.kernel, args.to_vec()));
        Ok(())
    }

    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError> {
        let done = what.rows >= self.library_rows;
        if done {
            lock(&self.products).push(*what);
        }
        Ok(done)
    }

    fn takes_factors(&self) -> bool {
        self.library_rows < usize::MAX
    }

    fn follow(&self, _: Stream) -> Result<(), GpuError> {
        Ok(())
    }

    fn wait(&self) -> Result<(), GpuError> {
        Ok(())
    }
}

const ROWS: usize = 75_600;
const DIM: usize = 5120;
const HIDDEN: usize = 13_824;

fn whole(arg: Arg) -> usize {
    match arg {
        Arg::Int(n) => n as usize,
        other => panic!("{other:?} is no int"),
    }
}

/// A layer of a 14B model over a film's tokens: hidden state, what is read, weights.
fn feed_forward(asked: &Arc<Asked>) -> (Array, Array) {
    let gpu = Gpu::new(Box::new(asked.clone()), Element::Bf16);
    let mut into = Array::unset(&gpu, Element::F32, ROWS * DIM);
    let y = Array::unset(&gpu, Element::Bf16, ROWS * DIM);
    let up = Array::unset(&gpu, Element::Bf16, HIDDEN * DIM);
    let down = Array::unset(&gpu, Element::Bf16, HIDDEN * DIM);
    let gates = Array::unset(&gpu, Element::F32, 21 * DIM);
    feed_forward_residual(
        &mut into,
        &y,
        ROWS,
        (&Dense::of(&up, HIDDEN, DIM), None),
        (&Dense::of(&down, DIM, HIDDEN), None),
        Activation::GeluTanh,
        Some(PerFrame { values: &gates, tokens_per_frame: 3600 }),
    );
    gpu.check().expect("nothing failed");
    (into, y)
}

#[test]
fn slices_of_a_feed_forward_follow_each_other_with_their_tokens() {
    let asked = Asked::new(usize::MAX);
    let (into, y) = feed_forward(&asked);
    let launches = lock(&asked.launches);
    assert!(launches.len() > 2 && launches.len().is_multiple_of(2), "{}", launches.len());
    let mut first = 0;
    for pair in launches.as_chunks::<2>().0 {
        let [(_, up), (_, down)] = pair;
        // As `gemm.cu` has them: x, w, out, .., the first token, .., rows, inputs, outputs.
        let rows = whole(up[10]);
        assert_eq!(up[0], Arg::Pointer(y.address().plus(first * DIM * 2)));
        assert_eq!(down[0], up[2], "the second layer reads what the first wrote");
        assert_eq!(down[2], Arg::Pointer(into.address().plus(first * DIM * 4)));
        assert_eq!((whole(down[7]), whole(down[10])), (first, rows));
        assert!(rows * HIDDEN * 2 <= HIDDEN_BYTES);
        first += rows;
    }
    assert_eq!(first, ROWS);
}

#[test]
fn slices_of_a_librarys_sums_are_added_where_they_belong() {
    let asked = Asked::new(1);
    let (into, _) = feed_forward(&asked);
    let products = lock(&asked.products);
    let narrow: Vec<&MatMul> = products.iter().filter(|product| product.outputs == DIM).collect();
    let launches = lock(&asked.launches);
    assert_eq!(narrow.len(), launches.len(), "each product is finished once");
    assert!(narrow.len() > products.len() - narrow.len(), "slices within slices");
    let mut first = 0;
    for (product, (kernel, args)) in narrow.iter().zip(launches.iter()) {
        // Sums, out, .., the first token, .., rows, outputs.
        assert_eq!(*kernel, "gemm_finish_bf16");
        assert_eq!(args[0], Arg::Pointer(product.out));
        assert_eq!(args[1], Arg::Pointer(into.address().plus(first * DIM * 4)));
        assert_eq!((whole(args[6]), whole(args[9])), (first, product.rows));
        assert!(product.rows * DIM * 2 <= SUMS_BYTES);
        first += product.rows;
    }
    assert_eq!(first, ROWS);
}

#[test]
fn a_slice_that_a_library_has_no_way_for_is_added_once_by_our_kernel() {
    let asked = Asked::new(5000);
    let (into, _) = feed_forward(&asked);
    let launches = lock(&asked.launches);
    let mut first = 0;
    let mut ours = 0;
    for (kernel, args) in launches.iter() {
        let (out, token, rows) = match *kernel {
            "gemm_finish_bf16" => (args[1], args[6], args[9]),
            _ => (args[2], args[7], args[10]),
        };
        assert_eq!(out, Arg::Pointer(into.address().plus(first * DIM * 4)), "{kernel}");
        assert_eq!(whole(token), first, "{kernel}");
        ours += usize::from(*kernel == "gemm_128x128");
        first += whole(rows);
    }
    assert_eq!(first, ROWS);
    assert!(ours > 0 && ours < launches.len(), "{ours} of {}", launches.len());
}

/// The same layer in 8 bits: codes of what is read, of the hidden layer and of the weights, a byte a value.
fn feed_forward_in_codes(asked: &Arc<Asked>) -> Array {
    let gpu = Gpu::new(Box::new(asked.clone()), Element::Bf16);
    let mut into = Array::unset(&gpu, Element::F32, ROWS * DIM);
    let y = Array::unset(&gpu, Element::Bf16, ROWS * DIM);
    let weights = Array::unset(&gpu, Element::Bf16, HIDDEN * DIM);
    let factors = [HIDDEN, DIM].map(|outputs| Array::unset(&gpu, Element::F32, outputs));
    let address = weights.address();
    let [up, down] = [(0, DIM), (1, HIDDEN)].map(|(n, inputs)| DenseCodes {
        address,
        factors: &factors[n],
        inputs,
    });
    let gates = Array::unset(&gpu, Element::F32, 21 * DIM);
    let gate = Some(PerFrame { values: &gates, tokens_per_frame: 3600 });
    let (y, gelu) = (Codes::of(&y, ROWS, DIM), Activation::GeluTanh);
    feed_forward_residual_codes(
        &mut into,
        &y,
        (&up, None),
        (&down, None),
        gelu,
        gate,
        Element::Bf16,
    );
    gpu.check().expect("nothing failed");
    into
}

#[test]
fn slices_of_a_feed_forward_in_8_bits_follow_each_other_with_their_tokens() {
    let asked = Asked::new(usize::MAX);
    let into = feed_forward_in_codes(&asked);
    let launches = lock(&asked.launches);
    // The codes of what is read, then two layers and the hidden layer's codes in turn; nothing is made for a library
    // that takes no factors.
    let known = &launches[1..];
    assert_eq!(launches[0].0, "quantize_rows_bf16");
    assert!(known.len() > 3 && known.len().is_multiple_of(3), "{}", known.len());
    let mut first = 0;
    for three in known.as_chunks::<3>().0 {
        let [(_, up), (quantize, codes), (_, down)] = three;
        assert_eq!(*quantize, "quantize_rows_bf16");
        // As `fp8.cu` has them: x, w, two factors, out, .., the first token, .., rows, inputs, outputs.
        let rows = whole(up[12]);
        let Arg::Pointer(codes_of_y) = launches[0].1[0] else { panic!("no pointer") };
        let Arg::Pointer(factors_of_y) = launches[0].1[1] else { panic!("no pointer") };
        assert_eq!(up[0], Arg::Pointer(codes_of_y.plus(first * DIM)));
        assert_eq!(up[2], Arg::Pointer(factors_of_y.plus(first * 4)));
        assert_eq!((up[4], codes[0], codes[1]), (codes[2], down[0], down[2]));
        assert_eq!(down[4], Arg::Pointer(into.address().plus(first * DIM * 4)));
        assert_eq!((whole(down[9]), whole(down[12])), (first, rows));
        assert!(rows * HIDDEN * 2 <= HIDDEN_BYTES);
        first += rows;
    }
    assert_eq!(first, ROWS);
}

#[test]
fn frames_whose_gates_go_into_factors_are_products_of_their_own() {
    let asked = Asked::new(1);
    let into = feed_forward_in_codes(&asked);
    let products = lock(&asked.products);
    let mut first = 0;
    for product in products.iter().filter(|product| product.outputs == DIM) {
        assert!(product.add && product.bias.is_some(), "{product:?}");
        assert_eq!(product.out, into.address().plus(first * DIM * 4));
        let within = first % 3600;
        assert!(product.rows <= 3600 - within, "{product:?} from row {first} is of two frames");
        first += product.rows;
    }
    assert_eq!(first, ROWS);
    let finished = lock(&asked.launches).iter().filter(|row| row.0 == "fp8_finish").count();
    assert_eq!(finished, 0, "sums that waited for their gate");
}

//! Work that recurs is captured and replayed: with the bits of the plain way, whatever else the device does
//! between, and never where that could not be told.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::Duration;

use longreel_kernels::gpu::{
    Address, Arg, Captured, Driver, Element, Gpu, GpuError, Graphs, Launch, MOST_GRAPHS, Recurring,
    Stream, WeightPlan,
};
use longreel_kernels::{
    Activation, DType, Device, Linear, LinearInput, Products, Tensor, Weight, ops,
};
use longreel_shim::{Shim, Watch, Watched};

use crate::Numbers;

/// What a device was asked for, and whether it refuses to capture or to replay.
#[derive(Default)]
struct Asked {
    launches: AtomicUsize,
    allocations: AtomicUsize,
    uploads: AtomicUsize,
    captures: AtomicUsize,
    replays: AtomicUsize,
    refuses_captures: AtomicBool,
    refuses_replays: AtomicBool,
    /// Whether what the copy stream is asked for is done as late as it may be.
    is_late: AtomicBool,
    under_way: Mutex<Vec<(Address, Vec<u8>)>>,
}

impl Asked {
    /// Launches, allocations and uploads since the last look.
    fn take(&self) -> [usize; 3] {
        [&self.launches, &self.allocations, &self.uploads].map(|n| n.swap(0, Ordering::Relaxed))
    }
}

fn count(n: &AtomicUsize) {
    n.fetch_add(1, Ordering::Relaxed);
}

impl Watch for Asked {
    fn alloc(&self, _: usize) {
        count(&self.allocations);
    }

    fn upload(&self, _: &[u8]) {
        count(&self.uploads);
    }

    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        count(&self.launches);
        shim.launch(launch, args)
    }

    fn begin_capture(&self, shim: &Shim) -> Result<(), GpuError> {
        count(&self.captures);
        if self.refuses_captures.load(Ordering::Relaxed) {
            return Err(GpuError::Call { call: "capturing", reason: "not today".into() });
        }
        shim.begin_capture()
    }

    fn send(&self, shim: &Shim, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        if stream == Stream::Copy && self.is_late.load(Ordering::Relaxed) {
            self.under_way.lock().expect("no panic").push((to, bytes.to_vec()));
            return Ok(());
        }
        shim.upload(stream, to, bytes)
    }

    fn follow(&self, shim: &Shim, stream: Stream) -> Result<(), GpuError> {
        shim.follow(stream)?;
        if stream == Stream::Copy {
            return Ok(());
        }
        let under_way = std::mem::take(&mut *self.under_way.lock().expect("no panic"));
        under_way.iter().try_for_each(|(to, bytes)| shim.upload(Stream::Copy, *to, bytes))
    }

    fn replay(&self, shim: &Shim, what: Captured) -> Result<(), GpuError> {
        count(&self.replays);
        if self.refuses_replays.load(Ordering::Relaxed) {
            return Err(GpuError::Call { call: "replaying", reason: "not today".into() });
        }
        shim.replay(what)
    }
}

/// Work by number, that reads something of which this is left.
struct Work(usize, Weak<()>);

impl PartialEq for Work {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 && self.1.ptr_eq(&other.1)
    }
}

impl Recurring for Work {
    fn is_there(&self) -> bool {
        self.1.strong_count() > 0
    }
}

const ROWS: usize = 24;
const DIM: usize = 64;

/// Two layers, and what is read beside the input.
struct Network {
    device: Device,
    gpu: Arc<Gpu>,
    asked: Arc<Asked>,
    up: Linear,
    down: Linear,
    beside: Tensor,
    read: Arc<()>,
    graphs: Graphs<Work>,
}

impl Network {
    /// `None`, said aloud, without a compiler.
    fn new(compute: Element) -> Option<Self> {
        let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let asked = Arc::<Asked>::default();
        let gpu = Gpu::new(Box::new(Watched::new(shim, asked.clone())), compute);
        let device = Device::Gpu(gpu.clone());
        let mut numbers = Numbers::new(7);
        let mut layer = |outputs: usize, inputs: usize| {
            let values = numbers.vec(outputs * inputs);
            let weight = Weight::narrowed(&[outputs, inputs], &values, DType::BF16);
            Linear::new(weight, Some(numbers.vec(outputs)))
        };
        let (up, down) = (layer(2 * DIM, DIM), layer(DIM, 2 * DIM));
        let beside = Tensor::from_vec(&[ROWS, DIM], numbers.vec(ROWS * DIM));
        let beside = beside.on(&device).expect("to copy").into_owned().into_kept();
        let (read, graphs) = (Arc::default(), Graphs::default());
        Some(Self { device, gpu, asked, up, down, beside, read, graphs })
    }

    fn body(&self, x: &Tensor) -> Tensor {
        let wide = ops::linear(&ops::narrowed(x.clone()), &self.up, Activation::GeluTanh);
        let mut out = ops::linear_full(&wide, &self.down);
        ops::gate_residual(&mut out, &self.beside, None);
        out
    }

    /// The input of a round.
    fn input(&self, round: usize) -> Tensor {
        let values = Numbers::new(round as u64 + 100).vec(ROWS * DIM);
        let x = Tensor::from_vec(&[ROWS, DIM], values);
        x.on(&self.device).expect("to copy").into_owned()
    }

    /// Some work of a round, as a graph where that can be.
    fn run(&self, work: usize, round: usize) -> Tensor {
        self.run_with(work, round, |x| self.body(x))
    }

    fn run_with(&self, work: usize, round: usize, body: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let key = Work(work, Arc::downgrade(&self.read));
        let x = self.input(round);
        let made = self.graphs.run(&self.device, key, &[&x], |inputs| {
            assert_eq!(inputs.len(), 1);
            Ok::<_, GpuError>(body(inputs[0]))
        });
        made.expect("no failure").into_host().expect("no failure")
    }

    /// What the plain way gives.
    fn plain(&self, round: usize) -> Tensor {
        self.body(&self.input(round)).into_host().expect("no failure")
    }

    fn tally(&self) -> (usize, usize) {
        let tally = self.gpu.tally();
        (tally.captured, tally.replayed)
    }
}

#[test]
fn recurring_work_has_the_bits_of_the_plain_way_and_asks_for_nothing_but_its_input() {
    for compute in [Element::F32, Element::Bf16] {
        let Some(network) = Network::new(compute) else { return };
        let expected: Vec<_> = (0..6).map(|round| network.plain(round)).collect();
        assert!(expected[0] != expected[1], "inputs without effect");
        let mut asked = Vec::new();
        for (round, expected) in expected.iter().enumerate() {
            network.asked.take();
            assert!(network.run(0, round) == *expected, "round {round} in {compute:?}");
            asked.push(network.asked.take());
        }
        assert_eq!(network.tally(), (1, 4));
        let [plain, captured, replayed @ ..] = &asked[..] else { unreachable!("six") };
        assert!(plain[0] > 2 && captured[0] == plain[0], "{asked:?}");
        // No kernel by itself, no memory, and the input.
        assert!(replayed.iter().all(|asked| *asked == [0, 0, 1]), "{asked:?}");
        network.gpu.set_replays(false);
        assert!(network.run(0, 0) == expected[0]);
        assert_eq!(network.asked.take()[0], plain[0], "switched off");
    }
}

#[test]
fn what_lies_where_a_graph_works_is_not_written_over() {
    let Some(network) = Network::new(Element::Bf16) else { return };
    (0..3).for_each(|round| drop(network.run(0, round)));
    assert_eq!(network.tally(), (1, 1));
    // As many arrays as its memory holds, and more.
    let live: Vec<_> = (0..40).map(|n| network.input(1000 + n)).collect();
    for round in 3..8 {
        assert!(network.run(0, round) == network.plain(round), "round {round}");
    }
    // Captured anew, among what lies there, and then replayed.
    assert_eq!(network.tally(), (2, 1 + 4));
    for (n, live) in live.iter().enumerate() {
        let expected = network.input(1000 + n);
        let values = |tensor: &Tensor| tensor.clone().into_host().expect("no failure");
        assert!(values(live) == values(&expected), "array {n} was written over");
    }
}

#[test]
fn memory_or_weights_that_were_given_back_end_a_graph() {
    for what in ["memory", "weights"] {
        let Some(network) = Network::new(Element::Bf16) else { return };
        // A slab with something in it stays.
        let kept = (what == "weights").then(|| network.input(1000));
        (0..3).for_each(|round| drop(network.run(0, round)));
        assert_eq!(network.tally(), (1, 1));
        match what {
            "memory" => network.gpu.shrink(),
            _ => network.gpu.make_room(usize::MAX).expect("an answer"),
        }
        assert_eq!(network.gpu.bytes().0 > 0, kept.is_some(), "{what}");
        for round in 3..6 {
            assert!(network.run(0, round) == network.plain(round), "{what}: round {round}");
        }
        // Weights have to come before, in the plain way.
        let replayed = if what == "memory" { 1 + 2 } else { 1 + 1 };
        assert_eq!(network.tally(), (2, replayed), "{what}: captured anew, replayed");
        assert_eq!(network.gpu.tally().refused, None, "{what}");
    }
}

#[test]
fn what_waits_for_its_results_is_done_plainly_and_tried_a_few_times() {
    let Some(network) = Network::new(Element::Bf16) else { return };
    for round in 0..8 {
        let found = network.run_with(0, round, |x| {
            let made = network.body(x);
            // Nothing decides by it here.
            let _ = ops::relative_change(&made, &network.beside);
            made
        });
        assert!(found == network.plain(round), "round {round}");
    }
    assert_eq!((network.tally(), network.asked.captures.load(Ordering::Relaxed)), ((0, 0), 3));
    let refused = network.gpu.tally().refused.expect("why");
    assert!(refused.contains("download"), "{refused}");
    assert_eq!(network.gpu.check(), Ok(()), "no failure of the device");
}

#[test]
fn a_device_that_refuses_graphs_fails_nothing_and_is_told_of() {
    let Some(network) = Network::new(Element::Bf16) else { return };
    let Asked { refuses_captures, refuses_replays, .. } = &*network.asked;
    (0..3).for_each(|round| drop(network.run(0, round)));
    refuses_captures.store(true, Ordering::Relaxed);
    (0..5).for_each(|round| assert!(network.run(1, round) == network.plain(round)));
    refuses_captures.store(false, Ordering::Relaxed);
    assert_eq!(network.tally(), (1, 1));
    refuses_replays.store(true, Ordering::Relaxed);
    (0..5).for_each(|round| assert!(network.run(0, round) == network.plain(round)));
    assert_eq!(network.tally(), (1, 1));
    refuses_replays.store(false, Ordering::Relaxed);
    assert_eq!(network.gpu.check(), Ok(()), "no failure of the device");
    let notes = network.gpu.notes();
    assert!(
        notes
            .iter()
            .any(|note| note.text.contains("1 captured, which took 0 bytes, 1 times replayed"))
    );
    assert!(notes.iter().any(|note| note.text.contains("not today")), "{notes:?}");
    assert!(notes.iter().all(|note| !note.warning));
}

#[test]
fn work_that_reads_what_is_gone_is_other_work_and_few_graphs_are_kept() {
    let Some(mut network) = Network::new(Element::Bf16) else { return };
    (0..3).for_each(|round| drop(network.run(0, round)));
    network.read = Arc::default();
    (0..2).for_each(|round| assert!(network.run(0, round) == network.plain(round)));
    assert_eq!(network.tally(), (2, 1), "plain, and captured anew");
    for work in 1..=MOST_GRAPHS {
        (0..2).for_each(|round| drop(network.run(work, round)));
    }
    let (captured, replayed) = network.tally();
    assert_eq!(captured, 2 + MOST_GRAPHS);
    network.run(MOST_GRAPHS, 2);
    assert_eq!(network.tally(), (captured, replayed + 1));
    network.run(0, 2);
    assert_eq!(network.tally(), (captured, replayed + 1), "the oldest one went");
}

/// Layers whose weights share few places, of which a few may stay.
struct Deep {
    network: Network,
    layers: Vec<Linear>,
}

impl Deep {
    const BYTES: usize = DIM * DIM * 2;

    fn new(layers: usize, stay: usize) -> Option<Self> {
        let network = Network::new(Element::Bf16)?;
        let (resident, places) = (stay * Self::BYTES, WeightPlan::PLACES);
        network.gpu.plan_weights(WeightPlan { resident, places, place: Self::BYTES });
        let mut numbers = Numbers::new(9);
        let mut layer = || {
            let values = numbers.vec(DIM * DIM);
            Linear::new(Weight::narrowed(&[DIM, DIM], &values, DType::BF16), None)
        };
        let layers = (0..layers).map(|_| layer()).collect();
        Some(Self { network, layers })
    }

    /// One layer after the other; the last two are used together, as in a feed-forward.
    fn body(&self, x: &Tensor) -> Tensor {
        let (chain, last) = self.layers.split_at(self.layers.len() - 2);
        let mut x = ops::narrowed(x.clone());
        for layer in chain {
            x = ops::layer_norm(&ops::linear(&x, layer, Activation::None), None, 1e-6, None);
        }
        let mut out = self.network.beside.clone();
        let how = Activation::GeluTanh;
        let x = LinearInput::new(x, Products::F32);
        ops::feed_forward_residual(&mut out, &x, &last[0], &last[1], how, None);
        out
    }

    fn run(&self, round: usize) -> Tensor {
        self.network.run_with(0, round, |x| self.body(x))
    }

    fn plain(&self, round: usize) -> Tensor {
        let made = self.body(&self.network.input(round));
        made.into_host().expect("no failure")
    }
}

#[test]
fn weights_that_are_brought_each_time_are_waited_for_between_the_parts_of_a_graph() {
    // As many as there are places, one more, and so many that the last ones have the places of the first ones.
    for (layers, stay) in [(4, 0), (5, 0), (8, 0), (9, 0), (10, 0), (11, 3), (9, 2)] {
        let what = format!("{layers} layers, {stay} stay");
        let (Some(all), Some(deep)) = (Deep::new(layers, layers), Deep::new(layers, stay)) else {
            return;
        };
        let expected: Vec<_> = (0..8).map(|round| all.plain(round)).collect();
        for late in [false, true] {
            deep.network.asked.is_late.store(late, Ordering::Relaxed);
            for (round, expected) in expected.iter().enumerate() {
                deep.network.asked.take();
                deep.network.asked.replays.store(0, Ordering::Relaxed);
                assert!(deep.run(round) == *expected, "{what}, round {round}, late: {late}");
                let [launches, allocations, uploads] = deep.network.asked.take();
                let parts = deep.network.asked.replays.load(Ordering::Relaxed);
                if late || round > 3 {
                    // No kernel by itself and no memory; the input, and each weight at most once.
                    assert_eq!([launches, allocations], [0, 0], "{what}, round {round}");
                    assert!(uploads <= 1 + layers - stay, "{what}: {uploads} uploads");
                    // One for each weight that is waited for, and what comes before; the last two begin one together.
                    let first = usize::from(stay > 0);
                    assert!(parts <= layers - stay + first, "{what}: {parts} parts");
                    assert!(parts > (layers - stay) / 2, "{what}: {parts} parts");
                }
            }
        }
        let tally = deep.network.gpu.tally();
        assert_eq!(tally.refused, None, "{what}");
        assert!(tally.captured <= 2 && tally.replayed >= 16 - 4, "{what}: {tally:?}");
    }
}

#[test]
fn weights_that_came_to_other_places_end_a_graph_and_are_found_by_the_next_one() {
    let Some(deep) = Deep::new(9, 0) else { return };
    let Some(all) = Deep::new(9, 9) else { return };
    (0..4).for_each(|round| assert!(deep.run(round) == all.plain(round)));
    let before = deep.network.gpu.tally();
    assert!(before.replayed >= 1, "{before:?}");
    // A weight for which a place has to become larger.
    let values = Numbers::new(3).vec(4 * DIM * DIM);
    let large = Linear::new(Weight::narrowed(&[4 * DIM, DIM], &values, DType::BF16), None);
    let wide = |deep: &Deep| {
        let x = ops::narrowed(deep.network.input(0));
        ops::linear(&x, &large, Activation::None).into_host().expect("no failure")
    };
    let first = wide(&deep);
    assert!(first.data().iter().all(|value| value.is_finite()));
    (4..9).for_each(|round| assert!(deep.run(round) == all.plain(round), "round {round}"));
    let after = deep.network.gpu.tally();
    assert_eq!(after.captured, before.captured + 1, "{after:?}");
    assert!(after.replayed >= before.replayed + 2, "{after:?}");
    // Work of others between replays: their weights have places among these, and come back.
    for round in 9..12 {
        assert!(wide(&deep) == first);
        assert!(deep.run(round) == all.plain(round), "round {round}");
    }
    assert_eq!(deep.network.gpu.check(), Ok(()));
}

#[test]
fn a_part_that_cannot_be_started_first_leaves_the_work_to_the_plain_way() {
    let Some(deep) = Deep::new(9, 0) else { return };
    let Some(all) = Deep::new(9, 9) else { return };
    (0..4).for_each(|round| drop(deep.run(round)));
    deep.network.asked.refuses_replays.store(true, Ordering::Relaxed);
    (4..8).for_each(|round| assert!(deep.run(round) == all.plain(round), "round {round}"));
    assert_eq!(deep.network.gpu.check(), Ok(()), "no failure of the device");
    let refused = deep.network.gpu.tally().refused.expect("why");
    assert!(refused.contains("not today"), "{refused}");
}

#[test]
fn other_threads_wait_with_the_device_until_a_capture_ends() {
    let Some(network) = Network::new(Element::Bf16) else { return };
    let network = &network;
    network.run(0, 0);
    let (begin, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            begun.recv().expect("a word");
            network.plain(5)
        });
        let found = network.run_with(0, 1, |x| {
            begin.send(()).expect("somebody who waits");
            std::thread::sleep(Duration::from_millis(30));
            network.body(x)
        });
        assert!(found == network.plain(1));
        assert!(other.join().expect("no panic") == network.plain(5));
    });
    assert_eq!((network.tally(), network.gpu.tally().refused), ((1, 0), None));
    assert!(network.run(0, 2) == network.plain(2));
    assert_eq!(network.tally(), (1, 1));
}

//! Memory and weights on a device that is nothing but memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::arena::Arena;
use super::*;
use crate::{DType, Weight};

/// Real bytes at made-up addresses, so many in all, and a note of each copy. What the copy stream is asked for is
/// done as late as it may be: when the other one follows it or reaches a point of it, or when memory is given back.
#[derive(Debug, Default)]
struct Memory {
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    slabs: BTreeMap<u64, Vec<u8>>,
    uploads: Vec<(Stream, usize)>,
    under_way: Vec<(Address, Vec<u8>)>,
    /// How many of the copies that were asked for have arrived, and how many were asked for before each point.
    arrived: usize,
    points: [usize; POINTS],
}

impl Memory {
    fn of(total: usize) -> Arc<Self> {
        Arc::new(Self { total, ..Self::default() })
    }

    fn with<T>(&self, at: Address, len: usize, body: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut state = lock(&self.state);
        let (&start, slab) = state.slabs.range_mut(..=at.0).next_back().expect("a known address");
        let at = (at.0 - start) as usize;
        body(&mut slab[at..at + len])
    }

    fn uploads(&self) -> Vec<(Stream, usize)> {
        std::mem::take(&mut lock(&self.state).uploads)
    }

    /// Bytes that the driver has given out.
    fn given(&self) -> usize {
        lock(&self.state).slabs.values().map(Vec::len).sum()
    }

    fn arrive(&self) {
        self.arrive_up_to(usize::MAX);
    }

    /// The first so many of all copies.
    fn arrive_up_to(&self, count: usize) {
        let arriving: Vec<_> = {
            let mut state = lock(&self.state);
            let here = count.saturating_sub(state.arrived).min(state.under_way.len());
            state.arrived += here;
            state.under_way.drain(..here).collect()
        };
        for (to, bytes) in arriving {
            self.with(to, bytes.len(), |place| place.copy_from_slice(&bytes));
        }
    }
}

impl Driver for Arc<Memory> {
    fn name(&self) -> String {
        "memory".into()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        let free = self.total - self.given();
        let mut state = lock(&self.state);
        if bytes > free {
            return Err(GpuError::Memory { asked: bytes, free, total: self.total });
        }
        // Slabs lie side by side, where pieces of two of them must not be joined.
        let address = state.next.max(1 << 20);
        state.next = address + bytes as u64;
        state.slabs.insert(address, vec![0xff; bytes]);
        Ok(Address(address))
    }

    fn free(&self, address: Address) {
        self.arrive();
        lock(&self.state).slabs.remove(&address.0).expect("a known address");
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok((self.total, self.total))
    }

    fn upload(&self, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        match stream {
            Stream::Compute => self.with(to, bytes.len(), |place| place.copy_from_slice(bytes)),
            Stream::Copy => lock(&self.state).under_way.push((to, bytes.to_vec())),
        }
        lock(&self.state).uploads.push((stream, bytes.len()));
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.with(from, bytes.len(), |place| bytes.copy_from_slice(place));
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        let held = self.with(from, bytes, |place| place.to_vec());
        self.with(to, bytes, |place| place.copy_from_slice(&held));
        Ok(())
    }

    fn zero(&self, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.with(to, bytes, |place| place.fill(0));
        Ok(())
    }

    fn launch(&self, launch: &Launch, _: &[Arg]) -> Result<(), GpuError> {
        Err(GpuError::Compile { module: launch.module, log: "this is memory".into() })
    }

    fn matmul(&self, _: &MatMul) -> Result<bool, GpuError> {
        Ok(false)
    }

    fn follow(&self, stream: Stream) -> Result<(), GpuError> {
        if stream == Stream::Compute {
            self.arrive();
        }
        Ok(())
    }

    fn mark(&self, stream: Stream, point: usize) -> Result<(), GpuError> {
        if stream == Stream::Copy {
            let state = &mut *lock(&self.state);
            state.points[point] = state.arrived + state.under_way.len();
        }
        Ok(())
    }

    fn reach(&self, stream: Stream, point: usize) -> Result<(), GpuError> {
        if stream == Stream::Compute {
            let count = lock(&self.state).points[point];
            self.arrive_up_to(count);
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), GpuError> {
        self.arrive();
        Ok(())
    }
}

#[test]
fn pieces_are_used_again_and_joined_but_never_across_slabs() {
    let memory = Memory::of(1 << 30);
    let mut arena = Arena::default();
    arena.reserve(&memory, 4096).expect("room");
    arena.reserve(&memory, 4096).expect("room");
    let a = arena.take(&memory, 1000).expect("room");
    let b = arena.take(&memory, 1).expect("room");
    let c = arena.take(&memory, 2816).expect("room");
    assert_eq!((b, c), (a.plus(1024), a.plus(1280)), "side by side in the first slab");
    let d = arena.take(&memory, 4096).expect("room");
    arena.give(c);
    arena.give(a);
    assert_eq!(arena.take(&memory, 900).expect("room"), a, "the smallest that fits");
    arena.give(a);
    arena.give(b);
    assert_eq!(arena.take(&memory, 4096).expect("room"), a, "three joined to a whole slab");
    arena.give(a);
    arena.give(d);
    assert_eq!(arena.bytes(), (8192, 0));
    let whole = arena.take(&memory, 8192).expect("room");
    assert!(whole != a && whole != d, "a piece over two slabs");
    arena.give(whole);
    arena.shrink(&memory);
    assert_eq!(arena.bytes(), (0, 0));
    assert!(lock(&memory.state).slabs.is_empty());
}

#[test]
fn a_place_is_taken_again_as_long_as_it_is_there_and_nothing_lies_in_it() {
    let memory = Memory::of(1 << 30);
    let mut arena = Arena::default();
    arena.reserve(&memory, 4096).expect("room");
    arena.reserve(&memory, 4096).expect("room");
    arena.watch();
    let a = arena.take(&memory, 1000).expect("room");
    let b = arena.take(&memory, 2000).expect("room");
    arena.give(b);
    assert_eq!(arena.take(&memory, 300).expect("room"), b);
    let used: Vec<_> = arena.watched().into_iter().collect();
    assert_eq!(used, [(a, 1024), (b, 2048)], "the most at each place");
    assert_eq!(arena.watched().len(), 0, "nobody wants to know any more");
    assert!(!arena.is_free(b, 2048) && !arena.is_free(a, 1) && arena.is_free(b.plus(512), 256));
    arena.give(a);
    arena.give(b);
    assert!(arena.is_free(a, 4096) && !arena.is_free(a, 4097), "over two slabs");
    arena.take_at(b, 300);
    assert!(!arena.is_free(b, 256) && arena.is_free(a, 1024) && arena.is_free(b.plus(512), 2560));
    assert_eq!(arena.bytes(), (8192, 512));
    assert_eq!(arena.take(&memory, 1024).expect("room"), a, "what lies before it");
    let shrunk = arena.shrunk();
    arena.shrink(&memory);
    assert_eq!(arena.shrunk(), shrunk + 1, "the other slab");
    arena.give(a);
    arena.give(b);
    assert!(arena.is_free(a, 4096), "joined");
}

#[test]
fn a_failure_is_kept_and_told_once_and_what_follows_is_skipped() {
    let memory = Memory::of(100 << 20);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::F32);
    let kept = Array::from_host(&gpu, &[1.0, 2.0]);
    let large = Array::zeros(&gpu, Element::F32, 1 << 30);
    assert_eq!(large.address(), Address(0));
    drop(Array::from_host(&gpu, &[3.0]));
    assert_eq!(memory.uploads().len(), 1, "nothing after the failure");
    let error = kept.to_host().expect_err("a failure before");
    assert!(matches!(error, GpuError::Memory { asked, .. } if asked == 4 << 30), "{error}");
    assert_eq!(kept.to_host(), Ok(vec![1.0, 2.0]), "usable again");
}

fn weights(count: u8, values: usize) -> Vec<(Handle, Weight)> {
    let of = |i| Weight::new(&[values], DType::Q8_0, vec![i; values / 32 * 34].into());
    (0..count).map(|i| (Handle::default(), of(i).expect("whole blocks"))).collect()
}

/// Uses each weight once, in order; the first byte of each as the device has it.
fn forward(gpu: &Arc<Gpu>, memory: &Memory, weights: &[(Handle, Weight)]) -> Vec<u8> {
    let first = |(handle, weight): &(Handle, Weight)| {
        let present = handle.bring(gpu, weight, Element::Bf16).expect("no failure");
        assert_eq!(present.dtype, DType::Q8_0);
        let last = memory.with(present.address, weight.bytes().len(), |b| *b.last().expect("some"));
        assert_eq!(memory.with(present.address, 1, |b| b[0]), last);
        (present.address, last)
    };
    let mut before = None;
    let mut found = Vec::new();
    for weight in weights {
        let (address, last) = first(weight);
        // The one before may still be computed with.
        if let Some((address, last)) = before.replace((address, last)) {
            assert_eq!(memory.with(address, 1, |b| b[0]), last);
        }
        found.push(last);
    }
    found
}

#[test]
fn weights_that_fit_are_brought_once_and_leave_with_their_layers() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let all = weights(5, 3200);
    for _ in 0..3 {
        assert_eq!(forward(&gpu, &memory, &all), [0, 1, 2, 3, 4]);
    }
    assert_eq!(memory.uploads(), [(Stream::Compute, 3400); 5]);
    drop(all);
    assert_eq!(gpu.bytes().1, 0);
    assert!(lock(&memory.state).slabs.is_empty(), "memory was kept");
}

#[test]
fn weights_that_do_not_fit_are_brought_ahead_and_each_once_a_forward() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let all = WeightGroup { bytes: 12 * 3400, largest: 3400 };
    let plan = WeightPlan::new(&[all], WeightGroup::default(), 8 * 3400 + 7).expect("places fit");
    assert_eq!((plan.resident, plan.places, plan.place), (2 * 3400 + 7, 6, 3400));
    gpu.plan_weights(plan);
    let all = weights(12, 3200);
    let expected: Vec<u8> = (0..12).collect();
    assert_eq!(forward(&gpu, &memory, &all), expected);
    assert_eq!(memory.uploads().len(), 12);
    // Two of those that are brought have a place for themselves. It knows the order from here on, and ends with those of
    // the next one under way whose places are not in use.
    assert_eq!(forward(&gpu, &memory, &all), expected);
    assert_eq!(memory.uploads().len(), 8 + 2);
    for _ in 0..3 {
        assert_eq!(forward(&gpu, &memory, &all), expected);
        assert_eq!(memory.uploads(), [(Stream::Copy, 3400); 8], "four stay, eight come");
    }
    assert!(lock(&memory.state).under_way.len() == 2, "no work waited for a copy but its own");
    assert!(gpu.bytes().1 <= plan.bytes() + 8 * 256, "{:?} of {plan:?}", gpu.bytes());
    drop(all);
    assert_eq!(gpu.bytes().1, 0);
}

/// Singles and halves: what is brought is what would stay, at the same half of the bytes.
#[test]
fn weights_that_are_brought_each_time_are_rounded_as_those_that_stay() {
    const COUNT: usize = 10_007;
    let of = |dtype, seed: u32| {
        // Every exponent, subnormals, infinities and NaNs among them; ties in either direction.
        let bits =
            |n: usize| (n as u32 + seed).wrapping_mul(0x9e37_79b9) & !(0x7fff * (n as u32 & 1));
        let bytes = (0..COUNT).flat_map(|n| match dtype {
            DType::F32 => bits(n).to_le_bytes().to_vec(),
            _ => bits(n).to_le_bytes()[2..].to_vec(),
        });
        let weight = Weight::new(&[COUNT], dtype, bytes.collect::<Vec<_>>().into());
        (Handle::default(), weight.expect("as many values"))
    };
    let place = 2 * COUNT;
    let seen = |plan| {
        let memory = Memory::of(1 << 30);
        let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
        gpu.plan_weights(plan);
        let all: Vec<_> = (0..12).map(|n| of([DType::F32, DType::F16][n % 2], n as u32)).collect();
        let mut found = Vec::new();
        for _ in 0..2 {
            found.clear();
            for (handle, weight) in &all {
                let present = handle.bring(&gpu, weight, Element::Bf16).expect("no failure");
                assert_eq!(present.dtype, DType::BF16);
                found.push(memory.with(present.address, place, |bytes| bytes.to_vec()));
            }
        }
        assert!(memory.uploads().iter().all(|&(_, bytes)| bytes == place));
        (found, gpu.bytes().1)
    };
    let (expected, _) = seen(WeightPlan::ALL);
    let (found, bytes) = seen(WeightPlan { resident: 0, places: WeightPlan::PLACES, place });
    assert!(found == expected, "other bits");
    assert!(bytes <= WeightPlan::PLACES * (place + 256), "{bytes} bytes for the places");
    // Where singles are computed with, they come as they are.
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::F32);
    let (handle, weight) = of(DType::F32, 1);
    let present = handle.bring(&gpu, &weight, Element::F32).expect("no failure");
    assert_eq!((present.dtype, memory.uploads()), (DType::F32, vec![(Stream::Compute, 4 * COUNT)]));
}

/// As those of a context are, of which each sample of a batch has its own.
#[test]
fn weights_that_are_used_twice_in_a_row_are_brought_once_a_forward_and_ahead() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    gpu.plan_weights(WeightPlan { resident: 0, places: WeightPlan::PLACES, place: 3400 });
    let all = weights(9, 3200);
    let mut uploads = Vec::new();
    for _ in 0..4 {
        for weight in &all {
            for _ in 0..2 {
                forward(&gpu, &memory, std::slice::from_ref(weight));
            }
        }
        uploads.push(memory.uploads().len());
    }
    // Three have a place for themselves. The first two of the next forward come with the last ones.
    assert_eq!(uploads, [9, 6 + 2, 6, 6]);
}

/// However many they are: those that the end of a forward has in use have the places of the first ones of the next.
#[test]
fn a_weight_comes_to_the_same_place_in_each_forward() {
    for count in 7..20 {
        let memory = Memory::of(1 << 30);
        let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
        gpu.plan_weights(WeightPlan { resident: 0, places: WeightPlan::PLACES, place: 3400 });
        let all = weights(count, 3200);
        let expected: Vec<u8> = (0..count).collect();
        let mut uploads = Vec::new();
        for _ in 0..5 {
            assert_eq!(forward(&gpu, &memory, &all), expected);
            uploads.push(memory.uploads().len());
        }
        let moves = |gpu: &Gpu| lock(&gpu.weights).moves();
        let before = moves(&gpu);
        assert!(before <= 1 + u64::from(count % 6 == 1), "{count}: {before} moves");
        for _ in 0..3 {
            assert_eq!(forward(&gpu, &memory, &all), expected);
        }
        assert_eq!(moves(&gpu), before, "{count}");
        assert!(uploads[4] <= usize::from(count), "{count}: {uploads:?}");
    }
}

#[test]
fn what_could_not_come_while_its_place_was_in_use_comes_with_the_weights_that_stay() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let (stay, places) = (3, WeightPlan::PLACES);
    gpu.plan_weights(WeightPlan { resident: stay * 3400, places, place: 3400 });
    // Eight are brought: the last two have the places of the first two.
    let all = weights(stay as u8 + 8, 3200);
    (0..3).for_each(|_| drop(forward(&gpu, &memory, &all)));
    memory.uploads();
    for asked in 0..2 {
        // With each that is asked for one of the last two is let go of.
        forward(&gpu, &memory, &all[asked..=asked]);
        assert_eq!(memory.uploads(), [(Stream::Copy, 3400)], "one of the next two");
    }
    forward(&gpu, &memory, &all[2..3]);
    assert_eq!(memory.uploads(), [], "both are there");
}

#[test]
fn a_plan_keeps_all_that_fits_and_refuses_what_cannot_work() {
    let group = |bytes, largest| WeightGroup { bytes, largest };
    let none = WeightGroup::default();
    let plan = |bytes, largest| WeightPlan::new(&[group(bytes, largest)], none, 100);
    assert_eq!(plan(100, 10), Some(WeightPlan { resident: 100, places: 0, place: 0 }));
    assert_eq!(plan(101, 10).map(|plan| plan.bytes()), Some(100));
    assert_eq!(plan(101, 17), None);
    // Two groups of each pass, and one that is used seldom.
    let (each_pass, seldom) = ([group(60, 40), group(300, 6)], group(50, 2));
    let plan = |budget| {
        let plan = WeightPlan::new(&each_pass, seldom, budget)?;
        assert!(plan.bytes() <= budget && plan.places % WeightPlan::PLACES == 0, "{plan:?}");
        Some((plan.resident, plan.place))
    };
    assert_eq!(plan(410), Some((410, 0)), "all");
    assert_eq!(plan(409), Some((360, 2)), "all of each pass");
    assert_eq!(plan(360 + 12), Some((360, 2)));
    assert_eq!(plan(371), Some((371 - 36, 6)), "the first group, and some of the second");
    assert_eq!(plan(60 + 36), Some((60, 6)));
    assert_eq!(plan(95), None);
    assert_eq!(WeightPlan::least_bytes(&each_pass, seldom), 96);
    // Places for the largest are less than the group that has it.
    assert_eq!(WeightPlan::least_bytes(&[group(600, 40), group(300, 6)], seldom), 240);
}

/// Those of a prompt, asked for before those of each pass and again between two passes.
#[test]
fn weights_that_are_used_seldom_leave_the_room_to_those_of_each_pass_and_disturb_no_place() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let (stay, places) = (5, WeightPlan::PLACES);
    gpu.plan_weights(WeightPlan { resident: stay * 3400, places, place: 3400 });
    let mut seldom = weights(8, 3200);
    seldom.iter_mut().for_each(|(handle, _)| *handle = Handle::of(Use::Seldom));
    let all = weights(stay as u8 + 7, 3200);
    let expected: Vec<u8> = (0..12).collect();
    assert_eq!(forward(&gpu, &memory, &seldom), expected[..8]);
    assert_eq!(memory.uploads(), [(Stream::Copy, 3400); 8], "none of them stays");
    let pass = || {
        assert_eq!(forward(&gpu, &memory, &all), expected);
        memory.uploads()
    };
    let first = pass();
    let stayed = first.iter().filter(|(stream, _)| *stream == Stream::Compute);
    assert_eq!(stayed.count(), stay, "{first:?}");
    let mut moves = Vec::new();
    for _ in 0..4 {
        // The first one knows no order or another one.
        pass();
        for _ in 0..3 {
            assert!(pass().len() <= 7, "those of each pass that do not stay, and no other");
        }
        moves.push(lock(&gpu.weights).moves());
        assert_eq!(forward(&gpu, &memory, &seldom), expected[..8]);
        assert!(memory.uploads().len() >= 8 - places, "brought again");
    }
    assert_eq!(moves[1], moves[3], "each has its place: {moves:?}");
    // Where all stay, they do too.
    gpu.plan_weights(WeightPlan::ALL);
    forward(&gpu, &memory, &seldom);
    assert_eq!(memory.uploads(), [(Stream::Compute, 3400); 8]);
    forward(&gpu, &memory, &seldom);
    assert_eq!(memory.uploads(), []);
    // And not where the next plan has room for others alone.
    gpu.plan_weights(WeightPlan { resident: 100 * 3400, places, place: 3400 });
    forward(&gpu, &memory, &seldom);
    assert_eq!(memory.uploads(), [(Stream::Copy, 3400); 8]);
}

/// As from one film to the next one, of another size.
#[test]
fn as_many_weights_stay_as_the_plan_of_now_has_room_for() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let all = weights(12, 3200);
    let expected: Vec<u8> = (0..12).collect();
    let places = WeightPlan::PLACES;
    for (stay, new) in [(2, 2), (4, 2), (4, 0), (12, 8), (12, 0), (3, 3)] {
        let places = if stay == 12 { 0 } else { places };
        gpu.plan_weights(WeightPlan { resident: stay * 3400, places, place: 3400 });
        memory.uploads();
        assert_eq!(forward(&gpu, &memory, &all), expected);
        let uploads = memory.uploads();
        let came = uploads.iter().filter(|(stream, _)| *stream == Stream::Compute).count();
        // Those that stayed before do so still, where that is not too many.
        assert_eq!(came, new, "{stay} stay: {uploads:?}");
        assert_eq!(uploads.len() - came > 0, stay < 12, "{stay} stay: {uploads:?}");
        assert!(gpu.bytes().1 <= (stay + places) * 3584, "{:?}", gpu.bytes());
    }
    drop(all);
    assert_eq!(memory.given(), 0);
}

#[test]
fn singles_become_bf16_on_the_way_where_they_are_computed_with_as_that() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let weight = Weight::from_f32(&[3], &[1.0, -2.5, 1.0 + 1.0 / 256.0]);
    let handle = Handle::default();
    let present = handle.bring(&gpu, &weight, Element::Bf16).expect("no failure");
    assert_eq!(present.dtype, DType::BF16);
    let bytes = memory.with(present.address, 6, |b| b.to_vec());
    assert_eq!(bytes, [0x80, 0x3f, 0x20, 0xc0, 0x80, 0x3f], "ties to even");
}

#[test]
fn a_weight_of_more_bits_than_most_gets_a_place_of_its_own_length() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    // All are brought in turn, to places that only some of them fit.
    gpu.plan_weights(WeightPlan { resident: 0, places: WeightPlan::PLACES, place: 3400 });
    let of = |(i, values): (usize, &usize)| {
        let bytes = vec![i as u8; values / 32 * 34];
        let weight = Weight::new(&[*values], DType::Q8_0, bytes.into()).expect("whole blocks");
        (Handle::default(), weight)
    };
    let all: Vec<_> =
        [3200, 6400, 3200, 3200, 9600, 9600, 3200].iter().enumerate().map(of).collect();
    for _ in 0..4 {
        assert_eq!(forward(&gpu, &memory, &all), [0, 1, 2, 3, 4, 5, 6]);
    }
    drop(all);
    assert_eq!(memory.given(), 0);
}

#[test]
fn what_takes_the_memory_of_a_place_is_not_written_over_by_a_weight_under_way() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    gpu.plan_weights(WeightPlan { resident: 0, places: WeightPlan::PLACES, place: 3400 });
    // Keeps the driver's piece here that the places are cut from.
    let before = Array::kept(&gpu, &[1.0]);
    let all = weights(12, 3200);
    forward(&gpu, &memory, &all);
    forward(&gpu, &memory, &all);
    assert!(!lock(&memory.state).under_way.is_empty(), "the next forward's first weights");
    gpu.make_room(usize::MAX).expect("an answer");
    let values = vec![2.0; WeightPlan::PLACES * 3400 / 4];
    let after = Array::kept(&gpu, &values);
    gpu.driver().follow(Stream::Compute).expect("to follow");
    assert_eq!(after.to_host(), Ok(values));
    assert_eq!(before.to_host(), Ok(vec![1.0]));
}

#[test]
fn pieces_that_nothing_is_in_make_room_for_one_that_fits_none_of_them() {
    let memory = Memory::of(100 << 20);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let array = |mib: usize| Array::unset(&gpu, Element::F32, (mib << 20) / 4);
    drop((array(30), array(40)));
    assert_eq!(memory.given(), 70 << 20, "kept for the next ones of this size");
    let large = array(90);
    assert_eq!(gpu.check(), Ok(()));
    // Weights get what activations have left, too.
    drop(large);
    let all = weights(1, 80 << 20);
    assert_eq!(forward(&gpu, &memory, &all), [0]);
}

#[test]
fn the_memory_of_a_network_that_goes_is_free_for_activations_and_nothing_is_left_with_the_device() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let (stays, goes) = (weights(2, 32 << 20), weights(2, 64 << 20));
    forward(&gpu, &memory, &stays);
    let before = memory.given();
    forward(&gpu, &memory, &goes);
    assert!(memory.given() > before);
    drop(goes);
    assert_eq!(memory.given(), before);
    drop((Array::zeros(&gpu, Element::F32, 10 << 20), stays, gpu));
    assert_eq!(memory.given(), 0);
}

#[test]
fn many_singles_become_bf16_by_several_threads_each_at_its_place() {
    let memory = Memory::of(1 << 30);
    let gpu = Gpu::new(Box::new(memory.clone()), Element::Bf16);
    let values: Vec<f32> = (0..(5 << 20) + 77).map(|i| i as f32 * 0.37 - 9e5).collect();
    let weight = Weight::from_f32(&[values.len()], &values);
    let handle = Handle::default();
    let present = handle.bring(&gpu, &weight, Element::Bf16).expect("no failure");
    let bytes = memory.with(present.address, 2 * values.len(), |bytes| bytes.to_vec());
    let expected: Vec<u8> =
        values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    assert!(bytes == expected);
}

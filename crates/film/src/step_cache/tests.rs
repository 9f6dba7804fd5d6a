//! Where a step cache's tensors are, and that it decides the same wherever that is.

use std::path::Path;
use std::sync::Arc;

use longreel_kernels::Device;
use longreel_kernels::gpu::{Element, Gpu};
use longreel_models::{ContextOptions, Transformer};
use longreel_sampling::TeaCacheFamily;
use longreel_shim::{Copies, Shim, Watched};
use longreel_weights::ModelFolder;

use super::*;
use crate::sharing::Sharing;

/// A device whose copies are written down; `None` without a compiler.
fn device(element: Element) -> Option<(Device, Arc<Copies>)> {
    // Where the kernels lie that integration tests compile.
    let own = std::env::current_exe().expect("a path");
    let folder = own.ancestors().nth(3).expect("the target folder").join("tmp");
    std::fs::create_dir_all(&folder).expect("a folder");
    let copies = Arc::default();
    let driver = Watched::new(Shim::or_skip(&folder)?, Arc::clone(&copies));
    Some((Device::Gpu(Gpu::new(Box::new(driver), element)), copies))
}

/// What a segment's rows did: which took over, their velocities, and what each copied.
struct Rows {
    reused: Vec<bool>,
    velocities: Vec<Vec<Tensor>>,
    copies: Vec<[Vec<usize>; 2]>,
}

const TIMESTEPS: [f32; 7] = [999.0, 990.0, 985.0, 700.0, 699.0, 698.0, 20.0];
const FRAMES: usize = 3;

fn rows(device: &Device, use_ret_steps: bool, batch: bool, copies: Option<&Copies>) -> Rows {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
    let folder = ModelFolder::open(&folder).expect("a model");
    let (config, source) = folder.transformer().expect("weights");
    let model = Transformer::load(&config, source).expect("a network").on(device);
    let denoisers = Denoisers::new(vec![model], Sharing::ALONE).expect("one");
    let value = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
    let tensor =
        |shape: &[usize]| Tensor::from_vec(shape, (0..shape.iter().product()).map(value).collect());
    let split = denoisers.of(Branch::Cond);
    let context = |tokens: usize| {
        let text = tensor(&[tokens, config.text_dim]);
        split.context(&text, None, &ContextOptions::default()).expect("a context")
    };
    let contexts = [context(5), context(1)];
    let contexts = [(Branch::Cond, &contexts[0]), (Branch::Uncond, &contexts[1])];
    let input = tensor(&[FRAMES, config.in_channels, 8, 12]).into_device(device).expect("room");
    let options = ForwardOptions { fps: Some(24), ..ForwardOptions::default() };
    let family = TeaCacheFamily::Text1_3B;
    let rule = TeaCache::new(family, 0.2, use_ret_steps, TIMESTEPS.len()).expect("a threshold");
    let mut cache = StepCache::Tea(rule);
    let mut cached = CachedRows::new(&mut cache, TIMESTEPS.len());
    let mut made = Rows { reused: Vec::new(), velocities: Vec::new(), copies: Vec::new() };
    for (index, timestep) in TIMESTEPS.into_iter().enumerate() {
        let (options, contexts) = (&options, &contexts[..]);
        let timesteps = &[timestep; FRAMES];
        let shown = ShownRow { index, input: &input, timesteps, options, contexts, batch };
        let before = cached.cache.reused();
        copies.map(Copies::take);
        let velocities = cached.evaluate(&denoisers, &shown).expect("velocities");
        made.copies.extend(copies.map(Copies::take));
        let velocities = velocities.into_iter().map(|v| v.into_host().expect("computed"));
        made.velocities.push(velocities.collect());
        made.reused.push(cached.cache.reused() > before);
    }
    made
}

#[test]
fn a_step_cache_decides_on_a_gpu_as_on_the_processor_and_leaves_its_tensors_there() {
    for use_ret_steps in [false, true] {
        let expected = rows(&Device::Cpu, use_ret_steps, false, None);
        let kinds =
            [true, false].map(|kind| expected.reused.iter().filter(|r| **r == kind).count());
        assert!(kinds[0] > 0 && kinds[1] > 1, "{:?}", expected.reused);
        for (element, allowed) in [(Element::F32, 2e-5), (Element::Bf16, 3e-2)] {
            let Some((device, copies)) = device(element) else { return };
            let found = rows(&device, use_ret_steps, false, Some(&copies));
            assert_eq!(found.reused, expected.reused, "{element:?}");
            let both = found.velocities.iter().flatten().zip(expected.velocities.iter().flatten());
            for (found, expected) in both {
                let terms = found.data().iter().zip(expected.data());
                let off: f64 = terms.map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let size: f64 = expected.data().iter().map(|v| f64::from(*v).powi(2)).sum();
                assert!((off / size).sqrt() < allowed, "{element:?}: {}", (off / size).sqrt());
            }
            let latents = found.velocities[0][0].bytes();
            for (row, [to_host, to_device]) in found.copies.iter().enumerate().skip(1) {
                // In rows that may take over two sums of a block, and nothing else.
                let decides = expected.reused[row] || !to_host.is_empty();
                let sums = if decides { &[2 * size_of::<f32>()][..] } else { &[] };
                assert_eq!(to_host, sums, "row {row}");
                // What is made of the timesteps, and nothing that an earlier row computed.
                assert!(to_device.iter().all(|bytes| *bytes < latents), "{to_device:?}");
            }
        }
    }
}

#[test]
fn a_batch_of_both_passes_is_cached_as_one_after_the_other_in_every_bit() {
    let mut devices = vec![Device::Cpu];
    devices.extend(device(Element::Bf16).map(|(device, _)| device));
    for device in &devices {
        let apart = rows(device, false, false, None);
        let together = rows(device, false, true, None);
        assert_eq!(apart.reused, together.reused);
        assert!(apart.reused.contains(&true) && apart.reused.contains(&false));
        assert!(apart.velocities == together.velocities, "other velocities on {device:?}");
    }
}

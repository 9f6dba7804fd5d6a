//! Fixtures recorded by `parity/networks.py` and how results are compared with them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use longreel_kernels::gpu::{Driver, Element, Gpu};
use longreel_kernels::{DType, Device, Tensor, Weight, cuda};
use longreel_models::{ContextOptions, SplitContext, SplitTransformer, Transformer};
use longreel_shim::Shim;
use longreel_weights::TensorSource;
use serde_json::Value;

/// Relative L2 distance allowed to a reference forward. Both sides compute in f32 with sums in another
/// order, which moves a result by a few 1e-7 for each layer; these networks have up to thirty, and
/// their norms amplify some of it. The smallest modelling slip we know (exact for tanh GELU) gives
/// 2e-4.
pub const TOLERANCE: f64 = 5e-6;

/// A device to run a network on, and the distance from the reference that is allowed there.
pub struct On {
    pub name: &'static str,
    pub device: Device,
    pub tolerance: f64,
}

/// Activations in bf16 have 8 bits, and a network adds up their roundings; the deepest here, a VAE of
/// random weights, is off by 4.6e-2.
const BF16_TOLERANCE: f64 = 6e-2;

/// The processor; the GPU's kernels on the processor, in f32 and in bf16; and a card, where there is one.
pub fn devices() -> Vec<On> {
    let mut all = vec![On { name: "CPU", device: Device::Cpu, tolerance: TOLERANCE }];
    let mut add = |name, driver: Box<dyn Driver>, compute, tolerance| {
        all.push(On { name, device: Device::Gpu(Gpu::new(driver, compute)), tolerance });
    };
    for (name, compute, tolerance) in
        [("shim in f32", Element::F32, TOLERANCE), ("shim in bf16", Element::Bf16, BF16_TOLERANCE)]
    {
        if let Some(shim) = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
            add(name, Box::new(shim), compute, tolerance);
        }
    }
    for (name, compute, tolerance) in
        [("card in f32", Element::F32, TOLERANCE), ("card in bf16", Element::Bf16, BF16_TOLERANCE)]
    {
        match cuda::open(0) {
            Ok(driver) => add(name, driver, compute, tolerance),
            Err(error) => println!("skipped, {name}: {error}"),
        }
    }
    all
}

/// One folder of fixtures: a model, its inputs and its outputs.
pub struct Fixture {
    folder: PathBuf,
    io: HashMap<String, Weight>,
    pub cases: Vec<Value>,
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../parity/fixtures/networks")
            .join(name);
        let cases = std::fs::read_to_string(folder.join("cases.json")).expect("cases.json");
        let io = folder.join("io.safetensors");
        let io = if io.exists() { safetensors(&io) } else { HashMap::new() };
        Self { folder, io, cases: serde_json::from_str(&cases).expect("cases.json") }
    }

    /// The cases whose argument `key` is `value`.
    pub fn cases_with(&self, key: &str, value: &str) -> Vec<String> {
        let wanted = self.cases.iter().filter(|case| case[key] == value);
        wanted.map(|case| case["name"].as_str().expect("name").to_owned()).collect()
    }

    pub fn config<T: serde::de::DeserializeOwned>(&self) -> T {
        let text = std::fs::read_to_string(self.folder.join("config.json")).expect("config.json");
        serde_json::from_str(&text).expect("config.json")
    }

    pub fn source(&self) -> TensorSource {
        TensorSource::from_tensors(self.weights())
    }

    pub fn weights(&self) -> HashMap<String, Weight> {
        let names = ["diffusion_pytorch_model.safetensors", "model.safetensors"];
        let found = names.iter().map(|n| self.folder.join(n)).find(|p| p.exists());
        safetensors(&found.expect("a model"))
    }

    pub fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).expect(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.io.contains_key(name)
    }

    pub fn weight(&self, name: &str) -> &Weight {
        self.io.get(name).unwrap_or_else(|| panic!("no {name} in io.safetensors"))
    }

    /// As recorded, in the reference's layout.
    pub fn tensor(&self, name: &str) -> Tensor {
        let weight = self.weight(name);
        Tensor::from_vec(weight.shape(), weight.to_f32())
    }

    /// Without the batch axis.
    pub fn sample(&self, name: &str) -> Tensor {
        let tensor = self.tensor(name);
        assert_eq!(tensor.dim(0), 1, "{name}: one sample");
        let shape = tensor.shape()[1..].to_vec();
        tensor.reshape(&shape)
    }

    /// `[1, C, T, H, W]` to `[T, C, H, W]`.
    pub fn latents(&self, name: &str) -> Tensor {
        let tensor = self.sample(name);
        let [c, t, h, w] = *tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
        permute(&tensor, [t, c, h, w], |[t, c, y, x], [ct, ch, cw]| {
            ((c * ct + t) * ch + y) * cw + x
        })
    }

    /// `[1, C, T, H, W]` to `[T, H, W, C]`.
    pub fn pictures(&self, name: &str) -> Tensor {
        let tensor = self.sample(name);
        let [c, t, h, w] = *tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
        permute(&tensor, [t, h, w, c], |[t, y, x, c], [ct, ch, cw]| {
            ((c * ct + t) * ch + y) * cw + x
        })
    }

    /// Ids, stored as i32.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.bytes(name)
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// Raw bytes, for tensors that are not numbers in f32.
    pub fn bytes(&self, name: &str) -> &[u8] {
        self.weight(name).bytes()
    }
}

fn permute(
    source: &Tensor,
    shape: [usize; 4],
    place: impl Fn([usize; 4], [usize; 3]) -> usize,
) -> Tensor {
    let inner = [source.dim(1), source.dim(2), source.dim(3)];
    let [a, b, c, d] = shape;
    let index = |i: usize| [i / (b * c * d), i / (c * d) % b, i / d % c, i % d];
    let values = (0..a * b * c * d).map(|i| source.data()[place(index(i), inner)]).collect();
    Tensor::from_vec(&shape, values)
}

/// Reads a safetensors file. Types without a format of ours (i32, u8) are kept as bytes: i32 under
/// f32's size, u8 under fp8's.
pub fn safetensors(path: &std::path::Path) -> HashMap<String, Weight> {
    let file = std::fs::read(path).expect("safetensors");
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: HashMap<String, Value> = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let data = &file[8 + header_len..];
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    tensors
        .map(|(name, entry)| {
            let shape: Vec<usize> = entry["shape"].as_array().unwrap().iter().map(number).collect();
            let [start, end] = [0, 1].map(|i| number(&entry["data_offsets"][i]));
            let dtype = match entry["dtype"].as_str().unwrap() {
                "F32" | "I32" => DType::F32,
                "BF16" => DType::BF16,
                "F16" => DType::F16,
                "U8" => DType::F8E4M3,
                other => panic!("{name}: {other}"),
            };
            let bytes = data[start..end].to_vec();
            let weight = Weight::new(&shape, dtype, bytes.into()).expect("size");
            (name, weight)
        })
        .collect()
}

/// What networks gave, brought from where they are.
pub trait OnHost {
    fn on_host(self) -> Self;
}

impl OnHost for Tensor {
    fn on_host(self) -> Self {
        self.into_host().expect("computed")
    }
}

impl OnHost for Vec<Tensor> {
    fn on_host(self) -> Self {
        self.into_iter().map(Tensor::on_host).collect()
    }
}

/// Fails unless the relative L2 distance is within `tolerance`; names the worst value.
pub fn assert_close(what: &str, ours: &Tensor, reference: &Tensor, tolerance: f64) {
    assert_eq!(ours.shape(), reference.shape(), "{what}: shapes");
    let distance = distance(ours.data(), reference.data());
    let pairs = ours.data().iter().zip(reference.data()).enumerate();
    let (index, (a, b)) = pairs
        .max_by(|(_, (a, b)), (_, (c, d))| (*a - *b).abs().total_cmp(&(*c - *d).abs()))
        .expect("values");
    println!("{what}: relative L2 {distance:.2e}, worst at {index}: {a} against {b}");
    assert!(
        distance <= tolerance,
        "{what}: relative L2 {distance:.2e} above {tolerance:.0e}, worst at {index}: {a} against {b}"
    );
}

/// Relative L2 distance; NaN counts as infinite.
pub fn distance(ours: &[f32], reference: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let norm: f64 = reference.iter().map(|&v| square(v)).sum();
    let error: f64 = ours.iter().zip(reference).map(|(a, b)| square(a - b)).sum();
    let distance = (error / norm.max(f64::MIN_POSITIVE)).sqrt();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

/// Fails unless both are equal in every bit.
pub fn assert_same_bits(what: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape(), "{what}: shapes");
    let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    if let Some(index) = a.data().iter().zip(b.data()).position(differs) {
        panic!("{what}: at {index}: {} against {}", a.data()[index], b.data()[index]);
    }
}

/// Reproducible values, roughly normal: sums of uniform draws of splitmix64.
pub fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    };
    let len = shape.iter().product();
    let values = (0..len).map(|_| (0..4).map(|_| uniform() - 0.5).sum::<f32>() * 1.73).collect();
    Tensor::from_vec(shape, values)
}

/// The processor, and the GPU's kernels on it as they round.
pub fn exact_devices() -> Vec<(&'static str, Device)> {
    let mut devices = vec![("CPU", Device::Cpu)];
    for (name, compute) in [("shim in f32", Element::F32), ("shim in bf16", Element::Bf16)] {
        if let Some(shim) = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
            devices.push((name, Device::Gpu(Gpu::new(Box::new(shim), compute))));
        }
    }
    devices
}

/// A fixture's network on some devices, which share each forward.
pub fn model(name: &str, devices: &[Device]) -> SplitTransformer {
    let fixture = Fixture::open(name);
    let model = Transformer::load(&fixture.config(), fixture.source()).expect(name);
    let ranks = devices.iter().map(|device| model.clone().on(device)).collect();
    SplitTransformer::new(ranks).expect("even heads")
}

/// A prompt, an empty one, and one without padding, of which only the keys of the first are kept.
pub fn contexts(model: &SplitTransformer) -> [SplitContext; 3] {
    let config = model.config();
    let image = config.image_dim.map(|width| {
        let tokens = config.pos_embed_seq_len.unwrap_or(5);
        noise(4, &[tokens, width])
    });
    [7, 0, 12].map(|tokens| {
        let text = noise(tokens as u64, &[tokens, config.text_dim]);
        let options = ContextOptions { padded_tokens: 12 };
        model.context(&text, image.as_ref(), &options).expect("a context")
    })
}

/// Latents `[frames, channels, height, width]` of plain areas of 8 x 8, whose tokens are alike, as those of noise
/// alone are not.
pub fn areas(seed: u64, [frames, channels, height, width]: [usize; 4]) -> Tensor {
    let own = noise(seed, &[frames, channels, height, width]);
    let area = noise(seed + 1, &[channels, height.div_ceil(8), width.div_ceil(8)]);
    let value = |(at, own): (usize, &f32)| {
        let [channel, y, x] = [at / (height * width) % channels, at / width % height, at % width];
        let place = (channel * height.div_ceil(8) + y / 8) * width.div_ceil(8) + x / 8;
        2.0 * area.data()[place] + 0.1 * own
    };
    let values = own.data().iter().enumerate().map(value).collect();
    Tensor::from_vec(own.shape(), values)
}

/// Fails unless two results differ by more than a change of rounding makes of them.
pub fn assert_other(what: &str, a: &Tensor, b: &Tensor) {
    let distance = distance(a.data(), b.data());
    assert!(distance > 1e-3, "{what}: only {distance:.1e} between them");
}

//! A few thousand damaged copies of sound files for each reader: no panic, whatever the damage. The targets
//! in `fuzz/` do the same without end and guided by coverage.

mod common;

use std::fs;

use common::{fixtures, layouts_json, pickle};
use longreel_weights::fuzzing;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Numbers at which something may overflow.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX - 7, u64::MAX];

/// One to four changes, most of them among the first `header` bytes, where sizes and names are.
fn mutate(random: &mut Random, seed: &[u8], header: usize, other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let reach = if random.below(5) > 0 { header.min(bytes.len()) } else { bytes.len() };
        let at = random.below(reach);
        if bytes.is_empty() {
            return bytes;
        }
        let width = [1, 2, 4, 8][random.below(4)];
        let len = random.below(64).min(bytes.len() - at);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = b"0123456789-[]{}\",:.eE\0()RQ"[random.below(26)],
            3 | 4 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
            5 => bytes.truncate(at),
            6 => {
                let copy = bytes[at..at + len].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                let from = random.below(other.len());
                let end = (from + len).min(other.len());
                bytes.splice(at..at + len, other[from..end].iter().copied());
            }
        }
    }
    bytes
}

/// Runs a reader on mutations of the seeds. It must accept every seed, and both read and refuse some of
/// what came of them; else the mutations would test nothing.
fn survives(name: &str, seeds: &[(Vec<u8>, usize)], runs: usize, read: fn(&[u8]) -> bool) {
    for (index, (seed, _)) in seeds.iter().enumerate() {
        assert!(read(seed), "{name}: seed {index} is not read");
    }
    let mut random = Random(0x10e9_4ee1);
    let mut accepted = 0;
    for run in 0..runs {
        let (seed, header) = &seeds[run % seeds.len()];
        let other = &seeds[random.below(seeds.len())].0;
        let bytes = mutate(&mut random, seed, *header, other);
        let result = std::panic::catch_unwind(|| read(&bytes));
        match result {
            Ok(read) => accepted += usize::from(read),
            Err(_) => {
                let path = std::env::temp_dir().join(format!("longreel-{name}-{run}"));
                fs::write(&path, &bytes).unwrap();
                panic!("{name}: run {run} panicked; its bytes are in {}", path.display());
            }
        }
    }
    assert!(accepted > 0 && accepted < runs, "{name}: {accepted} of {runs} were read");
}

fn file(path: &str) -> Vec<u8> {
    fs::read(fixtures(path)).unwrap()
}

/// With the length of its header.
fn safetensors(path: &str) -> (Vec<u8>, usize) {
    let bytes = file(path);
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (bytes, header)
}

#[test]
fn damaged_safetensors_do_not_panic() {
    let seeds =
        [safetensors("containers/state.safetensors"), safetensors("lora/kohya.safetensors")];
    survives("safetensors", &seeds, 4000, fuzzing::container);
}

#[test]
fn damaged_gguf_files_do_not_panic() {
    survives("gguf", &[(file("containers/formats.gguf"), 900)], 4000, fuzzing::container);
}

#[test]
fn damaged_archives_do_not_panic() {
    let seeds = ["state.pth", "wrapped.pth", "module.pth"].map(|name| {
        let bytes = file(&format!("containers/{name}"));
        let all = bytes.len();
        (bytes, all)
    });
    survives("archive", &seeds, 6000, fuzzing::container);
}

#[test]
fn damaged_pickles_do_not_panic() {
    let tensors = [("a.weight".to_owned(), vec![3, 4]), ("b".to_owned(), vec![])];
    let seeds = ["FloatStorage", "HalfStorage"].map(|storage| {
        let bytes = pickle(&tensors, storage);
        let all = bytes.len();
        (bytes, all)
    });
    survives("pickle", &seeds, 20_000, fuzzing::pickle);
}

#[test]
fn damaged_models_do_not_panic() {
    let seeds = [
        safetensors("models/wan_flf2v/image_encoder/model.safetensors"),
        safetensors("networks/transformer_i2v/diffusion_pytorch_model.safetensors"),
        safetensors("lora/model.safetensors"),
        safetensors("networks/text_encoder/model.safetensors"),
        safetensors("networks/vae/diffusion_pytorch_model.safetensors"),
    ];
    survives("model", &seeds, 2000, fuzzing::model);
}

#[test]
fn damaged_loras_do_not_panic() {
    let seeds = [
        "diffusers",
        "diffusers_rslora",
        "kohya",
        "comfyui",
        "lycoris_lokr",
        "lycoris_loha",
        "lycoris_dora",
    ]
    .map(|name| safetensors(&format!("lora/{name}.safetensors")));
    survives("lora", &seeds, 4000, fuzzing::lora);
}

#[test]
fn damaged_json_does_not_panic() {
    let content = layouts_json("models.json");
    let mut seeds: Vec<String> = layouts_json("odd.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|case| case["config"].to_string())
        .collect();
    let flf2v = &content["models"]["Wan2.1-FLF2V-14B-720P"];
    seeds.push(flf2v["diffusers_config"].to_string());
    seeds.push(flf2v["official_config"].to_string());
    seeds.push(
        serde_json::json!({"metadata": {}, "weight_map": {
            "a.weight": "model-00001-of-00002.safetensors",
            "b.weight": "model-00002-of-00002.safetensors",
        }})
        .to_string(),
    );
    let seeds: Vec<(Vec<u8>, usize)> =
        seeds.into_iter().map(|text| (text.clone().into_bytes(), text.len())).collect();
    survives("json", &seeds, 12_000, fuzzing::json);
}

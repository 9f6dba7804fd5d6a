//! NVIDIA cards, their driver and the libraries beside it, asked as they are loaded: nothing of them is
//! needed to run this program.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use libloading::Library;
use longreel_film::human_bytes;
use longreel_weights::{TransformerConfig, published_models};

use super::finding::{Findings, words};

/// Libraries by what they are for, the newest name first.
const LIBRARIES: [(&str, &[&str]); 4] = [
    ("NVRTC", &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]),
    ("cuBLASLt", &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]),
    ("cuDNN", &["libcudnn.so.9", "libcudnn.so"]),
    ("NCCL", &["libnccl.so.2", "libnccl.so"]),
];

pub fn look(findings: &mut Findings) {
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let Some(cards) = cards() else {
        match driver {
            None => findings.note(
                "card",
                words!("no NVIDIA driver: films are computed by the processor", "未安装 NVIDIA 驱动：由 CPU 计算"),
                None,
            ),
            Some(_) => findings.warn(
                "card",
                words!(
                    "there is an NVIDIA driver, and its library (libnvidia-ml.so.1) cannot be used from here",
                    "系统装有 NVIDIA 驱动，但此处无法使用其库（libnvidia-ml.so.1）"
                ),
                words!(
                    "in a container: install the NVIDIA container toolkit and start with --gpus all \
                     (compose: --profile gpu)",
                    "容器内：请安装 NVIDIA Container Toolkit 并以 --gpus all 启动（compose：--profile gpu）"
                ),
            ),
        }
        return;
    };
    if cards.is_empty() {
        findings.warn(
            "card",
            words!("the driver is there and no card", "有驱动但没有显卡"),
            words!(
                "see `nvidia-smi`; in a container, is a card given to it (--gpus all)?",
                "请查看 `nvidia-smi`；容器内请确认已分配显卡（--gpus all）"
            ),
        );
    }
    if let Ok(hidden) = std::env::var("CUDA_VISIBLE_DEVICES")
        && (hidden.trim().is_empty() || hidden.trim() == "-1")
    {
        findings.note(
            "card",
            words!(
                "CUDA_VISIBLE_DEVICES={hidden} hides all cards",
                "CUDA_VISIBLE_DEVICES={hidden} 隐藏了所有显卡"
            ),
            Some(words!("unset CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")),
        );
    }
    for Card { name, free, total, version } in &cards {
        let (shown, all) = (human_bytes(*free), human_bytes(*total));
        findings.ok(
            "card",
            words!(
                "{name}: {shown} free of {all}, driver {version}",
                "{name}：可用 {shown} / 共 {all}，驱动 {version}"
            ),
        );
        // Of the transformer's weights in bf16; what computing takes comes on top.
        let fit: Vec<&str> = published_models()
            .iter()
            .filter(|model| bf16_bytes(&model.transformer) < *free)
            .map(|model| model.name)
            .collect();
        let fit = fit.join(", ");
        findings.note(
            "card",
            words!("bf16 weights that fit in it: {fit}", "可容纳 bf16 权重的模型：{fit}"),
            None,
        );
    }
    findings.note(
        "card",
        words!(
            "this version does not compute on it yet; the processor does",
            "此版本尚不能使用显卡计算，由 CPU 计算"
        ),
        None,
    );
    for (name, files) in LIBRARIES {
        // SAFETY: these libraries do nothing harmful when they are loaded.
        let found = files.iter().find(|file| unsafe { Library::new(**file) }.is_ok());
        match found {
            Some(file) => findings.ok("cuda", words!("{name}: {file}", "{name}：{file}")),
            None => findings.note(
                "cuda",
                words!("{name} is not found", "未找到 {name}"),
                Some(words!(
                    "it comes with the CUDA toolkit, the GPU image, or from PyPI (nvidia-cuda-nvrtc-cu12, \
                     nvidia-cublas-cu12, nvidia-cudnn-cu12, nvidia-nccl-cu12) with LD_LIBRARY_PATH",
                    "它随 CUDA Toolkit 或 GPU 镜像提供，也可从 PyPI 安装（nvidia-cuda-nvrtc-cu12、\
                     nvidia-cublas-cu12、nvidia-cudnn-cu12、nvidia-nccl-cu12）并设置 LD_LIBRARY_PATH"
                )),
            ),
        }
    }
}

/// Bytes of a transformer's blocks in bf16: eight square matrices of attention and two of the
/// feed-forward network in each.
fn bf16_bytes(config: &TransformerConfig) -> u64 {
    let dim = (config.num_attention_heads * config.attention_head_dim) as u64;
    let block = 8 * dim * dim + 2 * dim * config.ffn_dim as u64;
    2 * block * config.num_layers as u64
}

/// A card as the driver tells of it.
struct Card {
    name: String,
    free: u64,
    total: u64,
    version: String,
}

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// All cards, by the management library of the driver; `None` without one.
fn cards() -> Option<Vec<Card>> {
    // SAFETY: loading the driver's management library runs its initialisers, as nvidia-smi does.
    let library = unsafe { Library::new("libnvidia-ml.so.1") }.ok()?;
    // SAFETY: the signatures are those of nvml.h, stable since its second version; buffers are as long
    // as is said, and texts end with a zero.
    unsafe {
        let init = library.get::<unsafe extern "C" fn() -> c_int>(b"nvmlInit_v2").ok()?;
        if init() != 0 {
            return None;
        }
        let mut text = [0 as c_char; 96];
        let length = text.len() as c_uint;
        let said =
            |text: &[c_char; 96]| CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
        let driver = library
            .get::<unsafe extern "C" fn(*mut c_char, c_uint) -> c_int>(
                b"nvmlSystemGetDriverVersion",
            )
            .ok()?;
        driver(text.as_mut_ptr(), length);
        let version = said(&text);
        let count_of = library
            .get::<unsafe extern "C" fn(*mut c_uint) -> c_int>(b"nvmlDeviceGetCount_v2")
            .ok()?;
        let mut count = 0;
        count_of(&mut count);
        let by_index = library
            .get::<unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int>(
                b"nvmlDeviceGetHandleByIndex_v2",
            )
            .ok()?;
        let name_of = library
            .get::<unsafe extern "C" fn(*mut c_void, *mut c_char, c_uint) -> c_int>(
                b"nvmlDeviceGetName",
            )
            .ok()?;
        let memory_of = library
            .get::<unsafe extern "C" fn(*mut c_void, *mut Memory) -> c_int>(
                b"nvmlDeviceGetMemoryInfo",
            )
            .ok()?;
        let mut cards = Vec::new();
        for index in 0..count {
            let mut handle = std::ptr::null_mut();
            let mut memory = Memory::default();
            text.fill(0);
            if by_index(index, &mut handle) == 0
                && name_of(handle, text.as_mut_ptr(), length) == 0
                && memory_of(handle, &mut memory) == 0
            {
                let name = said(&text);
                let Memory { total, free, .. } = memory;
                cards.push(Card { name, free, total, version: version.clone() });
            }
        }
        Some(cards)
    }
}

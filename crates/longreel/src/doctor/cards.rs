//! NVIDIA cards, their driver and the libraries beside it, as `cuda::probe` finds them.

use longreel_film::human_bytes;
use longreel_kernels::cuda::{Absent, Card, Kind, NoDriver, Probe, probe};
use longreel_weights::published_models;

use super::finding::{Findings, words};

/// The lowest compute capability that our kernels are for.
const LEAST_CAPABILITY: (u32, u32) = (8, 0);

pub fn look(findings: &mut Findings) {
    let hidden = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    tell(findings, &probe(), hidden.as_deref());
}

/// Tells what was found. `hidden` is the variable that chooses cards, where it is set.
fn tell(findings: &mut Findings, found: &Probe, hidden: Option<&str>) {
    match &found.driver {
        Err(why) => no_driver(findings, why, hidden),
        Ok(driver) => {
            let (major, minor) = driver.cuda;
            let (path, version) = (driver.path.display(), driver.version.as_deref().unwrap_or("?"));
            findings.ok(
                "card",
                words!(
                    "driver {version}, CUDA {major}.{minor}: {path}",
                    "驱动 {version}，CUDA {major}.{minor}：{path}"
                ),
            );
            if found.cards.is_empty() {
                no_card(findings, hidden);
            }
        }
    }
    for card in &found.cards {
        one(findings, card);
    }
    if found.cards.len() > 1 {
        between(findings, &found.apart);
    }
    libraries(findings, found);
}

/// How several cards are connected.
fn between(findings: &mut Findings, apart: &[[u32; 2]]) {
    if apart.is_empty() {
        let found = words!("the cards reach each other's memory", "各显卡可直接访问彼此的显存");
        return findings.ok("card", found);
    }
    let pairs: Vec<_> = apart.iter().map(|[a, b]| format!("cuda:{a}-cuda:{b}")).collect();
    let pairs = pairs.join(", ");
    findings.note(
        "card",
        words!(
            "cards that do not reach each other's memory: {pairs}",
            "无法直接访问彼此显存的显卡：{pairs}"
        ),
        Some(words!(
            "what they exchange goes through the host, which is slower and no error; so it is with cards for games. \
             `nvidia-smi topo -p2p r` says why",
            "它们之间的数据经过主机内存，速度较慢，但不是错误；游戏显卡一般如此。原因见 `nvidia-smi topo -p2p r`"
        )),
    );
}

/// A driver without cards, and why they may be missing.
fn no_card(findings: &mut Findings, hidden: Option<&str>) {
    let cure = match hidden {
        Some(value) => words!(
            "CUDA_VISIBLE_DEVICES={value} chooses cards: unset it, or name one of `nvidia-smi -L`",
            "CUDA_VISIBLE_DEVICES={value} 限定了可用显卡：请取消设置，或指定 `nvidia-smi -L` 中的一块"
        ),
        None => words!(
            "see `nvidia-smi`; in a container, is a card given to it (--gpus all)?",
            "请查看 `nvidia-smi`；容器内请确认已分配显卡（--gpus all）"
        ),
    };
    findings.warn("card", words!("the driver is there and no card", "有驱动但没有显卡"), cure);
}

fn no_driver(findings: &mut Findings, why: &NoDriver, hidden: Option<&str>) {
    match why {
        NoDriver::NotInstalled => findings.note(
            "card",
            words!(
                "no NVIDIA driver: films are computed by the processor",
                "未安装 NVIDIA 驱动：由 CPU 计算"
            ),
            None,
        ),
        NoDriver::NotReached(absent) => {
            let refused = refusals(absent);
            let refused = if refused.is_empty() { refused } else { format!(" ({refused})") };
            findings.warn(
                "card",
                words!(
                    "there is an NVIDIA driver, and its library (libcuda.so.1) cannot be used from here{refused}",
                    "系统装有 NVIDIA 驱动，但此处无法使用其库（libcuda.so.1）{refused}"
                ),
                words!(
                    "in a container: install the NVIDIA container toolkit and start with --gpus all \
                     (compose: --profile gpu); in WSL: update Windows' driver, install none in Linux",
                    "容器内：请安装 NVIDIA Container Toolkit 并以 --gpus all 启动（compose：--profile gpu）；\
                     WSL：请更新 Windows 驱动，不要在 Linux 中另装驱动"
                ),
            );
        }
        // No device: the same as a driver with an empty list.
        NoDriver::Refuses { status: 100, .. } => no_card(findings, hidden),
        NoDriver::Refuses { status, name, cure } => {
            let cure = cure.unwrap_or("see `nvidia-smi` and dmesg (NVRM, Xid)");
            let chinese = chinese_cure(*status);
            findings.warn(
                "card",
                words!("the driver does not start: {name}", "驱动无法启动：{name}"),
                words!("{cure}", "{chinese}"),
            );
        }
        NoDriver::Unusable(reason) => findings.warn(
            "card",
            words!("{reason}", "驱动无法使用：{reason}"),
            words!("update NVIDIA's driver", "请更新 NVIDIA 驱动"),
        ),
    }
}

/// What to do about a driver that does not start, by its status (`CUresult`): the kernels say it in English.
fn chinese_cure(status: u32) -> &'static str {
    match status {
        3 => "请重新启动 longreel",
        34 => "驱动之前先找到了工具包的存根库：请从 LD_LIBRARY_PATH 中去掉 .../stubs",
        46 => "显卡被其他程序独占：请结束该程序，或执行 nvidia-smi -c DEFAULT",
        304 => "请查看 dmesg 中的 NVRM 与 Xid；容器内请重新启动容器",
        802 => "显卡之间的交换机未启动：请启动与驱动版本相同的 nvidia-fabricmanager",
        803 => {
            "libcuda.so.1 与正在运行的驱动不是同一版本：驱动刚更新过，请重启机器；容器内请从镜像中删除驱动的库"
        }
        804 => "排在驱动之前的 cuda-compat 库只适用于数据中心显卡：请从 LD_LIBRARY_PATH 中去掉它",
        999 => "请执行 modprobe nvidia_uvm 或重启机器；并查看 dmesg 中的 NVRM 与 Xid",
        _ => "请查看 `nvidia-smi` 和 dmesg（NVRM、Xid）",
    }
}

fn one(findings: &mut Findings, card: &Card) {
    let Card { ordinal, name, capability: (major, minor), multiprocessors, .. } = card;
    let all = human_bytes(card.total_bytes);
    let mhz = card.clock_khz / 1000;
    let about = format!("{multiprocessors} SM, {mhz} MHz, sm_{major}{minor}");
    let free = card.free_bytes.unwrap_or(card.total_bytes);
    let shown = human_bytes(free);
    findings.ok(
        "card",
        words!(
            "cuda:{ordinal} {name}: {shown} free of {all}; {about}",
            "cuda:{ordinal} {name}：可用 {shown} / 共 {all}；{about}"
        ),
    );
    if card.capability < LEAST_CAPABILITY {
        findings.note(
            "card",
            words!(
                "cuda:{ordinal} is older than what films can be computed on (compute capability 8.0: RTX 30, A100)",
                "cuda:{ordinal} 过旧，无法用于计算（需要计算能力 8.0：RTX 30、A100 及更新）"
            ),
            None,
        );
        return;
    }
    // Of the transformer's weights in bf16; what computing takes comes on top.
    let models = published_models();
    let names = |do_fit: bool| -> String {
        let fitting =
            models.iter().filter(|model| (model.transformer.bf16_bytes() < free) == do_fit);
        fitting.map(|model| model.name).collect::<Vec<_>>().join(", ")
    };
    let (fit, others) = (names(true), names(false));
    if !fit.is_empty() {
        let found = words!("bf16 weights that fit in it: {fit}", "可容纳 bf16 权重的模型：{fit}");
        findings.note("card", found, None);
    }
    if !others.is_empty() {
        findings.note(
            "card",
            words!(
                "bf16 weights that are larger and brought for each pass: {others}",
                "bf16 权重更大、每次前向都要传输的模型：{others}"
            ),
            Some(words!(
                "slower, and no error; fewer bits (`longreel models quantize`) or a card with more memory keep them \
                 there, and ending other programs on the card may",
                "会变慢，但不是错误；量化（`longreel models quantize`）或更大显存可让权重常驻，结束占用显存的其他程序也可能够用"
            )),
        );
    }
}

fn libraries(findings: &mut Findings, found: &Probe) {
    for (kind, result) in &found.libraries {
        let name = kind.name();
        let absent = match result {
            Ok(library) => {
                let (version, path) = (&library.version, library.path.display());
                let (en, zh) = match library.least {
                    None => (String::new(), String::new()),
                    Some(least) => (
                        format!(" (not used: it is older than {least}, the oldest that is)"),
                        format!("（未使用：低于所需的最低版本 {least}）"),
                    ),
                };
                findings.ok(
                    "cuda",
                    words!("{name} {version}: {path}{en}", "{name} {version}：{path}{zh}"),
                );
                continue;
            }
            // Nobody need fetch what is of no use.
            Err(_) if *kind == Kind::Nccl && found.cards.len() < 2 => continue,
            Err(absent) => absent,
        };
        let refused = refusals(absent);
        let without = match (kind, refused.is_empty()) {
            (_, false) => words!("{name} cannot be used: {refused}", "无法使用 {name}：{refused}"),
            (Kind::Nvrtc, true) => words!(
                "{name} is not found: without it no kernel can be compiled, and the processor computes",
                "未找到 {name}：缺少它就无法编译内核，将由 CPU 计算"
            ),
            (Kind::CublasLt, true) => words!(
                "{name} is not found: our own kernels multiply matrices, and slower",
                "未找到 {name}：矩阵乘法将使用自带内核，速度较慢"
            ),
            (Kind::Cudnn, true) => words!(
                "{name} is not found: our own kernels compute attention and convolutions",
                "未找到 {name}：注意力和卷积将使用自带内核"
            ),
            (Kind::Nccl, true) => words!(
                "{name} is not found: the driver copies from card to card",
                "未找到 {name}：显卡之间由驱动复制数据"
            ),
            (_, true) => words!("{name} is not found", "未找到 {name}"),
        };
        let package = kind.package().unwrap_or("?");
        let cure = words!(
            "it comes with the CUDA toolkit, the image longreel:gpu, or `pip install {package}` in a virtual \
             environment that is active; other places by LD_LIBRARY_PATH",
            "它随 CUDA Toolkit 或镜像 longreel:gpu 提供，也可在已激活的虚拟环境中 `pip install {package}`；\
             其他位置请用 LD_LIBRARY_PATH 指明"
        );
        match kind {
            Kind::Nvrtc => findings.warn("cuda", without, cure),
            _ => findings.note("cuda", without, Some(cure)),
        }
    }
}

/// Files of a library that could not be used, and why.
fn refusals(absent: &Absent) -> String {
    let each = absent.refused.iter().map(|r| format!("{}: {}", r.file.display(), r.reason));
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use longreel_kernels::cuda::{DriverVersion, Found, Refusal};

    use super::*;
    use crate::doctor::finding::Language;

    fn absent(kind: Kind) -> (Kind, Result<Found, Absent>) {
        (kind, Err(Absent { kind, folders: Vec::new(), refused: Vec::new() }))
    }

    fn told(found: &Probe, hidden: Option<&str>) -> [String; 2] {
        let mut findings = Findings::new(false);
        tell(&mut findings, found, hidden);
        [Language::English, Language::Chinese].map(|language| findings.in_words(language))
    }

    #[test]
    fn a_card_is_told_of_with_its_memory_and_what_is_missing_with_its_package() {
        let nvrtc =
            Found { version: "12.9".into(), path: "/opt/libnvrtc.so.12".into(), least: None };
        let cudnn = Found {
            version: "9.10.2".into(),
            path: "/opt/libcudnn.so.9".into(),
            least: Some("9.13.1"),
        };
        let mut blas = absent(Kind::CublasLt);
        if let Err(absent) = &mut blas.1 {
            let reason = "of CUDA 13, and the driver is of CUDA 12".into();
            absent.refused.push(Refusal { file: "/opt/libcublasLt.so.13".into(), reason });
        }
        let found = Probe {
            driver: Ok(DriverVersion {
                cuda: (12, 8),
                version: Some("570.86.10".into()),
                path: "/usr/lib/libcuda.so.1".into(),
            }),
            cards: vec![Card {
                ordinal: 1,
                name: "NVIDIA GeForce RTX 4090".into(),
                capability: (8, 9),
                total_bytes: 24 << 30,
                free_bytes: Some(23 << 30),
                multiprocessors: 128,
                clock_khz: 2_520_000,
                pcie: None,
            }],
            apart: Vec::new(),
            libraries: vec![
                (Kind::Nvrtc, Ok(nvrtc)),
                blas,
                (Kind::Cudnn, Ok(cudnn)),
                absent(Kind::Nccl),
            ],
        };
        for text in told(&found, None) {
            for part in [
                "570.86.10",
                "CUDA 12.8",
                "cuda:1 NVIDIA GeForce RTX 4090",
                "128 SM, 2520 MHz, sm_89",
                "NVRTC 12.9",
                "/opt/libcublasLt.so.13: of CUDA 13",
                "nvidia-cublas-cu12",
                "cuDNN 9.10.2",
                "9.13.1",
                "SkyReels-V2-DF-1.3B-540P",
            ] {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
            assert!(!text.contains("NCCL"), "nobody need fetch it: {text}");
        }
    }

    #[test]
    fn several_cards_are_told_of_with_what_is_between_them() {
        let card = |ordinal| Card {
            ordinal,
            name: "a card".into(),
            capability: (9, 0),
            total_bytes: 80 << 30,
            free_bytes: None,
            multiprocessors: 132,
            clock_khz: 1_830_000,
            pcie: None,
        };
        let found = |apart, nccl| Probe {
            driver: Ok(DriverVersion { cuda: (12, 8), version: None, path: "libcuda.so.1".into() }),
            cards: vec![card(0), card(1), card(2)],
            apart,
            libraries: vec![nccl],
        };
        for text in told(&found(vec![[0, 2]], absent(Kind::Nccl)), None) {
            for part in ["cuda:0-cuda:2", "topo -p2p", "NCCL", "nvidia-nccl-cu12"] {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
            assert!(!text.contains("cuda:0-cuda:1"), "{text}");
        }
        let old = Found {
            version: "2.12.0".into(),
            path: "/opt/libnccl.so.2".into(),
            least: Some("2.18.0"),
        };
        let [english, chinese] = told(&found(Vec::new(), (Kind::Nccl, Ok(old))), None);
        for text in [&english, &chinese] {
            assert!(text.contains("/opt/libnccl.so.2") && text.contains("2.18.0"), "{text}");
        }
        assert!(english.contains("reach each other's memory") && chinese.contains("彼此的显存"));
    }

    #[test]
    fn each_published_model_is_held_against_the_memory_that_a_card_has_free() {
        let model_lines = |gib: u64| -> Vec<(String, bool)> {
            let card = Card {
                ordinal: 0,
                name: "a card".into(),
                capability: (8, 9),
                total_bytes: 80 << 30,
                free_bytes: Some(gib << 30),
                multiprocessors: 1,
                clock_khz: 1,
                pcie: None,
            };
            let mut findings = Findings::new(false);
            one(&mut findings, &card);
            let said = findings.all().iter().skip(1);
            said.map(|finding| (finding.found.en.clone(), finding.cure.is_some())).collect()
        };
        // 14 billion values of two bytes are 26 GiB.
        let told = model_lines(24);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].0.starts_with("bf16 weights that fit") && told[0].0.contains("-1.3B"));
        assert!(!told[0].0.contains("14B"), "{told:?}");
        assert!(told[1].0.contains("brought for each pass") && told[1].0.contains("-14B"));
        assert!(told[1].1, "no cure: {told:?}");
        let told = [1, 40].map(model_lines);
        assert!(told.iter().all(|told| told.len() == 1), "{told:?}");
        assert!(told[0][0].0.contains("brought") && told[1][0].0.contains("fit in it"), "{told:?}");
    }

    #[test]
    fn a_variable_that_hides_the_cards_is_named_and_a_driver_that_fails_is_told_with_its_cure() {
        let found = |status, name: &str, cure| Probe {
            driver: Err(NoDriver::Refuses { status, name: name.into(), cure }),
            cards: Vec::new(),
            apart: Vec::new(),
            libraries: Vec::new(),
        };
        for text in told(&found(100, "CUDA_ERROR_NO_DEVICE", None), Some("-1")) {
            assert!(text.contains("CUDA_VISIBLE_DEVICES=-1"), "{text}");
        }
        let cures = [
            (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "start the machine again", "请重启机器"),
            (999, "CUDA_ERROR_UNKNOWN", "modprobe nvidia_uvm", "请执行 modprobe nvidia_uvm"),
            (7, "CUresult 7", "see nvidia-smi", "请查看 `nvidia-smi`"),
        ];
        for (status, name, english, chinese) in cures {
            let told = told(&found(status, name, Some(english)), None);
            for (text, cure) in told.iter().zip([english, chinese]) {
                assert!(text.contains(name) && text.contains(cure), "{text}");
            }
            assert!(!told[1].contains(english) || chinese.contains(english), "{}", told[1]);
        }
    }
}

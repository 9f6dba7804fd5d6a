//! Processor, memory, the limits of a container, the clock.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use longreel_film::{available_memory_bytes, human_bytes, memory_limit_bytes};
use longreel_hub::free_bytes;
use longreel_server::killed_for_memory;

use super::finding::{Findings, words};

/// Memory that the demo model takes with room for the system.
const LEAST_MEMORY: u64 = 512 << 20;
/// Memory that the smallest published model takes.
const REAL_MEMORY: u64 = 16 << 30;
/// Seconds of 2026-01-01: this program did not exist before.
const BORN: u64 = 1_767_225_600;
/// Open files with which a server of a thousand listeners comes along.
const FILES: u64 = 4_096;

pub fn look(findings: &mut Findings) {
    processor(findings);
    memory(findings);
    container(findings);
    clock(findings);
    files(findings);
}

fn processor(findings: &mut Findings) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let name = name.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let best = match has_avx2 {
            true if is_x86_feature_detected!("avx512bf16") => "AVX-512, bf16",
            true if is_x86_feature_detected!("avx512f") => "AVX-512",
            true => "AVX2",
            false => "SSE2",
        };
        if !has_avx2 {
            findings.warn(
                "processor",
                words!("{name}, {cores} cores, without AVX2 and FMA", "{name}，{cores} 核，不支持 AVX2 与 FMA"),
                words!(
                    "it works, many times slower; in a virtual machine let the host's processor through (for \
                     QEMU: -cpu host)",
                    "可以运行，但会慢很多倍；若在虚拟机中，请透传宿主机 CPU（QEMU 使用 -cpu host）"
                ),
            );
        } else {
            findings.ok(
                "processor",
                words!("{name}, {cores} cores, {best}", "{name}，{cores} 核，{best}"),
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    findings.note(
        "processor",
        words!("{name}, {cores} cores", "{name}，{cores} 核"),
        Some(words!(
            "the fast kernels are for x86-64; here plain code computes",
            "快速内核仅适用于 x86-64；此处使用普通代码计算"
        )),
    );
    // "max" and -1 are no limit.
    let numbers = |paths: &[&str]| -> Option<f64> {
        let texts: Option<Vec<String>> = paths.iter().map(|p| fs::read_to_string(p).ok()).collect();
        let texts = texts?.join(" ");
        let mut numbers = texts.split_whitespace().map(str::parse::<f64>);
        Some(numbers.next()?.ok()? / numbers.next()?.ok()?).filter(|&quota| quota > 0.0)
    };
    let old = ["/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"];
    let quota = numbers(&["/sys/fs/cgroup/cpu.max"]).or_else(|| numbers(&old));
    if let Some(quota) = quota.filter(|&quota| quota < cores as f64) {
        let used = quota.ceil().max(1.0);
        findings.warn(
            "processor",
            words!(
                "this container may use {quota:.1} of the {cores} cores that it sees",
                "容器能看到 {cores} 个核，但只允许使用 {quota:.1} 个"
            ),
            words!(
                "give it more, or start with --threads {used:.0}, so that threads do not wait for each other",
                "请放宽限制，或使用 --threads {used:.0}，避免线程互相等待"
            ),
        );
    }
}

fn memory(findings: &mut Findings) {
    let Some(free) = available_memory_bytes() else {
        findings.note("memory", words!("the system does not tell", "系统没有提供内存信息"), None);
        return;
    };
    let shown = human_bytes(free);
    if free < LEAST_MEMORY {
        findings.error(
            "memory",
            words!("{shown} free", "可用 {shown}"),
            words!(
                "end other programs, or give the container more memory: the demo model takes about 0.1 GB, \
                 real ones 16 GB and more",
                "请结束其他程序或为容器分配更多内存：演示模型约需 0.1 GB，真实模型需 16 GB 以上"
            ),
        );
    } else if free < REAL_MEMORY {
        findings.note(
            "memory",
            words!("{shown} free", "可用 {shown}"),
            Some(words!(
                "enough for the demo model; published models take 16 GB and more (`longreel plan --model NAME` \
                 says how much)",
                "足够运行演示模型；已发布的模型需要 16 GB 以上（`longreel plan --model NAME` 会给出数值）"
            )),
        );
    } else {
        findings.ok("memory", words!("{shown} free", "可用 {shown}"));
    }
}

fn container(findings: &mut Findings) {
    if let Some(limit) = memory_limit_bytes() {
        let limit = human_bytes(limit);
        findings.ok("container", words!("memory limited to {limit}", "内存限制为 {limit}"));
    }
    if let Some(killed @ 1..) = killed_for_memory() {
        findings.warn(
            "container",
            words!(
                "{killed} processes were killed here for want of memory",
                "此容器中已有 {killed} 个进程因内存不足被终止"
            ),
            words!(
                "raise the limit (docker: --memory), or make films with a smaller --size or --base-num-frames",
                "请提高限制（docker：--memory），或减小 --size 或 --base-num-frames"
            ),
        );
    }
    let shm = std::path::Path::new("/dev/shm");
    if shm.exists()
        && let Some(free) = free_bytes(shm)
        && free < 64 << 20
    {
        let free = human_bytes(free);
        findings.warn(
            "container",
            words!("/dev/shm has {free} free", "/dev/shm 剩余 {free}"),
            words!(
                "start the container with --shm-size 1g, which several cards need to talk to each other",
                "请以 --shm-size 1g 启动容器，多卡通信需要它"
            ),
        );
    }
}

fn clock(findings: &mut Findings) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now < BORN {
        findings.error(
            "clock",
            words!("it is years behind", "系统时间落后数年"),
            words!(
                "set it (timedatectl set-ntp true): certificates, keys and webhooks go by it",
                "请校准时间（timedatectl set-ntp true）：证书、密钥与 webhook 都依赖时间"
            ),
        );
    }
}

/// A server with many listeners holds many connections.
fn files(findings: &mut Findings) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        let Some(most) = getrlimit(Resource::Nofile).maximum else { return };
        if most < FILES {
            findings.warn(
                "files",
                words!("{most} files may be open at once", "最多可同时打开 {most} 个文件"),
                words!(
                    "raise it (ulimit -H -n, docker: --ulimit nofile=65536): each client that listens takes one",
                    "请提高上限（ulimit -H -n；docker：--ulimit nofile=65536）：每个监听的客户端占用一个"
                ),
            );
        }
    }
}

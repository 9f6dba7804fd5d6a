//! The models on this machine, and whether they fit.

use longreel_film::{available_memory_bytes, human_bytes};
use longreel_hub::{Site, free_bytes};
use longreel_weights::inspect;

use super::finding::{Findings, words};
use crate::demo;
use crate::model_name::caches;
use crate::models::is_ours;

pub fn look(findings: &mut Findings, hub: Option<Site>) {
    let broken = match demo::folder().map(|folder| inspect(&folder)) {
        Ok(Ok(report)) if report.problems.is_empty() => {
            findings.ok("models", words!("the demo model is whole", "演示模型完整"));
            None
        }
        Ok(Ok(report)) => {
            let missing = report.problems.join("; ");
            Some(words!("the demo model lacks {missing}", "演示模型缺少 {missing}"))
        }
        Ok(Err(error)) => {
            Some(words!("the demo model cannot be read: {error}", "演示模型无法读取：{error}"))
        }
        Err(error) => {
            let why = error.to_string();
            let why = why.split(';').next().unwrap_or_default();
            let found = words!("no demo model: {why}", "没有演示模型：{why}");
            let cure = words!(
                "set XDG_CACHE_HOME to a folder that can be written to; a model named with --model needs none",
                "请把 XDG_CACHE_HOME 设为可写的文件夹；用 --model 指定其他模型时则不需要"
            );
            findings.note("models", found, Some(cure));
            None
        }
    };
    if let Some(found) = broken {
        let cure = words!("install the program again", "请重新安装本程序");
        findings.error("models", found, cure);
    }
    let free = available_memory_bytes();
    let mut found = 0;
    for cache in caches(hub) {
        for kept in cache.all().into_iter().filter(is_ours) {
            found += 1;
            let name = kept.short_reference();
            match inspect(&kept.folder) {
                Ok(report) if report.problems.is_empty() => {
                    let needed = report.memory_bytes;
                    let (shown, has) = (human_bytes(needed), human_bytes(free.unwrap_or(0)));
                    match free {
                        Some(free) if free < needed => findings.warn(
                            "models",
                            words!(
                                "{name} takes {shown} of memory, {has} are free",
                                "{name} 需要 {shown} 内存，可用 {has}"
                            ),
                            words!(
                                "its weights will be read from the disk again and again: free memory, or \
                                 quantise it (`longreel models quantize`)",
                                "权重将被反复从磁盘读取：请释放内存，或进行量化（`longreel models quantize`）"
                            ),
                        ),
                        _ => findings.ok(
                            "models",
                            words!("{name} is whole and takes {shown}", "{name} 完整，需要 {shown}"),
                        ),
                    }
                }
                Ok(report) => {
                    let missing = report.problems.join("; ");
                    findings.warn(
                        "models",
                        words!("{name} lacks {missing}", "{name} 缺少 {missing}"),
                        words!(
                            "longreel models pull {name} fetches what is missing",
                            "longreel models pull {name} 会下载缺少的文件"
                        ),
                    );
                }
                Err(error) => findings.warn(
                    "models",
                    words!("{name} cannot be read: {error}", "{name} 无法读取：{error}"),
                    words!(
                        "longreel models verify {name} --fix fetches damaged files again",
                        "longreel models verify {name} --fix 会重新下载损坏的文件"
                    ),
                ),
            }
        }
        if let Some(free) = free_bytes(cache.root()).filter(|&free| free < 20 << 30) {
            let (root, free) = (cache.root().display(), human_bytes(free));
            let variable = match cache.site() {
                Site::HuggingFace => "HF_HOME",
                Site::ModelScope => "MODELSCOPE_CACHE",
            };
            findings.note(
                "models",
                words!("{root} has room for {free}", "{root} 剩余空间 {free}"),
                Some(words!(
                    "published models take 15 to 90 GB; {variable} puts them on another disk",
                    "已发布的模型占 15 至 90 GB；可用 {variable} 改存到其他磁盘"
                )),
            );
        }
    }
    if found == 0 {
        findings.note(
            "models",
            words!("no published model is here", "尚未下载任何已发布的模型"),
            Some(words!(
                "longreel models pull skyreels-v2-df-1.3b-540p",
                "longreel models pull skyreels-v2-df-1.3b-540p"
            )),
        );
    }
}

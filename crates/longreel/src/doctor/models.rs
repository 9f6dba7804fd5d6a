//! The models on this machine, and whether they fit.

use std::io::ErrorKind;

use longreel_film::{available_memory_bytes, human_bytes};
use longreel_hub::{Site, free_bytes};
use longreel_weights::inspect;

use super::finding::{Findings, words};
use super::storage::can_write;
use crate::demo::{self, NoDemo};
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
            no_demo(findings, &error);
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
        let root = cache.root().display();
        let variable = match cache.site() {
            Site::HuggingFace => "HF_HOME",
            Site::ModelScope => "MODELSCOPE_CACHE",
        };
        if let Err(error) = can_write(cache.root()) {
            let found = words!("{root} cannot be written to: {error}", "{root} 无法写入：{error}");
            let cure = words!(
                "models that are there are used, and none can be fetched into it: give it to the user that runs \
                 this (chown), or name another folder by {variable}",
                "其中已有的模型可以使用，但无法下载新模型：请把它交给当前用户（chown），或用 {variable} 另选文件夹"
            );
            // Whoever mounts it so means it so.
            match error.kind() {
                ErrorKind::ReadOnlyFilesystem => findings.note("models", found, Some(cure)),
                _ => findings.warn("models", found, cure),
            }
        } else if let Some(free) = free_bytes(cache.root()).filter(|&free| free < 20 << 30) {
            let free = human_bytes(free);
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

/// Programs can do without the demo model.
fn no_demo(findings: &mut Findings, error: &NoDemo) {
    let (found, cure) = match error {
        NoDemo::NotBuiltIn => (
            words!("this program was built without the demo model", "本程序在构建时未包含演示模型"),
            words!("name a model with --model", "请用 --model 指定模型"),
        ),
        NoDemo::NotWritten { folder, cause } => {
            let folder = folder.display();
            (
                words!(
                    "no demo model: it cannot be put into {folder}: {cause}",
                    "没有演示模型：无法写入 {folder}：{cause}"
                ),
                words!(
                    "set XDG_CACHE_HOME to a folder that can be written to; a model named with --model needs none",
                    "请把 XDG_CACHE_HOME 设为可写的文件夹；用 --model 指定其他模型时则不需要"
                ),
            )
        }
    };
    findings.note("models", found, Some(cure));
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_reason_for_a_missing_demo_model_is_told_whole_and_with_its_own_cure() {
        let mut findings = Findings::new(false);
        no_demo(&mut findings, &NoDemo::NotBuiltIn);
        let cause = io::Error::new(io::ErrorKind::PermissionDenied, "read-only; and full");
        let folder = "/cache; of mine/longreel".into();
        no_demo(&mut findings, &NoDemo::NotWritten { folder, cause });
        let [without, unwritten] = findings.all() else { panic!("{findings:?}") };
        let cures = [without, unwritten].map(|finding| finding.cure.as_ref().expect("a cure"));
        assert!(without.found.en.contains("built without") && cures[0].en.contains("--model"));
        assert!(!cures[0].en.contains("XDG_CACHE_HOME") && cures[1].zh.contains("XDG_CACHE_HOME"));
        for words in [&unwritten.found.en, &unwritten.found.zh] {
            assert!(words.contains("/cache; of mine/longreel"), "{words}");
            assert!(words.ends_with("read-only; and full"), "{words}");
        }
    }
}

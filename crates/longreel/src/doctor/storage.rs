//! The data folder: who may write there, how much, how fast; its secrets and its database. The folder of log files.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use longreel_film::human_bytes;
use longreel_hub::free_bytes;
use longreel_jobs::UpkeepStore;
use longreel_server::{DATABASE, WEBHOOK_SECRET};

use super::finding::{Findings, words};
use crate::keys::with_store;

/// What is written to see how fast a disk is, in bytes.
const TRIAL: usize = 64 << 20;
/// Slower than this, in bytes a second, a disk holds up those who watch.
const SLOW: f64 = 30e6;
/// A short durable write that takes longer than this, in seconds, holds up each segment.
const SLOW_SYNC: f64 = 0.1;
/// Room that a film of some length and its parts take.
const ROOM: u64 = 1 << 30;

pub fn look(findings: &mut Findings, data: &Path, logs: Option<&Path>) {
    if let Some(logs) = logs {
        log_folder(findings, logs);
    }
    // Where it will be, when it is not there.
    let mut here = first_there(data);
    let (shown, in_the_way) = (data.display(), here.display());
    if !here.is_dir() {
        findings.error(
            "data",
            words!(
                "{shown} cannot be the data folder: {in_the_way} is no folder",
                "{shown} 不能作为数据文件夹：{in_the_way} 不是文件夹"
            ),
            words!(
                "put {in_the_way} aside, or choose another folder with --data",
                "请移走 {in_the_way}，或用 --data 另选文件夹"
            ),
        );
        return;
    }
    if !data.exists() {
        if findings.fix {
            match fs::create_dir_all(data) {
                Ok(()) => findings.fixed("data", words!("{shown} was made", "已创建 {shown}")),
                Err(error) => return no_way_in(findings, data, &error),
            }
            here = data;
        } else {
            findings.note(
                "data",
                words!("{shown} is not there yet", "{shown} 尚不存在"),
                Some(words!(
                    "`longreel serve` makes it, `longreel doctor --fix` too",
                    "`longreel serve` 会创建它，`longreel doctor --fix` 也可以"
                )),
            );
        }
    }
    match speed(here) {
        // Told of below, by what is free.
        Err(error) if is_full(&error) => {}
        Ok(None) => {}
        Err(error) => return no_way_in(findings, here, &error),
        Ok(Some((rate, sync))) => {
            let (per_second, ms) = (human_bytes(rate as u64), (sync * 1e3).round());
            let words = words!(
                "{per_second}/s, a short durable write takes {ms} ms",
                "{per_second}/s，一次小的持久写入需 {ms} 毫秒"
            );
            if rate < SLOW || sync > SLOW_SYNC {
                findings.warn(
                    "disk",
                    words,
                    words!(
                        "put the data folder on a local disk (--data): network disks make each segment wait",
                        "请把数据文件夹放在本地磁盘（--data）：网络磁盘会拖慢每个片段"
                    ),
                );
            } else {
                findings.ok("disk", words);
            }
        }
    }
    if let Some(free) = free_bytes(here) {
        let shown = human_bytes(free);
        if free < ROOM {
            findings.warn(
                "disk",
                words!("{shown} free", "剩余 {shown}"),
                words!(
                    "delete films, or let the server do it: --keep-days, --keep-bytes; a full disk makes films \
                     wait, none is lost",
                    "请删除旧视频，或使用 --keep-days、--keep-bytes 自动清理；磁盘写满时任务会等待，不会丢失"
                ),
            );
        } else {
            findings.ok("disk", words!("{shown} free", "剩余 {shown}"));
        }
    }
    if data.is_dir() {
        secrets(findings, data);
        database(findings, data);
    }
}

/// The folder itself, or the nearest one above it of which there is something.
fn first_there(folder: &Path) -> &Path {
    let mut named = folder.ancestors().map(|path| match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    });
    // A link that leads nowhere is there, and in the way.
    named.find(|path| path.exists() || path.is_symlink()).unwrap_or(Path::new("."))
}

/// Whether files can be made in this folder, or where it would be made.
pub fn can_write(folder: &Path) -> io::Result<()> {
    let trial = Trial::new(first_there(folder));
    File::create(&trial.0)
        .map(drop)
        .or_else(|error| if is_full(&error) { Ok(()) } else { Err(error) })
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn log_folder(findings: &mut Findings, logs: &Path) {
    let shown = logs.display();
    match can_write(logs) {
        Ok(()) => findings.ok("logs", words!("{shown} can be written to", "{shown} 可以写入")),
        Err(error) => findings.error(
            "logs",
            words!("{shown} cannot be written to: {error}", "{shown} 无法写入：{error}"),
            words!(
                "give it to the user that runs this (chown), or choose another with --log-folder: the server does \
                 not start without it",
                "请把它交给当前用户（chown），或用 --log-folder 另选文件夹：否则服务无法启动"
            ),
        ),
    }
}

fn no_way_in(findings: &mut Findings, folder: &Path, error: &io::Error) {
    let folder = folder.display();
    findings.error(
        "data",
        words!("{folder} cannot be written to: {error}", "{folder} 无法写入：{error}"),
        words!(
            "give it to the user that runs this (chown), mount it writable (docker: without :ro), or choose \
             another with --data",
            "请把它交给当前用户（chown），以可写方式挂载（docker 不要加 :ro），或用 --data 另选文件夹"
        ),
    );
}

/// A file that goes again, whatever happens.
struct Trial(PathBuf);

impl Trial {
    fn new(folder: &Path) -> Self {
        Self(folder.join(format!(".longreel-doctor-{}", std::process::id())))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Bytes a second of a large write, seconds of a short durable one. Nothing where there is no room to try.
fn speed(folder: &Path) -> io::Result<Option<(f64, f64)>> {
    let trial = Trial::new(folder);
    let mut file = File::create(&trial.0)?;
    // What can be compressed says nothing.
    let block: Vec<u8> =
        (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let free = free_bytes(folder).unwrap_or(u64::MAX) / 4;
    let count =
        (TRIAL / block.len()).min(usize::try_from(free).unwrap_or(usize::MAX) / block.len());
    if count == 0 {
        return Ok(None);
    }
    let started = Instant::now();
    for _ in 0..count {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let rate = (count * block.len()) as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    file.write_all(b"durable")?;
    file.sync_all()?;
    Ok(Some((rate, started.elapsed().as_secs_f64())))
}

/// What signs cookies and webhooks is nobody else's to read.
fn secrets(findings: &mut Findings, data: &Path) {
    #[cfg(unix)]
    for name in ["session-secret", WEBHOOK_SECRET] {
        use std::os::unix::fs::PermissionsExt;
        let path = data.join(name);
        let Ok(about) = fs::metadata(&path) else { continue };
        if about.permissions().mode() & 0o077 == 0 {
            continue;
        }
        let shown = path.display();
        if findings.fix && fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).is_ok() {
            findings
                .fixed("secrets", words!("{shown} is yours alone now", "{shown} 现在仅限本人读取"));
        } else {
            findings.warn(
                "secrets",
                words!("others may read {shown}", "其他用户可以读取 {shown}"),
                words!(
                    "chmod 600 {shown}, or longreel doctor --fix",
                    "chmod 600 {shown}，或 longreel doctor --fix"
                ),
            );
        }
    }
}

fn database(findings: &mut Findings, data: &Path) {
    if !data.join(DATABASE).exists() {
        return;
    }
    let lock = File::open(data.join("lock")).map(|file| file.try_lock());
    let is_served = matches!(lock, Ok(Err(TryLockError::WouldBlock)));
    match with_store(data, async |store| store.counts().await) {
        Ok(counts) => {
            let all = counts.completed + counts.failed + counts.cancelled;
            let (waiting, running) = (counts.queued, counts.running);
            let (en, zh) = match is_served {
                true => (" (a server is at work)", "（服务正在运行）"),
                false => ("", ""),
            };
            findings.ok(
                "database",
                words!(
                    "whole: {waiting} films wait, {running} in work, {all} ended{en}",
                    "完好：{waiting} 个等待，{running} 个进行中，{all} 个已结束{zh}"
                ),
            );
        }
        Err(error) => {
            let folder = data.display();
            findings.error(
                "database",
                words!("{error:#}", "数据库无法使用：{error:#}"),
                words!(
                    "put {folder}/{DATABASE} aside or bring a copy of it back; the films are in {folder}/films",
                    "请移走 {folder}/{DATABASE} 或恢复其备份；视频文件在 {folder}/films"
                ),
            );
        }
    }
}

//! Programs that are used where they are there.

use std::process::{Command, Stdio};

use super::finding::{Findings, words};

/// What `--codec` finds in ffmpeg, and the encoder behind it.
const ENCODERS: [(&str, &str); 5] = [
    ("h264", "libx264"),
    ("h265", "libx265"),
    ("vp9", "libvpx-vp9"),
    ("av1", "libsvtav1"),
    ("nvenc", "h264_nvenc"),
];

pub fn look(findings: &mut Findings) {
    let Some(version) = output("ffmpeg", &["-hide_banner", "-version"]) else {
        findings.note(
            "ffmpeg",
            words!(
                "not found; films are MP4 (H.264) and GIF, videos that come in are H.264",
                "未安装；可输出 MP4（H.264）与 GIF，输入视频须为 H.264"
            ),
            Some(words!(
                "for WebM, H.265, AV1 and videos of other kinds: apt-get install ffmpeg; an image has it when it is built \
                 with EXTRA_PACKAGES=ffmpeg docker/build.sh",
                "如需 WebM、H.265、AV1 及其他格式的输入：apt-get install ffmpeg；镜像请用 EXTRA_PACKAGES=ffmpeg \
                 docker/build.sh 构建"
            )),
        );
        return;
    };
    let version = version.split_whitespace().nth(2).unwrap_or("?").to_owned();
    let all = output("ffmpeg", &["-hide_banner", "-encoders"]).unwrap_or_default();
    let has =
        |encoder: &str| all.lines().any(|line| line.split_whitespace().nth(1) == Some(encoder));
    let here: Vec<&str> = ENCODERS.iter().filter(|row| has(row.1)).map(|row| row.0).collect();
    let here = here.join(", ");
    findings.ok("ffmpeg", words!("{version}: {here}", "{version}：{here}"));
}

/// What a program prints.
fn output(program: &str, words: &[&str]) -> Option<String> {
    let run = Command::new(program).args(words).stdin(Stdio::null()).stderr(Stdio::null()).output();
    run.ok()
        .filter(|run| run.status.success())
        .map(|run| String::from_utf8_lossy(&run.stdout).into_owned())
}

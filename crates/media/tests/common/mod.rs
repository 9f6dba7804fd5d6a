//! A drawn film to test with, and a way to call ffmpeg where there is one.
#![allow(dead_code)]

use longreel_media::Frame;
use std::path::Path;
use std::process::Command;

/// Frame `index` of a film in which a red disc and a yellow square cross a blue ground. Edges are
/// antialiased, as those of the films that the demo model is trained on.
pub fn drawn(width: u32, height: u32, index: u32) -> Frame {
    let mut frame = Frame::filled(width, height, [0; 3]);
    let (w, h, t) = (f64::from(width), f64::from(height), f64::from(index));
    let radius = h * 0.22;
    let disc = (w * 0.2 + t * w / 96.0, h * 0.45);
    let square = (w * 0.8 - t * w / 128.0, h * 0.75, h * 0.1);
    for (i, p) in frame.rgb_mut().chunks_exact_mut(3).enumerate() {
        let (x, y) = ((i as u32 % width) as f64 + 0.5, (i as u32 / width) as f64 + 0.5);
        let mut colour = [30.0, 60.0, 190.0 + 30.0 * y / h];
        let blend = |c: &mut [f64; 3], to: [f64; 3], a: f64| {
            for k in 0..3 {
                c[k] += (to[k] - c[k]) * a.clamp(0.0, 1.0);
            }
        };
        let inside = square.2 - (x - square.0).abs().max((y - square.1).abs());
        blend(&mut colour, [240.0, 210.0, 40.0], inside + 0.5);
        let inside = radius - (x - disc.0).hypot(y - disc.1);
        blend(&mut colour, [220.0, 30.0, 40.0], inside + 0.5);
        for k in 0..3 {
            p[k] = colour[k].round() as u8;
        }
    }
    frame
}

/// Runs `program` and returns what it printed; `None`, with the reason printed, when it is not
/// installed.
pub fn run(program: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let output = match Command::new(program).args(arguments).arg(file).output() {
        Ok(output) => output,
        Err(reason) => {
            eprintln!("skipped: {program} cannot be run here ({reason})");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{program}: {complaints}\n{text}");
    Some(text)
}

/// Fields of the first video stream and the container, as `key=value` lines, with every frame
/// counted by decoding it.
pub fn probe(file: &Path) -> Option<String> {
    run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-count_frames",
            "-show_entries",
            "stream=codec_name,profile,width,height,pix_fmt,color_range,color_space,avg_frame_rate,nb_read_frames:format=duration:format_tags=comment",
            "-of",
            "default=noprint_wrappers=1",
        ],
        file,
    )
}

//! Films as they come out: what other programs see in them, and that a resumed film is the same.

mod common;

use common::{drawn, probe};
use longreel_media::{
    Codec, FilmOptions, FilmState, FilmWriter, FrameRate, MediaError, read_metadata,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const W: u32 = 96;
const H: u32 = 64;
/// Frames of each part; one part has a single frame, so that two IDR pictures meet.
const PARTS: [u32; 4] = [9, 8, 1, 7];

fn options() -> FilmOptions {
    let mut options = FilmOptions::new(W, H, FrameRate::whole(24));
    options.metadata = Some(r#"{"prompt":"ein roter Kreis; 红色=圆 #1\\","seed":7}"#.to_owned());
    options
}

fn push_part(film: &mut FilmWriter, part: usize) {
    let first: u32 = PARTS[..part].iter().sum();
    for index in first..first + PARTS[part] {
        film.push(&drawn(W, H, index)).unwrap();
    }
}

/// Writes the whole film; returns the state after each part.
fn write(path: &Path, options: &FilmOptions) -> Vec<FilmState> {
    let mut film = FilmWriter::create(path, options).unwrap();
    let mut states = vec![film.state()];
    for part in 0..PARTS.len() {
        push_part(&mut film, part);
        states.push(film.end_part().unwrap().state);
    }
    let report = film.finish().unwrap();
    assert_eq!(report.frames, 25);
    states
}

/// Resumes from every part, after frames of the next part were already written, and compares.
fn resumed_films_are_equal(name: &str, options: &FilmOptions, stops: &[usize]) {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join(format!("whole.{name}"));
    write(&whole, options);
    let want = fs::read(&whole).unwrap();
    for &stop in stops {
        let path = folder.path().join(format!("cut.{name}"));
        let _ = fs::remove_file(&path);
        let mut film = FilmWriter::create(&path, options).unwrap();
        let mut state = film.state();
        for part in 0..stop {
            push_part(&mut film, part);
            state = film.end_part().unwrap().state;
        }
        if stop < PARTS.len() {
            push_part(&mut film, stop);
            if stop % 2 == 0 {
                film.end_part().unwrap();
            }
        }
        drop(film);
        let text = serde_json::to_string(&state).unwrap();
        let state = serde_json::from_str(&text).unwrap();
        let mut film = FilmWriter::resume(&path, options, &state).unwrap();
        for part in stop..PARTS.len() {
            push_part(&mut film, part);
            film.end_part().unwrap();
        }
        film.finish().unwrap();
        let got = fs::read(&path).unwrap();
        let differs = got.iter().zip(&want).position(|(a, b)| a != b);
        assert!(
            got == want,
            "resumed after part {stop}: {} bytes against {}, first difference at {differs:?}",
            got.len(),
            want.len()
        );
    }
}

#[test]
fn a_resumed_mp4_is_equal_in_every_byte() {
    resumed_films_are_equal("mp4", &options(), &[0, 1, 2, 3, 4]);
}

#[test]
fn a_resumed_gif_is_equal_in_every_byte() {
    resumed_films_are_equal("gif", &options(), &[0, 1, 2, 3, 4]);
}

#[test]
fn a_resumed_h264_film_through_ffmpeg_is_equal_in_every_byte() {
    if longreel_media::ffmpeg_path(None).is_none() {
        return eprintln!("skipped: no ffmpeg on PATH");
    }
    let options = FilmOptions { codec: Some(Codec::H264), ..options() };
    // Each part is a run of ffmpeg, so one stop has to do.
    resumed_films_are_equal("mp4", &options, &[2]);
}

#[test]
fn an_mp4_is_what_players_expect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    write(&path, &options());
    assert_eq!(read_metadata(&path).unwrap(), options().metadata);
    let Some(seen) = probe(&path) else { return };
    for line in [
        "codec_name=h264",
        "profile=Main",
        "width=96",
        "height=64",
        "pix_fmt=yuv420p",
        "color_range=tv",
        "color_space=bt709",
        "avg_frame_rate=24/1",
        "nb_read_frames=25",
        "duration=1.041667",
    ] {
        assert!(seen.lines().any(|l| l == line), "{line} is not in\n{seen}");
    }
    assert!(seen.contains(&format!("TAG:comment={}", options().metadata.unwrap())), "{seen}");
}

#[test]
fn an_mp4_plays_up_to_the_last_closed_part_while_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let mut film = FilmWriter::create(&path, &options()).unwrap();
    let mut frames = 0;
    for (part, count) in PARTS.into_iter().enumerate().take(2) {
        push_part(&mut film, part);
        let report = film.end_part().unwrap();
        assert_eq!(report.bytes.end, fs::metadata(&path).unwrap().len());
        assert_eq!(report.frames, u64::from(frames)..u64::from(frames + count));
        frames += count;
        let Some(seen) = probe(&path) else { return };
        assert!(seen.contains(&format!("nb_read_frames={frames}")), "{seen}");
    }
}

#[test]
fn the_head_and_one_part_make_a_stream_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let mut film = FilmWriter::create(&path, &options()).unwrap();
    push_part(&mut film, 0);
    film.end_part().unwrap();
    push_part(&mut film, 1);
    let second = film.end_part().unwrap();
    let mut stream = film.init_segment().unwrap().to_vec();
    let bytes = fs::read(&path).unwrap();
    stream.extend_from_slice(&bytes[second.bytes.start as usize..second.bytes.end as usize]);
    let alone = folder.path().join("alone.mp4");
    fs::write(&alone, stream).unwrap();
    let Some(seen) = probe(&alone) else { return };
    assert!(seen.contains("nb_read_frames=8"), "{seen}");
}

#[test]
fn films_through_ffmpeg_hold_every_frame_and_their_metadata() {
    if longreel_media::ffmpeg_path(None).is_none() {
        return eprintln!("skipped: no ffmpeg on PATH");
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, codec, seen_as) in [
        ("a.mp4", Codec::H264, "h264"),
        ("b.mp4", Codec::H265, "hevc"),
        ("c.mp4", Codec::Av1, "av1"),
        ("d.webm", Codec::Vp9, "vp9"),
        ("e.webm", Codec::Av1, "av1"),
    ] {
        let path = folder.path().join(name);
        let options = FilmOptions { codec: Some(codec), ..options() };
        let mut film = match FilmWriter::create(&path, &options) {
            Ok(film) => film,
            Err(MediaError::Ffmpeg { message, .. }) => {
                eprintln!("skipped: this ffmpeg has no encoder for {codec}: {message}");
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        // Two parts, so that a joint is seen.
        for index in 0..25 {
            film.push(&drawn(W, H, index)).unwrap();
            if index == 16 {
                film.end_part().unwrap();
            }
        }
        film.finish().unwrap();
        assert_eq!(read_metadata(&path).unwrap(), options.metadata, "{name}");
        let Some(seen) = probe(&path) else { return };
        assert!(seen.contains(&format!("codec_name={seen_as}")), "{name}: {seen}");
        assert!(seen.contains("nb_read_frames=25"), "{name}: {seen}");
        assert!(seen.contains("color_space=bt709"), "{name}: {seen}");
    }
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_resumed_webm_holds_every_frame() {
    if longreel_media::ffmpeg_path(None).is_none() {
        return eprintln!("skipped: no ffmpeg on PATH");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.webm");
    let mut film = FilmWriter::create(&path, &options()).unwrap();
    push_part(&mut film, 0);
    let state = film.end_part().unwrap().state;
    push_part(&mut film, 1);
    film.end_part().unwrap();
    push_part(&mut film, 2);
    drop(film);
    let mut film = FilmWriter::resume(&path, &options(), &state).unwrap();
    for part in 1..PARTS.len() {
        push_part(&mut film, part);
        film.end_part().unwrap();
    }
    film.finish().unwrap();
    let Some(seen) = probe(&path) else { return };
    assert!(seen.contains("nb_read_frames=25"), "{seen}");
    let duration: f64 =
        seen.lines().find_map(|l| l.strip_prefix("duration=")).unwrap().parse().unwrap();
    assert!((duration - 25.0 / 24.0).abs() < 0.003, "{duration}");
}

/// The files of a film, hidden ones included, by name.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn a_closed_film_can_be_gone_back_into_until_it_is_cleaned() {
    let mut names = vec!["film.mp4", "film.gif", "frames"];
    match longreel_media::ffmpeg_path(None) {
        Some(_) => names.push("film.webm"),
        None => eprintln!("skipped for WebM: no ffmpeg on PATH"),
    }
    for name in names {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let mut film = FilmWriter::create(&path, &options()).unwrap();
        let mut states = Vec::new();
        for part in 0..PARTS.len() {
            push_part(&mut film, part);
            states.push(film.end_part().unwrap().state);
        }
        let report = film.close().unwrap();
        // As a caller that is killed before it has written what belongs to the film.
        drop(film);
        let closed = files(folder.path());
        for made in [3, PARTS.len()] {
            let mut film = FilmWriter::resume(&path, &options(), &states[made - 1]).unwrap();
            for part in made..PARTS.len() {
                push_part(&mut film, part);
                film.end_part().unwrap();
            }
            assert_eq!(film.close().unwrap(), report, "{name}");
            drop(film);
            assert!(files(folder.path()) == closed, "{name}: other files");
        }
        FilmWriter::clean_finished(&path).unwrap();
        assert!(
            files(folder.path()).keys().all(|file| file.starts_with(&path)),
            "{name}: left over"
        );
    }
}

#[test]
fn png_frames_are_numbered_and_those_behind_the_state_are_dropped_on_resume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames");
    let mut film = FilmWriter::create(&path, &options()).unwrap();
    push_part(&mut film, 0);
    let state = film.end_part().unwrap().state;
    push_part(&mut film, 1);
    drop(film);
    assert!(path.join("000016.png").is_file());
    let film = FilmWriter::resume(&path, &options(), &state).unwrap();
    assert!(!path.join("000009.png").exists());
    film.finish().unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 9);
    assert_eq!(read_metadata(&path).unwrap(), options().metadata);
}

#[test]
fn a_shorter_or_other_film_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let states = write(&path, &options());
    let bytes = fs::read(&path).unwrap();

    fs::write(&path, &bytes[..states[2].bytes as usize - 1]).unwrap();
    let error = FilmWriter::resume(&path, &options(), &states[2]).unwrap_err();
    assert!(matches!(error, MediaError::CannotResume { .. }), "{error}");

    fs::write(&path, &bytes).unwrap();
    for other in [
        FilmOptions { width: 112, ..options() },
        FilmOptions { crf: Some(30), ..options() },
        FilmOptions { rate: FrameRate::whole(16), ..options() },
    ] {
        let error = FilmWriter::resume(&path, &other, &states[2]).unwrap_err();
        assert!(matches!(error, MediaError::CannotResume { .. }), "{error}");
    }
    // The head is checked too, should the state not tell.
    let forged = FilmState {
        settings: FilmWriter::create(
            &folder.path().join("x.mp4"),
            &FilmOptions { width: 112, ..options() },
        )
        .unwrap()
        .state()
        .settings,
        ..states[2].clone()
    };
    let error =
        FilmWriter::resume(&path, &FilmOptions { width: 112, ..options() }, &forged).unwrap_err();
    assert!(matches!(error, MediaError::CannotResume { .. }), "{error}");
    let wrong = FilmState { bytes: states[2].bytes - 3, ..states[2].clone() };
    let error = FilmWriter::resume(&path, &options(), &wrong).unwrap_err();
    assert!(matches!(error, MediaError::CannotResume { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a refused resume changes nothing");
}

#[test]
fn a_film_given_another_text_on_the_way_is_the_one_that_began_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("film.mp4"), folder.path().join("other.mp4"));
    let longer = FilmOptions { metadata: Some("another text ".repeat(50)), ..options() };
    write(&other, &longer);
    let expected = fs::read(&other).unwrap();
    let rest = |film: &mut FilmWriter| {
        for part in 1..PARTS.len() {
            push_part(film, part);
            film.end_part().unwrap();
        }
    };
    // Changed while it is written.
    let mut film = FilmWriter::create(&path, &options()).unwrap();
    push_part(&mut film, 0);
    let early = film.end_part().unwrap().state;
    film.set_metadata(longer.metadata.clone()).unwrap();
    rest(&mut film);
    film.finish().unwrap();
    assert!(fs::read(&path).unwrap() == expected, "changed on the way");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something is left beside it");
    // Resumed from a state before the change, whose positions are of the shorter head.
    let mut film = FilmWriter::resume(&path, &longer, &early).unwrap();
    rest(&mut film);
    film.finish().unwrap();
    assert!(fs::read(&path).unwrap() == expected, "resumed from before the change");
    // And put in at once, between two parts.
    write(&path, &options());
    let mut film = FilmWriter::resume(&path, &longer, &early).unwrap();
    film.write_metadata().unwrap();
    assert_eq!(read_metadata(&path).unwrap(), longer.metadata);
    let state = film.state();
    let grown =
        (longer.metadata.as_ref().unwrap().len() - options().metadata.unwrap().len()) as u64;
    assert_eq!((state.bytes - early.bytes, state.head_bytes - early.head_bytes), (grown, grown));
    rest(&mut film);
    film.finish().unwrap();
    assert!(fs::read(&path).unwrap() == expected, "put in at once");
}

#[test]
fn a_film_that_is_being_written_is_not_opened_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let film = FilmWriter::create(&path, &options()).unwrap();
    let error = FilmWriter::create(&path, &options()).unwrap_err();
    assert!(matches!(error, MediaError::Busy { .. }), "{error}");
    drop(film);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let odd = FilmOptions::new(97, 64, FrameRate::whole(24));
    let plain = FilmOptions::new(W, H, FrameRate::whole(24));
    for (path, options, says) in [
        (at("a.mp4"), odd.clone(), "98x64"),
        (at("a.avi"), plain.clone(), ".avi"),
        (at("a.mp4"), FilmOptions { crf: Some(60), ..plain.clone() }, "60"),
        (at("a.mp4"), FilmOptions { codec: Some(Codec::Vp9), ..plain.clone() }, ".webm"),
        (at("a.gif"), FilmOptions { codec: Some(Codec::H264), ..plain.clone() }, "GIF"),
        (at("nowhere/a.mp4"), plain.clone(), "nowhere"),
        (at("nowhere/a.webm"), plain.clone(), "nowhere"),
        (at("nowhere/a.gif"), plain.clone(), "nowhere"),
        (at("nowhere/a"), plain.clone(), "nowhere"),
        (
            at("a.webm"),
            FilmOptions { ffmpeg: Some(at("no-ffmpeg")), ..plain.clone() },
            "install ffmpeg",
        ),
    ] {
        let error = FilmWriter::create(&path, &options).unwrap_err().to_string();
        assert!(error.contains(says), "{}: {error}", path.display());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something was left behind");
    // GIF and PNG frames take odd sizes.
    for name in ["odd.gif", "odd"] {
        let mut film = FilmWriter::create(&at(name), &odd).unwrap();
        film.push(&drawn(97, 64, 0)).unwrap();
        film.finish().unwrap();
    }
}

#[test]
fn a_frame_of_another_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let mut film = FilmWriter::create(&path, &options()).unwrap();
    let error = film.push(&drawn(64, 96, 0)).unwrap_err().to_string();
    assert!(error.contains("64x96") && error.contains("96x64"), "{error}");
}

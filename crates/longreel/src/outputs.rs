//! Where the results of a command go, checked before anything is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use longreel_film::{Encoding, Outputs, run_folder};
use longreel_media::Codec;

use crate::generate_args::{CodecArg, OutputArgs};
use crate::outcome::bad_input;
use crate::values::numbered;

/// The longest name of an output, in bytes. File systems take 255.
const NAME_BYTES: usize = 200;

/// The film's name where none is given.
const FILM: &str = "film.mp4";

/// How the film is encoded.
pub fn encoding(args: &OutputArgs) -> Encoding {
    let codec = args.codec.map(|codec| match codec {
        CodecArg::Builtin => Codec::BuiltIn,
        CodecArg::H264 => Codec::H264,
        CodecArg::H265 => Codec::H265,
        CodecArg::Av1 => Codec::Av1,
        CodecArg::Vp9 => Codec::Vp9,
    });
    Encoding { codec, crf: args.crf }
}

/// The name of a codec as `--codec` takes it.
pub fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::BuiltIn => "builtin",
        Codec::H264 => "h264",
        Codec::H265 => "h265",
        Codec::Av1 => "av1",
        Codec::Vp9 => "vp9",
    }
}

/// The outputs of `count` films; with more than one, every name is numbered.
pub fn of(args: &OutputArgs, count: usize) -> Vec<Outputs> {
    let film = args.output.clone().unwrap_or_else(|| free_name(count));
    (1..=count)
        .map(|index| {
            let named = |path: &Option<PathBuf>| path.as_ref().map(|p| numbered(p, index, count));
            Outputs {
                film: numbered(&film, index, count),
                encoding: encoding(args),
                dump_latents: named(&args.dump_latents),
                dump_frames: named(&args.dump_frames),
                contact_sheet: named(&args.contact_sheet),
                noise: args.noise.clone(),
                previews: args.previews == Some(true),
                live: false,
                checkpoints: false,
                overwrite: args.overwrite == Some(true),
                command: String::new(),
                program_version: env!("CARGO_PKG_VERSION").to_string(),
            }
        })
        .collect()
}

/// `film.mp4`, or `film-2.mp4` and so on: a name whose film nobody has. Only a name that was typed
/// replaces a film.
fn free_name(count: usize) -> PathBuf {
    let taken = |path: &Path| path.exists() || run_folder(path).exists();
    let base = Path::new(FILM);
    let mut names = (1..).map(|n| match n {
        1 => base.to_path_buf(),
        n => PathBuf::from(format!("film-{n}.mp4")),
    });
    let free = |name: &PathBuf| (1..=count).all(|i| !taken(&numbered(name, i, count)));
    names.find(free).unwrap_or_else(|| base.to_path_buf())
}

/// Refuses outputs that have no folder, are folders, or would replace each other or an input.
pub fn check(all: &[Outputs], inputs: &[PathBuf]) -> Result<()> {
    let mut seen: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for input in inputs {
        seen.insert(place(input), "an input");
        // Pictures in a folder that takes a film's frames make room for them.
        let folder = input.parent().map(place);
        if let Some(film) = all.iter().map(|o| &o.film).find(|film| {
            film.extension().is_none() && folder.as_ref().is_some_and(|f| *f == place(film))
        }) {
            return Err(bad_input(format!(
                "-o {}: the input {} lies in this folder, whose frames are replaced; choose another",
                film.display(),
                input.display()
            )));
        }
    }
    for outputs in all {
        let named = [
            ("-o", Some(&outputs.film)),
            ("--dump-latents", outputs.dump_latents.as_ref()),
            ("--dump-frames", outputs.dump_frames.as_ref()),
            ("--contact-sheet", outputs.contact_sheet.as_ref()),
        ];
        for (flag, path) in named {
            let Some(path) = path else { continue };
            check_place(flag, path)?;
            let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
            if flag == "--contact-sheet"
                && !matches!(ending.as_deref(), Some("png" | "jpg" | "jpeg"))
            {
                return Err(bad_input(format!(
                    "{flag} {}: a contact sheet is a .png or .jpg; give it one of these endings",
                    path.display()
                )));
            }
            if let Some(other) = seen.insert(place(path), flag) {
                return Err(bad_input(format!(
                    "{flag} {}: it is {other} too; give it another name",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

fn check_place(flag: &str, path: &Path) -> Result<()> {
    let shown = path.display();
    if path.file_name().is_none() {
        return Err(bad_input(format!("{flag} {shown}: name a file")));
    }
    let written = path.as_os_str().as_encoded_bytes();
    if written == b"-" {
        return Err(bad_input(format!(
            "{flag} -: nothing is written to standard output, since films are gone back into; name a file"
        )));
    }
    if path.to_str().is_none() {
        return Err(bad_input(format!(
            "{flag} {shown}: it is not UTF-8, which an unfinished film is described in; choose another name"
        )));
    }
    if written.ends_with(b"/") && path.extension().is_some() {
        return Err(bad_input(format!(
            "{flag} {shown}: it ends in / as a folder does, and has the ending of a file; leave out one of them"
        )));
    }
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return Err(bad_input(format!(
            "{flag} {shown}: the folder {} does not exist; make it with mkdir -p, or choose another",
            folder.display()
        )));
    }
    // A link to what is not there yet is followed, if it can be.
    if let Ok(target) = path.read_link()
        && !path.exists()
        && let Some(folder) = path.with_file_name("").join(&target).parent()
        && !folder.is_dir()
    {
        return Err(bad_input(format!(
            "{flag} {shown}: it is a link to {}, whose folder does not exist; remove the link, or choose another",
            target.display()
        )));
    }
    let name_bytes = path.file_name().map_or(0, |name| name.as_encoded_bytes().len());
    if name_bytes > NAME_BYTES {
        return Err(bad_input(format!(
            "{flag} {shown}: the name has {name_bytes} bytes, and {NAME_BYTES} is the most, since files \
             beside it have longer ones; shorten it"
        )));
    }
    // A folder of PNG frames is a folder, and has no extension.
    let frames = flag == "-o" && path.extension().is_none();
    if frames && path.exists() && !path.is_dir() {
        return Err(bad_input(format!(
            "{flag} {shown}: a name without an ending is a folder of PNG frames, and this is no folder; \
             choose another, or add .mp4"
        )));
    }
    if path.exists() && !path.is_dir() && !path.is_file() {
        return Err(bad_input(format!("{flag} {shown}: it is a device or a pipe; name a file")));
    }
    let run = run_folder(path);
    if flag == "-o" && run.exists() && !run.is_dir() {
        return Err(bad_input(format!(
            "{flag} {shown}: {} is in the way, a file where the unfinished film's folder goes; move it away",
            run.display()
        )));
    }
    if path.is_dir() && !frames {
        return Err(bad_input(format!(
            "{flag} {shown}: it is a folder; name a file, such as {}",
            path.join(FILM).display()
        )));
    }
    Ok(())
}

/// One name for each place, however it is written.
fn place(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(film: &Path) -> OutputArgs {
        OutputArgs {
            output: Some(film.into()),
            overwrite: None,
            codec: None,
            crf: None,
            contact_sheet: None,
            previews: None,
            noise: None,
            dump_latents: None,
            dump_frames: None,
        }
    }

    #[test]
    fn outputs_that_would_replace_each_other_or_an_input_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let film = folder.path().join("film.mp4");
        let mut same = args(&film);
        same.dump_latents = Some(folder.path().join("./film.mp4"));
        let error = check(&of(&same, 1), &[]).expect_err("one place").to_string();
        assert!(error.contains("--dump-latents") && error.contains("-o too"), "{error}");
        std::fs::write(&film, "a video").expect("writable");
        let error = check(&of(&args(&film), 1), std::slice::from_ref(&film)).expect_err("an input");
        assert!(error.to_string().contains("an input too"), "{error}");
        assert!(check(&of(&args(&film), 1), &[]).is_ok(), "an older film may be replaced");
        assert!(check(&of(&args(&film), 3), &[]).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn an_output_whose_run_could_not_be_described_is_refused_before_it_begins() {
        use std::os::unix::ffi::OsStrExt;
        let film = Path::new(std::ffi::OsStr::from_bytes(b"a\xffb.mp4"));
        let error = check(&[Outputs::new(film)], &[]).expect_err("no text").to_string();
        assert!(error.contains("not UTF-8") && error.contains("choose another"), "{error}");
    }

    #[test]
    fn an_output_without_a_folder_or_that_is_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, part) in [
            (folder.path().join("no/film.mp4"), "does not exist"),
            (PathBuf::from("/"), "name a file"),
            (folder.path().join(".."), "name a file"),
        ] {
            let error = check(&of(&args(&path), 1), &[]).expect_err("no place").to_string();
            assert!(error.contains(part), "{error}");
        }
        let frames = folder.path().join("frames");
        std::fs::create_dir(&frames).expect("writable");
        assert!(check(&of(&args(&frames), 1), &[]).is_ok(), "a folder of frames");
        let inside = frames.join("000007.png");
        std::fs::write(&inside, "a picture").expect("writable");
        let error = check(&of(&args(&frames), 1), &[inside]).expect_err("it would be replaced");
        assert!(error.to_string().contains("000007.png lies in this folder"), "{error}");
        let mut sheet = args(&folder.path().join("film.mp4"));
        sheet.contact_sheet = Some(folder.path().join("sheet.webp"));
        let error = check(&of(&sheet, 1), &[]).expect_err("an unknown kind").to_string();
        assert!(error.contains(".png or .jpg"), "{error}");
        let film = folder.path().join("film.mp4");
        std::fs::write(run_folder(&film), "a file").expect("writable");
        std::fs::write(folder.path().join("plain"), "a file").expect("writable");
        for (path, part) in [
            (film, "in the way"),
            (folder.path().join("plain"), "no folder"),
            (folder.path().join("x".repeat(201)), "201 bytes"),
        ] {
            let error = check(&of(&args(&path), 1), &[]).expect_err("no place").to_string();
            assert!(error.contains(part), "{error}");
        }
        #[cfg(unix)]
        {
            let link = folder.path().join("link.mp4");
            std::os::unix::fs::symlink("/no/where.mp4", &link).expect("writable");
            let error = check(&of(&args(&link), 1), &[]).expect_err("no place").to_string();
            assert!(error.contains("a link to /no/where.mp4"), "{error}");
            std::fs::remove_file(&link).expect("there");
            std::os::unix::fs::symlink("target.mp4", &link).expect("writable");
            assert!(check(&of(&args(&link), 1), &[]).is_ok(), "a link that can be followed");
        }
        for (path, part) in [("film.mp4/", "ends in /"), ("-", "standard output")] {
            let error = check(&of(&args(Path::new(path)), 1), &[]).expect_err("no place");
            assert!(error.to_string().contains(part), "{error}");
        }
        let dotted = folder.path().join("x.mp4");
        std::fs::create_dir(&dotted).expect("writable");
        assert!(check(&of(&args(&dotted), 1), &[]).is_err(), "a folder called x.mp4");
    }
}

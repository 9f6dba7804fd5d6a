//! Files made to do harm: each gives an error that says what is wrong, without a panic, without code run,
//! and without memory beyond a small multiple of the file.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

use common::{Zip, fixtures, pickle};
use longreel_weights::{Lora, ModelFolder, TensorSource, inspect};
use tempfile::TempDir;

/// Counts what the current thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.with(|held| {
            held.set(held.get().saturating_add(layout.size()));
            PEAK.with(|peak| peak.set(peak.get().max(held.get())));
        });
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.with(|held| held.set(held.get().saturating_sub(layout.size())));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were held at once while `run` ran.
fn peak_of<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let result = run();
    (result, PEAK.with(Cell::get).saturating_sub(before))
}

/// What messages take.
const MESSAGES: usize = 64 << 10;
/// What the limits of the pickle's machine come to, whose smallest steps are single bytes.
const PICKLES: usize = 24 << 20;

/// What a case may hold: sixteen times the file (an entry of a header becomes a tensor with name, shape and
/// place) and a fixed amount.
fn allowance(file_bytes: usize, fixed: usize) -> usize {
    16 * file_bytes + fixed
}

#[track_caller]
fn refused(label: &str, path: &Path, word: &str, fixed: usize) {
    let (result, peak) = peak_of(|| TensorSource::open_file(path));
    let Err(error) = result else { panic!("{label}: it was read") };
    let message = error.to_string();
    assert!(message.contains(word), "{label}: {word:?} is not in {message}");
    assert!(message.len() < 3000, "{label}: a message of {} bytes", message.len());
    let file = fs::metadata(path).unwrap().len() as usize;
    assert!(peak <= allowance(file, fixed), "{label}: {peak} bytes were held for a file of {file}");
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn entry(name: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn one(name: &str, shape: &str, start: u64, end: u64) -> String {
    format!("{{{}}}", entry(name, shape, start, end))
}

fn two(a: (u64, u64), b: (u64, u64)) -> String {
    format!("{{{},{}}}", entry("a", "[2]", a.0, a.1), entry("b", "[2]", b.0, b.1))
}

#[test]
fn hostile_safetensors_are_refused() {
    let header = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    let mut latin1 = safetensors(&one("a", "[1]", 0, 4), 4);
    latin1[10] = 0xe4;
    let long = "n".repeat(2000);
    let axes = format!("[{}]", vec!["1"; 1000].join(","));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("an empty file", vec![], "only 0 bytes"),
        ("a few bytes", vec![1; 7], "only 7 bytes"),
        ("a header of 2^64 bytes", header(u64::MAX), "claims a header"),
        ("a header of 2^63 bytes", header(1 << 63), "claims a header"),
        ("a header longer than the file", header(3), "claims a header"),
        ("no JSON", safetensors("[1, 2]", 0), "header cannot be read"),
        ("half a header", safetensors(r#"{"a":"#, 0), "header cannot be read"),
        ("no UTF-8", latin1, "header cannot be read"),
        ("deep nesting", safetensors(&"[".repeat(1 << 20), 0), "header cannot be read"),
        (
            "deep nesting in a tensor",
            safetensors(&format!(r#"{{"a":{}"#, "{\"x\":".repeat(1 << 18)), 0),
            "header cannot be read",
        ),
        (
            "one name twice",
            safetensors(&format!("{{{},{}}}", entry("a", "[1]", 0, 4), entry("a", "[1]", 4, 8)), 8),
            "\"a\" is there twice",
        ),
        ("overlapping tensors", safetensors(&two((0, 8), (4, 12)), 12), "overlap at byte 4"),
        ("one place for two tensors", safetensors(&two((0, 8), (0, 8)), 8), "overlap at byte 0"),
        ("a gap", safetensors(&two((0, 8), (9, 17)), 17), "gap at byte 9"),
        ("an end before the start", safetensors(&one("a", "[1]", 8, 4), 8), "cannot lie at 8..4"),
        ("data past the end", safetensors(&one("a", "[4]", 0, 16), 8), "cut off"),
        ("data at 2^64", safetensors(&one("a", "[1]", u64::MAX - 4, u64::MAX), 8), "cut off"),
        (
            "a shape of 2^66 values",
            safetensors(&one("a", "[4294967296,4294967296,4]", 0, 0), 0),
            "cannot lie",
        ),
        ("a negative shape", safetensors(&one("a", "[-1]", 0, 4), 4), "header cannot be read"),
        ("a fractional shape", safetensors(&one("a", "[1.5]", 0, 4), 4), "header cannot be read"),
        ("bytes behind the data", safetensors(&one("a", "[1]", 0, 4), 9), "the file at"),
        (
            "an unknown format",
            safetensors(&one("a", "[1]", 0, 4).replace("F32", "Q99"), 4),
            "unknown dtype \"Q99\"",
        ),
        ("a thousand axes", safetensors(&one("a", &axes, 0, 4), 4), "1000 axes"),
        ("a name of 2,000 bytes", safetensors(&one(&long, "[1]", 0, 4), 4), "2000 bytes"),
        (
            "metadata that is no text",
            safetensors(r#"{"__metadata__":{"a":[[[1]]]}}"#, 0),
            "header cannot be read",
        ),
        (
            "a text of a megabyte for a shape",
            safetensors(&one("a", &format!("{:?}", "x".repeat(1 << 20)), 0, 4), 4),
            "header cannot be read",
        ),
        (
            "a pointer instead of the file",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
            "git lfs pull",
        ),
    ];
    check(cases);
}

fn check(cases: Vec<(&str, Vec<u8>, &str)>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    for (label, bytes, word) in cases {
        fs::write(&path, bytes).unwrap();
        refused(label, &path, word, MESSAGES);
    }
}

/// A GGUF file from the bytes of its metadata and of its tensor list.
fn gguf(metadata: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let (pairs, infos) = (metadata.len() as u64, tensors.len() as u64);
    let mut file =
        [b"GGUF", &3u32.to_le_bytes()[..], &infos.to_le_bytes(), &pairs.to_le_bytes()].concat();
    file.extend(metadata.concat());
    file.extend(tensors.concat());
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

fn info(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name.as_bytes());
    out.extend((dims.len() as u32).to_le_bytes());
    out.extend(dims.iter().flat_map(|n| n.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn list(kind: u32, count: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat()
}

#[test]
fn hostile_gguf_files_are_refused() {
    let counts = |version: u32, tensors: u64, pairs: u64| {
        let mut file = b"GGUF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(tensors.to_le_bytes());
        file.extend(pairs.to_le_bytes());
        file.resize(4096, 0);
        file
    };
    let long_name = "n".repeat(2000);
    let alignment = |n: u32| gguf(&[pair("general.alignment", 4, &n.to_le_bytes())], &[], 0);
    let nested = [list(9, 1 << 40), list(9, 1 << 40), list(9, 1)].concat();
    let orig = |shape: &[i32]| {
        let values: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
        let value = [list(5, shape.len() as u64), values].concat();
        gguf(&[pair("comfy.gguf.orig_shape.a", 9, &value)], &[info("a", &[4], 0, 0)], 16)
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing but the magic", b"GGUF".to_vec(), "cut off"),
        ("an unknown version", counts(99, 0, 0), "GGUF version 99"),
        ("big-endian numbers", counts(3u32.swap_bytes(), 0, 0), "big-endian"),
        ("2^64 tensors", counts(3, u64::MAX, 0), "claims 18446744073709551615 tensors"),
        ("2^40 tensors", counts(3, 1 << 40, 0), "tensors"),
        ("2^64 metadata entries", counts(3, 0, u64::MAX), "metadata entries"),
        ("a key of 2^64 bytes", gguf(&[[0xff; 8].to_vec()], &[], 64), "a text of"),
        (
            "a value of 2^60 bytes",
            gguf(&[pair("a", 8, &(1u64 << 60).to_le_bytes())], &[], 64),
            "a text of",
        ),
        (
            "a list of 2^64 entries",
            gguf(&[pair("a", 9, &list(0, u64::MAX))], &[], 64),
            "list entries",
        ),
        ("a list of 2^50 texts", gguf(&[pair("a", 9, &list(8, 1 << 50))], &[], 64), "list entries"),
        ("lists of lists", gguf(&[pair("a", 9, &nested)], &[], 64), "list of lists"),
        ("an unknown type of metadata", gguf(&[pair("a", 77, &[])], &[], 64), "unknown type 77"),
        ("no UTF-8", gguf(&[[text(&[0xff, 0xfe]), vec![0; 16]].concat()], &[], 64), "no UTF-8"),
        ("a long name", gguf(&[], &[info(&long_name, &[1], 0, 0)], 64), "a text of 2000 bytes"),
        ("2^32 axes", gguf(&[], &[[text(b"a"), vec![0xff; 16]].concat()], 64), "axes"),
        (
            "a shape of 2^96 values",
            gguf(&[], &[info("a", &[1 << 32; 3], 0, 0)], 64),
            "does not fit",
        ),
        ("a shape of 2^63 values", gguf(&[], &[info("a", &[1 << 63], 0, 0)], 64), "does not fit"),
        ("an offset of 2^64", gguf(&[], &[info("a", &[4], 0, u64::MAX)], 64), "does not fit"),
        ("data past the end", gguf(&[], &[info("a", &[40], 0, 0)], 64), "does not fit"),
        ("rows shorter than a block", gguf(&[], &[info("a", &[16, 2], 2, 0)], 64), "does not fit"),
        (
            "one name twice",
            gguf(&[], &[info("a", &[4], 0, 0), info("a", &[4], 0, 32)], 64),
            "\"a\" is there twice",
        ),
        (
            "overlapping tensors",
            gguf(&[], &[info("a", &[8], 0, 0), info("b", &[8], 0, 16)], 64),
            "overlap",
        ),
        ("a format of tomorrow", gguf(&[], &[info("a", &[4], 999, 0)], 64), "number 999"),
        ("a format nobody computes with", gguf(&[], &[info("a", &[256], 10, 0)], 640), "Q2_K"),
        ("an alignment of 0", alignment(0), "general.alignment"),
        ("an alignment of 3", alignment(3), "general.alignment"),
        ("an alignment of 2^31", alignment(1 << 31), "general.alignment"),
        ("an original shape that does not fit", orig(&[2, 3]), "original shape"),
        ("a negative original shape", orig(&[-2, -2]), "original shape"),
    ];
    check(cases);
}

#[test]
fn vocabularies_in_gguf_are_read_over_and_not_kept() {
    let count = 1 << 20;
    let mut value = list(0, count);
    value.resize(value.len() + count as usize, 7);
    let bytes = gguf(&[pair("tokenizer.types", 9, &value)], &[info("a", &[4], 0, 0)], 16);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file.gguf");
    fs::write(&path, &bytes).unwrap();
    let (source, peak) = peak_of(|| TensorSource::open_file(&path).unwrap());
    assert!(source.has("a"));
    assert!(peak < 64 << 10, "{peak} bytes were held");
}

/// Writes an archive with this pickle and one storage of 16 bytes.
fn archive(path: &Path, pickle: &[u8]) {
    let mut zip = Zip::create(path);
    zip.entry("archive/data.pkl", pickle);
    zip.entry("archive/data/0", &[0; 16]);
    zip.finish();
}

/// A pickle of one tensor `a` of f32 whose storage is the entry 0, with these numbers.
fn tensor(shape: &[i32], strides: &[i32], offset: i32, key: &str) -> Vec<u8> {
    let int = |n: i32| [b"J", &n.to_le_bytes()[..]].concat();
    let tuple = |values: &[i32]| {
        let inner: Vec<u8> = values.iter().flat_map(|n| int(*n)).collect();
        [b"(", &inner[..], b"t"].concat()
    };
    let short = |text: &str| [&[0x8c, text.len() as u8][..], text.as_bytes()].concat();
    [
        b"\x80\x02}".to_vec(),
        short("a"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        short("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        short(key),
        short("cpu"),
        int(4),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89NtRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn pickles_that_would_run_code_are_refused_and_nothing_runs() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file.pth");
    let mark = folder.path().join("it_ran");
    let shell = format!("touch {}", mark.display());
    let short = |text: &str| [&[0x8c, text.len() as u8][..], text.as_bytes()].concat();
    let argument = [short(&shell), vec![0x85]].concat();
    let mut hidden = tensor(&[4], &[1], 0, "0");
    hidden.splice(hidden.len() - 1.., *b"cbuiltins\neval\n.");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "GLOBAL and REDUCE",
            [b"\x80\x02cposix\nsystem\n", &argument[..], b"R."].concat(),
            "posix.system",
        ),
        (
            "STACK_GLOBAL",
            [&short("os")[..], &short("system"), b"\x93", &argument, b"R."].concat(),
            "os.system",
        ),
        ("INST", [b"(", &short(&shell)[..], b"ios\nsystem\n."].concat(), "opcode 0x69"),
        ("OBJ", [b"(cos\nsystem\n", &short(&shell)[..], b"o."].concat(), "os.system"),
        (
            "NEWOBJ",
            [b"ccollections\nOrderedDict\n", &argument[..], b"\x81."].concat(),
            "opcode 0x81",
        ),
        ("a hidden one behind a tensor", hidden, "builtins.eval"),
        ("eval", [b"c__builtin__\neval\n", &argument[..], b"R."].concat(), "__builtin__.eval"),
        ("getattr", [b"cbuiltins\ngetattr\n", &argument[..], b"R."].concat(), "builtins.getattr"),
        ("a torch function", [b"ctorch\nload\n", &argument[..], b"R."].concat(), "torch.load"),
        ("torch.hub", [b"ctorch.hub\nload\n", &argument[..], b"R."].concat(), "torch.hub.load"),
        (
            "a known name as a function",
            [b"ctorch\nFloatStorage\n", &argument[..], b"R."].concat(),
            "none of a state dict",
        ),
        (
            "a dict of something",
            [b"ccollections\nOrderedDict\n", &argument[..], b"R."].concat(),
            "none of a state dict",
        ),
        ("an extension code", b"\x82\x01.".to_vec(), "opcode 0x82"),
        ("a text protocol", b"P123\n.".to_vec(), "opcode 0x50"),
        ("a buffer of another process", b"\x97.".to_vec(), "opcode 0x97"),
    ];
    for (label, pickle, word) in cases {
        archive(&path, &pickle);
        refused(label, &path, word, PICKLES);
        assert!(!mark.exists(), "{label}: it ran");
    }
}

#[test]
fn hostile_pickles_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file.pth");
    // Each list holds the one before ten times: 10^400 values when written out.
    let mut laughs = b"]".to_vec();
    for _ in 0..400 {
        laughs.extend(b"q\x00](");
        laughs.extend(b"h\x00".repeat(10));
        laughs.push(b'e');
    }
    laughs.push(b'.');
    let twice = {
        let one = tensor(&[4], &[1], 0, "0");
        let item = &one[3..one.len() - 1];
        [b"\x80\x02}", item, item, b"."].concat()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("an empty pickle", vec![], "cut off"),
        ("no end", b"\x80\x02}".to_vec(), "cut off"),
        ("nothing on the stack", b".".to_vec(), "runs empty"),
        ("a million brackets", b"(".repeat(1 << 20), "more than"),
        ("a million lists", b"]".repeat(1 << 20), "more than"),
        ("a million copies", [b"N".to_vec(), b"2".repeat(1 << 20)].concat(), "more than"),
        ("a million remembered", [b"N".to_vec(), b"\x94".repeat(1 << 20)].concat(), "more than"),
        ("many idle steps", b"\x80\x02".repeat(3 << 20), "steps"),
        ("a pickle of 9 MB", vec![b'N'; 9 << 20], "more than 8388608"),
        ("lists of lists without end", laughs, "no dict of tensors"),
        ("a dict that holds itself", b"}q\x00\x8c\x01ah\x00s.".to_vec(), "no dict of tensors"),
        ("a tuple below the mark", b"N(N\x87.".to_vec(), "runs empty"),
        ("a closed bracket", b"t.".to_vec(), "never opened"),
        ("something never kept", b"h\x07.".to_vec(), "never kept"),
        ("a key without a value", b"}(NNNu.".to_vec(), "without a value"),
        ("items of a number", b"K\x01(NNu.".to_vec(), "no container"),
        ("a text longer than the file", b"X\xff\xff\xff\xff.".to_vec(), "cut off"),
        ("a text of 2^64 bytes", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), "opcode 0x8d"),
        ("an integer of 2^31 bytes", b"\x8b\xff\xff\xff\x7f.".to_vec(), "opcode 0x8b"),
        ("an integer of 200 bytes", [&[0x8a, 200][..], &[7; 201]].concat(), "integer of 200 bytes"),
        ("a frame of 2^64 bytes", b"\x95\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), "runs empty"),
        ("no UTF-8", b"}\x8c\x02\xff\xfeNs.".to_vec(), "no UTF-8"),
        ("a name without end", [b"c".to_vec(), vec![b'a'; 5000]].concat(), "no end"),
        ("attributes of a number", b"K\x01Nb.".to_vec(), "no container"),
        ("a reference to something else", b"NQ.".to_vec(), "other than a storage"),
        ("a list", b"].".to_vec(), "no dict of tensors"),
        ("a huge shape", tensor(&[i32::MAX; 3], &[1, 1, 1], 0, "0"), "reaches past"),
        ("a shape past the storage", tensor(&[5], &[1], 0, "0"), "reaches past"),
        ("an offset past the storage", tensor(&[1], &[1], 4, "0"), "reaches past"),
        ("an offset far past the storage", tensor(&[1], &[1], i32::MAX, "0"), "reaches past"),
        ("huge strides", tensor(&[2, 2], &[i32::MAX, i32::MAX], 0, "0"), "reaches past"),
        ("strides of 0", tensor(&[1 << 20, 1 << 10], &[0, 0], 0, "0"), "repeats the values"),
        ("a negative shape", tensor(&[-4], &[1], 0, "0"), "no sound shape"),
        ("a negative offset", tensor(&[4], &[1], -1, "0"), "no sound shape"),
        ("fewer strides than axes", tensor(&[2, 2], &[1], 0, "0"), "no sound shape"),
        ("many axes", tensor(&[1; 40], &[1; 40], 0, "0"), "no sound shape"),
        ("a storage that is not there", tensor(&[4], &[1], 0, "1"), "not there"),
        (
            "a storage outside the archive",
            tensor(&[4], &[1], 0, "../../../etc/passwd"),
            "not there",
        ),
        ("one name twice", twice, "\"a\" is there twice"),
    ];
    for (label, pickle, word) in cases {
        archive(&path, &pickle);
        refused(label, &path, word, PICKLES);
    }
}

#[test]
fn hostile_archives_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file.pth");
    let sound = pickle(&[("a".into(), vec![4])], "FloatStorage");
    let bytes = |make: &dyn Fn(&mut Zip)| {
        let mut zip = Zip::create(&path);
        make(&mut zip);
        zip.finish();
        fs::read(&path).unwrap()
    };
    let good = bytes(&|zip| {
        zip.entry("archive/data.pkl", &sound);
        zip.entry("archive/data/0", &[0; 16]);
    });
    fs::write(&path, &good).unwrap();
    assert!(TensorSource::open_file(&path).unwrap().has("a"), "the sound archive is read");
    let end = good.len() - 22;
    let patched = |at: usize, new: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let directory = u32::from_le_bytes(good[end + 16..end + 20].try_into().unwrap()) as usize;
    // The second record of the directory, and its offset field.
    let second = directory + 46 + "archive/data.pkl".len();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a directory that is cut off", good[..end + 10].to_vec(), "no zip directory"),
        ("no directory", good[..directory].to_vec(), "no zip directory"),
        ("a directory past the end", patched(end + 16, &[0xff; 4]), "no zip directory"),
        ("a directory of 4 GB", patched(end + 12, &[0xff; 4]), "no zip directory"),
        ("a directory that is something else", patched(directory, b"PKXX"), "cut off"),
        (
            "a compressed bomb",
            bytes(&|zip| {
                zip.header("archive/data.pkl", 1 << 40, 8);
            }),
            "compressed entry",
        ),
        ("an encrypted entry", patched(directory + 8, &[1]), "encrypted entry"),
        (
            "an entry of 2^40 bytes",
            bytes(&|zip| zip.header("archive/data.pkl", 1 << 40, 0)),
            "outside the file",
        ),
        (
            "entries that overlap",
            // The storage lies where the pickle does.
            patched(second + 42, &0u32.to_le_bytes()),
            "overlap",
        ),
        (
            "a local header that is none",
            patched(second + 42, &7u32.to_le_bytes()),
            "outside the file",
        ),
        (
            "one entry twice",
            bytes(&|zip| {
                zip.entry("archive/data.pkl", &sound);
                zip.entry("archive/data.pkl", &sound);
            }),
            "there twice",
        ),
        (
            "two sizes of a stored entry",
            patched(directory + 20, &3u32.to_le_bytes()),
            "directory is cut off",
        ),
        ("no pickle", bytes(&|zip| zip.entry("word/document.xml", b"<x/>")), "without data.pkl"),
        (
            "big-endian numbers",
            bytes(&|zip| {
                zip.entry("archive/data.pkl", &sound);
                zip.entry("archive/byteorder", b"big");
                zip.entry("archive/data/0", &[0; 16]);
            }),
            "big-endian",
        ),
    ];
    check(cases);
}

#[test]
fn every_truncation_of_a_sound_file_is_refused() {
    // How many bytes at the end hold nothing: GGUF's padding.
    for (name, slack) in [("state.safetensors", 0), ("state.pth", 0), ("formats.gguf", 31)] {
        let bytes = fs::read(fixtures("containers").join(name)).unwrap();
        assert!(longreel_weights::fuzzing::container(&bytes), "{name} is sound");
        for length in 0..bytes.len() - slack {
            let read = longreel_weights::fuzzing::container(&bytes[..length]);
            assert!(!read, "{name} cut to {length} of {} bytes was read", bytes.len());
        }
    }
}

/// A copy of a recorded model.
fn copy(root: &Path) {
    for folder in ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"] {
        fs::create_dir_all(root.join(folder)).unwrap();
        for file in fs::read_dir(fixtures("models/t2v").join(folder)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), root.join(folder).join(file.file_name())).unwrap();
        }
    }
    fs::copy(fixtures("models/t2v/model_index.json"), root.join("model_index.json")).unwrap();
}

#[test]
fn hostile_json_beside_the_tensors_is_refused_with_the_file_or_the_key() {
    let index = "transformer/diffusion_pytorch_model.safetensors.index.json";
    let map = |file: &str| serde_json::json!({"weight_map": {"proj_out.bias": file}}).to_string();
    let deep = "[".repeat(1 << 20);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            index,
            map("../vae/diffusion_pytorch_model.safetensors").into(),
            "only files in the folder",
        ),
        (index, map("/etc/passwd").into(), "only files in the folder"),
        (index, map("..").into(), "only files in the folder"),
        (index, map("a\\b.safetensors").into(), "only files in the folder"),
        (index, map("nul\0.safetensors").into(), "only files in the folder"),
        (index, map("config.json").into(), "holds both"),
        (index, map("absent.safetensors").into(), "absent.safetensors"),
        (index, b"{\"weight_map\": [1]}".to_vec(), "no weight_map"),
        (index, b"{\"weight_map\": {}}".to_vec(), "names no tensor"),
        (index, b"{\"weight_map\": {\"a\": 7}}".to_vec(), "\"a\" is in no file"),
        (index, deep.clone().into(), "no JSON"),
        (index, vec![0xff, 0xfe, 0], "index.json"),
        ("transformer/config.json", deep.clone().into(), "transformer's configuration"),
        ("transformer/config.json", vec![0xff; 64], "config.json"),
        ("transformer/config.json", b"{\"num_layers\": 1e99}".to_vec(), "num_layers"),
        ("vae/config.json", b"{\"dim_mult\": [4611686018427387904]}".to_vec(), "dim_mult"),
        ("text_encoder/config.json", b"{\"d_model\": -1}".to_vec(), "d_model"),
        ("model_index.json", deep.into(), "model index"),
        (
            "model_index.json",
            b"{\"transformer_2\": [\"diffusers\", \"X\"]}".to_vec(),
            "transformer_2",
        ),
        ("longreel.json", b"{\"kind\": {}}".to_vec(), "kind"),
        ("longreel.json", b"kind".to_vec(), "model's configuration"),
    ];
    for (file, bytes, word) in cases {
        let root = TempDir::new().unwrap();
        copy(root.path());
        assert!(ModelFolder::open(root.path()).is_ok());
        fs::write(root.path().join(file), bytes).unwrap();
        let message = ModelFolder::open(root.path()).unwrap_err().to_string();
        assert!(message.contains(word), "{file}: {word:?} is not in {message}");
        assert!(message.len() < 3000, "{file}: a message of {} bytes", message.len());
        // Goes on past it where it can, and never panics.
        let _ = inspect(root.path());
    }
}

#[test]
fn a_json_file_of_a_hundred_megabytes_is_not_read() {
    let root = TempDir::new().unwrap();
    copy(root.path());
    let file = fs::File::create(root.path().join("transformer/config.json")).unwrap();
    file.set_len(100 << 20).unwrap();
    let (result, peak) = peak_of(|| ModelFolder::open(root.path()));
    let message = result.unwrap_err().to_string();
    assert!(message.contains("104857600 bytes"), "{message}");
    assert!(peak < 8 << 20, "{peak} bytes were held");
}

#[test]
fn what_is_no_file_is_refused() {
    let root = TempDir::new().unwrap();
    let message = TensorSource::open_file(root.path()).unwrap_err().to_string();
    assert!(message.contains("is not a file"), "{message}");
    let message = Lora::open(root.path().join("absent.safetensors")).unwrap_err().to_string();
    assert!(message.contains("cannot open") && message.contains("absent"), "{message}");
    let message = ModelFolder::open(root.path()).unwrap_err().to_string();
    assert!(message.contains("holds no transformer"), "{message}");
    let message = inspect(root.path().join("absent")).unwrap_err().to_string();
    assert!(message.contains("does not exist"), "{message}");
}

#[test]
fn a_named_file_of_something_else_is_told_and_not_what_is_damaged_beside_it() {
    let root = TempDir::new().unwrap();
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    let other = root.path().join("other.safetensors");
    fs::write(&other, [&length[..], header, &[0; 4]].concat()).unwrap();
    fs::write(root.path().join("beside.safetensors"), b"cut off").unwrap();
    fs::write(root.path().join("beside.gguf"), b"GGUF").unwrap();
    let message = ModelFolder::open(&other).unwrap_err().to_string();
    assert!(message.contains("other.safetensors holds no transformer"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn devices_and_pipes_are_not_waited_for() {
    let message = TensorSource::open_file(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(message.contains("is not a file"), "{message}");
    let root = TempDir::new().unwrap();
    let pipe = root.path().join("pipe.safetensors");
    if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
        let message = TensorSource::open_file(&pipe).unwrap_err().to_string();
        assert!(message.contains("is not a file"), "{message}");
        assert!(ModelFolder::open(root.path()).is_err());
    }
}

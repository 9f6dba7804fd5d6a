//! Our kernels for every card, and what is kept of them on disk.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use longreel_kernels::cuda::{Cache, Compiler, Target, source_of};
use longreel_kernels::gpu::{GpuError, SOURCES};

use crate::compiler;

/// A100, RTX 30, RTX 40, Hopper, Blackwell in data centres and in RTX 50; those between have the
/// instructions of one of these.
pub const CARDS: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// The user's caches, for the tests.
pub const CACHES: &str = env!("CARGO_TARGET_TMPDIR");

const SMALL: &str = r#"extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }"#;

/// Compiles all kernels for all cards into the cache that the tests share, and says what the compiler said.
/// It takes a minute of two cores, so what has passed is not compiled again while it is the same.
pub fn complaints(compiler: &Compiler) -> &'static [String] {
    static COMPLAINTS: OnceLock<Vec<String>> = OnceLock::new();
    COMPLAINTS.get_or_init(|| {
        let known = compiler.architectures();
        let jobs: Vec<(&str, u32)> = SOURCES
            .iter()
            .filter(|row| row.0 != "common")
            .flat_map(|row| CARDS.map(|card| (row.0, card)))
            .filter(|job| known.contains(&job.1))
            .collect();
        let passed = Cache::at(&Path::new(CACHES).join("longreel/kernels"));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut complaints = Vec::new();
            while let Some(&(module, card)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let source = source_of(module).expect("one of the list");
                let target = Target::Machine(card);
                let key = compiler.key(&source, target);
                if passed.get(&key).is_some() {
                    continue;
                }
                match compiler.compile(module, &source, target) {
                    Ok(compiled) if compiled.log.is_empty() => passed.put(&key, &compiled.code),
                    Ok(compiled) => {
                        complaints.push(format!("{module} for {card}: {}", compiled.log));
                    }
                    Err(error) => complaints.push(format!("{module} for {card}: {error}")),
                }
            }
            complaints
        };
        std::thread::scope(|scope| {
            let threads = [scope.spawn(work), scope.spawn(work)];
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        })
    })
}

#[test]
fn every_kernel_compiles_for_every_card_without_a_warning() {
    let Some(compiler) = compiler() else { return };
    if compiler.version() >= (12, 8) {
        let known = compiler.architectures();
        assert!(CARDS.iter().all(|card| known.contains(card)), "{known:?}");
    }
    let complaints = complaints(&compiler);
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[test]
fn cards_from_ada_on_multiply_8_bit_floats_and_others_go_by_way_of_bf16() {
    let Some(compiler) = compiler() else { return };
    if compiler.version() < (12, 4) {
        eprintln!("skipped: before CUDA 12.4 all cards go by way of bf16");
        return;
    }
    let source = source_of("fp8").expect("one of the list");
    let uses = |card| {
        let compiled = compiler.compile("fp8", &source, Target::Portable(card));
        let text = String::from_utf8(compiled.expect("it compiles").code).expect("PTX is text");
        ["m16n8k32.row.col.f32.e4m3", "m16n8k16.row.col.f32.bf16"].map(|mma| text.contains(mma))
    };
    for (card, expected) in [(80, [false, true]), (89, [true, false]), (120, [true, false])] {
        assert_eq!(uses(card), expected, "sm_{card}");
    }
}

#[test]
fn a_mistake_and_a_doubt_are_told_with_their_lines() {
    let Some(compiler) = compiler() else { return };
    let doubtful = "__global__ void f(int* x) {\n    int never;\n    *x = 1;\n}";
    let compiled = compiler.compile("doubt", doubtful, Target::Machine(80)).expect("it compiles");
    assert!(compiled.log.contains("doubt.cu(2)"), "{}", compiled.log);
    let wrong = "__global__ void f(int* x) {\n    *x = y;\n}";
    match compiler.compile("wrong", wrong, Target::Machine(80)) {
        Err(GpuError::Compile { module: "wrong", log }) => {
            assert!(log.contains("wrong.cu(2)") && log.contains("\"y\""), "{log}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_card_newer_than_the_compiler_gets_portable_code_and_an_older_one_is_refused() {
    let Some(compiler) = compiler() else { return };
    let newest = *compiler.architectures().last().expect("some");
    assert_eq!(compiler.target(90), Ok(Target::Machine(90)));
    let target = compiler.target(newest + 40).expect("a way");
    assert_eq!(target, Target::Portable(newest));
    let compiled = compiler.compile("twice", SMALL, target).expect("it compiles");
    let text = String::from_utf8(compiled.code).expect("PTX is text");
    assert!(text.contains(&format!(".target sm_{newest}")), "{text}");
    assert!(text.ends_with('\0'), "the driver reads on behind the end");
    let error = compiler.target(20).expect_err("nothing knows it").to_string();
    assert!(error.contains("20") && error.contains("--device cpu"), "{error}");
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("longreel-{name}-{}", std::process::id())))
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten();
        entries.map(|entry| entry.expect("readable").path()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_was_compiled_is_kept_and_what_is_damaged_is_compiled_again() {
    let Some(compiler) = compiler() else { return };
    let folder = Folder::new("kernels");
    // It is made with what stands above it.
    let cache = Cache::at(&folder.0.join("below"));
    let below = Folder(folder.0.join("below"));
    let compile = |source: &str| {
        compiler.cached("twice", source, Target::Machine(80), &cache).expect("it compiles")
    };
    let first = compile(SMALL);
    let files = below.files();
    assert_eq!(files.len(), 1, "{files:?}");
    // What is kept is what is used: a whole file of other content is believed, which no compiler made.
    let key = files[0].file_name().and_then(|name| name.to_str()).expect("a key").to_owned();
    cache.put(&key, b"from the cache");
    assert_eq!(compile(SMALL), b"from the cache");
    // Cut, changed, empty: none of it is believed.
    let whole = std::fs::read(&files[0]).expect("readable");
    let mut changed = whole.clone();
    *changed.last_mut().expect("not empty") ^= 1;
    for damaged in [&whole[..whole.len() - 1], &changed, &whole[..10], &[]] {
        std::fs::write(&files[0], damaged).expect("writable");
        assert_eq!(compile(SMALL), first);
        assert_eq!(cache.get(&key).as_deref(), Some(&first[..]), "it was not written again");
    }
    // Another text, another card: another file.
    compile(&SMALL.replace("2.0f", "3.0f"));
    compiler.cached("twice", SMALL, Target::Machine(90), &cache).expect("it compiles");
    assert_eq!(below.files().len(), 3);
}

#[test]
fn a_cache_that_cannot_be_written_is_no_error() {
    let Some(compiler) = compiler() else { return };
    let folder = Folder::new("no-folder");
    // A file stands where the folder should be; a folder of no rights would not stop root.
    std::fs::write(&folder.0, "").expect("writable");
    let cache = Cache::at(&folder.0.join("kernels"));
    let code = compiler.cached("twice", SMALL, Target::Machine(80), &cache);
    assert!(code.expect("it compiles").starts_with(b"\x7fELF"));
    std::fs::remove_file(&folder.0).expect("ours");
}

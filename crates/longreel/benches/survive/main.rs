//! What the service must survive, done to it: `cargo bench --bench survive`.
//!
//! The real program with the demo model, over real HTTP. Prints the figures, and ends with an error when
//! a job was lost or made twice or a film differs from that of an undisturbed run. Parts of it:
//! `cargo bench --bench survive -- kills streams`; `--kills N` and `--seed N` say how often and in which
//! order it is killed.
//!
//! A clock that jumps is not tried here, since it would be the whole machine's: the tests of
//! `crates/jobs` do it with a clock that is handed in.

#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod kills;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod locks;
#[allow(dead_code, reason = "the tests of the command use the rest")]
#[path = "../../tests/command/program.rs"]
mod program;
#[cfg(target_os = "linux")]
#[path = "../../tests/serve/room.rs"]
mod room;
#[allow(dead_code, reason = "the tests of the service use the rest")]
#[path = "../../tests/serve/server.rs"]
mod server;
#[cfg(target_os = "linux")]
mod streams;

/// Numbers that a seed gives (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The value after a flag.
fn flag(words: &[String], name: &str, otherwise: u64) -> u64 {
    let value = words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    value.map_or(otherwise, |v| v.parse().unwrap_or_else(|e| panic!("{name} {v}: {e}")))
}

#[cfg(target_os = "linux")]
fn main() {
    // A thousand streams are a thousand files, here and in the server.
    if std::env::var_os("LONGREEL_SURVIVE_FILES").is_none() {
        use std::os::unix::process::CommandExt;
        let program = std::env::current_exe().expect("a program");
        let error = std::process::Command::new("/bin/sh")
            .args(["-c", "ulimit -n $(ulimit -H -n) 2>/dev/null; exec \"$0\" \"$@\""])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env("LONGREEL_SURVIVE_FILES", "1")
            .exec();
        panic!("/bin/sh: {error}");
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let named: Vec<&str> =
        words.iter().map(String::as_str).filter(|w| PARTS.iter().any(|p| p.0 == *w)).collect();
    for (name, part) in PARTS {
        if named.is_empty() || named.contains(&name) {
            println!("== {name}");
            part(&words);
        }
    }
}

/// A part and what it is called.
#[cfg(target_os = "linux")]
type Part = (&'static str, fn(&[String]));
#[cfg(target_os = "linux")]
const PARTS: [Part; 5] = [
    ("kills", |words| kills::run(flag(words, "--kills", 200), flag(words, "--seed", 1))),
    ("disk", |_| disk::run()),
    ("locks", |_| locks::run()),
    ("streams", |_| streams::run()),
    ("load", |_| load::run()),
];

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: it kills processes and looks at them as Linux does");
}

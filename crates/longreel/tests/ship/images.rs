//! The scripts that build images, with a registry, a proxy and an engine on this machine in the places of
//! the real ones. `docker/test.sh` does the whole way with a real engine.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::program::{Place, Ran};
use crate::tools::{has, read, repository};

/// A registry of two images on 127.0.0.1 that also takes requests as a proxy does; what it was asked.
struct Registry {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let told = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let told = told.clone();
                std::thread::spawn(move || answer(stream, port, &told));
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> String {
        self.asked.lock().expect("no panic").join("\n")
    }
}

fn answer(mut stream: TcpStream, port: u16, told: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let has_token =
        headers.iter().any(|h| h.eq_ignore_ascii_case("authorization: Bearer let-me-in"));
    told.lock().expect("no panic").push(first.clone());
    let path = first.split(' ').nth(1)?.to_owned();
    let path = path.split_once("//").map_or(path.clone(), |(_, rest)| {
        format!("/{}", rest.split_once('/').map_or("", |(_, path)| path))
    });
    let (status, headers, body) = match path.as_str() {
        "/token" | "/hub" => ("200 OK", String::new(), r#"{"token": "let-me-in"}"#),
        path if path.starts_with("/token?") => {
            ("200 OK", String::new(), r#"{"token": "let-me-in"}"#)
        }
        _ if !has_token => {
            let realm = format!(
                "www-authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"test\",scope=\"pull\"\r\n"
            );
            ("401 Unauthorized", realm, "")
        }
        "/v2/"
        | "/v2/library/rust/manifests/1.95-bookworm"
        | "/v2/library/debian/manifests/bookworm-slim" => ("200 OK", String::new(), ""),
        "/v2/nvidia/cuda/tags/list" => (
            "200 OK",
            String::new(),
            r#"{"name": "nvidia/cuda", "tags": ["12.8.0-cudnn-runtime-ubuntu24.04", "12.8.0-runtime-ubuntu24.04", "12.9.1-runtime-ubuntu24.04", "12.9.1-base-ubuntu24.04"]}"#,
        ),
        _ => ("404 Not Found", String::new(), ""),
    };
    let body = if first.starts_with("HEAD") { "" } else { body };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .ok()?;
    stream.flush().ok()?;
    let _ = stream.read(&mut [0]);
    Some(())
}

/// build.sh with an engine that has no image and notes what it is told.
fn build(place: &Place, words: &[&str], settings: &[(&str, &str)]) -> Ran {
    let engine = place.write(
        "docker",
        "#!/bin/sh\ncase \"$1 $2\" in\ninfo*) echo \"${ENGINE:-Debian}\" ;;\n\"buildx version\") ;;\nimage*) exit 1 ;;\n\
         *) echo \"${SAYS:-no: $*}\" >&2; exit 1 ;;\nesac\n",
    );
    make_runnable(&engine);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command.arg(repository().join("docker/build.sh")).args(words);
    command.env_clear().env("PATH", format!("{}:{path}", place.path("").display()));
    command.env("DRY_RUN", "1").env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.env("TMPDIR", place.path(""));
    command.envs(settings.iter().copied());
    Ran::of(command.output().expect("bash"))
}

#[cfg(unix)]
fn make_runnable(path: &PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[cfg(not(unix))]
fn make_runnable(_path: &PathBuf) {}

fn can_run() -> bool {
    has("bash", &["--version"], "install bash") && has("curl", &["--version"], "install curl")
}

#[test]
fn images_are_looked_up_before_anything_is_built() {
    if !can_run() {
        return;
    }
    let (place, registry) = (Place::new(), Registry::start());
    let host = format!("127.0.0.1:{}", registry.port);
    let ran = build(&place, &[], &[("REGISTRY", &host)]).expect_code(0);
    assert!(ran.stdout.contains("no proxy"), "{}", ran.stdout);
    for image in ["library/rust:1.95-bookworm", "library/debian:bookworm-slim"] {
        assert!(ran.stdout.contains(&format!("{host}/{image} exists")), "{}", ran.stdout);
    }
    let line = ran.stdout.lines().last().expect("the command");
    assert!(line.contains("--target cpu") && line.contains("longreel:cpu"), "{line}");
    assert!(!line.contains("_proxy"), "{line}");
    assert!(ran.stdout.contains("http://127.0.0.1:9 is not reached"), "{}", ran.stdout);
}

#[test]
fn an_image_that_does_not_exist_is_refused_with_those_that_do() {
    if !can_run() {
        return;
    }
    let (place, registry) = (Place::new(), Registry::start());
    let host = format!("127.0.0.1:{}", registry.port);
    let settings = [("REGISTRY", host.as_str()), ("CUDA_VERSION", "12.1")];
    for target in ["gpu", "check"] {
        let ran = build(&place, &[target], &settings).expect_code(1);
        let tag = "12.1-runtime-ubuntu24.04";
        assert!(ran.stderr.contains(&format!("no tag {tag}")), "{target}: {}", ran.stderr);
        let there = "12.8.0-runtime-ubuntu24.04 12.9.1-runtime-ubuntu24.04";
        assert!(ran.stderr.contains(there), "{target}: {}", ran.stderr);
        for other in ["12.9.1-base", "-cudnn-"] {
            assert!(!ran.stderr.contains(other), "{target}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_proxy_is_used_and_handed_on_where_it_is_reached() {
    if !can_run() {
        return;
    }
    let (place, registry) = (Place::new(), Registry::start());
    // A name that only the proxy knows; with http, so that the proxy is asked and not tunnelled through.
    let proxy = format!("http://ann:secret@127.0.0.1:{}", registry.port);
    let crates = ("CARGO_INDEX", "http://crates.invalid/hub");
    let images =
        [("RUST_IMAGE", "localhost.invalid/none:1"), ("BASE_IMAGE", "localhost.invalid/none:1")];
    let ran = build(&place, &[], &[("https_proxy", &proxy), crates, images[0], images[1]]);
    assert!(
        !format!("{}{}", ran.stdout, ran.stderr).contains("secret"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    let registry_host = format!("127.0.0.1:{}", registry.port);
    let settings = [("REGISTRY", registry_host.as_str()), ("LONGREEL_PROXY", &proxy)];
    let ran = build(&place, &[], &settings).expect_code(0);
    assert!(ran.stdout.contains("proxy http://***@127.0.0.1"), "{}", ran.stdout);
    let line = ran.stdout.lines().last().expect("the command");
    // In a step of the build 127.0.0.1 is the step itself.
    assert!(line.contains("--network host") && line.contains("--build-arg https_proxy="), "{line}");
    let desktop = [settings[0], settings[1], ("ENGINE", "Docker Desktop")];
    let ran = build(&place, &[], &desktop).expect_code(0);
    let line = ran.stdout.lines().last().expect("the command");
    assert!(line.contains("ann:secret@host.docker.internal:"), "{line}");
    assert!(!line.contains("--network"), "{line}");
    assert!(registry.asked().contains("/v2/library/debian/manifests/bookworm-slim"));
}

#[test]
fn a_network_that_is_not_reached_is_told_with_the_way_out() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let settings = [("REGISTRY", "127.0.0.1:9"), ("LONGREEL_PROXY", "http://127.0.0.1:9")];
    for settings in [&settings[..1], &settings] {
        let ran = build(&place, &["check"], settings).expect_code(1);
        assert!(ran.stderr.contains("is not reached"), "{}", ran.stderr);
    }
    let ran = build(&place, &["check"], &settings[..1]);
    for part in
        ["LONGREEL_PROXY=http://127.0.0.1:7890", "LONGREEL_MIRROR=china", "7890, 8080, 1080"]
    {
        assert!(ran.stderr.contains(part), "no {part} in {}", ran.stderr);
    }
    // Whose mirror does not answer is not told to take it.
    let ran =
        build(&place, &["check"], &[settings[0], ("LONGREEL_MIRROR", "china")]).expect_code(1);
    assert!(ran.stderr.contains("CARGO_INDEX of crates"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("LONGREEL_MIRROR"), "{}", ran.stderr);
    let ran = build(&place, &[], &[("LONGREEL_MIRROR", "mars")]).expect_code(1);
    assert!(ran.stderr.contains("'mars'; it can be china"), "{}", ran.stderr);
}

#[test]
fn one_setting_takes_everything_from_mirrors() {
    if !can_run() {
        return;
    }
    let (place, registry) = (Place::new(), Registry::start());
    let host = format!("127.0.0.1:{}", registry.port);
    let ran =
        build(&place, &[], &[("LONGREEL_MIRROR", "china"), ("REGISTRY", &host)]).expect_code(0);
    let line = ran.stdout.lines().last().expect("the command");
    for part in [
        "CARGO_INDEX=sparse+https://rsproxy.cn",
        "APT_MIRROR=mirrors.tuna",
        "PIP_INDEX=https://pypi.tuna",
        "HF_ENDPOINT=http://127.0.0.1:9",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[test]
fn certificates_of_a_proxy_are_lent_to_the_build_and_no_part_of_it() {
    if !can_run() {
        return;
    }
    let (place, registry) = (Place::new(), Registry::start());
    let host = format!("127.0.0.1:{}", registry.port);
    let bundle = place.write("company.pem", "-----BEGIN CERTIFICATE-----\n");
    let bundle = bundle.display().to_string();
    let settings = [("REGISTRY", host.as_str()), ("CA_BUNDLE", bundle.as_str())];
    let ran = build(&place, &[], &settings).expect_code(0);
    let line = ran.stdout.lines().last().expect("the command");
    assert!(line.contains(&format!("--secret id=ca\\,src={bundle}")), "{line}");
    assert!(!line.contains("--build-arg CA_BUNDLE"), "{line}");
    for wrong in ["/nowhere.pem", "/etc/hostname"] {
        let ran = build(&place, &[], &[settings[0], ("CA_BUNDLE", wrong)]).expect_code(1);
        assert!(
            ran.stderr.contains(&format!("'{wrong}', which holds no certificate")),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_step_that_fails_is_told_with_what_to_do() {
    if !can_run() {
        return;
    }
    let (place, registry) = (Place::new(), Registry::start());
    let host = format!("127.0.0.1:{}", registry.port);
    for (says, part) in [
        (
            "ERROR: failed to fetch oauth token: dial tcp: i/o timeout",
            "Settings, Resources, Proxies",
        ),
        (
            "ERROR: failed to build: Attestation is not supported for the docker driver.",
            "buildx create",
        ),
        ("ERROR: attestations are not supported by the current buildkitd", "buildx create"),
        ("write /out/longreel: no space left on device", "docker builder prune"),
        ("rustc was killed: signal: 9, SIGKILL", "Memory ran out"),
        ("curl: (60) SSL certificate problem: self-signed certificate", "CA_BUNDLE=FILE"),
        ("something new", "all of them are in"),
    ] {
        let settings =
            [("REGISTRY", host.as_str()), ("DRY_RUN", ""), ("PUSH", "1"), ("SAYS", says)];
        let ran = build(&place, &[], &settings).expect_code(1);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        let after = told.split(says).nth(1).unwrap_or_else(|| panic!("{says}: {told}"));
        assert!(after.contains(part), "{says}: no {part} in {told}");
    }
}

/// The list is what decides which cuDNN there is: for each CUDA a version that our attention can use, with hashes.
#[test]
fn each_cuda_has_a_cudnn_that_is_new_enough_and_nailed_down_by_hashes() {
    let list = read("docker/cudnn.txt");
    let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let default = read("docker/Dockerfile");
    let default = default.lines().find_map(|line| line.strip_prefix("ARG CUDA_VERSION="));
    let major = default.and_then(|version| version.split('.').next()).expect("a version");
    let name = format!("nvidia-cudnn-cu{major}==");
    assert!(lines.iter().any(|line| line.starts_with(&name)), "no {name} in {list}");
    for line in lines {
        let version = line.split("==").nth(1).and_then(|rest| rest.split(' ').next());
        let numbers = version.expect("a version").split('.').map(|n| n.parse().expect("a number"));
        let numbers: Vec<u32> = numbers.collect();
        assert!(numbers >= vec![9, 13, 1], "{line}");
        let hashes: Vec<&str> = line.split("--hash=sha256:").skip(1).map(str::trim).collect();
        assert_eq!(hashes.len(), 2, "x86-64 and aarch64: {line}");
        assert!(hashes.iter().all(|hash| hash.len() == 64), "{line}");
    }
}

/// A setting that the program does not know would do nothing, without a word.
#[test]
fn settings_of_the_images_are_settings_of_the_program() {
    let place = Place::new();
    let help = place.run(&["serve", "--help"]).expect_code(0).stdout;
    let dockerfile = read("docker/Dockerfile");
    let compose = read("compose.yaml");
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        words.filter(|word| word.starts_with("LONGREEL_")).map(str::to_owned).collect()
    };
    let program = compose.split("environment: &environment").nth(1).expect("the environment");
    let program = program.split("volumes:").next().expect("its end");
    let keys = program.lines().filter_map(|line| line.trim().split_once(": ")).map(|(key, _)| key);
    let keys: BTreeSet<String> = keys
        .filter(|key| key.starts_with("LONGREEL_"))
        .map(str::to_owned)
        .chain(names(&dockerfile))
        .chain(names(&read("deploy/runpod/template.json")))
        .collect();
    assert!(keys.len() > 6, "{keys:?}");
    for key in keys {
        let flag = key["LONGREEL_".len()..].to_ascii_lowercase().replace('_', "-");
        // A secret is read from its variable alone, which the help names.
        let is_known = help.contains(&format!("--{flag}")) || help.contains(&key);
        assert!(is_known, "{key}: `serve` has no --{flag}");
    }
    // And what compose asks the shell for is explained.
    let settings = read(".env");
    let of_engine = compose.replace(program, "");
    for name in names(&of_engine) {
        let known = ["LONGREEL_IMAGE", "LONGREEL_GPU_IMAGE"].contains(&name.as_str());
        assert!(known || settings.contains(&format!("{name}=")), "{name} is not in .env");
    }
}

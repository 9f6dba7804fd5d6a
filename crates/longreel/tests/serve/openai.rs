//! The official client of the OpenAI videos API, unchanged, against the server.

use std::path::Path;
use std::process::Command;

use crate::program::Place;
use crate::server::Server;

/// Names the Python that has the client, when it is not `python3`.
const PYTHON: &str = "LONGREEL_TEST_PYTHON";

#[test]
fn the_official_openai_client_works_unchanged() {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".into());
    let has_client = Command::new(&python).args(["-c", "import openai"]).output();
    match has_client {
        Ok(output) if output.status.success() => {}
        Ok(_) => {
            println!(
                "skipped: {python} has no package openai; pip install openai, or set {PYTHON}"
            );
            return;
        }
        Err(e) => {
            println!("skipped: {python} cannot be run ({e}); set {PYTHON}");
            return;
        }
    }
    let place = Place::new();
    let server = Server::start(&place);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/openai_client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(server.url("/v1"))
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .expect("it was run before");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}\n{}", server.log());
    print!("{said}");
    for call in ["create_and_poll", "retrieve", "download_content", "list", "remix", "delete"] {
        assert!(said.contains(&format!("\"call\": \"{call}\"")), "no {call}: {said}");
    }
}

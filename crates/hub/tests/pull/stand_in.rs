//! A hub on this machine: the interfaces of Hugging Face and ModelScope over plain HTTP, with faults.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use longreel_hub::Digest;
use serde_json::{Value, json};

/// A commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one call for a file; each is used up by a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Other bytes come, as many.
    Spoilt,
    /// A status, with these headers.
    Status(u16, &'static str),
    /// Another part than was asked for.
    WrongPart,
    /// The range is ignored, the whole comes.
    NoRange,
}

/// What was asked.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Default)]
pub struct State {
    /// Content by name; large files are those of `large`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names of files that are kept elsewhere, and are hashed by SHA-256.
    pub large: Vec<String>,
    pub faults: HashMap<String, Vec<Fault>>,
    /// Where large files are redirected to.
    pub elsewhere: Option<String>,
    /// What is answered to every call for the list, instead of it.
    pub refuse: Option<(u16, String)>,
    /// What is answered instead of a list.
    pub list: Option<String>,
    /// Instead of the sizes of files.
    pub sizes: HashMap<String, u64>,
    /// Names that the list has besides.
    pub more_names: Vec<String>,
    /// The token without which nothing is given.
    pub token: Option<String>,
    pub calls: Vec<Call>,
}

#[derive(Clone)]
pub struct StandIn {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl StandIn {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State::default()));
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                std::thread::spawn(move || {
                    // A client that goes away is what some tests are about.
                    let _ = serve(&stream, &state);
                });
            }
        });
        Self { address, state }
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no panic before"))
    }

    pub fn file(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.with(|state| state.files.insert(name.into(), content.into()));
    }

    pub fn large_file(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.file(name, content);
        self.with(|state| state.large.push(name.into()));
    }

    pub fn fault(&self, name: &str, faults: &[Fault]) {
        self.with(|state| state.faults.insert(name.into(), faults.to_vec()));
    }

    pub fn calls(&self) -> Vec<Call> {
        self.with(|state| state.calls.clone())
    }

    /// Calls for the content of a file.
    pub fn calls_for(&self, name: &str) -> Vec<Call> {
        let encoded = name.replace('/', "%2F");
        let is_it = |call: &Call| {
            call.target.ends_with(&format!("/{name}"))
                || call.target.ends_with(&format!("={encoded}"))
        };
        self.calls().into_iter().filter(is_it).filter(|call| call.method == "GET").collect()
    }
}

pub fn hash(digest: &Digest, content: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), content).expect("writable");
    digest.of_file(file.path(), &|_| {}).expect("readable")
}

pub fn sha256(content: &[u8]) -> String {
    hash(&Digest::Sha256(String::new()), content)
}

pub fn git_blob(content: &[u8]) -> String {
    hash(&Digest::GitBlob(String::new()), content)
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let call = Call { method: method.into(), target: target.into(), headers };
    let mut state = state.lock().expect("no panic before");
    state.calls.push(call.clone());
    let wants_token = state
        .token
        .as_ref()
        .is_some_and(|token| call.header("authorization") != Some(&format!("Bearer {token}")));
    let path = call.target.split('?').next().unwrap_or_default().to_owned();
    if wants_token && !path.starts_with("/elsewhere/") {
        return answer(
            stream,
            401,
            "x-error-code: GatedRepo\r\n",
            b"{\"error\":\"Access is restricted\"}",
        );
    }
    if let Some(rest) = path.strip_prefix("/elsewhere/") {
        let name = rest.to_owned();
        return content(stream, &mut state, &call, &name);
    }
    if path.contains("/resolve/") {
        let name = path.split("/resolve/").nth(1).and_then(|r| r.split_once('/')).map(|(_, n)| n);
        let name = name.unwrap_or_default().replace("%20", " ");
        let large = state.large.contains(&name);
        if let Some(elsewhere) = state.elsewhere.clone().filter(|_| large) {
            let content = state.files.get(&name).cloned().unwrap_or_default();
            let head = format!(
                "location: {elsewhere}/elsewhere/{name}\r\nx-repo-commit: {COMMIT}\r\nx-linked-etag: \"{}\"\r\n\
                 x-linked-size: {}\r\n",
                sha256(&content),
                content.len()
            );
            return answer(stream, 302, &head, b"");
        }
        return content(stream, &mut state, &call, &name);
    }
    if let Some(name) = call.target.split("FilePath=").nth(1) {
        let name = name.replace("%2F", "/");
        return content(stream, &mut state, &call, &name);
    }
    if let Some((status, text)) = &state.refuse {
        return answer(stream, *status, text, b"{\"error\":\"no\"}");
    }
    if let Some(list) = &state.list {
        return answer(stream, 200, "content-type: application/json\r\n", list.as_bytes());
    }
    let list: Value = if path.contains("/repo/files") {
        modelscope(&state)
    } else if path.contains("/tree/") {
        tree(&state)
    } else if path.starts_with("/api/models/") {
        hugging_face(&state)
    } else if path == "/openapi/v1/models" {
        json!({"success": true, "data": {"total_count": 1, "models": [
            {"id": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "downloads": 7, "likes": 1, "tags": [],
             "updated_at": "2025-04-01T00:00:00Z"},
        ]}})
    } else if path == "/api/models" {
        json!([
            {"id": "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers", "downloads": 3880, "likes": 2,
             "tags": ["diffusers", "safetensors", "diffusers:SkyReelsV2DiffusionForcingPipeline"],
             "lastModified": "2025-08-11T00:00:00.000Z", "gated": false},
            {"id": "someone/cats", "downloads": 9, "likes": 0, "tags": ["text-generation"], "gated": "auto"},
            {"id": "not a name", "tags": []},
        ])
    } else {
        return answer(stream, 404, "x-error-code: RepoNotFound\r\n", b"{}");
    };
    answer(stream, 200, "content-type: application/json\r\n", list.to_string().as_bytes())
}

fn names(state: &State) -> Vec<(String, Vec<u8>)> {
    let more = state.more_names.iter().map(|name| (name.clone(), b"x".to_vec()));
    state.files.iter().map(|(n, c)| (n.clone(), c.clone())).chain(more).collect()
}

fn hugging_face(state: &State) -> Value {
    let siblings = names(state).into_iter().map(|(name, content)| {
        let size = state.sizes.get(&name).copied().unwrap_or(content.len() as u64);
        let mut entry = json!({"rfilename": name, "size": size, "blobId": git_blob(&content)});
        if state.large.contains(&name) {
            entry["lfs"] = json!({"sha256": sha256(&content), "size": size, "pointerSize": 134});
        }
        entry
    });
    json!({"id": "org/model", "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>(),
           "private": false, "gated": false, "tags": [], "downloads": 0, "likes": 0})
}

/// The list that huggingface_hub asks for.
fn tree(state: &State) -> Value {
    let entries = names(state).into_iter().map(|(name, content)| {
        let mut entry =
            json!({"type": "file", "path": name, "size": content.len(), "oid": git_blob(&content)});
        if state.large.contains(&name) {
            entry["lfs"] =
                json!({"oid": sha256(&content), "size": content.len(), "pointerSize": 134});
        }
        entry
    });
    Value::Array(entries.collect())
}

fn modelscope(state: &State) -> Value {
    let files = names(state).into_iter().map(|(name, content)| {
        json!({"Path": name, "Type": "blob", "Size": content.len(), "Sha256": sha256(&content)})
    });
    json!({"Code": 200, "Success": true, "Data": {"Files": files.collect::<Vec<_>>()}})
}

fn content(stream: &TcpStream, state: &mut State, call: &Call, name: &str) -> std::io::Result<()> {
    let Some(mut bytes) = state.files.get(name).cloned() else {
        return answer(stream, 404, "x-error-code: EntryNotFound\r\n", b"{}");
    };
    let tag = match state.large.contains(&name.to_owned()) {
        true => sha256(&bytes),
        false => git_blob(&bytes),
    };
    let head = format!("etag: \"{tag}\"\r\nx-repo-commit: {COMMIT}\r\naccept-ranges: bytes\r\n");
    if call.method == "HEAD" {
        return answer_head(stream, 200, &head, bytes.len());
    }
    let faults = state.faults.entry(name.to_owned()).or_default();
    let fault = if faults.is_empty() { None } else { Some(faults.remove(0)) };
    let total = bytes.len();
    let asked: Option<usize> = call
        .header("range")
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let tag_fits = call.header("if-range").is_none_or(|asked| asked == format!("\"{tag}\""));
    let (mut status, mut head) = (200, head);
    match asked {
        Some(start) if start >= total => {
            return answer(stream, 416, &format!("content-range: bytes */{total}\r\n"), b"");
        }
        Some(start) if tag_fits && !matches!(fault, Some(Fault::NoRange)) => {
            let shown = if matches!(fault, Some(Fault::WrongPart)) { start + 1 } else { start };
            bytes.drain(..start);
            status = 206;
            head.push_str(&format!("content-range: bytes {shown}-{}/{total}\r\n", total - 1));
        }
        _ => {}
    }
    match fault {
        Some(Fault::Status(status, head)) => answer(stream, status, head, b"busy"),
        Some(Fault::Cut(n)) => {
            answer_head(stream, status, &head, bytes.len())?;
            (&mut &*stream).write_all(&bytes[..n.min(bytes.len())])
        }
        Some(Fault::Spoilt) => {
            bytes.iter_mut().take(1).for_each(|b| *b ^= 1);
            answer(stream, status, &head, &bytes)
        }
        _ => answer(stream, status, &head, &bytes),
    }
}

fn answer(stream: &TcpStream, status: u16, head: &str, body: &[u8]) -> std::io::Result<()> {
    answer_head(stream, status, head, body.len())?;
    (&mut &*stream).write_all(body)
}

fn answer_head(
    mut stream: &TcpStream,
    status: u16,
    head: &str,
    length: usize,
) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n"
    )
}

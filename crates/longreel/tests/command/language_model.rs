//! A stand-in for a language model behind an OpenAI-compatible address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Answers with `status` and what `say` makes of each prompt; what it was asked.
pub fn language_model(
    status: &'static str,
    say: fn(&str) -> Value,
) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let asked = Arc::<Mutex<Vec<Value>>>::default();
    let heard = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let (mut line, mut length, mut key) = (String::new(), 0, String::new());
            while reader.read_line(&mut line).is_ok_and(|_| !line.trim().is_empty()) {
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length: ") {
                    length = value.trim().parse().expect("a length");
                }
                if lower.starts_with("authorization: ") {
                    key = line["authorization: ".len()..].trim().to_owned();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let mut body: Value = serde_json::from_slice(&body).expect("JSON");
            let said = say(body["messages"][1]["content"].as_str().expect("a prompt"));
            body["key"] = key.into();
            heard.lock().expect("no panic").push(body);
            let said = said.to_string();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                said.len()
            );
            let _ = (&stream).write_all(format!("{head}{said}").as_bytes());
        }
    });
    (url, asked)
}

/// An answer with this text.
pub fn choice(text: &str) -> Value {
    json!({"choices": [{"message": {"role": "assistant", "content": text}}]})
}

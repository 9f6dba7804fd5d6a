//! Longer prompts from short ones, by a language model behind an OpenAI-compatible address. Off unless
//! it is asked for; the film keeps the prompt that it was made from, so that making it again asks nobody.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use longreel_film::FilmRequest;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::config::Config;

use crate::outcome::bad_input;

/// The variable that holds the key, where the address asks for one.
const KEY: &str = "LONGREEL_ENHANCER_KEY";
/// How long an answer may take.
const TIME: Duration = Duration::from_secs(120);
/// Longest answer that is read, and longest prompt that is taken, in bytes.
const ANSWER_BYTES: u64 = 1 << 20;
const PROMPT_BYTES: usize = 8 << 10;
/// What the language model is told.
const TASK: &str = "You write prompts for a text-to-video model. Expand what the user gives into one \
paragraph of 60 to 120 words that describes a single shot: who or what is seen and how they look, what \
they do and how it moves, the place, the light, the framing and the movement of the camera, and the \
style. Keep every thing, colour, number, name and action that the user names, add nothing that \
contradicts them, and let no text, captions or cuts appear. Answer in the user's language, with the \
paragraph alone.";

/// Where prompts are enhanced.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Prompt enhancer")]
pub struct EnhancerArgs {
    /// Address of the API, up to and with /v1; the key, where it asks for one, is read from the
    /// variable LONGREEL_ENHANCER_KEY
    #[arg(long, value_name = "URL")]
    pub enhancer_url: Option<String>,
    /// The language model's name there
    #[arg(long, value_name = "NAME")]
    pub enhancer_model: Option<String>,
}

/// Asks a language model for longer prompts.
#[derive(Debug)]
pub struct Enhancer {
    url: String,
    model: String,
    key: Option<String>,
    agent: Agent,
    known: RefCell<HashMap<String, String>>,
}

impl Enhancer {
    /// The one that is set.
    ///
    /// # Errors
    /// When none is, or its address is none.
    pub fn new(args: &EnhancerArgs) -> Result<Self> {
        let Some(url) = &args.enhancer_url else {
            return Err(bad_input(
                "--enhance-prompt: there is no language model to ask; set --enhancer-url, such as \
                 http://127.0.0.1:11434/v1, and --enhancer-model",
            ));
        };
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(bad_input(format!(
                "--enhancer-url {url:?}: it is an address such as http://127.0.0.1:11434/v1"
            )));
        }
        let Some(model) = &args.enhancer_model else {
            return Err(bad_input(
                "--enhance-prompt: --enhancer-model is missing; it is the model's name at --enhancer-url",
            ));
        };
        let config = Config::builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIME))
            // A kept connection may be closed by the other side just as the next prompt is sent, and
            // a question cannot be known to be safe to ask twice.
            .max_idle_connections(0)
            .user_agent(concat!("longreel/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            url: format!("{}/chat/completions", url.trim_end_matches('/')),
            model: model.clone(),
            key: std::env::var(KEY).ok().filter(|key| !key.is_empty()),
            agent: Agent::new_with_config(config),
            known: RefCell::default(),
        })
    }

    /// Puts longer prompts in the place of all of a request; the same prompt is asked for once.
    ///
    /// # Errors
    /// When the language model cannot be asked, or answers with nothing that can be used.
    pub fn enhance(&self, request: &mut FilmRequest) -> Result<()> {
        for timed in &mut request.prompts {
            let known = self.known.borrow().get(&timed.prompt).cloned();
            let longer = match known {
                Some(longer) => longer,
                None => {
                    let longer = self.ask(&timed.prompt).with_context(|| {
                        format!("the prompt could not be enhanced by {}", self.url)
                    })?;
                    self.known.borrow_mut().insert(timed.prompt.clone(), longer.clone());
                    longer
                }
            };
            timed.prompt = longer;
        }
        Ok(())
    }

    fn ask(&self, prompt: &str) -> Result<String> {
        let body = json!({
            "model": self.model,
            "messages": [
                {"role": "system", "content": TASK},
                {"role": "user", "content": prompt},
            ],
            "temperature": 0.7,
        });
        let mut post = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            post = post.header("authorization", format!("Bearer {key}"));
        }
        let mut answer = post.send(body.to_string())?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_string()?;
        if !status.is_success() {
            let said: String = text.chars().take(200).collect();
            return Err(anyhow!("it answers with HTTP status {status}: {}", said.trim()));
        }
        let answer: Value = serde_json::from_str(&text).context("its answer is no JSON")?;
        let said = answer["choices"][0]["message"]["content"].as_str();
        cleaned(said.ok_or_else(|| anyhow!("its answer has no choices[0].message.content"))?)
            .ok_or_else(|| anyhow!("its answer is empty or longer than {PROMPT_BYTES} bytes"))
    }
}

/// The paragraph alone, without thoughts before it and quotes around it.
fn cleaned(said: &str) -> Option<String> {
    let said = said.rsplit_once("</think>").map_or(said, |(_, answer)| answer).trim();
    let pairs = [('"', '"'), ('“', '”'), ('「', '」')];
    let bare = pairs.into_iter().find_map(|(open, close)| {
        let inner = said.strip_prefix(open)?.strip_suffix(close)?;
        (!inner.contains(open) && !inner.contains(close)).then_some(inner)
    });
    let words: Vec<&str> = bare.unwrap_or(said).split_whitespace().collect();
    let text = words.join(" ");
    (!text.is_empty() && text.len() <= PROMPT_BYTES).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paragraph_alone_is_taken() {
        for (said, expected) in [
            ("  A dog\n runs. ", Some("A dog runs.")),
            ("\"A dog runs.\"", Some("A dog runs.")),
            ("“一只狗在奔跑。”", Some("一只狗在奔跑。")),
            ("<think>What \"dog\"?</think>\nA dog runs.", Some("A dog runs.")),
            ("\"Go\" says the dog \"now\"", Some("\"Go\" says the dog \"now\"")),
            (" \n", None),
            ("<think>and so on</think>", None),
        ] {
            assert_eq!(cleaned(said).as_deref(), expected, "{said}");
        }
        assert_eq!(cleaned(&"a".repeat(PROMPT_BYTES + 1)), None);
    }
}

//! Calls to a site: its proxy, its redirects, its token.
//!
//! Redirects are followed here and not by the client beneath, since each of them may need another
//! proxy, and since the token goes to the endpoint alone: a file's bytes come from another host, whose
//! address is signed instead.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ureq::config::Config;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy, Timeout};
use url::Url;

use crate::HubError;
use crate::error::shown;
use crate::id::Site;
use crate::retry::asked_wait;
use crate::settings::Settings;

const REDIRECTS: usize = 8;
/// How long a name server and the first byte of a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// How long a server may think before it answers.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// What is read of an error's text.
const SAID_BYTES: u64 = 4 << 10;
/// Longest list or search result that is read.
const JSON_BYTES: u64 = 64 << 20;

/// Calls one site.
pub struct Client {
    settings: Settings,
    roots: Option<RootCerts>,
    /// One for each proxy, and one without.
    agents: Mutex<HashMap<Option<String>, Agent>>,
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another try may succeed.
    Passing { problem: String, asked: Option<Duration> },
    /// The server's word.
    Status(Refused),
    /// Nothing will help.
    Final(HubError),
}

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Refused {
    pub status: u16,
    /// `X-Error-Code` of Hugging Face.
    pub code: Option<String>,
    /// What it says to people.
    pub said: String,
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// When the file of certificates that the environment names cannot be read.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        let roots = settings.certificates.as_deref().map(|path| {
            let pem = std::fs::read(path).map_err(HubError::io("read", path))?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            Ok(RootCerts::from(certificates.collect::<Vec<_>>()))
        });
        Ok(Self { settings, roots: roots.transpose()?, agents: Mutex::default() })
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Which site it calls.
    pub fn site(&self) -> Site {
        self.settings.site
    }

    /// An address under the endpoint.
    pub(crate) fn address(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, HubError> {
        let mut url = self.settings.endpoint.clone();
        let whole = format!("{}/{path}", url.path().trim_end_matches('/'));
        url.set_path(&whole);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// Refuses when the environment forbids to ask.
    pub(crate) fn check_online(&self) -> Result<(), HubError> {
        match self.settings.offline {
            Some(variable) => Err(HubError::Offline { variable, site: self.settings.site }),
            None => Ok(()),
        }
    }

    /// One call, through redirects. What is no success is a failure.
    pub(crate) fn get(
        &self,
        url: &Url,
        headers: &[(&'static str, String)],
    ) -> Result<Response<Body>, Failure> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let mut response = self.call(&url, headers)?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let text = |name: &str| {
                response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
            };
            let moved = status.is_redirection().then(|| text("location")).flatten();
            if let Some(to) = moved {
                let next = url.join(&to).ok().filter(|next| {
                    matches!(next.scheme(), "http" | "https")
                        // What was asked for in secret is not looked for in the open.
                        && (next.scheme() == "https" || url.scheme() == "http")
                });
                url = next.ok_or_else(|| {
                    Failure::Final(
                        self.answer(&url, format!("with a redirect to {:?}", shown(&to))),
                    )
                })?;
                continue;
            }
            let asked = asked_wait(text("retry-after").as_deref(), SystemTime::now());
            let refused = Refused {
                status: status.as_u16(),
                code: text("x-error-code"),
                said: text("x-error-message").unwrap_or_default(),
            };
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            if passing && status != StatusCode::NOT_IMPLEMENTED {
                return Err(Failure::Passing { problem: status_text(&refused), asked });
            }
            let said = match refused.said.is_empty() {
                true => said(&mut response),
                false => refused.said,
            };
            return Err(Failure::Status(Refused { said: shown(&said), ..refused }));
        }
        Err(Failure::Final(self.answer(&url, format!("with more than {REDIRECTS} redirects"))))
    }

    /// A JSON answer, tried again while that may help.
    pub(crate) fn json(&self, url: &Url) -> Result<Result<serde_json::Value, Refused>, HubError> {
        self.check_online()?;
        let mut failures = 0;
        loop {
            let read = |mut response: Response<Body>| {
                let text = response.body_mut().with_config().limit(JSON_BYTES).read_to_string();
                text.map_err(|error| Failure::Passing { problem: words(error), asked: None })
            };
            match self.get(url, &[]).and_then(read) {
                Ok(text) => {
                    let parsed = serde_json::from_str(&text);
                    return parsed.map(Ok).map_err(|_| {
                        self.answer(url, format!("what is no JSON: {:?}", shown(text.trim())))
                    });
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Status(refused)) => return Ok(Err(refused)),
                Err(Failure::Passing { problem, asked }) => {
                    failures += 1;
                    match self.settings.patience.wait(failures, asked) {
                        Some(wait) => std::thread::sleep(wait),
                        None => return Err(self.gave_up(url, problem, failures, asked)),
                    }
                }
            }
        }
    }

    pub(crate) fn gave_up(
        &self,
        url: &Url,
        problem: String,
        tries: u32,
        asked: Option<Duration>,
    ) -> HubError {
        let way_out = match (asked, self.settings.site) {
            (Some(asked), _) if asked > self.settings.patience.longest_asked => {
                format!("it asks for {} s of patience; try again then", asked.as_secs())
            }
            (_, Site::HuggingFace) => "what has come is kept, and the same command goes on. Behind a \
                 firewall, set https_proxy, or a mirror such as HF_ENDPOINT=https://hf-mirror.com, or try \
                 --from modelscope"
                .to_owned(),
            (_, Site::ModelScope) => "what has come is kept, and the same command goes on. Behind a \
                 firewall, set https_proxy"
                .to_owned(),
        };
        HubError::Unreachable { host: host(url), problem, tries, way_out }
    }

    pub(crate) fn answer(&self, url: &Url, problem: String) -> HubError {
        HubError::Answer {
            host: host(url),
            problem,
            way_out:
                "is it a mirror that does not have the whole interface? Try another --endpoint"
                    .to_owned(),
        }
    }

    pub(crate) fn call(
        &self,
        url: &Url,
        headers: &[(&'static str, String)],
    ) -> Result<Response<Body>, Failure> {
        let agent = self.agent(url).map_err(Failure::Final)?;
        let mut request = agent.get(url.as_str()).header(header::ACCEPT_ENCODING, "identity");
        if url.origin() == self.settings.endpoint.origin()
            && let Some(token) = &self.settings.token
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.0));
            if self.settings.site == Site::ModelScope {
                request = request.header(header::COOKIE, format!("m_session_id={}", token.0));
            }
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.call().map_err(|error| match error {
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => {
                Failure::Final(self.answer(url, format!("with what cannot be used: {error}")))
            }
            error => Failure::Passing { problem: words(error), asked: None },
        })
    }

    fn agent(&self, url: &Url) -> Result<Agent, HubError> {
        let proxy = self.settings.proxies.of(url).map(str::to_owned);
        // What is in there is only agents that are ready; a panic elsewhere does not spoil them.
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&proxy) {
            return Ok(agent.clone());
        }
        let through =
            proxy.as_deref().map(Proxy::new).transpose().map_err(|_| HubError::Setting {
                variable: format!("{}_proxy", url.scheme()),
                value: "…".to_owned(),
                rule: "an HTTP proxy such as http://127.0.0.1:7890".to_owned(),
            })?;
        let mut tls = TlsConfig::builder();
        if let Some(roots) = &self.roots {
            tls = tls.root_certs(roots.clone());
        }
        let config = Config::builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECT_TIME))
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_recv_response(Some(ANSWER_TIME))
            .timeout_per_read(Some(self.settings.patience.silence))
            .max_redirects(0)
            .proxy(through)
            .tls_config(tls.build())
            .user_agent(concat!("longreel/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::new_with_config(config);
        agents.insert(proxy, agent.clone());
        Ok(agent)
    }
}

/// The host and, where it is not the usual one, the port.
pub(crate) fn host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

/// What went wrong with a connection.
pub(crate) fn words(error: ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "is not known to the name server".to_owned(),
        ureq::Error::Timeout(Timeout::Resolve) => {
            "cannot be looked up: the name server does not answer".into()
        }
        ureq::Error::Timeout(_) => "takes too long".to_owned(),
        ureq::Error::ConnectProxyFailed(why) => format!("is not reached through the proxy: {why}"),
        // What the system's resolver says has no kind of its own.
        ureq::Error::Io(error) if error.to_string().contains("lookup address") => {
            "is not known to the name server".to_owned()
        }
        ureq::Error::Io(error) => format!("cannot be reached: {error}"),
        error => format!("cannot be reached: {error}"),
    }
}

fn status_text(refused: &Refused) -> String {
    match refused.status {
        429 => "answers that there are too many calls (HTTP 429)".to_owned(),
        status => format!("answers with HTTP {status}"),
    }
}

/// The text of an error page, when it is text.
fn said(response: &mut Response<Body>) -> String {
    let text = response.body_mut().with_config().limit(SAID_BYTES).read_to_string();
    let text = text.unwrap_or_default();
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(json) => ["error", "Message", "message"]
            .iter()
            .find_map(|key| json[key].as_str())
            .unwrap_or_default()
            .to_owned(),
        // A page's markup helps nobody.
        Err(_) if text.trim_start().starts_with('<') => String::new(),
        Err(_) => text.trim().to_owned(),
    }
}

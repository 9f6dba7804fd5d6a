//! Calls to addresses that came from outside: webhooks, and pictures to begin a film with.
//!
//! A name is looked up once, all its addresses are checked, and the connection goes to what was
//! checked, so that no second answer of a name server can lead elsewhere; the same holds for each
//! redirect. Proxies of the environment are not used: they would look the name up for themselves.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{Request, Uri, header};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Timeout};

use crate::addresses::is_public;

/// How long fetching a file may take, from the look-up of its name to its last byte.
const FETCH_TIME: Duration = Duration::from_secs(60);
/// How long a webhook's receiver may take.
const POST_TIME: Duration = Duration::from_secs(15);
/// How long a name server and the first byte of a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Redirects that are followed when a file is fetched.
const REDIRECTS: u32 = 3;
/// What is read of a webhook's answer, so that its connection ends in good order.
const ANSWER_BYTES: u64 = 16 << 10;
/// Longest address, in bytes.
const URL_BYTES: usize = 2048;

/// Why an address was not called, or gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It is no address that can be called.
    #[error("{url:?} cannot be called: {problem}; use an address such as https://example.com/path")]
    Address {
        /// The address, cut.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It leads to this machine, its neighbours, or nowhere public.
    #[error(
        "{host} is not on the public internet; use a public address, or have the server started with \
         --allow-private-webhooks"
    )]
    Private {
        /// The name. What it stands for is not told: it may be a name of the inside.
        host: String,
    },
    /// There was no answer, or not a whole one.
    #[error("{host} cannot be reached: {cause}")]
    Unreachable {
        /// The name.
        host: String,
        /// What happened.
        cause: String,
    },
    /// The answer is an error.
    #[error(
        "{host} answers with HTTP status {status}; is the address right, and open to everybody?"
    )]
    Status {
        /// The name.
        host: String,
        /// The status.
        status: u16,
    },
    /// It is longer than is taken.
    #[error("the file at {host} is longer than {limit_bytes} bytes; use a smaller one")]
    TooLarge {
        /// The name.
        host: String,
        /// What is taken.
        limit_bytes: u64,
    },
}

/// A file from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// All of it.
    pub bytes: Vec<u8>,
    /// What its server says it is; nothing to rely on.
    pub content_type: Option<String>,
}

/// What a receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status; that of a redirect is not followed.
    pub status: u16,
    /// Seconds after which it may be asked again, when it says so.
    pub retry_after_s: Option<u64>,
}

/// Calls addresses that came from outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    get: Agent,
    post: Agent,
    gate: Gate,
}

impl Fetcher {
    /// With `allow_private`, addresses of this machine and its neighbours may be called too.
    pub fn new(allow_private: bool) -> Self {
        let gate = Gate { allow_private, resolver: Arc::default() };
        let agent = |time, redirects| {
            let config = Config::builder()
                .http_status_as_error(false)
                .timeout_global(Some(time))
                .timeout_resolve(Some(CONNECT_TIME))
                .timeout_connect(Some(CONNECT_TIME))
                .max_redirects(redirects)
                .max_redirects_will_error(false)
                .proxy(None)
                // Receivers are many and called seldom.
                .max_idle_connections(0)
                .user_agent(concat!("longreel/", env!("CARGO_PKG_VERSION")))
                .build();
            Agent::with_parts(config, DefaultConnector::default(), gate.clone())
        };
        Self { get: agent(FETCH_TIME, REDIRECTS), post: agent(POST_TIME, 0), gate }
    }

    /// Refuses an address that can never be called, and one that leads, as far as can be told now, to
    /// where it must not. The call itself checks again.
    ///
    /// # Errors
    /// [`FetchError::Address`], [`FetchError::Private`].
    pub async fn check(&self, url: &str) -> Result<(), FetchError> {
        let uri = parse(url)?;
        let gate = self.gate.clone();
        blocking(host(&uri), move || match gate.look_up(&uri) {
            Err(error @ FetchError::Private { .. }) => Err(error),
            // A name server may be out of order for a while, which is no reason to refuse a job.
            _ => Ok(()),
        })
        .await
    }

    /// The file at `url`, of at most `limit_bytes`. At most three redirects are followed.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, url: &str, limit_bytes: u64) -> Result<Fetched, FetchError> {
        let uri = parse(url)?;
        let host = host(&uri);
        let agent = self.get.clone();
        blocking(host.clone(), move || {
            let failed = |error| explain(&host, error);
            let too_large = || FetchError::TooLarge { host: host.clone(), limit_bytes };
            let mut response = agent.get(uri).call().map_err(failed)?;
            let status = response.status();
            if !status.is_success() {
                return Err(FetchError::Status { host, status: status.as_u16() });
            }
            if response.body().content_length().is_some_and(|length| length > limit_bytes) {
                return Err(too_large());
            }
            let content_type = response.headers().get(header::CONTENT_TYPE);
            let content_type = content_type.and_then(|t| t.to_str().ok()).map(str::to_owned);
            let mut bytes = Vec::new();
            let mut reader = response.body_mut().as_reader().take(limit_bytes.saturating_add(1));
            reader.read_to_end(&mut bytes).map_err(|cause| FetchError::Unreachable {
                host: host.clone(),
                cause: cause.to_string(),
            })?;
            if bytes.len() as u64 > limit_bytes {
                return Err(too_large());
            }
            Ok(Fetched { bytes, content_type })
        })
        .await
    }

    /// Posts `body` to `url`, with these headers. Redirects are not followed, since a signed message
    /// is meant for its receiver alone.
    ///
    /// # Errors
    /// When there is no answer; whatever the answer's status, it is no error.
    pub async fn post(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> Result<Answered, FetchError> {
        let uri = parse(url)?;
        let host = host(&uri);
        let agent = self.post.clone();
        blocking(host.clone(), move || {
            let failed = |error| explain(&host, error);
            let mut request = Request::post(uri);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let request = request.body(body).map_err(|error| failed(error.into()))?;
            let mut response = agent.run(request).map_err(failed)?;
            let retry_after = response.headers().get(header::RETRY_AFTER);
            let retry_after_s = retry_after.and_then(|s| s.to_str().ok()?.trim().parse().ok());
            let status = response.status().as_u16();
            // The status is the answer, whatever becomes of the rest.
            let mut rest = response.body_mut().as_reader().take(ANSWER_BYTES);
            let _ = std::io::copy(&mut rest, &mut std::io::sink());
            Ok(Answered { status, retry_after_s })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    host: String,
    call: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let ended = tokio::task::spawn_blocking(call).await;
    ended.unwrap_or_else(|error| Err(FetchError::Unreachable { host, cause: error.to_string() }))
}

/// An address as a client wrote it: http or https, to a host, without a name and password in it.
fn parse(url: &str) -> Result<Uri, FetchError> {
    let refuse = |problem| FetchError::Address { url: url.chars().take(128).collect(), problem };
    if url.len() > URL_BYTES {
        return Err(refuse("it is longer than 2048 bytes"));
    }
    let uri: Uri = url.parse().map_err(|_| refuse("it is no address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refuse("it has to begin with https:// or http://"));
    }
    let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(refuse("it holds a name or a password, which would be kept with the job"));
    }
    if authority.host().is_empty() || authority.port_u16() == Some(0) {
        return Err(refuse("it names no host and port"));
    }
    Ok(uri)
}

fn host(uri: &Uri) -> String {
    uri.host().unwrap_or_default().to_owned()
}

fn explain(host: &str, error: ureq::Error) -> FetchError {
    let cause = match error {
        ureq::Error::Other(error) => match error.downcast::<FetchError>() {
            Ok(refused) => return *refused,
            Err(error) => error.to_string(),
        },
        ureq::Error::HostNotFound => "there is no such host".to_owned(),
        ureq::Error::Timeout(Timeout::Resolve) => "the name server does not answer".to_owned(),
        ureq::Error::Timeout(_) => "it took too long".to_owned(),
        error => error.to_string(),
    };
    FetchError::Unreachable { host: host.to_owned(), cause }
}

/// Looks names up and lets no address pass that must not be called.
#[derive(Debug, Clone)]
struct Gate {
    allow_private: bool,
    resolver: Arc<DefaultResolver>,
}

impl Gate {
    fn check(&self, host: &str, addresses: &ResolvedSocketAddrs) -> Result<(), FetchError> {
        // A name with addresses of both kinds is refused too: nobody has a good reason for one.
        let is_private = addresses.iter().any(|address| !is_public(address.ip()));
        if is_private && !self.allow_private {
            return Err(FetchError::Private { host: host.to_owned() });
        }
        Ok(())
    }

    fn look_up(&self, uri: &Uri) -> Result<(), FetchError> {
        let host = host(uri);
        let (after, reason) = (CONNECT_TIME.into(), Timeout::Resolve);
        let timeout = NextTimeout { after, reason, ..NextTimeout::default() };
        let addresses = self.resolver.resolve(uri, &Config::default(), timeout);
        self.check(&host, &addresses.map_err(|error| explain(&host, error))?)
    }
}

impl Resolver for Gate {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = self.resolver.resolve(uri, config, timeout)?;
        self.check(&host(uri), &addresses).map_err(|e| ureq::Error::Other(Box::new(e)))?;
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// A server on this machine that gives these answers, one a connection, and the paths asked for.
    fn answering(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let served = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
                asked.extend(lines.next().map(|line| line.expect("text")));
                while lines.next().is_some_and(|line| !line.expect("text").is_empty()) {}
                stream.write_all(answer.as_bytes()).expect("a reader");
            }
            asked
        });
        (base, served)
    }

    fn ok(body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    fn moved(to: &str) -> String {
        format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
    }

    #[tokio::test]
    async fn what_is_on_this_machine_is_not_called_by_any_of_its_names() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("bound").port();
        let fetcher = Fetcher::new(false);
        for host in [
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0.0.0.0",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            let url = format!("http://{host}:{port}/");
            let refused = fetcher.fetch(&url, 1 << 10).await.expect_err(host);
            // A machine without IPv6, or a resolver without the odd forms, knows no such host.
            let is_unknown = matches!(&refused, FetchError::Unreachable { cause, .. }
                if cause == "there is no such host" || cause.contains("lookup"));
            assert!(
                is_unknown || matches!(refused, FetchError::Private { .. }),
                "{host}: {refused}"
            );
            assert!(fetcher.post(&url, Vec::new(), b"{}".to_vec()).await.is_err(), "{host}");
        }
        for host in ["127.0.0.1", "localhost"] {
            let checked = fetcher.check(&format!("http://{host}:{port}/")).await;
            assert!(matches!(checked, Err(FetchError::Private { .. })), "{checked:?}");
        }
        assert!(listener.accept().is_err(), "somebody was called");
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused_and_says_why() {
        let fetcher = Fetcher::new(true);
        let long = format!("https://example.com/{}", "a".repeat(2048));
        for (url, part) in [
            ("", "no address"),
            ("a picture", "no address"),
            ("/etc/passwd", "begin with https://"),
            ("file:///etc/passwd", "no address"),
            ("gopher://example.com/", "begin with https://"),
            ("https://ann:secret@example.com/", "password"),
            ("http://example.com:0/", "host and port"),
            (&long, "2048"),
        ] {
            let refused = fetcher.check(url).await.expect_err(url).to_string();
            assert!(refused.contains(part), "{url}: no {part:?} in {refused}");
        }
    }

    #[tokio::test]
    async fn a_file_is_fetched_over_three_redirects_and_no_more() {
        let files = ["/1", "/2", "/3"].map(moved).into_iter().chain([ok("a picture")]).collect();
        let (base, served) = answering(files);
        let fetched = Fetcher::new(true).fetch(&format!("{base}/0"), 9).await.expect("a file");
        assert_eq!(fetched.bytes, b"a picture");
        assert_eq!(fetched.content_type.as_deref(), Some("image/png"));
        let asked = served.join().expect("served");
        assert_eq!(asked.last().map(String::as_str), Some("GET /3 HTTP/1.1"), "{asked:?}");

        let (base, served) = answering(["/1", "/2", "/3", "/4"].map(moved).into());
        let refused = Fetcher::new(true).fetch(&format!("{base}/0"), 9).await;
        assert!(matches!(refused, Err(FetchError::Status { status: 302, .. })), "{refused:?}");
        assert_eq!(served.join().expect("served").len(), 4);
    }

    #[tokio::test]
    async fn a_file_that_is_too_long_is_not_kept_whether_it_says_so_or_not() {
        let silent = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned() + &"x".repeat(100);
        let (base, served) = answering(vec![ok("0123456789"), silent]);
        for _ in 0..2 {
            let refused = Fetcher::new(true).fetch(&base, 9).await.expect_err("too long");
            assert!(matches!(refused, FetchError::TooLarge { limit_bytes: 9, .. }), "{refused}");
        }
        served.join().expect("served");
    }

    #[tokio::test]
    async fn a_message_is_not_carried_on_by_a_redirect_and_its_answer_is_told() {
        let busy = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n".to_owned();
        let (base, served) = answering(vec![moved("/elsewhere"), busy]);
        let fetcher = Fetcher::new(true);
        let answered = fetcher.post(&base, Vec::new(), b"{}".to_vec()).await.expect("an answer");
        assert_eq!(answered.status, 302);
        let answered = fetcher.post(&base, Vec::new(), b"{}".to_vec()).await.expect("an answer");
        assert_eq!(answered, Answered { status: 503, retry_after_s: Some(7) });
        assert_eq!(served.join().expect("served"), ["POST / HTTP/1.1", "POST / HTTP/1.1"]);
    }
}

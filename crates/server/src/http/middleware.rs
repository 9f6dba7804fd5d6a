//! What holds for every request: its id, who may call a server that wants no keys, and problems
//! written out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::problem::Problem;
use crate::access::Origins;
use crate::code::{About, Code};
use crate::shared::Shared;

/// The target of a line for each request; see [`crate::log`].
const ACCESS: &str = crate::log::ACCESS;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client that has begun with a body may be silent for so long.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest request id that is taken from a client.
const ID_BYTES: usize = 64;

/// Gives the request an id, or takes the client's, and writes problems out with it.
pub async fn request_id(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let id = id.filter(|id| is_plain(id)).map_or_else(new_id, str::to_owned);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "other".to_owned());
    // Whatever a client calls its method, there is no metric and no span for it.
    let known = matches!(method.as_str(), "GET" | "HEAD" | "POST" | "DELETE" | "OPTIONS");
    let counted = if known { method.as_str() } else { "other" };
    let span = shared.traces.request(request.headers_mut(), counted, &route);
    let mut response = next.run(request.map(|body| patient(body, SILENCE))).await;
    let problem = response.extensions().get::<Arc<Problem>>().cloned();
    if let Some(problem) = problem.or_else(|| of_router(&response, &path)) {
        let mut written = problem.respond(&id);
        // What was added to the answer on its way here.
        for (name, value) in response.headers() {
            if !written.headers().contains_key(name) {
                written.headers_mut().insert(name, value.clone());
            }
        }
        response = written;
    }
    let status = response.status();
    let took = started.elapsed();
    shared.metrics.request(counted, &route, status.as_u16(), took);
    let seconds = took.as_secs_f64();
    tracing::info!(
        target: ACCESS,
        request_id = id,
        trace_id = span.trace_id(),
        %method,
        path,
        status = status.as_u16(),
        seconds
    );
    let error = status.is_server_error().then(|| format!("status {}", status.as_u16()));
    shared.traces.end(span, Some(status.as_u16()), error);
    // A service that is not ready yet is asked about it many times.
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        tracing::warn!(request_id = id, %method, path, %status, "request");
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// What the router refuses without asking us: a path that is no text once it is decoded names nothing.
fn of_router(response: &Response, path: &str) -> Option<Arc<Problem>> {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_its_own = response.status() == StatusCode::BAD_REQUEST
        && kind.is_some_and(|kind| kind.starts_with("text/plain"));
    is_its_own.then(|| Arc::new(Problem::not_found(format!("there is nothing at {path}"))))
}

/// The body, of which each next piece is waited for no longer than `silence`.
fn patient(body: Body, silence: Duration) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let pieces = stream::unfold(body.into_data_stream(), move |mut pieces| async move {
        let piece = match timeout(silence, pieces.next()).await {
            Ok(piece) => piece?,
            Err(_) => {
                let seconds = silence.as_secs();
                Err(axum::Error::new(format!("nothing more of the body came for {seconds} s")))
            }
        };
        Some((piece, pieces))
    });
    // What is left of one that was refused is read on, also where nothing is left.
    Body::from_stream(pieces.fuse())
}

fn is_plain(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(plain)
}

fn new_id() -> String {
    let mut bytes = [0; 8];
    // Without random numbers an id says little, and the request is answered all the same.
    let _ = getrandom::fill(&mut bytes);
    format!("{:016x}", u64::from_le_bytes(bytes))
}

/// Without keys, whoever is on this machine may call; a page in somebody's browser is not on this
/// machine, though its requests come from it. So the host has to be a name of this machine, which a
/// page's own is not (DNS rebinding), and the origin, where there is one, has to be this server or one
/// that was named.
pub async fn only_this_machine(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let access = &shared.access;
    if !access.needs_keys
        && let Err(problem) = check(request.headers(), request.uri(), &access.origins)
    {
        return problem.into_response();
    }
    next.run(request).await
}

fn check(headers: &HeaderMap, uri: &Uri, origins: &Origins) -> Result<(), Problem> {
    let host = uri.authority().map_or_else(|| host(headers), |authority| authority.as_str());
    if is_loopback(host) {
        return own_origin(headers, origins);
    }
    let detail = format!(
        "the host {host:?} is not a name of this machine, and without API keys only this machine may \
         ask; use http://127.0.0.1 or http://localhost, or start the server with --require-keys"
    );
    Err(Problem::new(StatusCode::FORBIDDEN, Code::HostNotAllowed, detail)
        .about(About::value("Host", host)))
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("")
}

/// Refuses what a page of another origin sends, unless that origin was named.
///
/// # Errors
/// With status 403.
pub fn own_origin(headers: &HeaderMap, origins: &Origins) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let (origin, host) = (origin.to_str().unwrap_or(""), host(headers));
    let is_own = origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host));
    if is_own || origins.lists(origin) {
        return Ok(());
    }
    let detail = format!(
        "pages of {origin:?} may not use this server; use its own page, or start it with --cors-origin \
         and that origin"
    );
    Err(Problem::new(StatusCode::FORBIDDEN, Code::OriginNotAllowed, detail)
        .about(About::value("Origin", origin)))
}

/// Whether `host`, with or without a port, is a name of this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(host: &'static str, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        let origins = Origins::new(&["https://films.example".to_owned()]).expect("an origin");
        check(&headers, &Uri::from_static("/health"), &origins).is_ok()
    }

    #[test]
    fn pages_of_others_are_refused_by_host_or_origin() {
        for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LocalHost", "127.1.2.3"] {
            assert!(checked(host, None), "{host}");
        }
        for host in ["evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "[::2]:1"] {
            assert!(!checked(host, None), "{host}");
        }
        assert!(checked("localhost:8000", Some("http://localhost:8000")));
        assert!(checked("localhost:8000", Some("https://films.example")));
        assert!(!checked("films.example", Some("https://films.example")));
        for origin in ["http://evil.example", "http://localhost:3000", "null", ""] {
            assert!(!checked("localhost:8000", Some(origin)), "{origin}");
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_an_error_and_one_that_is_slow_is_not() {
        let silence = Duration::from_millis(200);
        let slow = stream::iter(["a", "b", "c"]).then(|piece| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, axum::Error>(piece)
        });
        let read = async |body| axum::body::to_bytes(patient(body, silence), usize::MAX).await;
        assert_eq!(read(Body::from_stream(slow)).await.expect("all of it"), "abc");
        assert_eq!(read(Body::empty()).await.expect("nothing"), "");
        let mut ended = patient(Body::from("a"), silence).into_data_stream();
        for expected in [Some("a"), None, None] {
            let piece = ended.next().await.map(|piece| piece.expect("all of it"));
            assert_eq!(piece.as_deref(), expected.map(str::as_bytes));
        }
        let begun = stream::iter([Ok::<_, axum::Error>("a")]).chain(stream::pending());
        let error = read(Body::from_stream(begun)).await.expect_err("it never ends");
        assert!(error.to_string().contains("nothing more of the body"), "{error}");
    }

    #[test]
    fn only_plain_request_ids_are_taken_over() {
        assert!(is_plain("trace-1.a:b_C"));
        for id in ["", "a b", "a\"b", "é", &"x".repeat(65)] {
            assert!(!is_plain(id), "{id}");
        }
    }
}

//! The page and its files, which are inside the program.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::problem::Problem;

/// The files of `web/` by name.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../../web/", $name)))),*]
    };
}

const PAGE: &str = include_str!("../../../../web/index.html");
/// What the page consists of beside [`PAGE`].
const FILES: [(&str, &str); 29] = files![
    "acts.js",
    "api.js",
    "attach.js",
    "compare.js",
    "compose.js",
    "dialogs.js",
    "dom.js",
    "en.js",
    "exports.js",
    "film.js",
    "films.js",
    "icon.svg",
    "kept.js",
    "library.js",
    "main.js",
    "models.js",
    "player.js",
    "refusals.js",
    "segments.js",
    "session.js",
    "settings.js",
    "status.js",
    "storyboard.js",
    "streams.js",
    "style.css",
    "text.js",
    "tray.js",
    "words.js",
    "zh.js",
];

/// The page runs and loads only what this server has, is shown in no other page, and makes no markup
/// of text. Films in parts and pictures that somebody chose are `blob:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'";

/// A file as it is sent.
struct Sent {
    name: &'static str,
    content_type: &'static str,
    body: &'static str,
    /// The same by gzip, a third of it: what the page waits for on a slow line.
    gzip: Bytes,
    /// What names its content, without quotes.
    tag: String,
}

impl Sent {
    fn new(name: &'static str, body: &'static str) -> Self {
        let content_type = match name.rsplit_once('.') {
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "html")) => "text/html; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        };
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let tag = format!("{:016x}", hasher.finish());
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Into memory, which takes everything.
        let gzip = encoder.write_all(body.as_bytes()).and_then(|()| encoder.finish());
        Self { name, content_type, body, gzip: gzip.unwrap_or_default().into(), tag }
    }

    /// A browser asks each time and gets the bytes only when they are others: after an update nobody sees
    /// a page of two versions.
    fn respond(&self, headers: &HeaderMap) -> Response {
        let as_gzip = !self.gzip.is_empty() && takes_gzip(headers);
        let etag = format!("\"{}{}\"", self.tag, if as_gzip { "-gzip" } else { "" });
        let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let is_known = known.is_some_and(|tags| {
            tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
        });
        let mut response = match (is_known, as_gzip) {
            (true, _) => StatusCode::NOT_MODIFIED.into_response(),
            (false, true) => self.gzip.clone().into_response(),
            (false, false) => self.body.into_response(),
        };
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, self.content_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-cache"),
            (header::VARY, "accept-encoding"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if as_gzip && !is_known {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

/// Whether a client says that it reads gzip. One that names it to refuse it gets it as it is.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_some_and(|weight: f32| weight > 0.0)
    })
}

/// Made when the first of them is asked for; the page itself comes first.
static SENT: LazyLock<Vec<Sent>> = LazyLock::new(|| {
    let all = [("index.html", PAGE)].into_iter().chain(FILES);
    all.map(|(name, body)| Sent::new(name, body)).collect()
});

/// GET /
pub async fn page(headers: HeaderMap) -> Response {
    SENT[0].respond(&headers)
}

/// GET /web/{name}
pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let Some(sent) = SENT[1..].iter().find(|sent| sent.name == name) else {
        let shown: String = name.chars().take(64).collect();
        return Err(Problem::not_found(format!("the page has no file {shown:?}")));
    };
    Ok(sent.respond(&headers))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_page_is_in_the_program_and_every_import_is_one_of_them() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web");
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("a file").file_name().into_string().expect("text"))
            .filter(|name| name != "index.html")
            .collect();
        names.sort();
        assert_eq!(names, FILES.map(|(name, _)| name.to_owned()));
        let imports = |body: &str| -> Vec<String> {
            let parts = body.split("from './").skip(1);
            parts.map(|rest| rest.split('\'').next().unwrap_or_default().to_owned()).collect()
        };
        let mut count = 0;
        for (name, body) in FILES {
            for import in imports(body) {
                assert!(names.contains(&import), "{name} imports {import}");
                count += 1;
            }
        }
        assert!(count > FILES.len(), "{count} imports are understood");
        // All at once: on a slow line each round of imports would take its time anew.
        for name in names.iter().filter(|name| name.ends_with(".js") && *name != "main.js") {
            let preload = format!("<link rel=\"modulepreload\" href=\"web/{name}\">");
            assert!(PAGE.contains(&preload), "{name} is not loaded ahead");
        }
        for part in PAGE.split("\"web/").skip(1) {
            let name = part.split('"').next().unwrap_or_default().to_owned();
            assert!(names.contains(&name), "the page loads {name}");
        }
    }

    #[test]
    fn nothing_in_the_page_needs_what_its_policy_forbids() {
        for part in ["<style", "style=", " onclick", "<script>", "javascript:"] {
            assert!(!PAGE.contains(part), "{part:?} in the page");
        }
        for (name, body) in FILES.into_iter().chain([("index.html", PAGE)]) {
            for part in ["innerHTML", "insertAdjacentHTML", "eval(", "src=\"http", "url(http"] {
                assert!(!body.contains(part), "{part:?} in {name}");
            }
        }
    }

    #[test]
    fn a_browser_that_has_a_file_is_told_so() {
        let etag = |response: &Response| response.headers()[header::ETAG].clone();
        let [a, b] = ["a", "b"].map(|body| Sent::new("a.css", body));
        let first = a.respond(&HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, etag(&first));
        assert_eq!(a.respond(&headers).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(b.respond(&headers).status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_browser_that_reads_gzip_gets_it_and_others_the_file() {
        for (accepted, is_gzip) in [
            ("gzip, deflate, br", true),
            ("br, GZIP;q=0.5", true),
            ("br", false),
            ("gzip;q=0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            let response = SENT[0].respond(&headers);
            let coding = response.headers().get(header::CONTENT_ENCODING);
            assert_eq!(coding.is_some_and(|coding| coding == "gzip"), is_gzip, "{accepted}");
            assert_eq!(response.headers()[header::VARY], "accept-encoding");
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
            let mut text = String::new();
            match is_gzip {
                true => {
                    flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).expect("gzip");
                }
                false => text.push_str(std::str::from_utf8(&body).expect("text")),
            }
            assert!(text == PAGE, "{accepted}: another page");
        }
    }
}

//! The page and its files, which are inside the program.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// The files of `web/` by name.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../../web/", $name)))),*]
    };
}

const PAGE: &str = include_str!("../../../../web/index.html");
/// What the page consists of beside [`PAGE`].
const FILES: [(&str, &str); 28] = files![
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

/// GET /
pub async fn page(headers: HeaderMap) -> Response {
    respond("text/html; charset=utf-8", PAGE, &headers)
}

/// GET /web/{name}
pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let Some((name, body)) = FILES.iter().find(|(of, _)| *of == name) else {
        let shown: String = name.chars().take(64).collect();
        return Err(Problem::not_found(format!("the page has no file {shown:?}")));
    };
    let content_type = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    };
    Ok(respond(content_type, body, &headers))
}

/// A browser asks each time and gets the bytes only when they are others: after an update nobody sees a
/// page of two versions.
fn respond(content_type: &'static str, body: &'static str, headers: &HeaderMap) -> Response {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let etag = format!("\"{:016x}\"", hasher.finish());
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let is_known = known
        .is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => body.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
        let first = respond("text/css", "a", &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, etag(&first));
        assert_eq!(respond("text/css", "a", &headers).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(respond("text/css", "b", &headers).status(), StatusCode::OK);
    }
}

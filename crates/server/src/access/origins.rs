//! Pages of other origins that may call, by the browser's rules (CORS).

use std::str::FromStr;

/// A text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no origin; write it as a browser does, https://films.example or \
     http://localhost:3000, or * for pages of all origins"
)]
pub struct OriginError {
    /// The text.
    pub text: String,
}

/// Origins of pages that may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    is_any: bool,
    listed: Vec<String>,
}

impl Origins {
    /// These origins, or with `*` among them all.
    ///
    /// # Errors
    /// When one is no origin.
    pub fn new(texts: &[String]) -> Result<Self, OriginError> {
        let mut origins = Self::default();
        for text in texts {
            match text.as_str() {
                "*" => origins.is_any = true,
                _ => origins.listed.push(parse(text)?),
            }
        }
        Ok(origins)
    }

    /// Whether pages of every origin may call.
    pub fn is_any(&self) -> bool {
        self.is_any
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.is_any && self.listed.is_empty()
    }

    /// Whether pages of this origin, as a browser names it, may call.
    pub fn allow(&self, origin: &str) -> bool {
        self.is_any || self.lists(origin)
    }

    /// Whether this origin was named, which `*` does not do.
    pub fn lists(&self, origin: &str) -> bool {
        self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    }
}

fn parse(text: &str) -> Result<String, OriginError> {
    let refuse = || OriginError { text: text.chars().take(128).collect() };
    let text = text.trim_end_matches('/');
    let uri = axum::http::Uri::from_str(text).map_err(|_| refuse())?;
    let (scheme, authority) = text.split_once("://").ok_or_else(refuse)?;
    let is_plain = uri.authority().is_some_and(|a| a.as_str() == authority)
        && matches!(scheme, "http" | "https")
        && !authority.contains('@');
    if is_plain { Ok(text.to_ascii_lowercase()) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(texts: &[&str]) -> Result<Origins, OriginError> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Origins::new(&texts)
    }

    #[test]
    fn an_origin_is_allowed_as_a_whole() {
        let some = origins(&["https://Films.example", "http://localhost:3000/"]).expect("origins");
        for origin in ["https://films.example", "http://localhost:3000"] {
            assert!(some.allow(origin), "{origin}");
        }
        for origin in [
            "http://films.example",
            "https://films.example:8443",
            "https://evil.films.example",
            "https://films.example.evil",
            "null",
            "",
        ] {
            assert!(!some.allow(origin), "{origin}");
        }
        let any = origins(&["*"]).expect("origins");
        assert!(any.allow("https://films.example") && !any.lists("https://films.example"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in ["", "films.example", "https://films.example/page", "ftp://a", "https://a@b"] {
            assert!(origins(&[text]).is_err(), "{text}");
        }
    }
}

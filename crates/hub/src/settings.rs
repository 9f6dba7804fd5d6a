//! What the environment says of sites, caches, tokens, proxies: the variables that the sites' own tools
//! read, with the same meaning.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::HubError;
use crate::error::shown;
use crate::id::Site;
use crate::proxy::Proxies;

/// A secret; it shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(crate) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How a site is reached, and where what comes from it is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which site.
    pub site: Site,
    /// Its address, or that of a mirror.
    pub endpoint: Url,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// What is sent to the endpoint, and to nobody else.
    pub token: Option<Token>,
    /// The variable that forbids to ask the network.
    pub offline: Option<&'static str>,
    /// Which way leads out.
    pub proxies: Proxies,
    /// A file of certificates to trust instead of those in the program.
    pub certificates: Option<PathBuf>,
    /// How patient it is.
    pub patience: crate::retry::Patience,
}

/// The variables of this process, or of a test.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = self.0.get(&OsString::from(name))?;
        Some(value.to_string_lossy().into_owned()).filter(|value| !value.trim().is_empty())
    }

    /// The first of some variables, with its name.
    pub(crate) fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }

    /// A path in which `~` stands for the home folder, as in the sites' own tools.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.get(name)?;
        let rest = value.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        Some(match rest {
            Some(rest) => self.home().join(rest.trim_start_matches('/')),
            None => value.into(),
        })
    }

    fn home(&self) -> PathBuf {
        let home = self.get("HOME").or_else(|| self.get("USERPROFILE"));
        home.map_or_else(|| PathBuf::from("."), PathBuf::from)
    }

    fn is_on(&self, name: &'static str) -> Option<&'static str> {
        let value = self.get(name)?.to_ascii_uppercase();
        ["1", "ON", "YES", "TRUE"].contains(&value.as_str()).then_some(name)
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// The folder of huggingface's own files.
fn hugging_face_home(environment: &Environment) -> PathBuf {
    environment.path("HF_HOME").unwrap_or_else(|| {
        let caches = environment.path("XDG_CACHE_HOME");
        caches.unwrap_or_else(|| environment.home().join(".cache")).join("huggingface")
    })
}

/// The folder of a site's cache.
pub(crate) fn cache_folder(site: Site, environment: &Environment) -> PathBuf {
    match site {
        Site::HuggingFace => environment
            .path("HF_HUB_CACHE")
            .or_else(|| environment.path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| hugging_face_home(environment).join("hub")),
        Site::ModelScope => environment
            .path("MODELSCOPE_CACHE")
            .unwrap_or_else(|| environment.home().join(".cache").join("modelscope")),
    }
}

const ADDRESS_RULE: &str = "an address such as https://hf-mirror.com";

impl Settings {
    /// What the environment says of `site`. `endpoint` is one that somebody typed.
    ///
    /// # Errors
    /// When a variable that counts cannot be understood.
    pub fn new(
        site: Site,
        environment: &Environment,
        endpoint: Option<&str>,
    ) -> Result<Self, HubError> {
        let typed = endpoint.map(|endpoint| ("--endpoint", endpoint.to_owned()));
        let (endpoint, token, offline) = match site {
            Site::HuggingFace => {
                let token = environment.get("HF_TOKEN");
                let token = token.or_else(|| environment.get("HUGGING_FACE_HUB_TOKEN"));
                let file = environment.path("HF_TOKEN_PATH");
                let file = file.unwrap_or_else(|| hugging_face_home(environment).join("token"));
                let offline = environment.is_on("HF_HUB_OFFLINE");
                let endpoint = typed.or_else(|| environment.first(&["HF_ENDPOINT"]));
                (
                    endpoint
                        .unwrap_or_else(|| ("HF_ENDPOINT", "https://huggingface.co".to_owned())),
                    token.or_else(|| read_token(&file)),
                    offline.or_else(|| environment.is_on("TRANSFORMERS_OFFLINE")),
                )
            }
            Site::ModelScope => {
                let names = ["MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"];
                let endpoint = typed.or_else(|| environment.first(&names));
                let usual = || ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn".to_owned());
                (endpoint.unwrap_or_else(usual), environment.get("MODELSCOPE_API_TOKEN"), None)
            }
        };
        let certificates = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
        Ok(Self {
            site,
            endpoint: address(endpoint.0, &endpoint.1)?,
            cache: cache_folder(site, environment),
            token: token.map(|token| Token(token.trim().to_owned())),
            offline,
            proxies: Proxies::new(environment)?,
            // A folder, which curl takes too, is not read; the certificates in the program then count.
            certificates: certificates
                .iter()
                .find_map(|name| environment.path(name))
                .filter(|path| path.is_file()),
            patience: crate::retry::Patience::default(),
        })
    }

    /// The variable by which the cache is moved.
    pub fn cache_variable(&self) -> &'static str {
        match self.site {
            Site::HuggingFace => "HF_HUB_CACHE",
            Site::ModelScope => "MODELSCOPE_CACHE",
        }
    }

    /// The variable that holds the token.
    pub fn token_variable(&self) -> &'static str {
        match self.site {
            Site::HuggingFace => "HF_TOKEN",
            Site::ModelScope => "MODELSCOPE_API_TOKEN",
        }
    }
}

/// A token file of the site's own login command.
fn read_token(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|token| !token.is_empty() && token.len() < 4096)
}

/// An address without a path's end, so that paths can be put behind it. One without a scheme, as
/// `MODELSCOPE_DOMAIN` has it, is taken for https.
fn address(variable: &str, value: &str) -> Result<Url, HubError> {
    let wrong = |rule: &str| HubError::Setting {
        variable: variable.to_owned(),
        value: shown(value),
        rule: rule.to_owned(),
    };
    let whole = match value.contains("://") {
        true => value.trim().to_owned(),
        false => format!("https://{}", value.trim()),
    };
    let mut url: Url = whole.parse().map_err(|_| wrong(ADDRESS_RULE))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong(ADDRESS_RULE));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(HubError::Setting {
            variable: variable.to_owned(),
            value: "…".to_owned(),
            rule: "an address without a name or password in it; a token has a variable of its own"
                .to_owned(),
        });
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(site: Site, pairs: &[(&str, &str)]) -> Result<Settings, HubError> {
        let pairs = pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        Settings::new(site, &pairs.collect(), None)
    }

    #[test]
    fn caches_lie_where_the_sites_own_tools_have_them() {
        let cache = |site, pairs: &[(&str, &str)]| settings(site, pairs).expect("settings").cache;
        let hf = |pairs| cache(Site::HuggingFace, pairs);
        assert_eq!(hf(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(
            hf(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            Path::new("/x/huggingface/hub")
        );
        assert_eq!(hf(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), Path::new("/h/hf/hub"));
        assert_eq!(hf(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        let ms = |pairs| cache(Site::ModelScope, pairs);
        assert_eq!(ms(&[("HOME", "/h")]), Path::new("/h/.cache/modelscope"));
        assert_eq!(ms(&[("MODELSCOPE_CACHE", "/m")]), Path::new("/m"));
    }

    #[test]
    fn a_token_comes_from_the_variable_or_the_login_commands_file_and_is_never_shown() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("token"), "hf_file\n").expect("writable");
        let folder = home.path().display().to_string();
        let of = |pairs: &[(&str, &str)]| settings(Site::HuggingFace, pairs).expect("settings");
        let from_file = of(&[("HF_HOME", &folder)]);
        assert_eq!(from_file.token, Some(Token("hf_file".into())));
        assert!(!format!("{from_file:?}").contains("hf_file"));
        let typed = of(&[("HF_HOME", &folder), ("HF_TOKEN", "hf_typed")]);
        assert_eq!(typed.token, Some(Token("hf_typed".into())));
    }

    #[test]
    fn endpoints_are_addresses_and_say_which_variable_is_wrong() {
        let of = |value: &str| settings(Site::HuggingFace, &[("HF_ENDPOINT", value)]);
        let mirror = of("https://hf-mirror.com/").expect("a mirror");
        assert_eq!(mirror.endpoint.as_str().trim_end_matches('/'), "https://hf-mirror.com");
        for wrong in ["ftp://x", "https://", "https://ann:secret@x"] {
            let message = of(wrong).expect_err(wrong).to_string();
            assert!(message.contains("HF_ENDPOINT") && !message.contains("secret"), "{message}");
        }
    }
}

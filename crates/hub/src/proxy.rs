//! Which proxy leads to a host, by the variables that curl and requests read.

use std::net::IpAddr;

use url::Url;

use crate::HubError;
use crate::settings::Environment;

/// Proxies by the scheme of what is called, and the hosts that are called without one.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<String>,
    http: Option<String>,
    direct: Vec<String>,
}

impl std::fmt::Debug for Proxies {
    // A proxy's address may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").field("direct", &self.direct).finish_non_exhaustive()
    }
}

impl Proxies {
    /// `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in lower case or capitals.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn new(environment: &Environment) -> Result<Self, HubError> {
        let proxy = |names: &[&'static str]| {
            let Some((name, value)) = environment.first(names) else { return Ok(None) };
            checked(name, &value).map(Some)
        };
        let direct = environment.first(&["no_proxy", "NO_PROXY"]).map(|(_, list)| list);
        Ok(Self {
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            http: proxy(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            direct: direct
                .unwrap_or_default()
                .split(',')
                .map(|host| host.trim().to_ascii_lowercase())
                .filter(|host| !host.is_empty())
                .collect(),
        })
    }

    /// The proxy for an address; `None` is the direct way.
    pub(crate) fn of(&self, url: &Url) -> Option<&str> {
        let proxy = match url.scheme() {
            "https" => &self.https,
            _ => &self.http,
        };
        proxy.as_deref().filter(|_| !self.is_direct(url))
    }

    fn is_direct(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return true };
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let port = url.port_or_known_default();
        self.direct.iter().any(|entry| {
            if entry == "*" {
                return true;
            }
            let address: Option<IpAddr> = host.parse().ok();
            if let Some((network, bits)) = entry.split_once('/') {
                return address.is_some_and(|address| in_network(address, network, bits));
            }
            let (name, wanted) = match entry.rsplit_once(':') {
                // A colon in an IPv6 address is none before a port.
                Some((name, port)) if !name.contains(':') => (name, port.parse().ok()),
                _ => (entry.as_str(), None),
            };
            let name = name.trim_start_matches('*').trim_start_matches('.');
            let named = host == name || host.strip_suffix(name).is_some_and(|h| h.ends_with('.'));
            named && !name.is_empty() && (wanted.is_none() || wanted == port)
        })
    }
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            a.to_bits() & mask == b.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            a.to_bits() & mask == b.to_bits() & mask
        }
        _ => false,
    }
}

fn checked(variable: &str, value: &str) -> Result<String, HubError> {
    let value = value.trim();
    let whole = match value.contains("://") {
        true => value.to_owned(),
        false => format!("http://{value}"),
    };
    let scheme = whole.split("://").next().unwrap_or_default().to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") || whole.parse::<Url>().is_err() {
        // The value may hold a password, so it is not repeated.
        return Err(HubError::Setting {
            variable: variable.to_owned(),
            value: format!("{scheme}://…"),
            rule: "an HTTP proxy such as http://127.0.0.1:7890; proxies that speak SOCKS only mostly have \
                   an HTTP port too"
                .to_owned(),
        });
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Result<Proxies, HubError> {
        Proxies::new(&pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect())
    }

    #[test]
    fn a_proxy_is_chosen_by_the_scheme_of_what_is_called() {
        let proxies =
            proxies(&[("https_proxy", "127.0.0.1:7890"), ("HTTP_PROXY", "http://web:3128")])
                .expect("proxies");
        let of = |url: &str| proxies.of(&url.parse().expect("an address")).map(str::to_owned);
        assert_eq!(of("https://huggingface.co/x"), Some("http://127.0.0.1:7890".into()));
        assert_eq!(of("http://mirror.lan/x"), Some("http://web:3128".into()));
    }

    #[test]
    fn hosts_of_no_proxy_are_called_directly_with_all_that_is_under_them() {
        let proxies = proxies(&[
            ("all_proxy", "http://p:1"),
            ("no_proxy", "localhost, .lan,mirror.example:8080,10.0.0.0/8,::1,fd00::/8"),
        ])
        .expect("proxies");
        let direct = |url: &str| proxies.of(&url.parse().expect("an address")).is_none();
        for url in [
            "http://localhost:9/",
            "https://hub.lan/",
            "http://mirror.example:8080/",
            "http://a.mirror.example:8080/",
            "http://10.1.2.3/",
            "http://[::1]/",
            "http://[fd12::1]/",
        ] {
            assert!(direct(url), "{url}");
        }
        for url in ["http://mirror.example/", "https://notlan/", "http://11.0.0.1/", "http://olan/"]
        {
            assert!(!direct(url), "{url}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_without_its_password() {
        let message = proxies(&[("https_proxy", "socks5://ann:secret@127.0.0.1:1080")])
            .expect_err("socks")
            .to_string();
        assert!(message.contains("https_proxy") && message.contains("SOCKS"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

//! `longreel health`: how a running server is, for the health checks of containers, in which there is
//! no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::outcome::EXIT_DONE;
use crate::report::{Verbosity, print, print_json};
use crate::serve::LISTEN;
use crate::serve_args::HealthArgs;

/// A server that takes longer for so little is not well.
const PATIENCE: Duration = Duration::from_secs(4);

/// Succeeds when a film that is asked for now would be made.
pub fn health(args: &HealthArgs, verbosity: Verbosity) -> Result<u8> {
    let address = reachable(args.listen.unwrap_or(LISTEN));
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        // What listens on this machine is not behind a proxy.
        .proxy(None);
    let agent: ureq::Agent = config.build().into();
    let ask = |what: &str| {
        let answer = agent.get(format!("http://{address}/{what}")).call();
        answer
            .map_err(|error| match error {
                ureq::Error::Io(error) => anyhow::Error::new(error),
                error => error.into(),
            })
            .with_context(|| format!("no server answers at http://{address}"))
    };
    let mut response = ask("health/ready")?;
    let status = response.status();
    if !status.is_success() {
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let problem: Option<Value> = serde_json::from_str(&text).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        match detail {
            Some(detail) => bail!("http://{address} is not ready: {detail}"),
            None => bail!("http://{address} answers with status {status}"),
        }
    }
    // A server without room stays in service: its films are watched, and deleted to make some.
    let said: Value =
        serde_json::from_str(&ask("health")?.body_mut().read_to_string().unwrap_or_default())
            .unwrap_or_default();
    if said["status"] == "disk_full" {
        bail!(
            "http://{address} waits for room on its disk; free some, and its films go on by themselves"
        );
    }
    match verbosity {
        Verbosity { json: true, .. } => print_json(&serde_json::json!({
            "event": "health",
            "address": format!("http://{address}"),
            "ready": true,
        })),
        Verbosity { quiet: true, .. } => {}
        _ => print("ready"),
    }
    Ok(EXIT_DONE)
}

/// Where a server that listens everywhere is reached.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_asked_on_this_machine() {
        for (listens, asked) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:9000", "[::1]:9000"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let listens = listens.parse().expect("an address");
            assert_eq!(reachable(listens).to_string(), asked);
        }
    }
}

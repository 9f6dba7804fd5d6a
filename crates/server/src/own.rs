//! Calls to addresses that those who run the server chose: chats, RunPod, buckets.

use std::time::Duration;

use tokio::time::sleep;
use ureq::Agent;
use ureq::config::Config;

/// Calls addresses that those who run the server chose; proxies of the environment are used. An answer
/// takes at most `time` from the look-up of its name to its last byte.
pub(crate) fn own_agent(time: Duration) -> Agent {
    let config = Config::builder()
        .http_status_as_error(false)
        .timeout_global(Some(time))
        .user_agent(concat!("longreel/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::new_with_config(config)
}

/// Runs a call where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(call).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// How often something is tried, and the wait after the first failure; each further one is twice as long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tries {
    pub most: u32,
    pub wait: Duration,
}

impl Tries {
    /// Tries until it works; the last failure when it never does.
    pub async fn of<T, F: Future<Output = Result<T, String>>>(
        self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, String> {
        let Self { most, mut wait } = self;
        for _ in 1..most {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => tracing::warn!(error, again_in = ?wait, "a call failed"),
            }
            sleep(wait).await;
            wait *= 2;
        }
        attempt().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_fails_is_tried_again_until_it_works_and_no_more_often_than_said() {
        let tries = Tries { most: 3, wait: Duration::from_millis(1) };
        for (works_at, expected) in [(1, Ok(1)), (3, Ok(3)), (4, Err("failure 3".to_owned()))] {
            let mut count = 0;
            let ended = tries
                .of(|| {
                    count += 1;
                    let ended =
                        if count >= works_at { Ok(count) } else { Err(format!("failure {count}")) };
                    std::future::ready(ended)
                })
                .await;
            assert_eq!(ended, expected);
        }
    }
}

//! Whether a site can be reached at all.

use std::time::{Duration, Instant, SystemTime};

use crate::HubError;
use crate::http::{Client, Failure};

/// A site answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// With what. Anything is an answer; 407 and 5xx may be a proxy's.
    pub status: u16,
    /// After how long.
    pub took: Duration,
    /// What time it is there.
    pub date: Option<SystemTime>,
}

impl Client {
    /// Asks the endpoint for something small, once.
    ///
    /// # Errors
    /// What is in the way.
    pub fn reach(&self) -> Result<Reached, HubError> {
        self.check_online()?;
        let url = self.settings().endpoint.clone();
        let started = Instant::now();
        match self.call(&url, &[]) {
            Ok(response) => {
                let date = response.headers().get("date").and_then(|date| date.to_str().ok());
                let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
                let status = response.status().as_u16();
                Ok(Reached { status, took: started.elapsed(), date })
            }
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Passing { problem, .. }) => Err(self.gave_up(&url, problem, 1, None)),
            Err(Failure::Status(refused)) => {
                Ok(Reached { status: refused.status, took: started.elapsed(), date: None })
            }
        }
    }
}

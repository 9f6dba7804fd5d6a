//! An S3 bucket for films that are too long for an answer.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusty_s3::{Bucket as S3, Credentials, S3Action, UrlStyle};
use ureq::Agent;

/// How long a film's address holds: as long as S3 lets it.
const HOLDS: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a signed upload may take until it begins.
const UPLOAD: Duration = Duration::from_secs(3600);

/// A bucket and the keys to it.
#[derive(Clone)]
pub struct Bucket {
    bucket: S3,
    keys: Credentials,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("name", &self.bucket.name()).finish_non_exhaustive()
    }
}

impl Bucket {
    /// By the variables that RunPod's SDK reads: `BUCKET_ENDPOINT_URL` (of the bucket's host, the
    /// bucket in `BUCKET_NAME`, or as its path), `BUCKET_ACCESS_KEY_ID`, `BUCKET_SECRET_ACCESS_KEY`,
    /// and `BUCKET_REGION`. `None` without the first.
    ///
    /// # Errors
    /// What lacks or cannot be used, by name.
    pub fn of_environment(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let Some(endpoint) = variable("BUCKET_ENDPOINT_URL") else { return Ok(None) };
        let needed = |name: &str| {
            variable(name).ok_or_else(|| format!("BUCKET_ENDPOINT_URL is set and {name} is not"))
        };
        let keys =
            Credentials::new(needed("BUCKET_ACCESS_KEY_ID")?, needed("BUCKET_SECRET_ACCESS_KEY")?);
        let rule = "BUCKET_ENDPOINT_URL is the address of the store, such as \
                    https://s3.eu-central-1.amazonaws.com, with the bucket in BUCKET_NAME or as its path";
        let (host, in_path) = match endpoint.trim_end_matches('/').split_once("://") {
            Some((scheme, rest)) => match rest.split_once('/') {
                Some((host, name)) => (format!("{scheme}://{host}"), Some(name.to_owned())),
                None => (format!("{scheme}://{rest}"), None),
            },
            None => return Err(rule.to_owned()),
        };
        let name = variable("BUCKET_NAME").or(in_path).ok_or(rule)?;
        let region = variable("BUCKET_REGION").unwrap_or_else(|| "us-east-1".to_owned());
        let host = host.parse().map_err(|error| format!("{rule} ({error})"))?;
        let bucket = S3::new(host, UrlStyle::Path, name, region)
            .map_err(|error| format!("{rule} ({error})"))?;
        Ok(Some(Self { bucket, keys }))
    }

    /// Puts a file there; the address under which it can be read for seven days.
    ///
    /// # Errors
    /// In words.
    pub fn put(
        &self,
        agent: &Agent,
        name: &str,
        kind: &str,
        file: &Path,
    ) -> Result<String, String> {
        let failed =
            |error: &dyn std::fmt::Display| format!("{name} did not get into the bucket: {error}");
        let url = self.bucket.put_object(Some(&self.keys), name).sign(UPLOAD);
        let content = File::open(file).map_err(|error| failed(&error))?;
        let length = content.metadata().map_err(|error| failed(&error))?.len();
        let sent = agent
            .put(url.as_str())
            .header("content-type", kind)
            .header("content-length", length.to_string())
            .send(content);
        let answer = sent.map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(failed(&format!("HTTP status {}", answer.status())));
        }
        Ok(self.bucket.get_object(Some(&self.keys), name).sign(HOLDS).into())
    }
}

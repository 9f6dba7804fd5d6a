//! Whoever sent a request.

use longreel_jobs::{ApiKey, Job, Scope};

/// Whose jobs are made where nobody has to say who they are.
const LOCAL: &str = "local";

/// Whoever sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    key: Option<ApiKey>,
}

impl Caller {
    /// Somebody on this machine, who may do all.
    pub fn local() -> Self {
        Self { key: None }
    }

    /// Somebody with this key.
    pub fn with_key(key: ApiKey) -> Self {
        Self { key: Some(key) }
    }

    /// The key, where one was needed.
    pub fn key(&self) -> Option<&ApiKey> {
        self.key.as_ref()
    }

    /// Whose jobs they make.
    pub fn owner(&self) -> &str {
        self.key.as_ref().map_or(LOCAL, |key| &key.asked.owner)
    }

    /// Whether they may do what `scope` names.
    pub fn allows(&self, scope: Scope) -> bool {
        self.key.as_ref().is_none_or(|key| key.allows(scope))
    }

    /// The owner whose jobs alone they see; `None` for whoever sees all.
    pub fn sees_only(&self) -> Option<&str> {
        if self.allows(Scope::Admin) { None } else { Some(self.owner()) }
    }

    /// Whether a job is theirs to see and, with the scope for it, to change.
    pub fn may_touch(&self, job: &Job) -> bool {
        self.sees_only().is_none_or(|owner| owner == job.asked.owner)
    }
}

//! The models that the service makes films with. Workers load them as jobs name them; one is the
//! default, and another one can become it while the service runs.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use longreel_jobs::Job;

use crate::code::{About, Code};
use crate::films::{Films, Refusal};

/// The models that are served.
pub struct Models {
    served: Vec<Arc<dyn Films>>,
    default: RwLock<usize>,
    /// Keeps the name of the default over restarts.
    file: PathBuf,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Models {
    /// Serves `served`, at least one, under the names that they have. The default is the one that
    /// `file` names when it is still served, else the first.
    ///
    /// # Errors
    /// The name that two of them have.
    pub fn new(served: Vec<Arc<dyn Films>>, file: PathBuf) -> Result<Self, String> {
        for (index, films) in served.iter().enumerate() {
            let name = &films.model().name;
            if served[..index].iter().any(|other| other.model().name == *name) {
                return Err(name.clone());
            }
        }
        let chosen = std::fs::read_to_string(&file).unwrap_or_default();
        let default = served.iter().position(|films| films.model().name == chosen.trim());
        let default = RwLock::new(default.unwrap_or(0));
        Ok(Self { served, default, file, changing: Mutex::default() })
    }

    /// The one that makes what names no model.
    pub fn default(&self) -> Arc<dyn Films> {
        self.served[self.place()].clone()
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Films>> {
        self.served.iter().find(|films| films.model().name == name).cloned()
    }

    /// The one that a job is for.
    ///
    /// # Errors
    /// When it is not served any more.
    pub fn of(&self, job: &Job) -> Result<Arc<dyn Films>, Refusal> {
        self.get(&job.asked.model).ok_or_else(|| Refusal {
            code: Code::ModelNotServed,
            about: About::value("model", &job.asked.model).into(),
            detail: format!(
                "video {} is for the model {:?}, which this server does not have any more",
                job.id, job.asked.model
            ),
            is_clients: true,
        })
    }

    /// All of them.
    pub fn all(&self) -> &[Arc<dyn Films>] {
        &self.served
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.served.iter().map(|films| films.model().name.clone()).collect()
    }

    /// What an unknown name is answered with.
    pub fn unknown(&self, name: &str) -> String {
        let shown: String = name.chars().take(64).collect();
        let names: Vec<String> = self.names().iter().map(|name| format!("{name:?}")).collect();
        format!("there is no model {shown:?}; this server makes films with {}", names.join(", "))
    }

    /// Makes `name` the default, for this server and the one after it. Jobs stay with the model that
    /// they were asked for. False when there is none of that name.
    ///
    /// # Errors
    /// When that cannot be written down; then nothing changes.
    pub fn choose(&self, name: &str) -> io::Result<bool> {
        let Some(place) = self.served.iter().position(|films| films.model().name == name) else {
            return Ok(false);
        };
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.file.with_extension("new");
        std::fs::write(&written, name)?;
        std::fs::rename(&written, &self.file)?;
        *self.default.write().unwrap_or_else(PoisonError::into_inner) = place;
        Ok(true)
    }

    fn place(&self) -> usize {
        *self.default.read().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The models that the service makes films with. Workers load them as jobs name them; one is the
//! default. Another one can become it while the service runs, and a model that is installed can join
//! them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use longreel_jobs::Job;

use crate::code::{About, Code};
use crate::films::{Catalogue, Films, Refusal};

/// Most models that are served; each takes a little memory, whether it is loaded or not.
const SERVED_MAX: usize = 100;
/// Keeps the name of the default over restarts, in the data folder.
const DEFAULT: &str = "default-model";
/// The same with the names of those that joined, a line each.
const JOINED: &str = "served-models";

/// The models that are served, and those that could be.
pub struct Models {
    served: RwLock<Vec<Arc<dyn Films>>>,
    catalogue: Arc<dyn Catalogue>,
    /// Whoever may ask for films may have any installed model served.
    pub anybody_may_serve: bool,
    default: RwLock<usize>,
    folder: PathBuf,
    /// One change at a time; the names of those that joined.
    joined: Mutex<Vec<String>>,
}

/// Why a model is not served.
#[derive(Debug)]
pub enum NotServed {
    /// There is none of that name.
    Unknown,
    /// It cannot be used, and why.
    Unusable(String),
    /// It could not be written down.
    File(io::Error),
}

impl Models {
    /// Serves `served`, at least one, under the names that they have, and those that joined an earlier
    /// service of this data folder. The default is the one that was chosen, when it is still served, else
    /// the first.
    ///
    /// # Errors
    /// The name that two of them have.
    pub fn new(
        mut served: Vec<Arc<dyn Films>>,
        catalogue: Arc<dyn Catalogue>,
        anybody_may_serve: bool,
        folder: &Path,
    ) -> Result<Self, String> {
        for (index, films) in served.iter().enumerate() {
            let name = &films.model().name;
            if served[..index].iter().any(|other| other.model().name == *name) {
                return Err(name.clone());
            }
        }
        let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let mut joined = Vec::new();
        for name in read(JOINED).lines().map(str::trim).filter(|name| !name.is_empty()) {
            joined.push(name.to_owned());
            if served.iter().any(|films| films.model().name == name) {
                continue;
            }
            match catalogue.open(name) {
                Ok(Some(films)) => served.push(films),
                // Its jobs wait until it is there again.
                Ok(None) => {
                    tracing::warn!(name, "a model that was served is not installed any more")
                }
                Err(error) => tracing::warn!(name, error, "a model that was served cannot be used"),
            }
        }
        let chosen = read(DEFAULT);
        let default = served.iter().position(|films| films.model().name == chosen.trim());
        Ok(Self {
            served: RwLock::new(served),
            catalogue,
            anybody_may_serve,
            default: RwLock::new(default.unwrap_or(0)),
            folder: folder.to_owned(),
            joined: Mutex::new(joined),
        })
    }

    /// The one that makes what names no model.
    pub fn default(&self) -> Arc<dyn Films> {
        let place = *self.default.read().unwrap_or_else(PoisonError::into_inner);
        self.all().swap_remove(place)
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Films>> {
        self.all().into_iter().find(|films| films.model().name == name)
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
    pub fn all(&self) -> Vec<Arc<dyn Films>> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.all().iter().map(|films| films.model().name.clone()).collect()
    }

    /// What there is beside them.
    pub fn catalogue(&self) -> Arc<dyn Catalogue> {
        self.catalogue.clone()
    }

    /// What an unknown name is answered with.
    pub fn unknown(&self, name: &str) -> String {
        let shown: String = name.chars().take(64).collect();
        let names: Vec<String> = self.names().iter().map(|name| format!("{name:?}")).collect();
        format!("there is no model {shown:?}; this server makes films with {}", names.join(", "))
    }

    /// Serves the installed model of that name from now on, for this server and the one after it. Reads
    /// files; not to be called where waiting is not allowed.
    ///
    /// # Errors
    /// See [`NotServed`]; then nothing changes.
    pub fn serve(&self, name: &str) -> Result<Arc<dyn Films>, NotServed> {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(films) = self.get(name) {
            return Ok(films);
        }
        if self.all().len() >= SERVED_MAX {
            return Err(NotServed::Unusable(format!(
                "{SERVED_MAX} models are served, which is the most; start the server anew without some"
            )));
        }
        let films = self.catalogue.open(name).map_err(NotServed::Unusable)?;
        let films = films.ok_or(NotServed::Unknown)?;
        let name = films.model().name.clone();
        if !joined.contains(&name) {
            let names = joined.iter().chain([&name]).map(|name| format!("{name}\n"));
            self.write(JOINED, &names.collect::<String>()).map_err(NotServed::File)?;
            joined.push(name);
        }
        self.served.write().unwrap_or_else(PoisonError::into_inner).push(films.clone());
        Ok(films)
    }

    /// Makes `name` the default, for this server and the one after it. Jobs stay with the model that
    /// they were asked for.
    ///
    /// # Errors
    /// See [`NotServed`]; then nothing changes.
    pub fn choose(&self, name: &str) -> Result<(), NotServed> {
        self.serve(name)?;
        let _one = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.names().iter().position(|served| served == name);
        let place = place.ok_or(NotServed::Unknown)?;
        self.write(DEFAULT, name).map_err(NotServed::File)?;
        *self.default.write().unwrap_or_else(PoisonError::into_inner) = place;
        Ok(())
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let written = self.folder.join(format!("{file}.new"));
        std::fs::write(&written, text)?;
        std::fs::rename(&written, self.folder.join(file))
    }
}

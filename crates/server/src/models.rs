//! The models that the service makes films with. Workers load them as jobs name them; one is the
//! default. Another one can become it while the service runs, a model that is installed can join them,
//! and one can leave them: it makes what it was asked for already, and then it is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use longreel_jobs::Job;
use tokio::sync;

use crate::code::{About, Code};
use crate::films::{Catalogue, Films, Refusal};

/// Most models that are served; each takes a little memory, whether it is loaded or not.
const SERVED_MAX: usize = 100;
/// Keeps the name of the default over restarts, in the data folder.
const DEFAULT: &str = "default-model";
/// The same with the names of those that joined, a line each.
const JOINED: &str = "served-models";
/// The same with the names of those that leave.
const LEAVING: &str = "leaving-models";

/// The models that are served, and those that could be.
pub struct Models {
    now: RwLock<Now>,
    catalogue: Arc<dyn Catalogue>,
    /// Whoever may ask for films may have any installed model served.
    pub anybody_may_serve: bool,
    folder: PathBuf,
    /// One change at a time; the names of those that joined.
    joined: Mutex<Vec<String>>,
    /// See [`Self::stay`].
    taking_in: sync::RwLock<()>,
}

/// Those that have a part in the service.
struct Now {
    /// Requests can name them. At least one.
    served: Vec<Arc<dyn Films>>,
    /// The place of the default among them.
    default: usize,
    /// They make what they were asked for already.
    leaving: Vec<Arc<dyn Films>>,
}

fn named(all: &[Arc<dyn Films>], name: &str) -> Option<usize> {
    all.iter().position(|films| films.model().name == name)
}

fn names(all: &[Arc<dyn Films>]) -> Vec<String> {
    all.iter().map(|films| films.model().name.clone()).collect()
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

/// Why a model stays.
#[derive(Debug)]
pub enum NotStopped {
    /// None of that name is served.
    Unknown,
    /// It makes what names no model.
    IsDefault,
    /// It could not be written down.
    File(io::Error),
}

impl Models {
    /// Serves `served`, at least one, under the names that they have, and those that joined an earlier
    /// service of this data folder. The default is the one that was chosen, when it is still served, else
    /// the first. What left an earlier service and is named again is served again.
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
            if named(&served[..index], name).is_some() {
                return Err(name.clone());
            }
        }
        let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let listed = |text: String| -> Vec<String> {
            text.lines().map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect()
        };
        let open = |name: &str| match catalogue.open(name) {
            Ok(Some(films)) => Some(films),
            // Its jobs wait until it is there again.
            Ok(None) => {
                tracing::warn!(name, "a model that was served is not installed any more");
                None
            }
            Err(error) => {
                tracing::warn!(name, error, "a model that was served cannot be used");
                None
            }
        };
        let joined = listed(read(JOINED));
        for name in &joined {
            if named(&served, name).is_none() {
                served.extend(open(name));
            }
        }
        let mut leaving = Vec::new();
        for name in listed(read(LEAVING)) {
            if named(&served, &name).is_none() && named(&leaving, &name).is_none() {
                leaving.extend(open(&name));
            }
        }
        let default = named(&served, read(DEFAULT).trim()).unwrap_or(0);
        Ok(Self {
            now: RwLock::new(Now { served, default, leaving }),
            catalogue,
            anybody_may_serve,
            folder: folder.to_owned(),
            joined: Mutex::new(joined),
            taking_in: sync::RwLock::default(),
        })
    }

    fn now(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Now> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that makes what names no model.
    pub fn default(&self) -> Arc<dyn Films> {
        let now = self.now();
        now.served[now.default].clone()
    }

    /// The one that requests can name so.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Films>> {
        let now = self.now();
        named(&now.served, name).map(|place| now.served[place].clone())
    }

    /// The one of that name that makes films, be it only what it was asked for already.
    pub fn making(&self, name: &str) -> Option<Arc<dyn Films>> {
        let now = self.now();
        now.served.iter().chain(&now.leaving).find(|films| films.model().name == name).cloned()
    }

    /// The one that makes a job that was taken in.
    ///
    /// # Errors
    /// When it does so no longer.
    pub fn of(&self, job: &Job) -> Result<Arc<dyn Films>, Refusal> {
        self.making(&job.asked.model).ok_or_else(|| not_served(job))
    }

    /// The one of a job, for another film.
    ///
    /// # Errors
    /// When it is not served any more.
    pub fn served_of(&self, job: &Job) -> Result<Arc<dyn Films>, Refusal> {
        self.get(&job.asked.model).ok_or_else(|| not_served(job))
    }

    /// Those that requests can name.
    pub fn all(&self) -> Vec<Arc<dyn Films>> {
        self.now().served.clone()
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        names(&self.now().served)
    }

    /// Those that make only what they were asked for already.
    pub fn leaving(&self) -> Vec<Arc<dyn Films>> {
        self.now().leaving.clone()
    }

    /// The names of all that make films.
    pub fn making_names(&self) -> Vec<String> {
        let now = self.now();
        [names(&now.served), names(&now.leaving)].concat()
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

    /// Serves the installed model of that name from now on, for this server and the one after it; one
    /// that leaves stays. Reads files; not to be called where waiting is not allowed.
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
                "{SERVED_MAX} models are served, which is the most; stop serving one of them first"
            )));
        }
        let films = match self.making(name) {
            Some(films) => films,
            None => {
                let films = self.catalogue.open(name).map_err(NotServed::Unusable)?;
                films.ok_or(NotServed::Unknown)?
            }
        };
        let name = films.model().name.clone();
        if !joined.contains(&name) {
            let all = [&joined[..], from_ref(&name)].concat();
            self.write_names(JOINED, &all).map_err(NotServed::File)?;
            joined.push(name.clone());
        }
        let mut now = self.change();
        now.leaving.retain(|films| films.model().name != name);
        now.served.push(films.clone());
        // One that is listed in both files is served.
        if let Err(error) = self.write_names(LEAVING, &names(&now.leaving)) {
            tracing::warn!(%error, "it is not written down that a model stays");
        }
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
        let place = named(&self.now().served, name).ok_or(NotServed::Unknown)?;
        self.write(DEFAULT, name).map_err(NotServed::File)?;
        self.change().default = place;
        Ok(())
    }

    /// Lets no request name that model from now on, for this server and, unless that one is started with
    /// it, the one after it. It makes what it was asked for already, until [`Self::gone`]. Returns it, also
    /// when it leaves already.
    ///
    /// # Errors
    /// See [`NotStopped`]; then nothing changes.
    pub fn stop(&self, name: &str) -> Result<Arc<dyn Films>, NotStopped> {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, mut leaving) = {
            let now = self.now();
            let Some(place) = named(&now.served, name) else {
                let leaves = named(&now.leaving, name).map(|place| now.leaving[place].clone());
                return leaves.ok_or(NotStopped::Unknown);
            };
            if place == now.default {
                return Err(NotStopped::IsDefault);
            }
            (place, names(&now.leaving))
        };
        leaving.push(name.to_owned());
        // In this order: what is in both files is served.
        self.write_names(LEAVING, &leaving).map_err(NotStopped::File)?;
        let others: Vec<String> = joined.iter().filter(|other| *other != name).cloned().collect();
        self.write_names(JOINED, &others).map_err(NotStopped::File)?;
        *joined = others;
        let mut now = self.change();
        let films = now.served.remove(place);
        now.leaving.push(films.clone());
        if place < now.default {
            now.default -= 1;
        }
        Ok(films)
    }

    /// Lets no model be gone for as long as it is held: for whoever looks whether one makes films, and then
    /// takes a job for it in.
    pub async fn stay(&self) -> sync::RwLockReadGuard<'_, ()> {
        self.taking_in.read().await
    }

    /// Waits for jobs that are being taken in, and lets none be taken in for as long as it is held: for
    /// whoever looks whether a model has anything left to make, before it is gone.
    pub async fn settle(&self) -> sync::RwLockWriteGuard<'_, ()> {
        self.taking_in.write().await
    }

    /// A model that leaves has made all that it was asked for.
    pub fn gone(&self, name: &str) {
        let _one = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = self.change();
        now.leaving.retain(|films| films.model().name != name);
        if let Err(error) = self.write_names(LEAVING, &names(&now.leaving)) {
            // The next server finds that nothing waits for it.
            tracing::warn!(%error, name, "it is not written down that a model is gone");
        }
    }

    fn write_names(&self, file: &str, names: &[String]) -> io::Result<()> {
        self.write(file, &names.iter().map(|name| format!("{name}\n")).collect::<String>())
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let written = self.folder.join(format!("{file}.new"));
        std::fs::write(&written, text)?;
        std::fs::rename(&written, self.folder.join(file))
    }
}

fn not_served(job: &Job) -> Refusal {
    Refusal {
        code: Code::ModelNotServed,
        about: About::value("model", &job.asked.model).into(),
        detail: format!(
            "video {} is for the model {:?}, which this server does not have any more",
            job.id, job.asked.model
        ),
        is_clients: true,
    }
}

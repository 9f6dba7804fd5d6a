//! A model opened, and the films made with it.

mod pictures;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use longreel_kernels::Device;
use longreel_media::{FilmWriter, VideoReader};
use longreel_models::{ModelError, Transformer, Upscaler, Vae};
use longreel_sampling::SchedulerConfig;
use longreel_weights::{
    Lora, ModelFolder, ModelKind, TensorSource, TransformerConfig, WeightDtype, WeightsError,
    file_revision,
};
use serde::{Deserialize, Serialize};

use crate::beginning::{self, Beginning};
use crate::checkpoint;
use crate::condition::{frames_of_video, rate_note, video_options};
use crate::defaults::Defaults;
use crate::device::{self, DeviceChoice, HostLink, Opened};
use crate::error::{FilmError, PlanError};
use crate::events::{Event, Observer, StopSignal};
use crate::kept::Kept;
use crate::lock::RunLock;
use crate::noise::NoiseSource;
use crate::outputs::{Outputs, check_writable, run_folder};
use crate::plan::{
    Converted, FilmPlan, ModelFacts, check_inputs, plan, step_cache, video_history_frames,
};
use crate::prompts::{Prompter, prompts_of};
use crate::request::{FilmRequest, StartFrom};
use crate::room::check_room;
use crate::run::{Outcome, Run, film_options};
use crate::run_file::{Maker, RunFile, adaptation};
use crate::sharing::{Denoisers, Sharing};
use crate::source::{check_sources, sources};
use crate::texts::Texts;
use pictures::Seen;

/// A plan whose time is so many times what was told is told of again.
const WORTH_TELLING: f64 = 1.1;

/// Which model, and how it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineOptions {
    /// A model folder or file.
    pub model: PathBuf,
    /// What films and plans call the model, instead of its path.
    pub label: Option<String>,
    /// LoRA files and their weights, merged at load.
    pub loras: Vec<(PathBuf, f32)>,
    /// What the weights of the transformer and the encoders are converted to at load; as the files
    /// have them when `None`.
    pub dtype: Option<WeightDtype>,
    /// Which devices compute.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Refuse a plan that needs more memory than is available.
    pub check_memory: bool,
    /// Weights of a network that enlarges frames, where a film is to be larger than the model makes it;
    /// Lanczos without one.
    #[serde(default)]
    pub upscaler: Option<PathBuf>,
}

impl EngineOptions {
    /// A model as it is, with the memory check.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            label: None,
            loras: Vec::new(),
            dtype: None,
            device: DeviceChoice::Auto,
            check_memory: true,
            upscaler: None,
        }
    }
}

/// The networks that make segments.
pub struct Networks {
    /// Denoise.
    pub denoisers: Denoisers,
    /// Encodes and decodes.
    pub vae: Vae,
    /// Enlarges.
    pub upscaler: Option<Upscaler>,
}

/// A model. Opening reads configurations and headers; weights are loaded by the first film and kept
/// for the next.
pub struct Engine {
    options: EngineOptions,
    folder: ModelFolder,
    facts: ModelFacts,
    /// See [`RunFile::adapters`].
    adapters: Vec<String>,
    /// Opened by the first film.
    devices: Option<Vec<Device>>,
    networks: Option<Networks>,
    texts: Texts,
}

impl Engine {
    /// Opens the model that `options` name.
    ///
    /// # Errors
    /// When it is not a model of the family, or files of it are missing or damaged.
    pub fn open(options: &EngineOptions) -> Result<Self, FilmError> {
        let folder = ModelFolder::open(&options.model)?;
        // It is small, and what is wrong with it is told before a weight of the others is loaded.
        let upscaler = options.upscaler.as_deref().map(Upscaler::open).transpose()?;
        let folder = match options.dtype {
            Some(dtype) => folder.in_dtype(dtype),
            None => folder,
        };
        // So is a LoRA of another model; merging is for when the weights are taken.
        let (_, _, mut adapters) = adapted(&folder, &options.loras)?;
        if let Some(upscaler) = &options.upscaler {
            adapters.push(file_revision(upscaler)?);
        }
        let scheduler = match folder.scheduler_json() {
            Some(json) => SchedulerConfig::from_json(json).map_err(PlanError::from)?,
            None => SchedulerConfig::default(),
        };
        let facts = ModelFacts {
            name: options.label.clone().unwrap_or_else(|| options.model.display().to_string()),
            kind: folder.kind(),
            causal_few_step: folder.is_causal_few_step(),
            revision: folder.revision().to_owned(),
            transformer: folder.transformer_config().clone(),
            vae: folder.vae_config().clone(),
            scheduler,
            transformer_bytes: folder.transformer_bytes(),
            converted: options.dtype.map(|dtype| Converted {
                dtype,
                stored_bytes: folder.transformer_bytes_stored(),
                memory_bytes: folder.transformer_bytes_converted(),
            }),
            text_encoder_bytes: folder.text_encoder_bytes(),
            other_bytes: folder.vae_bytes() + folder.image_encoder_bytes(),
            upscaler: upscaler.map(|upscaler| upscaler.shape()),
            gpu: None,
            devices: 1,
            elsewhere: false,
        }
        .on(&options.device)?;
        Ok(Self {
            options: options.clone(),
            folder,
            facts,
            adapters,
            devices: None,
            networks: None,
            texts: Texts::default(),
        })
    }

    /// The same engine, with devices that are open already, at least one.
    pub fn on(mut self, devices: Vec<Device>) -> Self {
        self.facts.devices = devices.len();
        Self { devices: Some(devices), ..self }
    }

    /// What the model can do.
    pub fn kind(&self) -> ModelKind {
        self.facts.kind
    }

    /// What planning knows of the model.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// The values that stand where nothing is asked for.
    ///
    /// # Errors
    /// When the model's `longreel.json` is there and cannot be read.
    pub fn defaults(&self, has_image: bool) -> Result<Defaults, FilmError> {
        Defaults::of(&self.facts, &self.options.model, has_image)
    }

    /// Checks a request and plans it; see [`crate::plan::plan`]. Pictures and videos it names are
    /// opened.
    ///
    /// # Errors
    /// Everything that cannot work, with the nearest values that do.
    pub fn plan(&self, request: &FilmRequest) -> Result<FilmPlan, PlanError> {
        let planned = self.planned(request)?;
        check_inputs(&planned, Path::new(""))?;
        Ok(planned)
    }

    /// The same without a look at pictures and videos.
    fn planned(&self, request: &FilmRequest) -> Result<FilmPlan, PlanError> {
        // A model that is loaded is in what is not available any more, and would count twice.
        plan(request, &self.facts, self.options.check_memory && self.networks.is_none())
    }

    /// Makes a film from its beginning.
    ///
    /// # Errors
    /// An unfinished run at the output, and everything that can fail on the way; what was finished
    /// stays and can be resumed.
    pub fn run(
        &mut self,
        plan: &FilmPlan,
        outputs: &Outputs,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        observer.event(Event::Plan(Box::new(plan.summary().clone())));
        let options = film_options(plan.request(), outputs);
        options.kind(&outputs.film)?;
        outputs.check_unfinished()?;
        let folder = outputs.run_folder();
        check_room(plan, outputs, &self.facts, observer)?;
        for path in [&outputs.dump_latents, &outputs.dump_frames, &outputs.contact_sheet]
            .into_iter()
            .flatten()
            .chain([&outputs.film])
        {
            check_writable(path)?;
        }
        FilmWriter::check(&outputs.film, &options)?;
        let noise = NoiseSource::of(outputs.noise.as_deref())?;
        let noise_used = noise.check(plan, self.facts.vae.z_dim)?;
        let given_frames = match &plan.request().start {
            StartFrom::Video(path) => {
                // All of it becomes part of the film: what cannot be read is told now.
                observer.event(Event::Stage { what: "reading the video that is extended".into() });
                let video = VideoReader::open(path, &video_options(plan.request()))?;
                if let Some(message) = rate_note(path, video.info()) {
                    observer.event(Event::Warning { message });
                }
                let history = video_history_frames(plan);
                frames_of_video(video, path, history)? - history as u64
            }
            _ => 0,
        };
        let mut sources = sources(plan.request(), &outputs.film, false)?;
        sources.extend(noise_used);
        let planned = self.for_devices(plan, observer)?;
        let plan = &*planned;
        // Only now: what is refused leaves an unfinished run as it was.
        fs::create_dir_all(&folder).map_err(FilmError::io("create", &folder))?;
        let lock = RunLock::take(&folder, &outputs.film).inspect_err(|_| {
            // Goes when nothing is in it, as where a full disk took the folder and not the lock.
            let _ = fs::remove_dir(&folder);
        })?;
        lock.clear(&folder)?;
        let Self { facts, options: engine, adapters, .. } = &*self;
        let maker = Maker { facts, engine, adapters, film: &outputs.film, given_frames };
        let written = RunFile::begun(plan, maker, sources, outputs).write(&folder);
        let film = outputs.film.clone();
        let begun = Begun { film, given_frames, noise, checkpoint: None, pictures: None };
        let result = written.and_then(|()| self.make(plan, outputs, begun, stop, observer));
        if result.is_err() && checkpoint::newest(&folder).is_ok_and(|(found, _)| found.is_none()) {
            // Nothing of the film exists that resume could go on from.
            let _ = fs::remove_dir_all(&folder);
        }
        result
    }

    /// Goes on with the unfinished run of `film`, as [`resume`] does, with this model, which stays
    /// loaded.
    ///
    /// # Errors
    /// Those of [`resume`].
    pub fn resume(
        &mut self,
        film: &Path,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        self.go_on(film, read_run(film)?, stop, observer)
    }

    /// Makes a film that begins with another one, of which `beginning` is a checkpoint: the planned
    /// film has to be the same up to there, prompts and seeds included. What lies at `outputs` is
    /// replaced.
    ///
    /// # Errors
    /// A beginning that does not fit, and what can fail in a run; what was finished stays and can be
    /// resumed.
    pub fn go_on_from(
        &mut self,
        beginning: &Beginning,
        plan: &FilmPlan,
        outputs: &Outputs,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        let (facts, adapters) = (&self.facts, &self.adapters);
        let file = beginning::prepare(beginning, plan, outputs, facts, &self.options, adapters)?;
        self.go_on(&outputs.film, file, stop, observer)
    }

    fn go_on(
        &mut self,
        film: &Path,
        file: RunFile,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        let folder = run_folder(film);
        let _lock = RunLock::take(&folder, film)?;
        let mut outputs = file.outputs.clone();
        // The folder may have been moved since.
        let named = std::mem::replace(&mut outputs.film, film.to_owned());
        let (found, damaged) = checkpoint::newest(&folder)
            .map_err(FilmError::io("read the checkpoints in", &folder))?;
        for message in damaged {
            observer.event(Event::Warning { message });
        }
        if self.facts.revision != file.revision {
            return Err(FilmError::OtherModel {
                model: self.options.model.clone(),
                began: file.revision,
                now: self.facts.revision.clone(),
            });
        }
        let same = |options: &EngineOptions| {
            (options.loras.clone(), options.dtype, options.upscaler.clone())
        };
        if same(&file.engine) != same(&self.options) {
            return Err(FilmError::OtherEngine {
                began: adaptation(&file.engine, &[]).to_string(),
                now: adaptation(&self.options, &[]).to_string(),
            });
        }
        self.check_adapters(file.adapters.as_deref())?;
        let pictures = Kept::read(&folder, observer);
        check_sources(&file, film, pictures.is_some(), found.is_some())?;
        // Which decide what the plan is for.
        self.devices(observer)?;
        let planned = self.planned(&file.request)?;
        self.measure_host(&planned)?;
        let planned = planned.begun_with(
            file.kept_frames,
            file.decoder_strips,
            file.guidance_batch,
            &self.facts,
        )?;
        observer.event(Event::Plan(Box::new(planned.summary().clone())));
        let noise = NoiseSource::of(outputs.noise.as_deref())?;
        if let Some(used) = noise.check(&planned, self.facts.vae.z_dim)? {
            used.check(&file.sources, film)?;
        }
        let given_frames = file.given_frames;
        let begun = Begun { film: named, given_frames, noise, checkpoint: found, pictures };
        self.make(&planned, &outputs, begun, stop, observer)
    }

    fn make(
        &mut self,
        plan: &FilmPlan,
        outputs: &Outputs,
        begun: Begun,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        let made = self.make_by_device(plan, outputs, begun, stop, observer);
        if made.as_ref().is_err_and(|error| error.gpu().is_some()) {
            // The next film begins with devices that nothing is left on, whatever went wrong.
            self.networks = None;
            self.texts.forget_encoder();
            self.devices = None;
        }
        match made {
            // Which value it comes from is known to the files alone.
            Err(error @ FilmError::NotFinite { .. }) => Err(self.not_finite()?.unwrap_or(error)),
            made => made,
        }
    }

    /// The first value of transformer and encoders that is NaN or infinite, if there is one. What a LoRA
    /// makes of them is no fault of theirs.
    fn not_finite(&self) -> Result<Option<FilmError>, FilmError> {
        let mut sources = vec![self.folder.transformer()?.1, self.folder.text_encoder()?.1];
        sources.extend(self.folder.image_encoder()?.map(|(_, source)| source));
        let found = sources.into_iter().find_map(|source| source.search().err());
        Ok(found.map(FilmError::from))
    }

    fn make_by_device(
        &mut self,
        plan: &FilmPlan,
        outputs: &Outputs,
        begun: Begun,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        let Begun { film, given_frames, noise, checkpoint, pictures } = begun;
        let request = plan.request();
        let devices = self.devices(observer)?;
        let device = &devices[0];
        self.texts.embed(&self.folder, device, &prompts_of(request), observer)?;
        let seen = match pictures {
            Some(kept) => Seen::Kept(kept),
            None => self.look(device, request, observer)?,
        };
        device::share(&devices, &self.facts, plan.summary())?;
        let networks = match self.networks.take() {
            Some(networks) => networks,
            None => {
                observer.event(Event::Stage { what: "loading the model".into() });
                self.load(&devices, plan.sharing)?
            }
        };
        let denoisers = networks.denoisers.arranged(plan.sharing)?;
        for message in denoisers.obstacles() {
            observer.event(Event::Warning { message });
        }
        if let Some(way) = denoisers.way() {
            observer.event(Event::Stage { what: format!("exchanging between devices by {way}") });
            // NCCL has memory of its own on each card.
            device::share(&devices, &self.facts, plan.summary())?;
        }
        let mut networks = Networks { denoisers, ..networks };
        let decoder = plan.sharing.decoder_of(&devices);
        if networks.vae.decoder.device() != decoder {
            networks.vae = self.load_vae(decoder)?;
        }
        networks.vae.decoder.set_strips(plan.strips);
        self.networks = Some(networks);
        let networks = self.networks.as_ref().expect("just put there");
        let folder = outputs.run_folder();
        let Kept { conditions, image_embeds } =
            self.conditions(networks, plan, seen, checkpoint.is_some(), &folder, observer)?;
        let cache = step_cache(request, &self.facts)?;
        let (facts, engine, adapters) = (&self.facts, &self.options, &self.adapters);
        let maker = Maker { facts, engine, adapters, film: &film, given_frames };
        let denoisers = &networks.denoisers;
        let prompter =
            Prompter::new(&mut self.texts, &self.folder, denoisers, image_embeds, request)?;
        let run = Run::new(
            plan, outputs, maker, networks, prompter, conditions, noise, cache, checkpoint,
        )?;
        run.finish(stop, observer)
    }

    /// Refuses a run whose LoRAs or upscaler are other files than when it began. Their names are the same.
    fn check_adapters(&self, began: Option<&[String]>) -> Result<(), FilmError> {
        let paths = self.options.loras.iter().map(|(path, _)| path);
        let paths = paths.chain(&self.options.upscaler);
        let began = began.unwrap_or(&self.adapters);
        for ((path, began), now) in paths.zip(began).zip(&self.adapters) {
            if began != now {
                let (model, began, now) = (path.clone(), began.clone(), now.clone());
                return Err(FilmError::OtherModel { model, began, now });
            }
        }
        Ok(())
    }

    /// A plan for the devices that are there: the given one, with times by what was measured on them, unless it is for a
    /// GPU that cannot be used, in whose place the processor makes the film.
    ///
    /// # Errors
    /// What the processor cannot do, its memory above all.
    fn for_devices<'p>(
        &mut self,
        plan: &'p FilmPlan,
        observer: &mut dyn Observer,
    ) -> Result<Cow<'p, FilmPlan>, FilmError> {
        self.devices(observer)?;
        let before = plan.summary();
        let planned = if self.facts.gpu.is_none() && before.gpu.is_some() {
            self.plan(plan.request())?
        } else if self.measure_host(plan)? {
            let planned = plan.clone().timed_by(&self.facts)?;
            let times = planned.summary().expected_seconds / before.expected_seconds;
            if (1.0 / WORTH_TELLING..WORTH_TELLING).contains(&times) {
                return Ok(Cow::Owned(planned));
            }
            planned
        } else {
            return Ok(Cow::Borrowed(plan));
        };
        observer.event(Event::Plan(Box::new(planned.summary().clone())));
        Ok(Cow::Owned(planned))
    }

    /// Measures how fast weights come to the GPUs where a plan has them brought again and again; whether plans' times are
    /// others since.
    fn measure_host(&mut self, plan: &FilmPlan) -> Result<bool, FilmError> {
        let (Some(facts), Some(devices)) = (&mut self.facts.gpu, &self.devices) else {
            return Ok(false);
        };
        if plan.summary().bringing.is_none() || facts.host.is_measured() {
            return Ok(false);
        }
        let denoisers = devices.iter().take(plan.sharing.denoisers());
        let rates = denoisers.filter_map(Device::gpu).map(|gpu| gpu.host_rate());
        let rates = rates.collect::<Result<Vec<_>, _>>().map_err(ModelError::from)?;
        let Some(least) = rates.into_iter().reduce(f64::min) else { return Ok(false) };
        facts.host = HostLink::Measured(least);
        Ok(true)
    }

    /// Opens the devices, once. Plans are for them from then on.
    fn devices(&mut self, observer: &mut dyn Observer) -> Result<Vec<Device>, FilmError> {
        if let Some(devices) = &self.devices {
            return Ok(devices.clone());
        }
        let Opened { devices, warning } = self.options.device.open(self.options.dtype)?;
        if let Some(message) = warning {
            observer.event(Event::Warning { message });
        }
        if devices.iter().all(|device| device.gpu().is_none()) {
            self.facts.gpu = None;
        }
        Ok(self.devices.insert(devices).clone())
    }

    /// The files are read for all devices together: a copy of the transformer is a view of the same
    /// bytes, of which a GPU brings its own.
    fn load(&self, devices: &[Device], sharing: Sharing) -> Result<Networks, FilmError> {
        let (config, source, _) = adapted(&self.folder, &self.options.loras)?;
        let transformer = Transformer::load(&config, source)?;
        let ranks = devices.iter().map(|device| transformer.clone().on(device)).collect();
        let denoisers = Denoisers::new(ranks, sharing)?;
        let upscaler = self.options.upscaler.as_deref().map(Upscaler::open).transpose()?;
        Ok(Networks { denoisers, vae: self.load_vae(sharing.decoder_of(devices))?, upscaler })
    }

    fn load_vae(&self, device: &Device) -> Result<Vae, FilmError> {
        let (config, source) = self.folder.vae()?;
        Ok(Vae::load(&config, source)?.on(device))
    }
}

/// What a run begins with, or goes on with.
struct Begun {
    /// The film as it was named at first.
    film: PathBuf,
    /// See [`RunFile::given_frames`].
    given_frames: u64,
    noise: NoiseSource,
    checkpoint: Option<checkpoint::Checkpoint>,
    /// What was made of its pictures.
    pictures: Option<Kept>,
}

/// The transformer's tensors, with LoRAs to be merged when they are taken, and the revisions of these.
fn adapted(
    folder: &ModelFolder,
    loras: &[(PathBuf, f32)],
) -> Result<(TransformerConfig, TensorSource, Vec<String>), WeightsError> {
    let (config, mut source) = folder.transformer()?;
    let mut revisions = Vec::new();
    for (path, weight) in loras {
        let lora = Lora::open(path)?;
        lora.apply(&mut source, *weight)?;
        revisions.push(lora.revision().to_owned());
    }
    Ok((config, source, revisions))
}

/// Goes on with the unfinished run of `film`, on the device that it began with or on another one. The
/// result is the one that an uninterrupted run would have given, byte for byte, on the same device;
/// on another one it is the same up to the rounding of its arithmetic.
///
/// # Errors
/// Nothing to resume, another model than the run began with, and what can fail in a run.
pub fn resume(
    film: &Path,
    device: Option<DeviceChoice>,
    stop: &StopSignal,
    observer: &mut dyn Observer,
) -> Result<Outcome, FilmError> {
    let mut file = read_run(film)?;
    file.engine.device = device.unwrap_or(file.engine.device);
    Engine::open(&file.engine)?.go_on(film, file, stop, observer)
}

/// What the folder of an unfinished run says of it.
fn read_run(film: &Path) -> Result<RunFile, FilmError> {
    let folder = run_folder(film);
    let path = RunFile::path(&folder);
    let nothing = |problem: &str| FilmError::NothingToResume {
        path: film.to_owned(),
        problem: problem.to_owned(),
    };
    if RunFile::is_finished(&folder) {
        let _lock = RunLock::take(&folder, film)?;
        FilmWriter::clean_finished(film)?;
        RunFile::remove_finished(&folder)?;
    }
    if !path.exists() {
        return Err(match film.exists() {
            true => nothing(&format!(
                "there is no unfinished run of it, {}: it is complete, or was moved without that folder",
                folder.display()
            )),
            false => nothing("there is no such film and no unfinished run of it"),
        });
    }
    let text = fs::read(&path).map_err(FilmError::io("read", &path))?;
    serde_json::from_slice(&text).map_err(|e| {
        let path = path.display();
        nothing(&format!(
            "{path} cannot be read ({e}); put it back, or begin anew with --overwrite"
        ))
    })
}

#[cfg(test)]
mod tests;

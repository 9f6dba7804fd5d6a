//! The prompts of a film, as the network is given them: one at a time.

use longreel_kernels::{Device, Tensor};
use longreel_models::{ContextOptions, SplitContext};
use longreel_sampling::Branch;
use longreel_weights::ModelFolder;

use crate::error::FilmError;
use crate::events::Observer;
use crate::request::FilmRequest;
use crate::sharing::Denoisers;
use crate::texts::Texts;

/// Turns prompts into what the network is given. It holds the prompt in force and the negative one,
/// so that a film of many prompts takes no more memory than one of two.
pub struct Prompter<'a> {
    texts: &'a mut Texts,
    folder: &'a ModelFolder,
    denoisers: &'a Denoisers,
    image_embeds: Option<Tensor>,
    uncond: Option<SplitContext>,
    in_force: Option<(String, SplitContext)>,
}

impl<'a> Prompter<'a> {
    /// For the prompts of `request`, all of which `texts` has embedded.
    ///
    /// # Errors
    /// Those of the network.
    pub fn new(
        texts: &'a mut Texts,
        folder: &'a ModelFolder,
        denoisers: &'a Denoisers,
        image_embeds: Option<Tensor>,
        request: &FilmRequest,
    ) -> Result<Self, FilmError> {
        let mut prompter =
            Self { texts, folder, denoisers, image_embeds, uncond: None, in_force: None };
        if let Some(negative) = negative_prompt(request) {
            prompter.uncond = Some(prompter.context(Branch::Uncond, negative)?);
        }
        Ok(prompter)
    }

    /// Embeds those of `request`'s prompts that are new, by the processor: a GPU's memory is shared out
    /// for the film that is being made.
    ///
    /// # Errors
    /// Those of the text encoder.
    pub fn embed(
        &mut self,
        request: &FilmRequest,
        observer: &mut dyn Observer,
    ) -> Result<(), FilmError> {
        self.texts.embed(self.folder, &Device::Cpu, &prompts_of(request), observer)
    }

    /// What the network is given for `prompt`, and for the negative prompt when guidance is on.
    ///
    /// # Errors
    /// Those of the network.
    pub fn contexts(
        &mut self,
        prompt: &str,
    ) -> Result<(&SplitContext, Option<&SplitContext>), FilmError> {
        let context = match self.in_force.take() {
            Some((text, context)) if text == prompt => context,
            _ => self.context(Branch::Cond, prompt)?,
        };
        let (_, cond) = self.in_force.insert((prompt.to_owned(), context));
        Ok((cond, self.uncond.as_ref()))
    }

    fn context(&self, branch: Branch, prompt: &str) -> Result<SplitContext, FilmError> {
        // The plan has room for all of its keys and values.
        let options = ContextOptions::default();
        let text = self.texts.get(prompt);
        let denoiser = self.denoisers.of(branch);
        Ok(denoiser.context(text, self.image_embeds.as_ref(), &options)?)
    }
}

/// The negative prompt of a film that is made with guidance.
fn negative_prompt(request: &FilmRequest) -> Option<&str> {
    (request.guidance_scale > 1.0).then_some(&request.negative_prompt)
}

/// All texts that a film needs embedded.
pub fn prompts_of(request: &FilmRequest) -> Vec<&str> {
    let prompts = request.prompts.iter().map(|p| p.prompt.as_str());
    prompts.chain(negative_prompt(request)).collect()
}

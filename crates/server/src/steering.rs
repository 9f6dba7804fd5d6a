//! The film that a job is asked for, with the prompts that it was given since.

use std::sync::Arc;

use longreel_film::FilmRequest;
use longreel_jobs::{Job, PromptChange};

use crate::code::Code;
use crate::films::{Film, Films, Refusal};
use crate::shared::Shared;

/// `request` of a job with its changed prompts, planned.
///
/// # Errors
/// What cannot be made (any more).
pub(crate) async fn steered(
    shared: &Arc<Shared>,
    job: &Job,
    request: FilmRequest,
) -> Result<Film, Refusal> {
    with_changes(shared.models.of(job)?, request, job.prompts.clone()).await
}

/// `request` with prompts changed from certain segments on, planned. A segment that the film does not
/// have changes nothing.
///
/// # Errors
/// What cannot be made.
pub(crate) async fn with_changes(
    films: Arc<dyn Films>,
    request: FilmRequest,
    changes: Vec<PromptChange>,
) -> Result<Film, Refusal> {
    let planned = tokio::task::spawn_blocking(move || {
        let film = films.planned(request)?;
        let mut prompts = film.plan.request().prompts.clone();
        for change in &changes {
            let (segment, prompt) = (change.from_segment as usize, Some(&*change.prompt));
            if let Some(changed) = film.plan.changed_prompts(&prompts, segment, prompt, None) {
                prompts = changed;
            }
        }
        if prompts == film.plan.request().prompts {
            return Ok(film);
        }
        films.planned(FilmRequest { prompts, ..film.plan.request().clone() })
    });
    planned.await.unwrap_or_else(|error| {
        let (code, about) = (Code::Internal, Box::default());
        Err(Refusal { code, about, detail: error.to_string(), is_clients: false })
    })
}

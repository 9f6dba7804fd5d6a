//! A film that is given other prompts on its way.

use std::sync::Arc;

use super::{Run, pixel_frame};
use crate::error::{FilmError, PlanError};
use crate::events::{Change, Observer};
use crate::request::FilmRequest;
use crate::run_file::RunFile;

impl Run<'_> {
    /// Goes on with the prompts of `change`. They are written down before the segment is begun, so
    /// that a resumed run knows them.
    pub(super) fn follow(
        &mut self,
        change: Change,
        observer: &mut dyn Observer,
    ) -> Result<(), FilmError> {
        if change.prompts == self.plan.request().prompts {
            return Ok(());
        }
        let plan = self.plan.with_prompts(change.prompts)?;
        self.check_made(plan.request())?;
        self.prompter.embed(plan.request(), observer)?;
        let mut file = RunFile::read(&self.folder)?;
        if let Some(command) = change.command {
            file.outputs.command = command;
        }
        file.request = plan.request().clone();
        file.write(&self.folder)?;
        let metadata = self.maker.metadata(plan.request(), self.outputs, &file.outputs.command);
        self.plan = Arc::new(plan);
        self.taker.settle(observer)?;
        self.taker.reel().follow(self.plan.clone(), metadata)
    }

    /// What is made stays as it is.
    fn check_made(&self, now: &FilmRequest) -> Result<(), PlanError> {
        let before = self.plan.request();
        for index in 0..self.next_segment {
            let Some(segment) = self.plan.segments.segment(index) else { break };
            let frame = pixel_frame(segment.first_new_latent);
            if before.in_force(frame) != now.in_force(frame) {
                return Err(PlanError::value(
                    "the prompt of segment",
                    index,
                    "cannot be changed any more, since it is made",
                    format!("change it from segment {} on", self.next_segment),
                ));
            }
        }
        Ok(())
    }
}

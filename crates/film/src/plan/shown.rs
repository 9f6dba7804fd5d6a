//! A plan for people.

use std::fmt;

use super::PlanSummary;
use super::words::{human_bytes, human_frames, human_seconds, scaled};

/// Where a number is a data sheet's.
const HALF: &str = ", by the data sheet; half of it is counted on";

impl fmt::Display for PlanSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let film = match (self.frames, self.film_seconds) {
            (Some(frames), Some(seconds)) => {
                format!("{}, {}", human_frames(frames), human_seconds(seconds))
            }
            _ => "endless".to_owned(),
        };
        let per = if self.frames.is_some() { "" } else { " a segment" };
        let revision = match self.revision.as_str() {
            "" => "not on this machine: sizes as published, in bf16".to_owned(),
            revision => format!("revision {revision}"),
        };
        writeln!(f, "model      {} ({}, {revision})", self.model, self.kind)?;
        writeln!(f, "film       {}x{}, {film}", self.width, self.height)?;
        let segments = self.segments.map_or("endless".to_owned(), |s| s.to_string());
        writeln!(
            f,
            "segments   {segments}, windows of up to {} latent frames, {} tokens",
            self.window_latents, self.tokens
        )?;
        writeln!(f, "passes     {} in {} rows{per}", self.forwards, self.rows)?;
        let share = |part: f64| 100.0 * part / self.forward_flops.total().max(1.0);
        writeln!(
            f,
            "arithmetic {}{per}; a pass {} ({:.0}% linear, {:.0}% attention)",
            scaled(self.total_flops, "FLOP"),
            scaled(self.forward_flops.total(), "FLOP"),
            share(self.forward_flops.linear),
            share(self.forward_flops.attention + self.forward_flops.cross_attention),
        )?;
        if self.sharing.devices() > 1 {
            writeln!(f, "devices    {}", self.sharing)?;
        }
        if let Some(exchange) = &self.exchange {
            writeln!(
                f,
                "exchange   {} leave each in a pass by {} ({}{HALF}), which takes {} of the time",
                human_bytes(exchange.bytes),
                exchange.way,
                scaled(exchange.bytes_per_second, "B/s"),
                human_seconds(exchange.seconds),
            )?;
        }
        let available = self
            .available_bytes
            .map_or(String::new(), |bytes| format!(" ({} available)", human_bytes(bytes)));
        writeln!(f, "memory     about {}{available}", human_bytes(self.memory_bytes))?;
        if let Some(finish) = &self.finish {
            let how = finish.network.map_or("Lanczos".to_owned(), |n| format!("a network of {n}x"));
            let larger = match [finish.width, finish.height] == [self.width, self.height] {
                true => String::new(),
                false => format!("{}x{} by {how}, ", finish.width, finish.height),
            };
            let more = match finish.frames {
                1 => String::new(),
                frames => format!("{frames} frames for each one, "),
            };
            writeln!(f, "finish     {larger}{more}{} of that", human_bytes(finish.added_bytes))?;
        }
        if let Some(gpu) = &self.gpu {
            let there = gpu.weights_there.unwrap_or(0);
            let weights = match there >= gpu.weight_bytes {
                true => format!("all {} of weights", human_bytes(gpu.weight_bytes)),
                false => format!(
                    "{} of {} of weights",
                    human_bytes(there),
                    human_bytes(gpu.weight_bytes)
                ),
            };
            writeln!(
                f,
                "GPU        {}, {} free: {} for activations, {weights}",
                gpu.name,
                human_bytes(gpu.free_bytes),
                human_bytes(gpu.activation_bytes),
            )?;
        }
        if let Some(bringing) = &self.bringing {
            let for_each = if self.guidance_batch.is_some() { "row" } else { "pass" };
            let brought = [
                (bringing.bytes, format!("for each {for_each}")),
                (bringing.prompt_bytes, "for each prompt".to_owned()),
                (bringing.again_bytes, "again for each segment".to_owned()),
            ];
            let brought = brought.into_iter().filter(|(bytes, _)| *bytes > 0);
            let brought = brought.map(|(bytes, when)| format!("{} {when}", human_bytes(bytes)));
            writeln!(
                f,
                "weights    brought: {} ({}, {}{}): {} of copies, of which the film waits for {}",
                brought.collect::<Vec<_>>().join(", "),
                bringing.way,
                scaled(bringing.bytes_per_second, "B/s"),
                if bringing.is_measured { "" } else { HALF },
                human_seconds(bringing.seconds),
                human_seconds(bringing.waited_seconds),
            )?;
        }
        if self.decoder_strips > 1 {
            writeln!(
                f,
                "decoder    in {} strips of the picture, since a whole one does not fit",
                self.decoder_strips
            )?;
        }
        if let Some(kept) = self.kv_cache.as_ref().filter(|kept| kept.token_share < 1.0) {
            writeln!(
                f,
                "kv cache   {} of that for up to {} finished latent frames; {:.0}% of the tokens are computed",
                human_bytes(kept.bytes),
                kept.frames,
                100.0 * kept.token_share
            )?;
        }
        if let Some(batch) = &self.guidance_batch {
            let more = match batch.added_bytes {
                0 => "in what decoding takes anyway".to_owned(),
                bytes => format!("which takes {} more", human_bytes(bytes)),
            };
            writeln!(f, "guidance   both passes of a row in one batch, {more}")?;
        }
        writeln!(f, "disk       up to about {}{per}", human_bytes(self.disk_bytes))?;
        write!(
            f,
            "time       about {}{per} on {} ({}{})",
            human_seconds(self.expected_seconds),
            if self.elsewhere { "such a machine" } else { "this machine" },
            scaled(self.machine_flops_per_second, "FLOP/s"),
            match (&self.gpu, self.machine_8_bit_flops_per_second) {
                (None, _) => String::new(),
                (_, None) => HALF.into(),
                (_, Some(rate)) => format!(", {} in 8 bits{HALF}", scaled(rate, "FLOP/s")),
            },
        )?;
        let width = self.savings.iter().map(|saving| saving.option.len()).max().unwrap_or(0);
        for saving in &self.savings {
            write!(
                f,
                "\n  {:<width$}  {} -> about {}",
                saving.option,
                saving.what,
                human_seconds(self.expected_seconds * saving.time_share)
            )?;
        }
        for note in &self.notes {
            write!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

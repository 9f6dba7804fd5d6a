//! What the server and a worker say to each other: one JSON object a line, orders on the worker's
//! stdin, what happens on its stdout. The end of stdin is an order too: stop after the segment and
//! exit, because nobody is there any more to say anything else.

use std::path::PathBuf;

use longreel_film::{Beginning, Change, EngineOptions, FilmRequest, Stop};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// From the server to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The first order: open this model, warm it up, say that it is ready.
    Start {
        /// The model.
        engine: EngineOptions,
        /// A folder for what the warm-up writes.
        warm_up: PathBuf,
    },
    /// Make a film, or go on with it when its folder holds a part of it.
    Make(Box<Task>),
    /// Begin the next segment of the film in work: after each segment a worker waits for this, so that
    /// whoever changes a prompt knows which segments are begun.
    GoOn {
        /// Which, from 0.
        segment: u32,
        /// Prompts it begins with.
        change: Option<Change>,
    },
    /// Stop the film in work.
    Stop {
        /// When.
        when: When,
    },
}

/// A film to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// A folder that is this job's alone.
    pub folder: PathBuf,
    /// What is asked, with the prompts of now.
    pub request: FilmRequest,
    /// The command that makes the film again, kept in its metadata.
    pub command: String,
    /// Segments that the server knows to be finished. Of later ones that are finished too, because the
    /// worker before was killed before it could say so, it is told again.
    pub segments_done: u32,
    /// What the film begins with when nothing of it is made yet.
    pub beginning: Option<Beginning>,
}

/// When a film is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// When the segment in work is finished.
    AfterSegment,
    /// At the next step.
    Now,
}

impl From<When> for Stop {
    fn from(when: When) -> Self {
        match when {
            When::AfterSegment => Self::AfterSegment,
            When::Now => Self::Now,
        }
    }
}

/// From a worker to the server: the events of a film as [`longreel_film::Event`] is serialised, as
/// far as the server reads them, and what a worker says of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Told {
    /// A segment begins.
    Segment {
        /// From 0.
        segment: u32,
        /// How many there are.
        segments: Option<u32>,
    },
    /// A denoising step is done.
    Step {
        /// From 0.
        segment: u32,
        /// Steps done in this segment.
        step: u32,
        /// Steps of this segment.
        steps: u32,
        /// Seconds this one took.
        seconds: f64,
        /// Estimated seconds until the film is done.
        left_seconds: Option<f64>,
    },
    /// A segment is finished.
    Part {
        /// From 0.
        segment: u32,
        /// Frames in the film so far.
        frames: u64,
        /// The prompt it was made from.
        prompt: String,
        /// The seed it was made from.
        seed: u64,
        /// First byte and byte behind the last one in the film's file.
        bytes: Option<(u64, u64)>,
        /// A picture of it.
        preview: Option<PathBuf>,
        /// The state after it.
        checkpoint: Option<PathBuf>,
    },
    /// There is a picture of the segment in work.
    Preview {
        /// From 0.
        segment: u32,
        /// The picture, the server's to remove.
        path: PathBuf,
    },
    /// The look of a finished segment.
    Drift(Map<String, Value>),
    /// Something worth knowing.
    Warning {
        /// The text.
        message: String,
    },
    /// The worker is alive, whatever it is doing.
    Alive,
    /// The model is loaded.
    Ready {
        /// Seconds this took.
        seconds: f64,
        /// It has made a very short film, so that all it needs is loaded.
        #[serde(default)]
        is_warm: bool,
    },
    /// The film in work came to an end; or, before [`Told::Ready`], the worker cannot start.
    Ended {
        /// Which.
        outcome: Outcome,
    },
    /// What the server does not need to know.
    #[serde(other)]
    Other,
}

/// What a worker says of itself; [`Told`] as it is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Tell {
    /// See [`Told::Alive`].
    Alive,
    /// See [`Told::Ready`].
    Ready {
        /// Seconds this took.
        seconds: f64,
        /// See [`Told::Ready`].
        is_warm: bool,
    },
    /// See [`Told::Warning`].
    Warning {
        /// The text.
        message: String,
    },
    /// See [`Told::Ended`].
    Ended {
        /// Which.
        outcome: Outcome,
    },
}

/// How a film ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is whole.
    Complete {
        /// The film.
        film: PathBuf,
        /// How its look moved, as JSON.
        drift: PathBuf,
        /// Small frames of it in one picture.
        sheet: Option<PathBuf>,
        /// Steps that a step cache took over.
        reused_steps: u64,
    },
    /// It was stopped as ordered; what is finished stays in its folder.
    Stopped,
    /// It cannot be made.
    Failed {
        /// A stable name.
        code: String,
        /// What happened and what to do.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use longreel_film::Event;

    fn told(event: &impl Serialize) -> Told {
        let line = serde_json::to_string(event).expect("JSON");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    #[test]
    fn the_events_of_a_film_are_understood() {
        let step = Event::Step {
            segment: 2,
            step: 3,
            steps: 20,
            seconds: 0.1,
            left_seconds: Some(4.5),
            kept_share: Some(0.4),
        };
        let expected =
            Told::Step { segment: 2, step: 3, steps: 20, seconds: 0.1, left_seconds: Some(4.5) };
        assert_eq!(told(&step), expected);
        let preview = Some("work/preview-00000000.jpg".to_owned());
        let checkpoint = Some("work/checkpoint-00000000.safetensors".to_owned());
        let (prompt, seed) = ("a dog".to_owned(), u64::MAX);
        let part = |bytes| Event::Part {
            segment: 0,
            frames: 33,
            film_seconds: 1.4,
            prompt: prompt.clone(),
            seed,
            bytes,
            preview: preview.clone(),
            checkpoint: checkpoint.clone(),
        };
        let expected = |bytes| Told::Part {
            segment: 0,
            frames: 33,
            prompt: prompt.clone(),
            seed,
            bytes,
            preview: preview.clone().map(PathBuf::from),
            checkpoint: checkpoint.clone().map(PathBuf::from),
        };
        assert_eq!(told(&part(Some([812, 9000]))), expected(Some((812, 9000))));
        assert_eq!(told(&part(None)), expected(None));
        let path = "work/preview-000000-0003.jpg".to_owned();
        let picture = Event::Preview { segment: 1, step: 3, seconds: 0.1, path: path.clone() };
        assert_eq!(told(&picture), Told::Preview { segment: 1, path: path.into() });
        let begins = Event::Segment { segment: 1, segments: None, prompt: "a dog".into() };
        assert_eq!(told(&begins), Told::Segment { segment: 1, segments: None });
        assert_eq!(told(&Event::Stage { what: "loading the model".into() }), Told::Other);
    }

    #[test]
    fn what_a_worker_says_of_itself_reads_back() {
        let failed = Outcome::Failed { code: "disk_full".into(), message: "no room".into() };
        assert_eq!(told(&Tell::Ended { outcome: failed.clone() }), Told::Ended { outcome: failed });
        assert_eq!(told(&Tell::Alive), Told::Alive);
        let (seconds, is_warm) = (0.5, true);
        assert_eq!(told(&Tell::Ready { seconds, is_warm }), Told::Ready { seconds, is_warm });
    }
}

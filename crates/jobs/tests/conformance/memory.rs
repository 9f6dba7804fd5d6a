//! Workers that die because memory ran out.

use longreel_jobs::{
    EventKind, HandBack, Instead, Job, JobError, JobState, Lease, PromptChange, SegmentDone,
    StoreOptions, WorkerEvent,
};
use serde_json::json;

use super::{Bench, film};

pub fn adjust(_: &mut StoreOptions) {}

fn smaller(job: &Job) -> Instead {
    Instead {
        resolved: json!({"smaller": true}),
        prompts_revision: job.prompts_revision,
        prompts: job.prompts.clone(),
        warning: "smaller: memory ran out".into(),
    }
}

impl Bench {
    async fn ran_out(&self, lease: &Lease, instead: Option<Instead>) -> Job {
        let how = HandBack::OutOfMemory { reason: "no memory".into(), instead };
        self.store.hand_back(lease, how).await.unwrap()
    }
}

pub async fn a_job_that_ran_out_of_memory_is_made_as_said_instead(bench: Bench) {
    let asked = bench.create(film("ann")).await;
    for death in 1..=5 {
        let leased = bench.lease().await;
        let job = bench.ran_out(&leased.lease, Some(smaller(&leased.job))).await;
        // However often: it is another job each time.
        assert_eq!((job.state, job.deaths, job.deaths_in_row), (JobState::Queued, death, 0));
    }
    let job = bench.get(asked.id).await;
    assert_eq!(job.asked.resolved, json!({"smaller": true}));
    assert_eq!(job.asked.request, asked.asked.request, "what came stays as it came");
    let events = bench.store.events(job.id, 0, 100).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.kind, &last.data["state"]), (EventKind::State, &json!("queued")));
    assert_eq!(last.data["warning"], "smaller: memory ran out");
    assert!(events[0].data.get("warning").is_none(), "{:?}", events[0]);

    // Prompts whose segments are others now.
    let change = |from_segment| PromptChange { from_segment, prompt: "rain".into() };
    let steered = bench.store.steer(job.id, change(2)).await.unwrap();
    let lease = bench.lease().await.lease;
    let instead = Instead { prompts: vec![change(4)], ..smaller(&steered) };
    let job = bench.ran_out(&lease, Some(instead)).await;
    assert_eq!(job.prompts, [change(4)]);
    assert_eq!(job.prompts_revision, steered.prompts_revision + 1);
}

pub async fn what_has_a_finished_segment_or_new_prompts_is_not_made_otherwise(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let leased = bench.lease().await;
    let before = smaller(&leased.job);
    let change = PromptChange { from_segment: 3, prompt: "rain".into() };
    bench.store.steer(job.id, change.clone()).await.unwrap();
    let steered = bench.ran_out(&leased.lease, Some(before)).await;
    assert_eq!(steered.asked.resolved, job.asked.resolved);
    assert_eq!((steered.prompts.as_slice(), steered.deaths_in_row), ([change].as_slice(), 1));

    let leased = bench.lease().await;
    let done = WorkerEvent::SegmentDone(SegmentDone::new(0, 97));
    bench.store.append(&leased.lease, vec![done], 1).await.unwrap();
    let begun = bench.ran_out(&leased.lease, Some(smaller(&leased.job))).await;
    assert_eq!(begun.asked.resolved, job.asked.resolved);
    assert_eq!((begun.state, begun.segments_done), (JobState::Queued, 1));
}

pub async fn a_job_that_runs_out_of_memory_again_and_again_fails_and_says_so(bench: Bench) {
    let job = bench.create(film("ann")).await;
    for death in 1..=3 {
        let lease = bench.lease().await.lease;
        let job = bench.ran_out(&lease, None).await;
        assert_eq!((job.deaths_in_row, job.state == JobState::Failed), (death, death == 3));
    }
    let error = bench.get(job.id).await.error.unwrap();
    assert_eq!(error.code, JobError::OUT_OF_MEMORY);
    for said in ["3 times in a row", "memory ran out", "no memory", "size", "base_num_frames"] {
        assert!(error.message.contains(said), "no {said:?} in {}", error.message);
    }
}

pub async fn what_was_called_off_is_not_made_otherwise(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let leased = bench.lease().await;
    bench.store.cancel(job.id).await.unwrap();
    let ended = bench.ran_out(&leased.lease, Some(smaller(&leased.job))).await;
    assert_eq!((ended.state, ended.asked.resolved), (JobState::Cancelled, job.asked.resolved));
    // One that is paused waits, to be made otherwise.
    let job = bench.create(film("ann")).await;
    let leased = bench.lease().await;
    bench.store.pause(job.id).await.unwrap();
    let paused = bench.ran_out(&leased.lease, Some(smaller(&leased.job))).await;
    assert_eq!((paused.state, paused.paused), (JobState::Queued, true));
    assert_eq!(paused.asked.resolved, json!({"smaller": true}));
}

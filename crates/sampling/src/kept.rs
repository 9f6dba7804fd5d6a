//! Which frames each row computes when the keys of finished blocks are kept.
//!
//! With block-causal attention nothing changes a block but itself and those before it. So a row needs
//! to run neither the blocks that have not begun, nor those whose latents and timestep stay as they
//! are: of these the keys and values of every layer are kept, from the row on in which the model is
//! shown them like that for the first time. With `ar_step` at the number of steps or above this is
//! how Self Forcing (Huang et al. 2025, arXiv:2506.08009, algorithm 2) generates: block by block, each
//! clean block once through the model for its keys.

use std::ops::Range;

use crate::timetable::{Row, Timetable};

/// What is kept, and how much at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// Frames of a causal block, 1 or more.
    pub causal_block: usize,
    /// Which earlier blocks a block sees; all when `None`.
    pub window: Option<BlockWindow>,
    /// Most frames kept at once.
    pub most_frames: usize,
    /// Whether the noise mixed into the prefix is the same in every row; else those frames change
    /// with it, and with them all that see them.
    pub same_condition_noise: bool,
}

/// The blocks before its own that a block sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockWindow {
    /// Blocks right before its own.
    pub before: usize,
    /// First blocks, which all see.
    pub sink: usize,
}

/// What one row of a timetable computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRow {
    /// Window frames that the model runs.
    pub run: Range<usize>,
    /// Frames before them whose keys are kept when the row begins.
    pub held: usize,
    /// Of the frames run the first ones whose keys are kept from now on.
    pub keep: usize,
    /// Frames let go after the row, counted among those that are then held.
    pub forget: Range<usize>,
}

impl KeptRow {
    /// A row that runs all that the model may be shown.
    fn whole(row: &Row) -> Self {
        Self { run: row.interval.clone(), held: 0, keep: 0, forget: 0..0 }
    }

    /// Frames held at once: before the row those held, after it those added.
    pub fn peak(&self) -> usize {
        self.held + self.keep
    }
}

/// What each row of `timetable` computes. Without `keeping`, and where the interval slides, so that
/// positions change, all that the model may be shown.
pub fn kept_rows(timetable: &Timetable, keeping: Option<Keeping>) -> Vec<KeptRow> {
    let rows = timetable.rows();
    let slides = rows.iter().any(|row| row.interval.start > 0);
    let Some(keeping) = keeping.filter(|keeping| keeping.causal_block > 0 && !slides) else {
        return rows.iter().map(KeptRow::whole).collect();
    };
    let settled = settled_frames(rows, keeping);
    let block = keeping.causal_block;
    let (mut next, mut held) = (0, 0);
    let mut kept = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let last = row.updated_groups.iter().map(|&group| timetable.groups()[group].end).max();
        let end = last.unwrap_or(row.interval.end).max(next);
        // After the last row nothing looks back.
        let wanted = if index + 1 == rows.len() { 0 } else { settled[index].min(end) - next };
        let room = keeping.most_frames.saturating_sub(held) / block * block;
        let keep = wanted.min(room);
        let row = KeptRow { run: next..end, held, keep, forget: 0..0 };
        (next, held) = (next + keep, held + keep);
        let forget = hidden(next, held, keeping);
        held -= forget.len();
        kept.push(KeptRow { forget, ..row });
    }
    kept
}

/// The frames that no block from frame `next` on sees, among the `held` ones before it.
fn hidden(next: usize, held: usize, keeping: Keeping) -> Range<usize> {
    let Some(window) = keeping.window else { return 0..0 };
    let block = keeping.causal_block;
    let near = (next / block).saturating_sub(window.before) * block;
    let sink = (window.sink.saturating_mul(block)).min(held);
    // What was let go before lies between the sink and the rest.
    let gone = next - held;
    sink..near.saturating_sub(gone).max(sink)
}

/// For each row the frames at the window's head, in whole blocks, that the model is shown in the same
/// way in this and all later rows.
fn settled_frames(rows: &[Row], keeping: Keeping) -> Vec<usize> {
    let mut settled = vec![0; rows.len()];
    let frames = rows.first().map_or(0, |row| row.timesteps.len());
    let mut same = vec![true; frames];
    for index in (0..rows.len()).rev() {
        let row = &rows[index];
        for (frame, same) in same.iter_mut().enumerate() {
            let noised = row.noisy_condition.contains(&frame) && !keeping.same_condition_noise;
            let later = rows.get(index + 1);
            let changes = later.is_some_and(|later| {
                // `to_bits`, since only the same timestep gives the same keys.
                later.timesteps[frame].to_bits() != row.timesteps[frame].to_bits()
            });
            *same &= !row.update[frame] && !noised && !changes;
        }
        let head = same.iter().take_while(|same| **same).count();
        settled[index] = head / keeping.causal_block * keeping.causal_block;
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timetable::TimetableShape;

    const BLOCK: usize = 3;

    fn timetable(prefix: usize, new: usize, steps: usize, ar_step: usize, noise: f32) -> Timetable {
        let shape = TimetableShape {
            prefix_latents: prefix,
            new_latents: new,
            end_latents: 0,
            base_latents: prefix + new,
            causal_block: BLOCK,
            ar_step,
            addnoise_condition: noise,
        };
        let timesteps: Vec<f32> = (0..steps).map(|i| 1000.0 - 100.0 * i as f32).collect();
        Timetable::new(&shape, &timesteps).expect("a timetable")
    }

    fn keeping() -> Keeping {
        Keeping {
            causal_block: BLOCK,
            window: None,
            most_frames: usize::MAX,
            same_condition_noise: false,
        }
    }

    /// Frames run for each block of a film, in the order of its blocks.
    fn frames_by_block(rows: &[KeptRow], steps: usize) -> Vec<usize> {
        rows.chunks(steps).map(|rows| rows.iter().map(|row| row.run.len()).sum()).collect()
    }

    #[test]
    fn a_stream_runs_each_block_in_its_steps_and_once_clean() {
        let steps = 4;
        let rows = kept_rows(&timetable(0, 21, steps, steps, 0.0), Some(keeping()));
        let by_block = frames_by_block(&rows, steps);
        assert_eq!(by_block[0], steps * BLOCK);
        assert_eq!(by_block[1..], [(steps + 1) * BLOCK; 6]);
        // In the row in which a block begins, the one before it is shown clean.
        assert_eq!(rows[4], KeptRow { run: 0..6, held: 0, keep: 3, forget: 0..0 });
        assert_eq!(rows[5], KeptRow { run: 3..6, held: 3, keep: 0, forget: 0..0 });
        assert_eq!(rows[8].held, 3);
    }

    #[test]
    fn a_window_makes_every_block_cost_the_same_in_the_same_memory() {
        let (steps, window) = (4, Some(BlockWindow { before: 2, sink: 1 }));
        let keeping = Keeping { window, ..keeping() };
        let rows = kept_rows(&timetable(3, 60, steps, steps, 0.0), Some(keeping));
        // The first row has the history to run, as the others have the block that is done.
        assert_eq!(frames_by_block(&rows, steps), [(steps + 1) * BLOCK; 20]);
        let seen: Vec<usize> = rows.iter().map(|row| row.held + row.run.len()).collect();
        assert!(seen[16..].chunks(steps).all(|block| block == &seen[16..20]), "{seen:?}");
        assert_eq!(rows.iter().map(KeptRow::peak).max(), Some(4 * BLOCK));
    }

    #[test]
    fn a_wave_runs_no_block_that_is_done_or_has_not_begun() {
        for (prefix, ar_step) in [(0, 2), (6, 3), (3, 1), (6, 0)] {
            let timetable = timetable(prefix, 15, 6, ar_step, 0.0);
            let rows = kept_rows(&timetable, Some(keeping()));
            for (row, kept) in timetable.rows().iter().zip(&rows).skip(1) {
                let updated: Vec<usize> =
                    (0..row.update.len()).filter(|&f| row.update[f]).collect();
                assert_eq!(kept.run.end, updated[updated.len() - 1] + 1);
                assert!(kept.run.len() <= updated.len() + BLOCK);
            }
            assert_eq!(rows[1].held, prefix);
        }
    }

    #[test]
    fn history_that_changes_in_every_row_is_kept_only_if_its_noise_stays() {
        let timetable = timetable(6, 9, 4, 4, 20.0);
        let fresh = kept_rows(&timetable, Some(keeping()));
        assert!(fresh.iter().all(|row| row.held == 0 && row.run.start == 0));
        // What has not begun is left out all the same.
        assert_eq!(fresh[0].run, 0..9);
        let same = Keeping { same_condition_noise: true, ..keeping() };
        let same = kept_rows(&timetable, Some(same));
        assert_eq!((same[0].keep, same[1].run.clone()), (6, 6..9));
    }

    #[test]
    fn a_first_image_inside_a_block_is_kept_with_that_block() {
        let rows = kept_rows(&timetable(1, 8, 2, 2, 0.0), Some(keeping()));
        assert_eq!((rows[0].run.clone(), rows[0].keep), (0..3, 0));
        assert_eq!((rows[2].run.clone(), rows[2].keep), (0..6, 3));
    }

    #[test]
    fn what_there_is_no_room_for_is_run_again() {
        let keeping = Keeping { most_frames: 7, ..keeping() };
        let rows = kept_rows(&timetable(0, 15, 2, 2, 0.0), Some(keeping));
        assert_eq!(rows.iter().map(KeptRow::peak).max(), Some(6));
        assert_eq!(rows.last().map(|row| row.run.clone()), Some(6..15));
    }

    #[test]
    fn without_keeping_every_row_runs_what_it_shows() {
        let timetable = timetable(3, 6, 2, 1, 0.0);
        let rows = kept_rows(&timetable, None);
        assert!(rows.iter().all(|row| row.run == (0..9) && row.peak() == 0));
    }
}

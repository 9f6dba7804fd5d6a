//! Frame counts, plans and timetables: what is accepted, what is refused and with which way out.

use longreel_kernels::Tensor;
use longreel_sampling::{
    FilmShape, LatentFrames, PixelFrames, Segment, SegmentError, SegmentPlan, Start, Timetable,
    TimetableError, TimetableShape, mix_condition_noise,
};

fn pixels(frames: usize) -> PixelFrames {
    PixelFrames::new(frames).unwrap()
}

fn shape(total: usize, base: usize, overlap: usize, causal_block: usize) -> FilmShape {
    FilmShape {
        total: Some(pixels(total)),
        base: pixels(base),
        overlap: Some(pixels(overlap)),
        causal_block,
        start: Start::Noise,
        end_image: false,
    }
}

fn refusal(shape: &FilmShape) -> String {
    SegmentPlan::new(shape).unwrap_err().to_string()
}

#[test]
fn frame_counts_convert_both_ways() {
    for (frames, latents) in [(1, 1), (5, 2), (17, 5), (37, 10), (97, 25), (121, 31)] {
        assert_eq!(pixels(frames).to_latent(), LatentFrames::new(latents));
        assert_eq!(LatentFrames::new(latents).to_pixels(), Some(pixels(frames)));
    }
    assert_eq!(LatentFrames::new(0).to_pixels(), None);
    assert_eq!(LatentFrames::new(usize::MAX).to_pixels(), None);
}

#[test]
fn a_wrong_frame_count_names_its_neighbours() {
    for (frames, nearest) in
        [(96, "93 or 97"), (98, "97 or 101"), (2, "1 or 5"), (0, "1"), (4, "1 or 5")]
    {
        let error = PixelFrames::new(frames).unwrap_err().to_string();
        assert_eq!(error, format!("{frames} frames: must be 4n+1; use {nearest}"));
    }
    assert!(matches!(PixelFrames::new((1 << 40) + 1), Err(SegmentError::TooManyFrames { .. })));
    assert!(PixelFrames::new(usize::MAX).is_err());
}

#[test]
fn a_short_film_is_one_segment_without_history() {
    let plan = SegmentPlan::new(&FilmShape { overlap: None, ..shape(97, 97, 17, 1) }).unwrap();
    let expected = Segment {
        index: 0,
        first_latent: 0,
        first_new_latent: 0,
        prefix_latents: 0,
        new_latents: 25,
        end_latents: 0,
        is_last: true,
    };
    assert_eq!(plan.iter().collect::<Vec<_>>(), [expected]);
}

#[test]
fn second_segment_begins_with_the_overlap_of_the_first() {
    let plan = SegmentPlan::new(&shape(257, 97, 17, 1)).unwrap();
    let segments: Vec<_> = plan.iter().collect();
    assert_eq!(segments.len(), 3);
    assert_eq!((segments[1].first_latent, segments[1].prefix_latents), (20, 5));
    assert_eq!((segments[1].first_new_latent, segments[1].new_latents), (25, 20));
    assert_eq!(
        segments[2].first_latent + segments[2].film_latents(),
        pixels(257).to_latent().get()
    );
    // Every latent frame is new in exactly one segment.
    let new: Vec<usize> = segments
        .iter()
        .flat_map(|s| s.first_new_latent..s.first_new_latent + s.new_latents)
        .collect();
    assert_eq!(new, (0..65).collect::<Vec<_>>());
}

#[test]
fn an_endless_film_has_segments_for_ever() {
    let plan = SegmentPlan::new(&FilmShape { total: None, ..shape(97, 97, 17, 5) }).unwrap();
    assert_eq!((plan.count(), plan.total()), (None, None));
    let far = plan.segment(1_000_000).unwrap();
    assert_eq!((far.first_latent, far.new_latents, far.is_last), (20_000_000, 20, false));
    assert_eq!(plan.segment(usize::MAX), None);
}

#[test]
fn an_image_is_the_first_windows_prefix_only() {
    let plan =
        SegmentPlan::new(&FilmShape { start: Start::Image, ..shape(257, 97, 17, 5) }).unwrap();
    let prefixes: Vec<usize> = plan.iter().map(|segment| segment.prefix_latents).collect();
    assert_eq!(prefixes, [1, 5, 5]);
}

#[test]
fn the_end_image_is_appended_to_the_last_window() {
    let film = FilmShape { start: Start::Image, end_image: true, ..shape(257, 97, 17, 1) };
    let ends: Vec<usize> = SegmentPlan::new(&film).unwrap().iter().map(|s| s.end_latents).collect();
    assert_eq!(ends, [0, 0, 1]);
    assert!(refusal(&FilmShape { total: None, ..film }).contains("num_frames"));
}

#[test]
fn overlap_is_whole_blocks_so_that_no_seam_arises() {
    // 37 pixel frames are 10 latent frames; blocks of 3 keep the last 9 of them, not the first 9.
    let plan = SegmentPlan::new(&shape(4 * 44 + 1, 4 * 14 + 1, 37, 3)).unwrap();
    assert_eq!(plan.overlap(), LatentFrames::new(9));
    let second = plan.segment(1).unwrap();
    assert_eq!((second.first_latent, second.first_new_latent), (6, 15));
    // Less than a block becomes one block.
    let plan = SegmentPlan::new(&shape(97, 97, 17, 5)).unwrap();
    assert_eq!(plan.overlap(), LatentFrames::new(0), "a film of one window never looks back");
    let plan =
        SegmentPlan::new(&FilmShape { overlap: Some(pixels(5)), ..shape(257 + 20, 97, 17, 5) })
            .unwrap();
    assert_eq!(plan.overlap(), LatentFrames::new(5));
}

#[test]
fn counts_that_the_block_does_not_divide_are_refused_with_neighbours() {
    let error = refusal(&shape(101, 97, 17, 5));
    assert!(
        error.contains("num_frames is 101") && error.contains("use 97 or 117 frames"),
        "{error}"
    );
    let error = refusal(&shape(237, 101, 17, 5));
    assert!(error.contains("base_num_frames is 101") && error.contains("use 97 or 117"), "{error}");
    let error = refusal(&shape(9, 97, 17, 5));
    assert!(error.contains("use 17 frames"), "{error}");
    assert!(refusal(&shape(97, 97, 17, 0)).contains("use 1"));
}

#[test]
fn impossible_overlaps_are_refused() {
    let long = shape(257, 97, 17, 1);
    assert!(refusal(&FilmShape { overlap: None, ..long }).contains("overlap_history is needed"));
    assert!(refusal(&FilmShape { overlap: Some(pixels(97)), ..long }).contains("use 93 or less"));
    let error = refusal(&FilmShape { base: pixels(1), ..long });
    assert!(error.contains("use a base of"), "{error}");
}

#[test]
fn a_film_that_its_history_fills_is_refused() {
    let film = FilmShape { start: Start::Video, ..shape(17, 97, 17, 1) };
    let error = refusal(&film);
    assert!(
        error.contains("17 frames that are given") && error.contains("use 21 or more"),
        "{error}"
    );
    let plan = SegmentPlan::new(&FilmShape { total: Some(pixels(21)), ..film }).unwrap();
    assert_eq!(plan.segment(0).map(|s| (s.prefix_latents, s.new_latents)), Some((5, 1)));
}

fn window(prefix: usize, new: usize, block: usize, ar_step: usize) -> TimetableShape {
    TimetableShape {
        prefix_latents: prefix,
        new_latents: new,
        end_latents: 0,
        base_latents: prefix + new,
        causal_block: block,
        ar_step,
        addnoise_condition: 0.0,
    }
}

const STEPS: [f32; 4] = [999.0, 960.0, 889.0, 727.0];

#[test]
fn every_new_frame_is_updated_once_for_each_step_and_frozen_ones_never() {
    for (prefix, new, block) in
        [(0, 10, 5), (1, 9, 5), (5, 5, 5), (3, 6, 1), (7, 8, 5), (1, 1, 1), (4, 2, 3)]
    {
        for ar_step in [0, 1, 3, 7] {
            for end in [0, 1] {
                let shape =
                    TimetableShape { end_latents: end, ..window(prefix, new, block, ar_step) };
                let timetable = Timetable::new(&shape, &STEPS).unwrap();
                let mut updates = vec![0; prefix + new + end];
                for row in timetable.rows() {
                    let mut of_groups = vec![false; updates.len()];
                    for &group in &row.updated_groups {
                        of_groups[timetable.groups()[group].clone()].fill(true);
                    }
                    assert_eq!(of_groups, row.update, "groups and frames must agree: {shape:?}");
                    for (frame, &update) in row.update.iter().enumerate() {
                        let given = frame < prefix || frame >= prefix + new;
                        assert!(!given || row.timesteps[frame] == 0.0, "{shape:?}");
                        assert!(!update || row.interval.contains(&frame), "{shape:?}");
                        updates[frame] += usize::from(update);
                    }
                    assert_eq!(row.interval, 0..prefix + new + end, "{shape:?}");
                }
                let expected: Vec<usize> = (0..updates.len())
                    .map(|f| if (prefix..prefix + new).contains(&f) { 4 } else { 0 })
                    .collect();
                assert_eq!(updates, expected, "{shape:?}");
            }
        }
    }
}

#[test]
fn a_first_image_stays_frozen_inside_its_block() {
    let timetable = Timetable::new(&window(1, 9, 5, 2), &STEPS).unwrap();
    assert_eq!(timetable.groups(), [1..5, 5..10]);
    let first = &timetable.rows()[0];
    assert_eq!(first.timesteps[..5], [0.0, 999.0, 999.0, 999.0, 999.0]);
    assert_eq!(first.update[..5], [false, true, true, true, true]);
}

#[test]
fn noisy_conditions_tell_the_model_their_level_and_leave_the_end_image_alone() {
    let shape = TimetableShape { end_latents: 1, addnoise_condition: 20.5, ..window(2, 3, 1, 0) };
    for row in Timetable::new(&shape, &STEPS).unwrap().rows() {
        assert_eq!(row.noisy_condition, 0..2);
        // The level is cut to a whole timestep, as the reference's integer tensor does.
        assert_eq!((&row.timesteps[..2], row.timesteps[5]), (&[20.0, 20.0][..], 0.0));
    }
    let [mut shown, noise, other] =
        [&[1.0, -2.0][..], &[1.0, 1.0], &[1.0]].map(|v| Tensor::from_vec(&[v.len()], v.to_vec()));
    let mut mix = |noise: &Tensor| {
        mix_condition_noise(&mut shown.all_frames_mut(), &noise.all_frames(), 20.0)
    };
    assert!(mix(&other).is_err());
    mix(&noise).unwrap();
    let out = shown.data();
    assert!((out[0] - 1.0).abs() < 1e-7 && (out[1] + 1.94).abs() < 1e-6, "{out:?}");
}

#[test]
fn impossible_windows_are_refused_and_never_panic() {
    let refuse = |shape: TimetableShape| Timetable::new(&shape, &STEPS).unwrap_err();
    let error = refuse(window(0, 12, 5, 0)).to_string();
    assert!(error.contains("use 10 or 15 latent frames"), "{error}");
    assert_eq!(refuse(window(5, 0, 5, 0)), TimetableError::NothingNew { prefix: 5 });
    assert_eq!(refuse(window(0, 5, 0, 0)), TimetableError::NoBlock);
    assert!(matches!(
        refuse(TimetableShape { base_latents: 2, ..window(0, 9, 3, 0) }),
        TimetableError::BaseTooSmall { .. }
    ));
    assert!(matches!(refuse(window(0, 1000, 1, usize::MAX)), TimetableError::TooLarge { .. }));
    assert!(refuse(window(usize::MAX, usize::MAX, 1, 1)).to_string().len() < 300);
    assert!(matches!(refuse(window(0, usize::MAX, 1, 0)), TimetableError::TooLarge { .. }));
    for addnoise_condition in [-1.0, f32::NAN, 1001.0] {
        let error = refuse(TimetableShape { addnoise_condition, ..window(0, 5, 5, 0) });
        assert!(matches!(error, TimetableError::ConditionNoise { .. }), "{error}");
    }
    assert_eq!(Timetable::new(&window(0, 5, 5, 0), &[]).unwrap_err(), TimetableError::NoSteps);
}

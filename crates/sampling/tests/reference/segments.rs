use longreel_sampling::{FilmShape, LatentFrames, SegmentPlan, Start};

use crate::{count, fixture, list};

#[test]
fn windows_of_long_films_equal_the_reference_loops() {
    let fixture = fixture("segments");
    let cases = list(&fixture["cases"]);
    assert!(cases.len() > 50);
    for case in cases {
        let [block, base, overlap, total] = [0, 1, 2, 3].map(|i| count(&case[i]));
        let pixels = |latents| LatentFrames::new(latents).to_pixels().unwrap();
        let shape = FilmShape {
            total: Some(pixels(total)),
            base: pixels(base),
            overlap: Some(pixels(overlap)),
            causal_block: block,
            start: if case[4] == "video" { Start::Video } else { Start::Noise },
            end_image: false,
        };
        let plan = SegmentPlan::new(&shape).unwrap();
        let ours: Vec<[usize; 2]> =
            plan.iter().map(|segment| [segment.window_latents(), segment.prefix_latents]).collect();
        let theirs: Vec<[usize; 2]> =
            list(&case[5]).iter().map(|window| [count(&window[0]), count(&window[1])]).collect();
        assert_eq!(ours, theirs, "{shape:?}");
        assert_eq!(plan.count(), Some(theirs.len()), "{shape:?}");
        let last = plan.segment(theirs.len() - 1).unwrap();
        assert!(last.is_last);
        assert_eq!(last.first_latent + last.film_latents(), total, "{shape:?}");
    }
}

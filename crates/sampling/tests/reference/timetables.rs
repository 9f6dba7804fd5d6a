use longreel_sampling::{Timetable, TimetableError, TimetableShape};
use serde_json::Value;

use crate::{count, fixture, floats, list};

fn shape(
    frames: usize,
    prefix: usize,
    base: usize,
    block: usize,
    ar_step: usize,
) -> TimetableShape {
    TimetableShape {
        prefix_latents: prefix,
        new_latents: frames - prefix,
        end_latents: 0,
        base_latents: base,
        causal_block: block,
        ar_step,
        addnoise_condition: 0.0,
    }
}

/// Rows as the fixture's script writes the reference's.
fn row_texts(timetable: &Timetable) -> Vec<String> {
    let join = |values: Vec<String>| values.join(",");
    timetable
        .rows()
        .iter()
        .map(|row| {
            format!(
                "{};{};{};{}-{}",
                join(row.timesteps.iter().map(|t| format!("{t}")).collect()),
                join(row.step_index.iter().map(|i| format!("{i}")).collect()),
                row.update.iter().map(|&u| if u { '1' } else { '0' }).collect::<String>(),
                row.interval.start,
                row.interval.end
            )
        })
        .collect()
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn shape_of(case: &Value) -> TimetableShape {
    let field = |name: &str| count(&case[name]);
    shape(field("frames"), field("prefix"), field("base"), field("block"), field("ar_step"))
}

#[test]
fn rows_equal_the_reference_exactly() {
    let fixture = fixture("timetables");
    let cases = list(&fixture["explicit"]);
    assert!(cases.len() >= 16);
    for case in cases {
        let shape = shape_of(case);
        let timetable = Timetable::new(&shape, &floats(&case["timesteps"])).unwrap();
        let theirs: Vec<&str> =
            list(&case["rows"]).iter().map(|row| row.as_str().unwrap()).collect();
        assert_eq!(row_texts(&timetable), theirs, "{shape:?}");
    }
}

/// Sixteen thousand shapes by digest: 1 to 6 blocks, every base and prefix, ar_step 0 to 8.
#[test]
fn the_whole_grid_of_shapes_equals_the_reference_exactly() {
    for grid in list(&fixture("timetables")["grids"]) {
        let (block, timesteps) = (count(&grid["block"]), floats(&grid["timesteps"]));
        let (mut shapes, mut text) = (0, String::new());
        for blocks in 1..7 {
            for base_blocks in 1..blocks + 2 {
                for ar_step in 0..9 {
                    for ready in 0..blocks {
                        let shape = shape(
                            blocks * block,
                            ready * block,
                            base_blocks * block,
                            block,
                            ar_step,
                        );
                        match Timetable::new(&shape, &timesteps) {
                            Ok(timetable) => text += &(row_texts(&timetable).join("\n") + "\n"),
                            Err(TimetableError::ArStepTooSmall { least, .. }) => {
                                text += &format!("refused {least}\n")
                            }
                            Err(error) => panic!("{shape:?}: {error}"),
                        }
                        shapes += 1;
                    }
                }
            }
        }
        assert_eq!(shapes, count(&grid["count"]));
        let digest = format!("{:016x}", fnv1a(&text));
        assert_eq!(
            digest,
            grid["digest"].as_str().unwrap(),
            "block {block}, {} steps",
            timesteps.len()
        );
    }
}

#[test]
fn a_refused_ar_step_names_the_smallest_that_works() {
    let fixture = fixture("timetables");
    let cases = list(&fixture["refused"]);
    assert!(cases.len() >= 20);
    for case in cases {
        let steps = count(&case["steps"]);
        let timesteps: Vec<f32> = (0..steps).map(|i| 900.0 - i as f32).collect();
        let mut shape = shape_of(case);
        let error = Timetable::new(&shape, &timesteps).unwrap_err();
        let least = count(&case["least"]);
        assert!(error.to_string().contains(&format!("ar_step of {least} or more")), "{error}");
        shape.ar_step = least;
        Timetable::new(&shape, &timesteps).unwrap();
    }
}

//! Frames between frames, by the motion between them.
//!
//! For each block of the frame to be made, the motion is sought under which what the frame before shows
//! on one side and the frame after on the other are most alike (bilateral motion estimation, Choi et al.
//! 2000), first on pictures of half size. Blocks overlap with weights that fall off from their middles
//! (overlapped block motion compensation, Orchard and Sullivan 1994), so that no edges show. All
//! arithmetic is in whole numbers: the same frames on every machine.

use longreel_media::Frame;
use rayon::prelude::*;

/// Distance of blocks; each is twice as wide and overlaps its neighbours by half.
const STEP: i32 = 8;
/// Half of the longest motion that is sought, in pixels: a sixteenth of the longer side, within this.
const REACH: [i32; 2] = [4, 24];
/// What a pixel of motion costs in differences of one pixel, so that flat areas stay where they are.
const COST: u32 = 24;

/// `count` frames between `before` and `after`, evenly in time, each made when it is asked for. Both have
/// the same size.
pub fn between<'a>(
    before: &'a Frame,
    after: &'a Frame,
    count: u32,
) -> impl Iterator<Item = Frame> + 'a {
    let motions = Motions::of(before, after);
    (1..=count).map(move |place| motions.frame(before, after, place, count + 1))
}

/// Half the motion of each block, from a frame to the next.
struct Motions {
    columns: i32,
    halves: Vec<[i32; 2]>,
}

impl Motions {
    fn of(before: &Frame, after: &Frame) -> Self {
        let [before, after] = [before, after].map(Grey::of);
        let small = [before.halved(), after.halved()];
        let [columns, rows] =
            [before.width, before.height].map(|side| side.div_ceil(STEP as usize));
        let longer = i32::try_from(before.width.max(before.height)).unwrap_or(i32::MAX);
        let reach = (longer / 16).clamp(REACH[0], REACH[1]);
        let blocks = (0..columns * rows).into_par_iter().map(|block| {
            // The middle of a block, between two pixels.
            let [x, y] = [block % columns, block / columns].map(|n| n as i32 * STEP + STEP / 2);
            let around = |reach: i32| {
                (-reach..=reach).flat_map(move |y| (-reach..=reach).map(move |x| [x, y]))
            };
            let coarse = best(around(reach / 2), |motion| {
                difference(&small[0], &small[1], [x / 2, y / 2], motion, STEP / 2)
                    + COST * (motion[0].unsigned_abs() + motion[1].unsigned_abs())
            });
            best(around(1).map(|[dx, dy]| [2 * coarse[0] + dx, 2 * coarse[1] + dy]), |motion| {
                difference(&before, &after, [x, y], motion, STEP)
                    + COST * (motion[0].unsigned_abs() + motion[1].unsigned_abs())
            })
        });
        Self { columns: columns as i32, halves: blocks.collect() }
    }

    /// The frame at `place` of `of` parts of the way.
    fn frame(&self, before: &Frame, after: &Frame, place: u32, of: u32) -> Frame {
        let (width, height) = (before.width() as i32, before.height() as i32);
        let rows = self.halves.len() as i32 / self.columns;
        let (place, of) = (place as i32, of as i32);
        let line = 3 * width as usize;
        let mut rgb = vec![0; line * height as usize];
        rgb.par_chunks_exact_mut(line).enumerate().for_each(|(y, pixels)| {
            let y = y as i32;
            for (x, pixel) in pixels.chunks_exact_mut(3).enumerate() {
                let x = x as i32;
                let (mut sum, mut weights) = ([0_u32; 3], 0);
                for (row, wy) in over(y, rows) {
                    for (column, wx) in over(x, self.columns) {
                        let half = self.halves[(row * self.columns + column) as usize];
                        // The whole motion is twice the half; it is gone through from before to after.
                        let back = half.map(|half| div_round(2 * half * place, of));
                        let on = [0, 1].map(|axis| 2 * half[axis] - back[axis]);
                        let from = at(before, x - back[0], y - back[1]);
                        let to = at(after, x + on[0], y + on[1]);
                        let weight = wx * wy;
                        weights += weight;
                        for ((sum, from), to) in sum.iter_mut().zip(from).zip(to) {
                            let mixed = u32::from(*from) * (of - place) as u32
                                + u32::from(*to) * place as u32;
                            *sum += weight * mixed;
                        }
                    }
                }
                let whole = weights * of as u32;
                for (value, sum) in pixel.iter_mut().zip(sum) {
                    *value = ((sum + whole / 2) / whole) as u8;
                }
            }
        });
        let mut frame = before.clone();
        frame.rgb_mut().copy_from_slice(&rgb);
        frame
    }
}

/// The blocks that lie over a line or column, with their weights there.
fn over(at: i32, count: i32) -> impl Iterator<Item = (i32, u32)> {
    let first = (at - STEP / 2).div_euclid(STEP);
    [first, first + 1].into_iter().filter(move |&block| (0..count).contains(&block)).map(
        move |block| {
            let off = (2 * at - (2 * STEP * block + STEP - 1)).unsigned_abs();
            (block, 2 * STEP as u32 - off)
        },
    )
}

/// The motion of least cost; of several the first.
fn best(motions: impl Iterator<Item = [i32; 2]>, cost: impl Fn([i32; 2]) -> u32) -> [i32; 2] {
    motions
        .min_by_key(|&motion| (cost(motion), motion[0].abs() + motion[1].abs()))
        .unwrap_or_default()
}

/// How much the surroundings of `middle`, as wide as twice `half`, differ when they move by `motion` on
/// either side.
fn difference(before: &Grey, after: &Grey, middle: [i32; 2], motion: [i32; 2], half: i32) -> u32 {
    let [x, y] = middle;
    let mut sum = 0;
    for line in y - half..y + half {
        let (from, to) = (before.line(line - motion[1]), after.line(line + motion[1]));
        let (a, b) = (x - half - motion[0], x - half + motion[0]);
        let width = 2 * half;
        let fits = a >= 0 && b >= 0 && a.max(b) + width <= before.width as i32;
        if fits {
            let from = &from[a as usize..][..width as usize];
            let to = &to[b as usize..][..width as usize];
            sum += from.iter().zip(to).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
        } else {
            let value = |line: &[u8], x: i32| line[x.clamp(0, line.len() as i32 - 1) as usize];
            for step in 0..width {
                sum += u32::from(value(from, a + step).abs_diff(value(to, b + step)));
            }
        }
    }
    sum
}

/// A pixel, the nearest one where there is none.
fn at(frame: &Frame, x: i32, y: i32) -> &[u8] {
    let [width, height] = [frame.width(), frame.height()].map(|side| side as i32);
    let start = 3 * (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)) as usize;
    &frame.rgb()[start..start + 3]
}

fn div_round(value: i32, by: i32) -> i32 {
    (2 * value + by).div_euclid(2 * by)
}

/// A picture in grey.
struct Grey {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

impl Grey {
    fn of(frame: &Frame) -> Self {
        let weigh =
            |p: &[u8]| (77 * u32::from(p[0]) + 150 * u32::from(p[1]) + 29 * u32::from(p[2])) >> 8;
        let values = frame.rgb().chunks_exact(3).map(|pixel| weigh(pixel) as u8).collect();
        Self { width: frame.width() as usize, height: frame.height() as usize, values }
    }

    fn halved(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let value = |x: usize, y: usize| {
            u32::from(self.values[y.min(self.height - 1) * self.width + x.min(self.width - 1)])
        };
        let values = (0..width * height).map(|at| {
            let (x, y) = (2 * (at % width), 2 * (at / width));
            let sum = value(x, y) + value(x + 1, y) + value(x, y + 1) + value(x + 1, y + 1);
            ((sum + 2) / 4) as u8
        });
        Self { width, height, values: values.collect() }
    }

    /// A line, the nearest one where there is none.
    fn line(&self, y: i32) -> &[u8] {
        let y = y.clamp(0, self.height as i32 - 1) as usize;
        &self.values[y * self.width..][..self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bright disc with texture on a dark ground, its middle at `x`, `y`.
    fn scene(x: f64, y: f64) -> Frame {
        let mut frame = Frame::filled(96, 64, [20, 30, 60]);
        for py in 0..64 {
            for px in 0..96 {
                let (dx, dy) = (f64::from(px) - x, f64::from(py) - y);
                let inside = (11.0 - (dx * dx + dy * dy).sqrt()).clamp(0.0, 1.0);
                let red = 170.0 + 60.0 * (dx / 3.0).sin() * (dy / 3.0).cos();
                let at = 3 * (py as usize * 96 + px as usize);
                for (value, colour) in frame.rgb_mut()[at..at + 3].iter_mut().zip([red, 90.0, 40.0])
                {
                    *value = (f64::from(*value) * (1.0 - inside) + colour * inside).round() as u8;
                }
            }
        }
        frame
    }

    #[test]
    fn what_moves_is_halfway_and_not_in_two_places_at_once() {
        let (before, after) = (scene(40.0, 30.0), scene(48.0, 34.0));
        let truth = scene(44.0, 32.0);
        let made = between(&before, &after, 1).next().expect("a frame");
        let psnr = made.psnr(&truth).expect("the same size");
        let mut blend = before.clone();
        for (value, after) in blend.rgb_mut().iter_mut().zip(after.rgb()) {
            *value = u8::midpoint(*value, *after);
        }
        let blended = blend.psnr(&truth).expect("the same size");
        assert!(psnr > 34.0 && psnr > blended + 8.0, "{psnr} dB, a mere mixture {blended} dB");
    }

    #[test]
    fn several_frames_lie_evenly_on_the_way() {
        let (before, after) = (scene(40.0, 30.0), scene(49.0, 30.0));
        let made = between(&before, &after, 2);
        for (frame, x) in made.zip([43.0, 46.0]) {
            let psnr = frame.psnr(&scene(x, 30.0)).expect("the same size");
            assert!(psnr > 32.0, "at {x}: {psnr} dB");
        }
    }

    #[test]
    fn what_stands_still_stays_as_it_is_in_every_bit() {
        let frame = scene(40.0, 30.0);
        for made in between(&frame, &frame, 3) {
            assert_eq!(made.rgb(), frame.rgb());
        }
        // Sides that are no multiples of a block, and smaller than one.
        for (width, height) in [(17, 9), (3, 2), (1, 1)] {
            let frame = Frame::filled(width, height, [1, 2, 3]);
            assert!(between(&frame, &frame, 1).all(|made| made.rgb() == frame.rgb()));
        }
    }
}

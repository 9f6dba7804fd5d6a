//! Frames at another rate than their file's, by the times at which it shows them.

use crate::frame::{Frame, FrameRate};

/// Seconds that one frame may be shown for; a file that says more is damaged, or would never end.
const LONGEST: i128 = 3600;

/// Gives for each instant of a rate the frame that is shown then: the last one whose time, rounded to an instant, has come.
/// Times count from the first frame's. (ffmpeg's `fps` filter with `round=near` does the same.)
#[derive(Debug)]
pub(super) struct Pace {
    rate: FrameRate,
    /// Units of time in a second.
    timescale: u32,
    /// How long the last frame is shown, in those.
    last: i64,
    first: Option<i64>,
    /// The newest frame, its instant, and its time.
    shown: Option<(i128, i64, Frame)>,
    /// The next instant to give a frame for.
    next: i128,
    /// What comes behind the frames that wait.
    then: Option<(i128, i64, Frame)>,
    /// The first instant that has none.
    end: Option<i128>,
}

impl Pace {
    /// From times in units of which a second has `timescale`, of about `fps` frames a second.
    pub fn new(rate: FrameRate, timescale: u32, fps: f64) -> Self {
        let last = (f64::from(timescale) / fps).round() as i64;
        Self { rate, timescale, last, first: None, shown: None, next: 0, then: None, end: None }
    }

    /// The instant nearest to a time.
    fn instant(&self, pts: i64) -> i128 {
        let since = i128::from(pts) - i128::from(self.first.unwrap_or(pts));
        let num = since * i128::from(self.rate.num) * 2;
        let den = i128::from(self.timescale) * i128::from(self.rate.den);
        (num + den).div_euclid(2 * den)
    }

    /// Another frame, in the order in which they are shown; all frames before have been given.
    ///
    /// # Errors
    /// The one before was shown for too many seconds.
    pub fn show(&mut self, pts: i64, frame: Frame) -> Result<(), i128> {
        self.first.get_or_insert(pts);
        let instant = self.instant(pts);
        match &mut self.shown {
            Some((at, time, shown)) => {
                let seconds = (i128::from(pts) - i128::from(*time)) / i128::from(self.timescale);
                if seconds > LONGEST {
                    return Err(seconds);
                }
                match instant > *at {
                    true => self.then = Some((instant, pts, frame)),
                    // Of those of one instant the last one counts.
                    false => (*time, *shown) = (pts, frame),
                }
            }
            None => self.shown = Some((instant, pts, frame)),
        }
        Ok(())
    }

    /// No frame comes any more.
    pub fn end(&mut self) {
        let end = match &self.shown {
            // What is shown after the last instant is not given, but for a film's only frame.
            Some((_, time, _)) => {
                self.instant(time.saturating_add(self.last)).max(self.next).max(1)
            }
            None => 0,
        };
        self.end = Some(end);
    }

    /// Whether none will come.
    pub fn has_ended(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    /// The frame of the next instant; `None` where that is still to be known, or there is none.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let until = match (&self.then, self.end) {
            (Some((instant, ..)), _) => *instant,
            (None, Some(end)) => end,
            (None, None) => return None,
        };
        let (_, _, shown) = self.shown.as_ref()?;
        if self.next < until {
            self.next += 1;
            // The last time that it is given it need not stay.
            return match (self.next == until, self.then.take()) {
                (true, Some(then)) => self.shown.replace(then).map(|(_, _, frame)| frame),
                (_, then) => {
                    self.then = then;
                    Some(shown.clone())
                }
            };
        }
        if let Some(then) = self.then.take() {
            self.shown = Some(then);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which frames are given, each of a colour of its own.
    fn given(rate: FrameRate, timescale: u32, fps: f64, times: &[i64]) -> Result<Vec<u8>, i128> {
        let mut pace = Pace::new(rate, timescale, fps);
        let mut given = Vec::new();
        let mut take = |pace: &mut Pace| {
            while let Some(frame) = pace.next_frame() {
                given.push(frame.rgb()[0]);
            }
        };
        for (colour, &pts) in (0..).zip(times) {
            pace.show(pts, Frame::new(1, 1, vec![colour; 3]).expect("a pixel"))?;
            take(&mut pace);
        }
        pace.end();
        take(&mut pace);
        assert!(pace.has_ended());
        Ok(given)
    }

    #[test]
    fn each_instant_has_the_frame_that_is_shown_then() {
        let film = FrameRate::whole(24);
        // Of 30 frames a second every fifth is left out, of 12 each is there twice.
        let times: Vec<_> = (0..11).map(|n| 1000 + 20 * n).collect();
        assert_eq!(given(film, 600, 30.0, &times), Ok(vec![0, 1, 3, 4, 5, 6, 8, 9, 10]));
        let times: Vec<_> = (0..3).map(|n| 50 * n).collect();
        assert_eq!(given(film, 600, 12.0, &times), Ok(vec![0, 0, 1, 1, 2, 2]));
        // Uneven times: one stays for five instants, two fall on one.
        assert_eq!(given(film, 24, 24.0, &[0, 1, 6, 6, 7]), Ok(vec![0, 1, 1, 1, 1, 1, 3, 4]));
        assert_eq!(given(film, 24, 24.0, &[]), Ok(vec![]));
        assert_eq!(given(film, 24, 6.0, &[-9]), Ok(vec![0; 4]));
    }

    #[test]
    fn a_second_of_any_rate_is_a_second_of_the_films() {
        for fps in [10_u32, 15, 25, 30, 48, 50, 60, 120] {
            let times: Vec<_> = (0..i64::from(fps) * 3).map(|n| n * 1000).collect();
            let given = given(FrameRate::whole(24), fps * 1000, fps.into(), &times);
            assert_eq!(given.expect("sound").len(), 72, "{fps} a second");
        }
    }

    #[test]
    fn a_frame_that_is_shown_for_ever_is_refused() {
        let found = given(FrameRate::whole(24), 1, 1.0, &[0, 1, i64::MAX]);
        assert!(found.is_err_and(|seconds| seconds > 1 << 60));
    }
}

//! Who takes denoised segments into the film: the run itself between two of them, or a thread beside it
//! while the next one is denoised.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;
use std::time::Instant;

use super::reel::{Denoised, Reel};
use crate::error::FilmError;
use crate::events::{Event, Observer};

/// Has the film's reel, or waits for it.
pub(super) struct Taker<'a> {
    /// Not here while a segment is taken in beside.
    reel: Option<Box<Reel<'a>>>,
    beside: Option<Beside<'a>>,
    /// What taking in took so far, and how many latent frames that were.
    seconds: f64,
    latents: usize,
}

/// The thread that takes segments in, one at a time.
struct Beside<'a> {
    orders: Sender<(Box<Reel<'a>>, Denoised)>,
    told: Receiver<Told<'a>>,
}

enum Told<'a> {
    Event(Event),
    Done(Taken<'a>),
}

/// A segment that was taken in, or should have been.
struct Taken<'a> {
    reel: Box<Reel<'a>>,
    result: Result<(), FilmError>,
    seconds: f64,
    latents: usize,
}

impl<'a> Taken<'a> {
    fn of(mut reel: Box<Reel<'a>>, denoised: Denoised, tell: &mut dyn FnMut(Event)) -> Self {
        let (started, latents) = (Instant::now(), denoised.segment.new_latents);
        let result = reel.take_in(denoised, tell);
        Self { reel, result, seconds: started.elapsed().as_secs_f64(), latents }
    }
}

impl<'a> Taker<'a> {
    /// One that takes in when it is asked to.
    pub fn new(reel: Reel<'a>) -> Self {
        Self { reel: Some(Box::new(reel)), beside: None, seconds: 0.0, latents: 0 }
    }

    /// From now on segments are taken in by a thread of `scope`, which ends with this.
    pub fn work_beside<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        let (orders, ordered) = mpsc::channel::<(Box<Reel<'a>>, Denoised)>();
        let (tell, told) = mpsc::channel();
        scope.spawn(move || {
            for (reel, denoised) in ordered {
                // A run that ends on an error of its own may not listen any more.
                let taken = Taken::of(reel, denoised, &mut |event| {
                    let _ = tell.send(Told::Event(event));
                });
                let _ = tell.send(Told::Done(taken));
            }
        });
        self.beside = Some(Beside { orders, told });
    }

    /// Whether segments are taken in while others are denoised.
    pub fn is_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// Whether nothing is taken in now, so that the decoder may be asked for something else.
    pub fn is_idle(&self) -> bool {
        self.reel.is_some()
    }

    /// Takes a segment in, or has it taken in once the one before is.
    ///
    /// # Errors
    /// What went wrong with this one or the one before.
    pub fn take(
        &mut self,
        denoised: Denoised,
        observer: &mut dyn Observer,
    ) -> Result<(), FilmError> {
        self.settle(observer)?;
        let reel = self.reel.take().expect("settled");
        match &self.beside {
            Some(beside) => {
                beside.orders.send((reel, denoised)).unwrap_or_else(|_| ended());
                Ok(())
            }
            None => {
                let taken = Taken::of(reel, denoised, &mut |event| observer.event(event));
                self.back(taken)
            }
        }
    }

    /// Tells what has happened beside since the last look.
    ///
    /// # Errors
    /// What went wrong there.
    pub fn look(&mut self, observer: &mut dyn Observer) -> Result<(), FilmError> {
        while let (None, Some(beside)) = (&self.reel, &self.beside) {
            match beside.told.try_recv() {
                Ok(told) => self.hear(told, observer)?,
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => ended(),
            }
        }
        Ok(())
    }

    /// Waits until nothing is taken in any more, and tells what happens until then.
    ///
    /// # Errors
    /// What went wrong.
    pub fn settle(&mut self, observer: &mut dyn Observer) -> Result<(), FilmError> {
        while let (None, Some(beside)) = (&self.reel, &self.beside) {
            let told = beside.told.recv().unwrap_or_else(|_| ended());
            self.hear(told, observer)?;
        }
        Ok(())
    }

    fn hear(&mut self, told: Told<'a>, observer: &mut dyn Observer) -> Result<(), FilmError> {
        match told {
            Told::Event(event) => {
                observer.event(event);
                Ok(())
            }
            Told::Done(taken) => self.back(taken),
        }
    }

    fn back(&mut self, taken: Taken<'a>) -> Result<(), FilmError> {
        self.reel = Some(taken.reel);
        self.seconds += taken.seconds;
        self.latents += taken.latents;
        taken.result
    }

    /// Seconds that a latent frame takes here; 0 before the first one.
    pub fn seconds_of_a_latent(&self) -> f64 {
        self.seconds / self.latents.max(1) as f64
    }

    /// The reel, when nothing is taken in.
    pub fn reel(&mut self) -> &mut Reel<'a> {
        self.reel.as_mut().expect("nothing is taken in: it has settled")
    }

    /// Ends it, when nothing is taken in.
    pub fn into_reel(self) -> Reel<'a> {
        *self.reel.expect("nothing is taken in: it has settled")
    }
}

/// The thread panicked, and has said why.
fn ended() -> ! {
    panic!("the thread that takes segments into the film has ended")
}

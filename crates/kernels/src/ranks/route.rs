//! Which way tensors go from one device of a group to another: found once, when the group is made, and tried before
//! it is used.
//!
//! NCCL is asked first: it knows how a machine's cards are connected. Where it is not there, the driver copies from
//! card to card; and where that does not work either, each device brings its values to the host, from where the
//! others fetch them. A way that fails is left for the next one only if nothing of it stays behind.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::RankError;
use crate::Device;
use crate::gpu::{Array, Element, Gpu, GpuError, Link, LinkKind, Note, Transfer};

/// The variable that names one way, which then is the only one.
pub(super) const SWITCH: &str = "LONGREEL_EXCHANGE";
/// What stands there for the way by the host.
const HOST: &str = "host";
/// How long a way may take to start, and again to show that it works. NCCL reads 250 MB of code and looks at all
/// connections of the machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of each transfer of the trial: less, and more, than what libraries send in one piece.
const TRIALS: [usize; 2] = [4 << 10, (1 << 20) + 256];

/// Whether values are to go from one GPU to another by the host, whatever better way there is.
pub fn is_by_host() -> bool {
    std::env::var_os(SWITCH).is_some_and(|value| value == HOST)
}

/// The way of a group, and what there is to say of those before it.
#[derive(Debug)]
pub(super) struct Route {
    /// None when values go by the host.
    pub link: Option<Arc<dyn Link>>,
    pub notes: Vec<Note>,
}

/// Which ways are tried, by what stands in the variable.
fn wanted(value: Option<OsString>) -> Result<&'static [LinkKind], RankError> {
    match value.as_ref().map(|value| value.to_str()) {
        None | Some(Some("")) => Ok(&[LinkKind::Nccl, LinkKind::Peer]),
        Some(Some(HOST)) => Ok(&[]),
        Some(Some("nccl")) => Ok(&[LinkKind::Nccl]),
        Some(Some("peer")) => Ok(&[LinkKind::Peer]),
        Some(_) => Err(RankError::Route {
            way: value.unwrap_or_default().to_string_lossy().into_owned(),
            reason: format!(
                "{SWITCH} is nccl, peer or host, or not set for the first of them that works"
            ),
        }),
    }
}

impl Route {
    /// The way of the host alone.
    pub const HOST: Self = Self { link: None, notes: Vec::new() };

    /// The way of `devices` from one to another.
    ///
    /// # Errors
    /// The way that was asked for does not work, or one that does not work does not let go of the devices either.
    pub fn find(devices: &[Device]) -> Result<Self, RankError> {
        let gpus: Option<Vec<_>> = devices.iter().map(|device| device.gpu().cloned()).collect();
        match gpus {
            Some(gpus) if gpus.len() > 1 => Self::of(&gpus, std::env::var_os(SWITCH), PATIENCE),
            _ => Ok(Self::HOST),
        }
    }

    /// What to call it; nothing where values go from hand to hand.
    pub fn name(&self, devices: &[Device]) -> Option<String> {
        match &self.link {
            Some(link) => Some(link.name()),
            None if devices.len() > 1 && devices.iter().any(|device| device.gpu().is_some()) => {
                Some("the host's memory".into())
            }
            None => None,
        }
    }

    pub fn of(
        gpus: &[Arc<Gpu>],
        value: Option<OsString>,
        patience: Duration,
    ) -> Result<Self, RankError> {
        let is_asked_for = value.as_ref().is_some_and(|value| !value.is_empty());
        let mut notes = Vec::new();
        for &kind in wanted(value)? {
            match connected(kind, gpus, patience)? {
                Ok(link) => return Ok(Self { link: Some(link), notes }),
                Err(error) if is_asked_for => {
                    let reason = format!("{error}; without {SWITCH} another way is taken");
                    return Err(RankError::Route { way: kind.name().into(), reason });
                }
                Err(error) => notes.push(Note {
                    text: format!("devices do not exchange by {}: {error}", kind.name()),
                    // A library that is not there is doctor's affair.
                    warning: !matches!(error, GpuError::Library { .. } | GpuError::Absent { .. }),
                }),
            }
        }
        Ok(Self { link: None, notes })
    }
}

/// A link that has been tried, or why there is none.
///
/// # Errors
/// It neither works nor ends.
fn connected(
    kind: LinkKind,
    gpus: &[Arc<Gpu>],
    patience: Duration,
) -> Result<Result<Arc<dyn Link>, GpuError>, RankError> {
    // The devices are not as they were, and no film can be made with them.
    let stuck = |what: &str| GpuError::Call {
        call: "connecting devices",
        reason: format!(
            "{} {what} within {} seconds and cannot be left; set {SWITCH} to peer or host and start longreel again",
            kind.name(),
            patience.as_secs()
        ),
    };
    let group = gpus.to_vec();
    let opened = within(patience, move || group[0].driver().link(kind, &group));
    let link: Arc<dyn Link> = match opened.map_err(|_| stuck("does not start"))? {
        Ok(link) => Arc::from(link),
        Err(error) => return Ok(Err(error)),
    };
    let (group, own) = (gpus.to_vec(), link.clone());
    let tried = match within(patience, move || trial(&*own, &group)) {
        Ok(tried) => tried,
        Err(waiting) => {
            // What was ended ends soon, or never.
            let ended = link.abort() && waiting.recv_timeout(patience / 4).is_ok();
            if !ended {
                return Err(stuck("does not bring anything").into());
            }
            let reason = format!("nothing came within {} seconds", patience.as_secs());
            Err(GpuError::Call { call: "trying the way between devices", reason })
        }
    };
    if tried.is_err() {
        // What is left of it must not be in the way of the next one.
        link.abort();
        gpus.iter().for_each(|gpu| {
            let _ = gpu.finish();
        });
    }
    Ok(tried.map(|()| link))
}

/// What `work` gives, or where it will come when it takes longer.
fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, std::sync::mpsc::Receiver<T>> {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(patience) {
        Ok(result) => Ok(result),
        Err(RecvTimeoutError::Timeout) => Err(receiver),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it sends before it ends"),
        },
    }
}

/// Sends something else from each device to each other one, and looks at what comes.
fn trial(link: &dyn Link, gpus: &[Arc<Gpu>]) -> Result<(), GpuError> {
    for bytes in TRIALS {
        let ways: Vec<_> = (0..gpus.len())
            .flat_map(|from| (0..gpus.len()).map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .collect();
        let pattern = |(from, to): (usize, usize)| -> Vec<u8> {
            (0..bytes).map(|n| (n + (n >> 8) + 67 * from + 29 * to) as u8).collect()
        };
        let sent: Vec<_> = ways
            .iter()
            .map(|&(from, to)| Array::from_bytes(&gpus[from], Element::F32, &pattern((from, to))))
            .collect();
        let got: Vec<_> = ways
            .iter()
            .map(|&(_, to)| Array::zeros(&gpus[to], Element::F32, bytes / Element::F32.bytes()))
            .collect();
        gpus.iter().try_for_each(|gpu| gpu.check())?;
        let transfers: Vec<_> = ways
            .iter()
            .zip(sent.iter().zip(&got))
            .map(|(&(from, to), (sent, got))| Transfer {
                from,
                to,
                source: sent.address(),
                target: got.address(),
                bytes,
            })
            .collect();
        link.exchange(&transfers)?;
        // Memory is given back once the devices are done with it, in any case.
        let came: Vec<_> = got.iter().map(Array::to_bytes).collect();
        for (&way, came) in ways.iter().zip(came) {
            if came? != pattern(way) {
                let reason = format!(
                    "what device {} sent is not what came to device {}: is the processor's IOMMU on for the cards?",
                    way.0, way.1
                );
                return Err(GpuError::Call { call: "trying the way between devices", reason });
            }
        }
    }
    Ok(())
}

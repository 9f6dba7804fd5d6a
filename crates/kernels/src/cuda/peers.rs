//! Transfers between cards by the driver: copies from one card's memory to another's, in the order of their
//! streams. Cards that cannot reach each other's memory (most of those for games) have them by way of the host,
//! which is the driver's affair and costs no thread here a wait.

use std::fmt;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUevent, CUevent_flags_enum as EventFlag, CUstream,
};

use super::api::StartedDriver;
use super::device::{Device, lock};
use super::error::{PEERS_ALREADY, check};
use crate::gpu::{Gpu, GpuError, Link, Transfer};

/// A card of the group.
struct Peer {
    context: CUcontext,
    stream: CUstream,
    /// Up to where it has to be before others write to its memory.
    ready: CUevent,
    /// Up to where its own copies are done.
    sent: CUevent,
}

/// Cards that copy to each other.
pub struct Peers {
    driver: &'static StartedDriver,
    /// By rank. Whoever asks for copies has all events for as long as that takes.
    peers: Mutex<Vec<Peer>>,
    /// Pairs of cards, and of them those that reach each other's memory.
    pairs: [usize; 2],
    /// Contexts and streams are there as long as these are.
    group: Vec<Arc<Gpu>>,
}

// SAFETY: the driver takes calls from any thread that has made the context current, which each of ours
// does; the events are behind a lock.
unsafe impl Send for Peers {}
// SAFETY: as above.
unsafe impl Sync for Peers {}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("pairs", &self.pairs).finish_non_exhaustive()
    }
}

/// Whether a card reaches the memory of another one.
pub(super) fn reaches(driver: &StartedDriver, card: CUdevice, other: CUdevice) -> bool {
    let mut can = 0;
    // SAFETY: the driver writes one number.
    let status = unsafe { (driver.api.cuDeviceCanAccessPeer)(&raw mut can, card, other) };
    status == 0 && can != 0
}

impl Peers {
    /// Connects `cards`, the devices of `group`.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn open(group: &[Arc<Gpu>], cards: &[&Device]) -> Result<Self, GpuError> {
        let (driver, ..) = cards[0].handles();
        let mut all =
            Self { driver, peers: Mutex::new(Vec::new()), pairs: [0; 2], group: group.to_vec() };
        for card in cards {
            let (_, own, context, stream) = card.handles();
            card.enter()?;
            for (_, other, its_context, _) in cards.iter().map(|card| card.handles()) {
                // The same card as another rank has the same context.
                if its_context == context {
                    continue;
                }
                all.pairs[0] += 1;
                if !reaches(driver, own, other) {
                    continue;
                }
                // SAFETY: both contexts are there, and this card's is current.
                match unsafe { (driver.api.cuCtxEnablePeerAccess)(its_context, 0) } {
                    0 | PEERS_ALREADY => all.pairs[1] += 1,
                    status => check(driver, "reaching another card's memory", status)?,
                }
            }
            let mut events = [std::ptr::null_mut(); 2];
            for event in &mut events {
                let flag = EventFlag::CU_EVENT_DISABLE_TIMING as u32;
                // SAFETY: the driver writes a handle.
                let status = unsafe { (driver.api.cuEventCreate)(event, flag) };
                check(driver, "making an event", status)?;
            }
            let [ready, sent] = events;
            lock(&all.peers).push(Peer { context, stream, ready, sent });
        }
        Ok(all)
    }

    fn check(&self, status: u32) -> Result<(), GpuError> {
        check(self.driver, "exchanging between cards by copies", status)
    }
}

impl Link for Peers {
    fn name(&self) -> String {
        match self.pairs {
            [pairs, direct] if pairs == direct => "copies from card to card".into(),
            [_, 0] => "the driver's copies, which go through the host: no card reaches another one's memory".into(),
            [pairs, direct] => format!(
                "copies from card to card, of which {} of {pairs} ways go through the host",
                pairs - direct
            ),
        }
    }

    fn exchange(&self, transfers: &[Transfer]) -> Result<(), GpuError> {
        let peers = lock(&self.peers);
        let api = &self.driver.api;
        let enter = |rank: usize| Device::of(&self.group[rank])?.enter();
        // SAFETY: contexts, streams and events are those of the group, and the memory is the cards', as the caller
        // has to see to; the driver checks it.
        unsafe {
            for (rank, peer) in peers.iter().enumerate() {
                enter(rank)?;
                self.check((api.cuEventRecord)(peer.ready, peer.stream))?;
            }
            for (rank, peer) in peers.iter().enumerate() {
                enter(rank)?;
                // Whose memory is written to was used for something else before.
                for other in peers.iter().enumerate().filter(|(n, _)| *n != rank).map(|(_, o)| o) {
                    self.check((api.cuStreamWaitEvent)(peer.stream, other.ready, 0))?;
                }
                for &Transfer { to, source, target, bytes, .. } in
                    transfers.iter().filter(|transfer| transfer.from == rank)
                {
                    let its = peers[to].context;
                    self.check((api.cuMemcpyPeerAsync)(
                        target.0,
                        its,
                        source.0,
                        peer.context,
                        bytes,
                        peer.stream,
                    ))?;
                }
                self.check((api.cuEventRecord)(peer.sent, peer.stream))?;
            }
            for (rank, peer) in peers.iter().enumerate() {
                enter(rank)?;
                for other in peers.iter().enumerate().filter(|(n, _)| *n != rank).map(|(_, o)| o) {
                    self.check((api.cuStreamWaitEvent)(peer.stream, other.sent, 0))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for (gpu, peer) in self.group.iter().zip(lock(&self.peers).iter()) {
            if Device::of(gpu).is_ok_and(|device| device.enter().is_ok()) {
                // SAFETY: the events are ours; the driver keeps them for work that waits for them. What fails here
                // has failed before.
                unsafe {
                    (self.driver.api.cuEventDestroy_v2)(peer.ready);
                    (self.driver.api.cuEventDestroy_v2)(peer.sent);
                }
            }
        }
    }
}

//! How fast weights come from the host's memory.

use std::time::Instant;

use super::{Driver, Gpu, GpuError, Stream};

/// Bytes of the program's that are copied, more than a processor's caches hold and than wait for the card, and of them
/// at once, about what a large weight has.
const BYTES: usize = 256 << 20;
const PART: usize = 64 << 20;

impl Gpu {
    /// Bytes a second from the program's memory to the device, in the way in which weights are brought. The first call
    /// measures it: a tenth of a second, and the pinned memory that bringing weights has anyway.
    ///
    /// # Errors
    /// What went wrong on the device, its memory above all.
    pub fn host_rate(&self) -> Result<f64, GpuError> {
        if let Some(&rate) = self.host_rate.get() {
            return Ok(rate);
        }
        let rate = self.attempt(measured);
        self.check()?;
        Ok(*self.host_rate.get_or_init(|| rate.unwrap_or_default()))
    }
}

fn measured(driver: &dyn Driver) -> Result<f64, GpuError> {
    // Pages that are there.
    let bytes = vec![0x5a; BYTES];
    let to = driver.alloc(PART)?;
    let copied = || {
        let begun = Instant::now();
        bytes.chunks(PART).try_for_each(|part| driver.upload(Stream::Copy, to, part))?;
        driver.wait()?;
        Ok::<_, GpuError>(BYTES as f64 / begun.elapsed().as_secs_f64().max(1e-9))
    };
    // The first time makes what is copied through.
    let rate = copied().and_then(|_| copied());
    driver.free(to);
    rate
}

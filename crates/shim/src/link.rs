//! Ways between shims, as cards have them.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use longreel_kernels::cuda::{Nccl, NcclMember};
use longreel_kernels::gpu::{Driver, Gpu, GpuError, Link, LinkKind, Stream, Transfer};

use crate::Shim;

/// Copies from one shim's memory to another's.
#[derive(Debug)]
struct Copies(Vec<Arc<Gpu>>);

impl Copies {
    fn shim(&self, rank: usize) -> Result<&Shim, GpuError> {
        let driver: &dyn Any = self.0[rank].driver();
        driver.downcast_ref().ok_or_else(|| GpuError::Call {
            call: "connecting devices",
            reason: format!("{} is no shim", self.0[rank].name()),
        })
    }
}

impl Link for Copies {
    fn name(&self) -> String {
        "copies from shim to shim".into()
    }

    fn exchange(&self, transfers: &[Transfer]) -> Result<(), GpuError> {
        for &Transfer { from, to, source, target, bytes } in transfers {
            let mut values = vec![0; bytes];
            self.shim(from)?.download(source, &mut values)?;
            self.shim(to)?.upload(Stream::Compute, target, &values)?;
        }
        Ok(())
    }
}

pub(crate) fn of(kind: LinkKind, group: &[Arc<Gpu>]) -> Result<Box<dyn Link>, GpuError> {
    match kind {
        LinkKind::Peer => Ok(Box::new(Copies(group.to_vec()))),
        LinkKind::Nccl => {
            // Streams are names alone: what a shim is asked for is done when the call returns, and so it is with
            // the stand-in.
            let members: Vec<_> = (0..group.len())
                .map(|rank| NcclMember { ordinal: rank as u32, stream: rank + 1 })
                .collect();
            // SAFETY: the stand-in follows no stream.
            Ok(Box::new(unsafe { Nccl::open(group, &members)? }))
        }
    }
}

/// An NCCL in C that keeps to what NVIDIA documents. It needs `queue.h` with `stand_in_meet`, or `AT_ONCE` defined:
/// then transfers are done when a group of calls ends.
pub fn nccl_source() -> &'static str {
    include_str!("../cpp/nccl.c")
}

/// A folder with an NCCL for shims, which goes with it.
#[derive(Debug)]
pub struct StandInNccl(PathBuf);

impl StandInNccl {
    /// Built in a new folder below `folder`; `None`, and a word about it, where there is no C compiler.
    ///
    /// # Panics
    /// The folder cannot be written, or our source does not compile.
    pub fn build(folder: &Path, name: &str) -> Option<Self> {
        if Command::new("cc").arg("--version").output().is_err() {
            eprintln!("skipped: there is no C compiler (cc)");
            return None;
        }
        let folder = folder.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("writable");
        let library = Self(folder);
        std::fs::write(library.0.join("nccl.c"), nccl_source()).expect("writable");
        let ran = Command::new("cc")
            .current_dir(&library.0)
            .args([
                "-shared",
                "-fPIC",
                "-O2",
                "-Wall",
                "-Werror",
                "-DAT_ONCE",
                "-o",
                "libnccl.so.2",
            ])
            .args(["nccl.c", "-Wl,-soname,libnccl.so.2"])
            .output()
            .expect("it ran before");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        Some(library)
    }

    /// Where it is: `LD_LIBRARY_PATH` of a process that is to have it.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for StandInNccl {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! H.264 without anything installed: a safe face on the OpenH264 library, and the little of the
//! bitstream syntax that a container needs to know.

pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod nal;
pub(crate) mod sps;

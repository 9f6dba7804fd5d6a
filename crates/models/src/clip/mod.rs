//! Conditioning images to embeddings: CLIP's vision tower and its preparation of pictures.

mod preprocess;
mod vision;

pub use preprocess::ClipPreprocess;
pub use vision::ClipVision;

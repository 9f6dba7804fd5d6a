//! What the lines of the log are about, for whoever sorts them into files.

/// The target of a line for each request that was answered, at level `INFO`.
pub const ACCESS: &str = "longreel::access";

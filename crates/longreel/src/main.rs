//! The `longreel` command.
fn main() {}

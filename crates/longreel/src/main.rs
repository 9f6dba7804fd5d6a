//! The `longreel` command.
mod args;
mod outcome;
mod settings;
mod shell;
mod story;
mod values;
fn main() {}

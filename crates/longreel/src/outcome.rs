//! How a command ends: its exit code and the message behind it.

use std::fmt;

/// The film was made, or stopped where the person asked for it.
pub const EXIT_DONE: u8 = 0;
/// Something failed that the input is not to blame for.
pub const EXIT_FAILED: u8 = 1;
/// What was asked cannot be done; nothing was written.
pub const EXIT_BAD_INPUT: u8 = 2;
/// Ctrl-C twice, as a shell reports a process that SIGINT ended.
pub const EXIT_INTERRUPTED: u8 = 130;

/// The person can put it right: a wrong value, a file that is not there. Exit code 2.
#[derive(Debug)]
pub struct BadInput(String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// An error that says what to do instead.
pub fn bad_input(message: impl Into<String>) -> anyhow::Error {
    BadInput(message.into()).into()
}

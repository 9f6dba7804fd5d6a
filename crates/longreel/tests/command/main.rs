//! The real program, run as a person runs it: on tiny models, in folders of its own.

mod bad_input;
mod events;
mod films;
mod help;
mod parity;
mod program;
mod remade;
mod resume;
#[cfg(unix)]
mod stop;

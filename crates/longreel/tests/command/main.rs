//! The real program, run as a person runs it: on tiny models, in folders of its own.

mod bad_input;
mod bench;
#[cfg(target_os = "linux")]
mod disk;
mod doctor;
mod enhancer;
mod events;
mod films;
mod help;
mod language_model;
mod models;
mod parity;
mod program;
mod remade;
mod resume;
#[cfg(target_os = "linux")]
#[path = "../serve/room.rs"]
mod room;
#[path = "../../../hub/tests/pull/stand_in.rs"]
#[allow(dead_code, reason = "the tests of the hub's crate use the rest")]
mod stand_in;
#[cfg(unix)]
mod stop;

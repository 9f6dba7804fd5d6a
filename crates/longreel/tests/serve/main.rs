//! `longreel serve`, run as people run it: the real program with real workers on tiny models, over real
//! HTTP, killed where it hurts.

#[allow(dead_code, reason = "the tests of the command use the rest")]
#[path = "../command/program.rs"]
mod program;

mod access;
mod asking;
mod branching;
mod containers;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod ending;
mod installed;
mod limits;
mod live;
mod logs;
mod making;
#[cfg(target_os = "linux")]
mod memory;
mod models;
mod openai;
mod openapi;
#[cfg(target_os = "linux")]
mod orders;
#[cfg(target_os = "linux")]
mod room;
mod runpod;
mod server;
mod steering;
#[cfg(target_os = "linux")]
mod streams;
#[cfg(target_os = "linux")]
mod traces;
mod uploads;
mod webhooks;

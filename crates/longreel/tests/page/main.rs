//! The page, used as people use it: a real Chromium before a real server.
#![cfg(target_os = "linux")]

#[path = "../command/language_model.rs"]
mod language_model;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../command/program.rs"]
mod program;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../serve/server.rs"]
mod server;

mod asking;
mod browser;
mod finishing;
mod installed;
mod looks;
mod onward;
mod refusals;
mod returning;
mod settings;
mod watching;

//! What surrounds the program: alerts, dashboard, images, chart and documents, held against the program
//! itself.

#[allow(dead_code, reason = "the tests of the command use the rest")]
#[path = "../command/program.rs"]
mod program;
#[allow(dead_code, reason = "the tests of the service use the rest")]
#[path = "../serve/server.rs"]
mod server;

mod alerts;
mod chart;
mod documents;
mod examples;
mod images;
mod licenses;
mod tools;

//! Films over HTTP.
//!
//! The nouns:
//! - [`serve`]: the service: takes jobs in over HTTP, keeps them in a database in its data folder, and
//!   has them made by workers.
//! - [`Films`]: how a request in JSON becomes a film; the program implements it.
//! - [`AccessOptions`]: who may call, and how often.
//! - [`worker`]: a process that holds a model and makes one film at a time. The server starts as many
//!   as it is told to, gives them jobs, and starts new ones in the place of those that die.
//!
//! ```text
//!  client ──HTTP──► http ──► store (SQLite) ◄── supervisor ──stdin───► worker process
//!           ◄─SSE── live ◄──┘    ▲                  │  ◄──stdout──  (one film, one folder)
//!                                └── upkeep         └──► artifacts (film, previews)
//! ```
//!
//! What must hold: whatever process is killed at whatever instant, each job ends once, with the film
//! that an undisturbed run would have made. Everything that is known of a job is in the database; a
//! film in the making lies in a folder that one process at a time may write to, which a lock on a file
//! of it sees to. A worker whose server is gone ends by itself.
#![warn(missing_docs)]

mod access;
mod addresses;
mod assignment;
mod code;
mod fetch;
mod films;
mod http;
mod live;
pub mod log;
mod metrics;
mod models;
mod notify;
mod own;
pub mod own_stdout;
mod prepare;
mod process;
mod protocol;
mod recovery;
mod room;
mod runpod;
mod serve;
mod shared;
mod steering;
mod supervisor;
mod traces;
mod upkeep;
mod want_of_memory;
mod webhooks;
pub mod worker;

pub use access::{AccessOptions, OriginError, Origins, SecretFileError, read_secret, secret_in};
pub use code::{About, Code};
pub use fetch::{Answered, FetchError, Fetched, Fetcher};
pub use films::{Catalogue, Film, Films, Inputs, Listed, Memory, ModelInfo, Offers, Refusal};
pub use notify::{NotifyOptions, Receiver, Topic};
pub use process::WorkerCommand;
pub use recovery::OnOutOfMemory;
pub use runpod::RunPodOptions;
pub use serve::{DATABASE, ServeError, ServeOptions, WEBHOOK_SECRET, serve};
pub use want_of_memory::killed_for_memory;

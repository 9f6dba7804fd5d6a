//! Fetching published checkpoints and keeping them.
//!
//! The nouns:
//! - [`Settings`]: how a [`Site`] is reached and where its cache lies, by the variables that its own
//!   tools read.
//! - [`Client`]: calls a site. It gives a [`Listing`] of a repository at a revision, and searches.
//! - [`Pull`]: the files of a listing that [`select`] chose, what is missing of them, and the fetching:
//!   several at once, each going on where it broke off, each hashed on the way.
//! - [`Cache`]: what is kept, in the layout of the site's own tools, which share it. A [`Kept`] model is a
//!   folder with the files under their own names; it can be [`verify`](Kept::verify)ed and removed.
//! - [`Pins`]: a lock file that says which revisions are meant.
//!
//! ```no_run
//! use longreel_hub::{Cache, Client, Environment, Pull, Settings, Site, Wish, select};
//!
//! let settings = Settings::new(Site::HuggingFace, &Environment::of_process(), None)?;
//! let (cache, client) = (Cache::new(&settings), Client::new(settings)?);
//! let id = "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers".parse()?;
//! let listing = client.list(&id, None)?;
//! let pull = Pull::plan(&cache, &listing, &select(&listing, &Wish::default())?)?;
//! let kept = pull.fetch(&client, 4, &|_| {})?;
//! println!("{}", kept.folder.display());
//! # Ok::<(), longreel_hub::HubError>(())
//! ```
//!
//! Nothing that a site says is trusted: no name in its list leads out of the cache, no redirect takes the
//! token along, and nothing becomes part of a model before its hash is right.

mod cache;
mod digest;
mod disk;
mod download;
mod error;
mod http;
mod id;
mod listing;
mod pins;
mod proxy;
mod pull;
mod reach;
mod remove;
mod retry;
mod select;
mod settings;
mod verify;

pub use cache::{Cache, Kept, KeptFile};
pub use digest::Digest;
pub use disk::free_bytes;
pub use error::HubError;
pub use http::Client;
pub use id::{Reference, RepoId, RepoPath, Revision, Site};
pub use listing::{Hit, Listed, Listing};
pub use pins::{LOCK_FILE, Pin, PinnedFile, Pins};
pub use proxy::Proxies;
pub use pull::{Progress, Pull, Watch};
pub use reach::Reached;
pub use remove::Removed;
pub use retry::Patience;
pub use select::{Wish, select};
pub use settings::{Environment, Settings, Token};
pub use verify::{Checked, State};

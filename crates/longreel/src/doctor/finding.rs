//! What was found, in both languages.

use std::fmt::Write;

use serde::Serialize;

/// The same in English and in Chinese.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Words {
    pub en: String,
    pub zh: String,
}

/// Words with the variables that stand in them.
macro_rules! words {
    ($en:literal, $zh:literal) => {
        $crate::doctor::finding::Words { en: format!($en), zh: format!($zh) }
    };
}
pub(super) use words;

/// A language of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// That of the variables by which programs choose theirs.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let chosen = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .find_map(|name| variable(name).filter(|value| !value.is_empty()));
        match chosen {
            Some(value) if value.starts_with("zh") => Self::Chinese,
            _ => Self::English,
        }
    }
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Films can be made, but something will be slow or will fail one day.
    Warning,
    /// Films cannot be made, or the server cannot be started.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name.
    pub check: &'static str,
    pub level: Level,
    pub found: Words,
    /// What to do about it.
    pub cure: Option<Words>,
    /// It was mended.
    pub fixed: bool,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Findings {
    all: Vec<Finding>,
    /// Whether what is safe to mend is mended.
    pub fix: bool,
}

impl Findings {
    pub fn new(fix: bool) -> Self {
        Self { all: Vec::new(), fix }
    }

    pub fn ok(&mut self, check: &'static str, found: Words) {
        self.add(check, Level::Ok, found, None, false);
    }

    pub fn note(&mut self, check: &'static str, found: Words, cure: Option<Words>) {
        self.add(check, Level::Note, found, cure, false);
    }

    pub fn warn(&mut self, check: &'static str, found: Words, cure: Words) {
        self.add(check, Level::Warning, found, Some(cure), false);
    }

    pub fn error(&mut self, check: &'static str, found: Words, cure: Words) {
        self.add(check, Level::Error, found, Some(cure), false);
    }

    pub fn fixed(&mut self, check: &'static str, found: Words) {
        self.add(check, Level::Ok, found, None, true);
    }

    fn add(
        &mut self,
        check: &'static str,
        level: Level,
        found: Words,
        cure: Option<Words>,
        fixed: bool,
    ) {
        self.all.push(Finding { check, level, found, cure, fixed });
    }

    pub fn all(&self) -> &[Finding] {
        &self.all
    }

    pub fn count(&self, level: Level) -> usize {
        self.all.iter().filter(|finding| finding.level == level).count()
    }

    /// A line for each, its cure under it, and a summary.
    pub fn in_words(&self, language: Language) -> String {
        let said = |words: &Words| match language {
            Language::English => words.en.clone(),
            Language::Chinese => words.zh.clone(),
        };
        let mut text = String::new();
        for (at, Finding { check, level, found, cure, fixed }) in self.all.iter().enumerate() {
            let mark = match (level, fixed) {
                (_, true) => said(&words!("fixed", "已修复")),
                (Level::Ok, _) => said(&words!("ok", "正常")),
                (Level::Note, _) => said(&words!("note", "提示")),
                (Level::Warning, _) => said(&words!("warning", "警告")),
                (Level::Error, _) => said(&words!("error", "错误")),
            };
            // Writing to a text does not fail.
            let _ = writeln!(text, "{}{}{}", padded(&mark, 9), padded(check, 12), said(found));
            // What cures several lines stands under the last of them.
            let again = self.all.get(at + 1).is_some_and(|next| next.cure == *cure);
            if let Some(cure) = cure.as_ref().filter(|_| !again) {
                let _ = writeln!(text, "{}-> {}", " ".repeat(21), said(cure));
            }
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        let sum = match (errors, warnings) {
            (0, 0) => words!("Films can be made here.", "这台机器可以生成视频。"),
            (0, 1) => {
                words!("Films can be made here; 1 warning.", "这台机器可以生成视频；有 1 个警告。")
            }
            (0, _) => words!(
                "Films can be made here; {warnings} warnings.",
                "这台机器可以生成视频；有 {warnings} 个警告。"
            ),
            _ => {
                let [s, and_s] = [errors, warnings].map(|n| if n == 1 { "" } else { "s" });
                words!(
                    "{errors} error{s} and {warnings} warning{and_s}: films cannot be made as it is.",
                    "{errors} 个错误、{warnings} 个警告：目前无法正常生成视频。"
                )
            }
        };
        text + &said(&sum)
    }
}

/// `text` with blanks up to `width` columns; a Chinese character takes two.
fn padded(text: &str, width: usize) -> String {
    let columns: usize = text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
    format!("{text}{}", " ".repeat(width.saturating_sub(columns).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_that_of_the_environment() {
        for (variables, expected) in [
            (&[("LANG", "zh_CN.UTF-8")][..], Language::Chinese),
            (&[("LC_ALL", "en_GB.UTF-8"), ("LANG", "zh_CN.UTF-8")], Language::English),
            (&[("LC_ALL", ""), ("LC_MESSAGES", "zh_TW")], Language::Chinese),
            (&[], Language::English),
        ] {
            let of = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, v)| v.to_string())
            };
            assert_eq!(Language::of_environment(of), expected, "{variables:?}");
        }
    }

    #[test]
    fn each_finding_has_its_cure_under_it_in_the_language_asked_for() {
        let mut findings = Findings::new(false);
        findings.ok("clock", words!("right", "正确"));
        let full = 3;
        findings.error("disk", words!("{full} MB left", "剩余 {full} MB"), words!("clear", "清理"));
        let english = findings.in_words(Language::English);
        assert!(english.contains("ok       clock       right\n"), "{english}");
        assert!(english.contains("error    disk        3 MB left\n"), "{english}");
        assert!(english.contains("\n                     -> clear\n"), "{english}");
        let chinese = findings.in_words(Language::Chinese);
        assert!(chinese.contains("错误     disk        剩余 3 MB\n"), "{chinese}");
        assert!(chinese.ends_with("1 个错误、0 个警告：目前无法正常生成视频。"), "{chinese}");
    }
}

//! A log file that makes room: when it is full it becomes `access.log.1`, what that was `access.log.2`,
//! and the oldest goes.

use std::fs::{File, rename};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file for a log, and those before it.
#[derive(Debug)]
pub struct RollingFile {
    path: PathBuf,
    file: File,
    written_bytes: u64,
    max_bytes: u64,
    /// How many full ones are kept.
    kept: u32,
}

impl RollingFile {
    /// Goes on with the file that is there, or begins one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: PathBuf, max_bytes: u64, kept: u32) -> io::Result<Self> {
        let file = append_to(&path)?;
        let written_bytes = file.metadata()?.len();
        Ok(Self { path, file, written_bytes, max_bytes, kept })
    }

    fn numbered(&self, number: u32) -> PathBuf {
        match number {
            0 => self.path.clone(),
            number => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                name.into()
            }
        }
    }

    fn roll(&mut self) -> io::Result<()> {
        for number in (0..self.kept).rev() {
            match rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append_to(&self.path)?;
        self.written_bytes = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

impl Write for RollingFile {
    /// A line is not torn: whoever writes gives it whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_full = self.written_bytes.saturating_add(line.len() as u64) > self.max_bytes;
        if is_full && self.written_bytes > 0 && self.roll().is_err() {
            // A folder that allows no renaming still takes lines; it is tried again with the next ones.
            self.written_bytes = 0;
        }
        let mut written = 0;
        while written < line.len() {
            match self.file.write(&line[written..]) {
                Ok(more) if more > 0 => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                ended => {
                    // What is there of the line would become one with the next that there is room for.
                    let length = self.file.metadata()?.len();
                    self.file.set_len(length.saturating_sub(written as u64))?;
                    return ended.and(Err(io::ErrorKind::WriteZero.into()));
                }
            }
        }
        self.written_bytes = self.written_bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_last_lines_in_bounded_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        for start in [0, 50] {
            // As after a restart: it goes on where it was.
            let mut log = RollingFile::open(path.clone(), 40, 2).expect("writable");
            for n in start..start + 50 {
                writeln!(log, "line {n:04}").expect("writable");
            }
        }
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["access.log", "access.log.1", "access.log.2"]);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("text");
        let all = read("access.log.2") + &read("access.log.1") + &read("access.log");
        let lines: Vec<&str> = all.lines().collect();
        assert!((9..=12).contains(&lines.len()), "{lines:?}");
        let first = 100 - lines.len();
        let expected: Vec<String> = (first..100).map(|n| format!("line {n:04}")).collect();
        assert_eq!(lines, expected, "a line is torn or lost");
    }
}

//! A worker process as the server sees it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::protocol::{Order, Told};
use crate::want_of_memory::{KernelKills, is_failed_allocation};

/// Lines of a worker that wait to be read; beyond them the worker waits.
const WAITING_LINES: usize = 256;
/// Last lines of stderr that are told when a worker dies.
const LAST_WORDS: usize = 5;
/// How long what a dead worker said may take to be read. A process that it started may hold the pipe.
const WORDS_TIME: Duration = Duration::from_secs(1);
/// How long a worker that was asked to exit may take.
const EXIT_TIME: Duration = Duration::from_secs(5);

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its words.
    pub arguments: Vec<OsString>,
}

/// What there is to hear from a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// It said something.
    Told(Told),
    /// It is no more, or was given up and killed.
    Gone(Death),
}

/// How a worker came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// What it was.
    pub cause: Cause,
    /// Why, for people.
    pub reason: String,
}

/// What ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Memory ran out: the kernel killed it and says so, or an allocation failed.
    Memory,
    /// SIGKILL, by whom is not known.
    Killed,
    /// It gave no sign of life and was given up.
    Silent,
    /// Another signal, or itself.
    Ended,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Killed, Self::Silent, Self::Ended];

    /// As it is counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Killed => "killed",
            Self::Silent => "silent",
            Self::Ended => "ended",
        }
    }
}

/// A worker process. It is killed when this is dropped.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    told: mpsc::Receiver<Told>,
    words: Arc<Mutex<Words>>,
    reading_words: Option<JoinHandle<()>>,
    kills: KernelKills,
    last_heard: Instant,
    patience: Duration,
}

/// What a worker said on stderr.
#[derive(Debug, Default)]
struct Words {
    last: VecDeque<String>,
    /// Why it aborts, when it is not given memory; a backtrace may follow.
    failed_allocation: Option<String>,
}

impl WorkerProcess {
    /// Starts a worker. One that says nothing for `patience`, not even that it is alive, is killed.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &WorkerCommand, patience: Duration) -> io::Result<Self> {
        let mut process = Command::new(&command.program);
        process
            .args(&command.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C in a terminal goes to a whole group; when a worker stops is the server's to say.
        #[cfg(unix)]
        process.process_group(0);
        let mut child = process.spawn()?;
        let (sender, told) = mpsc::channel(WAITING_LINES);
        let words = Arc::<Mutex<Words>>::default();
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(read_told(stdout, sender));
        }
        let reading_words =
            child.stderr.take().map(|stderr| tokio::spawn(read_words(stderr, words.clone())));
        let stdin = child.stdin.take();
        let kills = KernelKills::of(child.id());
        let last_heard = Instant::now();
        Ok(Self { child, stdin, told, words, reading_words, kills, last_heard, patience })
    }

    /// Its process id, while it lives.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Memory that is this process's alone, in bytes: what it has asked for and not given back. Weights
    /// that are read from their file as they are needed do not count, the system takes those back by
    /// itself. `None` where the system does not say.
    pub fn memory_bytes(&self) -> Option<u64> {
        memory_of(self.id()?, "RssAnon:")
    }

    /// Gives an order. A worker that is gone does not get it; [`Self::hear`] says so.
    pub async fn order(&mut self, order: &Order) {
        if matches!(order, Order::Make(_)) {
            self.kills.begin();
        }
        let Some(stdin) = &mut self.stdin else { return };
        let Ok(mut line) = serde_json::to_vec(order) else { return };
        line.push(b'\n');
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            self.stdin = None;
        }
    }

    /// Waits for the next thing to hear. May be dropped while it waits without losing anything.
    pub async fn hear(&mut self) -> Heard {
        loop {
            match timeout_at(self.last_heard + self.patience, self.told.recv()).await {
                Ok(Some(told)) => {
                    self.last_heard = Instant::now();
                    self.kills.look();
                    if told != Told::Alive {
                        return Heard::Told(told);
                    }
                }
                Ok(None) => return Heard::Gone(self.exited().await),
                Err(_) => {
                    self.kill().await;
                    let seconds = self.patience.as_secs();
                    let reason = format!("it said nothing for {seconds} s and was killed");
                    return Heard::Gone(Death { cause: Cause::Silent, reason });
                }
            }
        }
    }

    /// Lets an idle worker exit.
    pub async fn dismiss(mut self) {
        self.stdin = None;
        if timeout(EXIT_TIME, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends it, whatever it is doing.
    pub async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "a worker could not be killed");
        }
    }

    /// Its stdout has ended; says how it did.
    async fn exited(&mut self) -> Death {
        let status = match timeout(EXIT_TIME, self.child.wait()).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(error)) => {
                let reason = format!("it is gone ({error})");
                return Death { cause: Cause::Ended, reason };
            }
            Err(_) => {
                self.kill().await;
                None
            }
        };
        if let Some(reading) = &mut self.reading_words {
            let _ = timeout(WORDS_TIME, reading).await;
        }
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let (cause, how) = match status.map(|status| (status, signal(status))) {
            Some((_, Some(SIGABRT))) if let Some(failed) = &words.failed_allocation => {
                return Death { cause: Cause::Memory, reason: failed.clone() };
            }
            Some((_, Some(SIGKILL))) if self.kills.explain() => {
                (Cause::Memory, "killed by the kernel, because memory ran out".to_owned())
            }
            Some((status, Some(SIGKILL))) => (Cause::Killed, describe(status)),
            Some((status, _)) => (Cause::Ended, describe(status)),
            None => (Cause::Silent, "it closed its output and was killed".to_owned()),
        };
        let last: Vec<&str> = words.last.iter().map(String::as_str).collect();
        let reason =
            if last.is_empty() { how } else { format!("{how}; it said: {}", last.join(" / ")) };
        Death { cause, reason }
    }
}

/// Memory of a process that is in RAM, files that it has mapped included, in bytes. `None` where the
/// system does not say.
pub fn resident_bytes(id: u32) -> Option<u64> {
    memory_of(id, "VmRSS:")
}

fn memory_of(id: u32, what: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

async fn read_told(stdout: impl AsyncRead + Unpin, sender: mpsc::Sender<Told>) {
    let mut lines = BufReader::new(stdout).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        match serde_json::from_slice(&line) {
            Ok(told) => {
                if sender.send(told).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let line = String::from_utf8_lossy(&line);
                tracing::warn!(%error, %line, "a worker said what is not understood");
            }
        }
    }
}

async fn read_words(stderr: impl AsyncRead + Unpin, words: Arc<Mutex<Words>>) {
    // What libraries print there is in any encoding.
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        tracing::warn!(target: "longreel::worker", "{line}");
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        if is_failed_allocation(&line) {
            words.failed_allocation = Some(line.clone());
        }
        words.last.push_back(line);
        if words.last.len() > LAST_WORDS {
            words.last.pop_front();
        }
    }
}

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// The signal that ended a process.
fn signal(status: ExitStatus) -> Option<i32> {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    {
        let _ = status;
        None
    }
}

fn describe(status: ExitStatus) -> String {
    if let Some(signal) = signal(status) {
        return format!("killed by signal {signal}{}", signal_meaning(signal));
    }
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "ended".to_owned(),
    }
}

fn signal_meaning(signal: i32) -> &'static str {
    match signal {
        4 => " (illegal instruction)",
        6 => " (aborted)",
        7 => " (bus error: a file that is mapped was cut short, or the disk failed)",
        9 => " (killed, often because memory ran out)",
        11 => " (segmentation fault)",
        15 => " (terminated)",
        _ => "",
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> WorkerCommand {
        let arguments = ["-c".into(), script.into()].into();
        WorkerCommand { program: "/bin/sh".into(), arguments }
    }

    async fn heard(script: &str, patience: Duration) -> Heard {
        let mut process = WorkerProcess::spawn(&shell(script), patience).expect("a shell");
        process.hear().await
    }

    #[tokio::test]
    async fn a_death_is_told_with_its_signal_or_its_last_words() {
        let long = Duration::from_secs(60);
        let Heard::Gone(death) = heard("kill -9 $$", long).await else { panic!("it lives") };
        assert!(death.reason.starts_with("killed by signal 9"), "{death:?}");
        assert_eq!(death.cause, Cause::Killed);
        let Heard::Gone(death) = heard("echo oh no >&2; exit 3", long).await else {
            panic!("it lives")
        };
        let reason = &death.reason;
        assert!(reason.contains("exit code 3") && reason.contains("oh no"), "{reason}");
        assert_eq!(death.cause, Cause::Ended);
    }

    #[tokio::test]
    async fn what_is_no_text_is_passed_over_and_the_next_word_is_heard() {
        let segment = r#"{"event":"segment","segment":4,"segments":9}"#;
        let noise = r"printf '\377\376\n'; printf '\377 no text\n' >&2; echo NCCL INFO";
        let script = format!("{noise}; echo '{segment}'; echo late >&2; exit 3");
        let mut process =
            WorkerProcess::spawn(&shell(&script), Duration::from_secs(60)).expect("a shell");
        let told = Told::Segment { segment: 4, segments: Some(9) };
        assert_eq!(process.hear().await, Heard::Told(told));
        let Heard::Gone(death) = process.hear().await else { panic!("it lives") };
        assert!(death.reason.contains("late"), "{death:?}");
    }

    #[tokio::test]
    async fn memory_that_ran_out_is_told_from_other_ends() {
        let long = Duration::from_secs(60);
        let failed = "echo 'memory allocation of 42 bytes failed' >&2";
        // What a backtrace adds does not hide it.
        let script = format!("{failed}; seq 9 >&2; kill -ABRT $$");
        let reason = "memory allocation of 42 bytes failed".to_owned();
        assert_eq!(heard(&script, long).await, Heard::Gone(Death { cause: Cause::Memory, reason }));
        for (script, cause) in [
            (format!("{failed}; exit 1"), Cause::Ended),
            (format!("{failed}; kill -KILL $$"), Cause::Killed),
            ("echo 'no memory' >&2; kill -ABRT $$".to_owned(), Cause::Ended),
        ] {
            let Heard::Gone(death) = heard(&script, long).await else { panic!("it lives") };
            assert_eq!(death.cause, cause, "{script}: {death:?}");
        }
    }

    #[tokio::test]
    async fn a_kill_that_the_kernel_counted_is_want_of_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("memory.events");
        let count = |kills| std::fs::write(&file, format!("oom_kill {kills}\n")).expect("writable");
        count(1);
        let script = "read go; kill -KILL $$";
        let stop = Order::Stop { when: crate::protocol::When::Now };
        for (kills, cause) in [(1, Cause::Killed), (2, Cause::Memory), (2, Cause::Killed)] {
            let mut process =
                WorkerProcess::spawn(&shell(script), Duration::from_secs(60)).expect("a shell");
            process.kills = KernelKills::in_file(Some(file.clone()));
            count(kills);
            process.order(&stop).await;
            let Heard::Gone(death) = process.hear().await else { panic!("it lives") };
            assert_eq!(death.cause, cause, "{kills}: {death:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn memory_that_a_worker_holds_is_counted() {
        // The text is held in a variable of the shell.
        let script = r#"echo '{"event":"alive"}'; echo '{"event":"ready","seconds":1.0}'; read go;
            a=$(head -c 30000000 /dev/zero | tr '\0' x); echo '{"event":"ready","seconds":2.0}'
            read go; echo ${#a}"#;
        let mut process =
            WorkerProcess::spawn(&shell(script), Duration::from_secs(60)).expect("a shell");
        assert_eq!(process.hear().await, Heard::Told(Told::Ready { seconds: 1.0, is_warm: false }));
        let before = process.memory_bytes().expect("Linux says");
        process.order(&Order::Stop { when: crate::protocol::When::Now }).await;
        assert_eq!(process.hear().await, Heard::Told(Told::Ready { seconds: 2.0, is_warm: false }));
        let after = process.memory_bytes().expect("Linux says");
        assert!(after > before + 25_000_000, "{before} {after}");
    }

    #[tokio::test]
    async fn a_worker_that_says_nothing_is_killed_and_one_that_is_alive_is_not() {
        let short = Duration::from_secs(3);
        let Heard::Gone(death) = heard("sleep 60", short).await else { panic!("it spoke") };
        assert!(death.reason.contains("said nothing"), "{death:?}");
        assert_eq!(death.cause, Cause::Silent);
        let alive = r#"for i in 1 2 3 4 5 6 7 8; do echo '{"event":"alive"}'; sleep 0.5; done
            echo '{"event":"ready","seconds":1.0}'; sleep 60"#;
        assert_eq!(
            heard(alive, short).await,
            Heard::Told(Told::Ready { seconds: 1.0, is_warm: false })
        );
    }
}

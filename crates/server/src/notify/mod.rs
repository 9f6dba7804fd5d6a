//! Messages to the people who run the server, for set-ups without an alert manager: to a chat or to any
//! address that takes JSON.

mod receiver;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longreel_jobs::{Clock, Job, JobState, SystemClock};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use ureq::Agent;

pub use self::receiver::Receiver;
use crate::own::{Tries, blocking, own_agent};
use crate::room::Room;
use crate::shared::{Ending, Shared, SlotState};

/// How often the state of the service is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Messages that wait; beyond that they are dropped, and the log has them.
const WAITING: usize = 256;
/// How long a receiver may take, and how often it is tried.
const SEND_TIME: Duration = Duration::from_secs(15);
const TRIES: Tries = Tries { most: 4, wait: Duration::from_secs(2) };

/// What is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// A film failed.
    Failed,
    /// A film is finished.
    Completed,
    /// A worker died, or none is ready.
    Worker,
    /// The disk is getting full.
    Disk,
    /// A film waits too long.
    Queue,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Failed, Self::Completed, Self::Worker, Self::Disk, Self::Queue];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Completed => "completed",
            Self::Worker => "worker",
            Self::Disk => "disk",
            Self::Queue => "queue",
        }
    }
}

/// Who is told of what.
#[derive(Debug, Clone, Default)]
pub struct NotifyOptions {
    /// Where messages go.
    pub receivers: Vec<Receiver>,
    /// Of what.
    pub topics: Vec<Topic>,
    /// A film that waits longer, in milliseconds, is told of.
    pub queue_ms: i64,
    /// Less room on the disk than this, in bytes, is told of.
    pub disk_bytes: u64,
}

/// A message in both languages.
#[derive(Debug, Clone)]
struct Message {
    topic: Topic,
    en: String,
    zh: String,
    video: Option<String>,
}

/// Where messages wait to be sent.
#[derive(Debug, Default)]
pub struct Notifier {
    options: NotifyOptions,
    waiting: Option<mpsc::Sender<Message>>,
}

/// The other end of a [`Notifier`].
pub struct Outbox(mpsc::Receiver<Message>);

impl Notifier {
    /// A notifier, and its messages to send.
    pub fn new(options: NotifyOptions) -> (Self, Option<Outbox>) {
        if options.receivers.is_empty() {
            return (Self::default(), None);
        }
        let (waiting, outbox) = mpsc::channel(WAITING);
        (Self { options, waiting: Some(waiting) }, Some(Outbox(outbox)))
    }

    fn tell(&self, topic: Topic, en: String, zh: String, video: Option<String>) {
        let Some(waiting) = &self.waiting else { return };
        if self.options.topics.contains(&topic)
            && waiting.try_send(Message { topic, en, zh, video }).is_err()
        {
            tracing::warn!(topic = topic.as_str(), "too many messages wait; one is dropped");
        }
    }

    /// A job has ended.
    pub fn ended(&self, job: &Job) {
        let id = job.id.to_string();
        match job.state {
            JobState::Failed => {
                let why = job.error.as_ref().map_or(String::new(), |error| error.message.clone());
                let en = format!("video {id} failed: {why}");
                self.tell(Topic::Failed, en, format!("视频 {id} 生成失败：{why}"), Some(id));
            }
            JobState::Completed => {
                let frames = job.frames_done;
                let en = format!("video {id} is finished ({frames} frames)");
                let zh = format!("视频 {id} 已完成（{frames} 帧）");
                self.tell(Topic::Completed, en, zh, Some(id));
            }
            _ => {}
        }
    }

    /// A worker died with a job in its hands.
    pub fn death(&self, job: &Job, reason: &str) {
        let id = job.id.to_string();
        let en = format!("a worker died while it made video {id}: {reason}");
        let zh = format!("工作进程在生成视频 {id} 时退出：{reason}");
        self.tell(Topic::Worker, en, zh, Some(id));
    }
}

/// Sends what waits, and looks at the state of the service.
pub async fn run(shared: Arc<Shared>, Outbox(mut outbox): Outbox) {
    let agent = own_agent(SEND_TIME);
    let mut ending = shared.ending.subscribe();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut wrong = BTreeSet::new();
    loop {
        let message = tokio::select! {
            message = outbox.recv() => match message {
                None => return,
                message => message,
            },
            _ = looks.tick() => None,
            ended = ending.wait_for(|ending| *ending == Ending::Closed) => {
                drop(ended);
                return;
            }
        };
        let Some(message) = message else {
            look(&shared, &mut wrong).await;
            continue;
        };
        for receiver in &shared.notifier.options.receivers {
            deliver(&agent, receiver, &message).await;
        }
    }
}

/// Tells of states when they come and when they go.
async fn look(shared: &Shared, wrong: &mut BTreeSet<Topic>) {
    let notifier = &shared.notifier;
    let mut state = |topic, is_wrong: bool, en: String, zh: String, well: [&str; 2]| {
        if is_wrong && wrong.insert(topic) {
            notifier.tell(topic, en, zh, None);
        } else if !is_wrong && wrong.remove(&topic) {
            notifier.tell(topic, well[0].to_owned(), well[1].to_owned(), None);
        }
    };
    if let Some(free) = Room::now(&shared.work).disk_free_bytes {
        let least = notifier.options.disk_bytes;
        let megabytes = free / 1_000_000;
        let en = format!("the disk has {megabytes} MB left; films wait when it is full");
        let zh = format!("磁盘仅剩 {megabytes} MB；写满后任务会等待");
        let well = ["the disk has room again", "磁盘空间已恢复"];
        state(Topic::Disk, free < least, en, zh, well);
    }
    if let Ok(counts) = shared.store.counts().await {
        let waited = counts.oldest_waiting_ms.map_or(0, |since| SystemClock.now_ms() - since);
        let minutes = waited / 60_000;
        let en = format!("a film has waited for {minutes} minutes; {} wait", counts.queued);
        let zh = format!("有任务已等待 {minutes} 分钟；共 {} 个等待", counts.queued);
        let well = ["no film waits too long any more", "已无等待过久的任务"];
        state(Topic::Queue, waited > notifier.options.queue_ms, en, zh, well);
    }
    let slots = shared.slots.get();
    let all_down = slots.iter().all(|slot| slot.state == SlotState::Down);
    let en = "no worker runs: none could be started; see the log".to_owned();
    let zh = "没有可用的工作进程：均无法启动，请查看日志".to_owned();
    state(Topic::Worker, all_down, en, zh, ["workers run again", "工作进程已恢复"]);
}

async fn deliver(agent: &Agent, receiver: &Receiver, message: &Message) {
    let sent = TRIES.of(|| {
        let (agent, receiver, message) = (agent.clone(), receiver.clone(), message.clone());
        blocking(move || receiver::send(&agent, &receiver, &message))
    });
    if let Err(error) = sent.await {
        tracing::error!(error, "a message did not get to its receiver");
    }
}

//! Messages to the people who run the server, for set-ups without an alert manager: to a chat or to any
//! address that takes JSON.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::*;
use hmac::{Hmac, KeyInit, Mac};
use longreel_jobs::{Clock, Job, JobState, SystemClock};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use ureq::Agent;

use crate::fetch::own_agent;
use crate::room::Room;
use crate::shared::{Ending, Shared, SlotState};

/// How often the state of the service is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Messages that wait; beyond that they are dropped, and the log has them.
const WAITING: usize = 256;
/// How long a receiver may take, how often it is tried, and the wait after the first try.
const SEND_TIME: Duration = Duration::from_secs(15);
const TRIES: u32 = 4;
const AGAIN: Duration = Duration::from_secs(2);
/// What is read of an answer.
const ANSWER_BYTES: u64 = 16 << 10;

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

/// What kind of receiver it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Slack,
    Feishu,
    DingTalk,
    WeCom,
}

/// An address that takes messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    kind: Kind,
    url: String,
    /// What Feishu's and DingTalk's bots are signed to with.
    secret: Option<String>,
}

impl std::fmt::Debug for Receiver {
    // The address of a chat is what lets one write to it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl std::str::FromStr for Receiver {
    type Err = String;

    /// `URL`, `KIND+URL`, with `#SECRET` at the end where a bot has one. Without a kind it is told by
    /// the host.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kinds = [
            ("slack", "hooks.slack.com", Kind::Slack),
            ("feishu", "open.feishu.cn", Kind::Feishu),
            ("feishu", "open.larksuite.com", Kind::Feishu),
            ("dingtalk", "oapi.dingtalk.com", Kind::DingTalk),
            ("wecom", "qyapi.weixin.qq.com", Kind::WeCom),
            ("plain", "", Kind::Plain),
        ];
        let (said, rest) = match text.split_once('+') {
            Some((name, rest)) if !name.contains(':') => (Some(name), rest),
            _ => (None, text),
        };
        let (url, secret) = match rest.split_once('#') {
            Some((url, secret)) => (url, Some(secret.to_owned()).filter(|s| !s.is_empty())),
            None => (rest, None),
        };
        let host = url
            .split_once("://")
            .map(|(scheme, rest)| (scheme, rest.split(['/', ':', '?']).next().unwrap_or_default()));
        let Some((_, host)) =
            host.filter(|(scheme, host)| matches!(*scheme, "http" | "https") && !host.is_empty())
        else {
            return Err("it is no address such as https://hooks.slack.com/services/…".to_owned());
        };
        let kind = match said {
            Some(said) => kinds.iter().find(|kind| kind.0 == said).ok_or_else(|| {
                format!("{said:?} is none of slack, feishu, dingtalk, wecom and plain")
            })?,
            None => kinds.iter().find(|kind| kind.1 == host).unwrap_or(&kinds[5]),
        };
        Ok(Self { kind: kind.2, url: url.to_owned(), secret })
    }
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
    let mut wait = AGAIN;
    for attempt in 1..=TRIES {
        let (agent, receiver, message) = (agent.clone(), receiver.clone(), message.clone());
        let sent = tokio::task::spawn_blocking(move || send(&agent, &receiver, &message)).await;
        match sent.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => return,
            Err(error) if attempt == TRIES => {
                tracing::error!(error, "a message did not get to its receiver");
            }
            Err(_) => {
                sleep(wait).await;
                wait *= 2;
            }
        }
    }
}

fn send(agent: &Agent, receiver: &Receiver, message: &Message) -> Result<(), String> {
    let now_ms = SystemClock.now_ms();
    let (url, body) = request(receiver, message, now_ms);
    let post = agent.post(url).header("content-type", "application/json");
    let mut answer = post.send(body.to_string()).map_err(|error| error.to_string())?;
    let status = answer.status();
    let said = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_string();
    if !status.is_success() {
        return Err(format!("it answers with HTTP status {status}"));
    }
    // Bots say in the answer what they did not like.
    let said: Value = serde_json::from_str(&said.unwrap_or_default()).unwrap_or_default();
    let code = ["code", "errcode"].iter().find_map(|key| said[key].as_i64()).unwrap_or(0);
    if code == 0 { Ok(()) } else { Err(format!("it answers: {said}")) }
}

/// Where a message goes, and how it is written there.
fn request(receiver: &Receiver, message: &Message, now_ms: i64) -> (String, Value) {
    let Receiver { kind, url, secret } = receiver;
    let Message { topic, en, zh, video } = message;
    let url = url.clone();
    match kind {
        Kind::Plain => {
            let body = json!({
                "topic": topic.as_str(), "text": en, "text_zh": zh, "video": video, "at_ms": now_ms,
            });
            (url, body)
        }
        Kind::Slack => (url, json!({"text": format!("Longreel: {en}")})),
        Kind::WeCom => {
            (url, json!({"msgtype": "text", "text": {"content": format!("Longreel：{zh}")}}))
        }
        Kind::Feishu => {
            let mut body =
                json!({"msg_type": "text", "content": {"text": format!("Longreel：{zh}")}});
            if let Some(secret) = secret {
                let timestamp = (now_ms / 1000).to_string();
                // The text is the key, and nothing is signed: so its documentation has it.
                body["sign"] = signed(&format!("{timestamp}\n{secret}"), "").into();
                body["timestamp"] = timestamp.into();
            }
            (url, body)
        }
        Kind::DingTalk => {
            let body = json!({"msgtype": "text", "text": {"content": format!("Longreel：{zh}")}});
            let Some(secret) = secret else { return (url, body) };
            let sign = signed(secret, &format!("{now_ms}\n{secret}"));
            let sign = sign.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            let between = if url.contains('?') { '&' } else { '?' };
            (format!("{url}{between}timestamp={now_ms}&sign={sign}"), body)
        }
    }
}

/// HMAC-SHA256 in base64.
fn signed(key: &str, text: &str) -> String {
    match Hmac::<Sha256>::new_from_slice(key.as_bytes()) {
        Ok(mut mac) => {
            mac.update(text.as_bytes());
            BASE64_STANDARD.encode(mac.finalize().into_bytes())
        }
        // HMAC takes keys of any length.
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let (en, zh) = ("it failed".to_owned(), "失败".to_owned());
        Message { topic: Topic::Failed, en, zh, video: Some("v".into()) }
    }

    #[test]
    fn receivers_are_known_by_their_hosts_or_by_what_is_said() {
        for (text, kind, secret) in [
            ("https://hooks.slack.com/services/a/b", Kind::Slack, None),
            ("https://open.feishu.cn/open-apis/bot/v2/hook/x#s3", Kind::Feishu, Some("s3")),
            ("https://oapi.dingtalk.com/robot/send?access_token=x", Kind::DingTalk, None),
            ("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=x", Kind::WeCom, None),
            ("https://example.com:8443/a+b", Kind::Plain, None),
            ("dingtalk+http://127.0.0.1:9/x#abc", Kind::DingTalk, Some("abc")),
        ] {
            let receiver: Receiver = text.parse().expect(text);
            assert_eq!((receiver.kind, receiver.secret.as_deref()), (kind, secret), "{text}");
            assert!(!format!("{receiver:?}").contains("http"), "the log would have the address");
        }
        for text in ["", "example.com", "ftp://example.com", "teams+https://example.com"] {
            assert!(text.parse::<Receiver>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_kind_is_written_to_in_its_own_way() {
        let of =
            |text: &str| request(&text.parse().expect("a receiver"), &message(), 1_700_000_000_123);
        assert_eq!(of("slack+https://a.b/c").1, json!({"text": "Longreel: it failed"}));
        assert_eq!(
            of("wecom+https://a.b/c").1,
            json!({"msgtype": "text", "text": {"content": "Longreel：失败"}})
        );
        let (url, body) = of("https://a.b/c");
        assert_eq!(
            (url.as_str(), &body["video"], &body["topic"]),
            ("https://a.b/c", &json!("v"), &json!("failed"))
        );
        let (_, body) = of("feishu+https://a.b/c#secret");
        assert_eq!(body["timestamp"], "1700000000");
        // python3: base64(hmac.new(b"1700000000\nsecret", b"", sha256))
        assert_eq!(body["sign"], "fiWS2+gh28DOydAv7hzONH/mDn9+b1Y4Y5ivXWXy8vA=");
        let (url, _) = of("dingtalk+https://a.b/c?access_token=x#secret");
        // python3: quote_plus(base64(hmac.new(b"secret", b"1700000000123\nsecret", sha256)))
        assert_eq!(
            url,
            "https://a.b/c?access_token=x&timestamp=1700000000123&sign=EuAwVSfePnVOq0cu6mnF3quJywHpp6mRkTQz01sPfuw%3D"
        );
    }
}

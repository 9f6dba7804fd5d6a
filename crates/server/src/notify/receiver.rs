//! Addresses that take messages, and how each kind of them is written to.

use base64::prelude::*;
use hmac::{Hmac, KeyInit, Mac};
use longreel_jobs::{Clock, SystemClock};
use serde_json::{Value, json};
use sha2::Sha256;
use ureq::Agent;

use super::Message;

/// What is read of an answer.
const ANSWER_BYTES: u64 = 16 << 10;

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

/// Posts a message.
///
/// # Errors
/// In words.
pub(super) fn send(agent: &Agent, receiver: &Receiver, message: &Message) -> Result<(), String> {
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
    use crate::notify::Topic;

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

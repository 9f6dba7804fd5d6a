//! A place in a trace, as it goes from service to service: W3C's Trace Context, level 2
//! (<https://www.w3.org/TR/trace-context-2/>).

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use longreel_jobs::TraceContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The flag of a trace that is recorded.
pub const SAMPLED: u8 = 1;
/// The flags that have a meaning: sampled, and a trace id that is random. Others are not carried on.
const FLAGS: u8 = 0b11;
/// Most members of a `tracestate`.
const MEMBERS: usize = 32;
/// Longest `tracestate` that is carried on, and the length from which members go first, in bytes.
const STATE_BYTES: usize = 512;
const LONG_MEMBER: usize = 128;

/// A span's place in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    pub flags: u8,
    /// `tracestate`; empty when there is none.
    pub state: String,
}

impl Context {
    /// The place that a request comes from. Headers that are not well formed count as none.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next().filter(|_| parents.next().is_none())?;
        let context = Self::parse(parent.to_str().ok()?)?;
        let states: Result<Vec<&str>, _> =
            headers.get_all(TRACESTATE).iter().map(HeaderValue::to_str).collect();
        let state = states.ok().and_then(|states| state(&states.join(","))).unwrap_or_default();
        Some(Self { state, ..context })
    }

    /// Puts it in the place of what a request came with; `None` takes that away.
    pub fn replace(headers: &mut HeaderMap, context: Option<&Self>) {
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
        for (name, value) in context.into_iter().flat_map(Self::headers) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// As a job keeps it.
    pub fn kept(&self) -> TraceContext {
        let tracestate = (!self.state.is_empty()).then(|| self.state.clone());
        TraceContext { traceparent: self.traceparent(), tracestate }
    }

    /// As a job kept it.
    pub fn of_kept(kept: &TraceContext) -> Option<Self> {
        let state = kept.tracestate.clone().unwrap_or_default();
        Some(Self { state, ..Self::parse(&kept.traceparent)? })
    }

    /// For a request to another service.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let TraceContext { traceparent, tracestate } = self.kept();
        let state = tracestate.map(|state| ("tracestate", state));
        [("traceparent", traceparent)].into_iter().chain(state)
    }

    /// Whether the trace is recorded. What is begun in one that is not is recorded as little.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", hex(&self.trace), hex(&self.span), self.flags)
    }

    /// `00-<32 hex>-<16 hex>-<2 hex>`; in later versions more may follow.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_matches([' ', '\t']).splitn(5, '-');
        let version: [u8; 1] = bytes(parts.next()?)?;
        let (trace, span) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
        let [flags] = bytes(parts.next()?)?;
        let is_known = match version {
            [0] => parts.next().is_none(),
            [version] => version != 0xff,
        };
        let is_none = trace == [0; 16] || span == [0; 8];
        let flags = flags & FLAGS;
        (is_known && !is_none).then_some(Self { trace, span, flags, state: String::new() })
    }
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same read; upper case is none.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A `tracestate` as it is carried on: without empty members, and cut to its length as the
/// specification has it, long members first, then the last ones.
fn state(text: &str) -> Option<String> {
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let mut members: Vec<&str> = members.filter(|member| !member.is_empty()).collect();
    if members.len() > MEMBERS || !members.iter().all(|member| is_member(member)) {
        return None;
    }
    let length = |members: &[&str]| members.iter().map(|m| m.len() + 1).sum::<usize>();
    while length(&members) > STATE_BYTES + 1 {
        let long = members.iter().rposition(|member| member.len() > LONG_MEMBER);
        members.remove(long.unwrap_or(members.len() - 1));
    }
    Some(members.join(","))
}

/// `key=value`, where a key begins with a letter or digit and may have one `@`.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let in_key =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let is_key = key.len() <= 256
        && key.bytes().all(in_key)
        && key.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && key.bytes().filter(|&byte| byte == b'@').count() <= 1;
    let in_value = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'=';
    is_key && (1..=256).contains(&value.len()) && value.bytes().all(in_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// What is carried on of a request with these headers.
    fn carried(sent: &[(&'static str, &str)]) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        for &(name, value) in sent {
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let context = Context::of(&headers);
        Context::replace(&mut headers, context.as_ref());
        let all = |name: &str| {
            let all = headers.get_all(name).iter().map(|value| value.to_str().expect("text"));
            all.collect::<Vec<_>>().join(" and ")
        };
        assert_eq!(context.is_some(), headers.contains_key(TRACEPARENT));
        let again = context.as_ref().and_then(|context| Context::of_kept(&context.kept()));
        assert_eq!(again, context, "a job keeps something else");
        context.map(|_| (all("traceparent"), all("tracestate")))
    }

    #[test]
    fn a_parent_is_taken_as_the_specification_writes_it_and_nonsense_is_none() {
        let parent = |text: &str| carried(&[("traceparent", text)]).map(|carried| carried.0);
        let with = |at: usize, text: &str| {
            let mut parent = PARENT.to_owned();
            parent.replace_range(at..at + text.len(), text);
            parent
        };
        let same = Some(PARENT.to_owned());
        assert_eq!(parent(PARENT), same);
        assert_eq!(parent(&format!(" \t{PARENT} ")), same);
        // Versions to come are read as far as they are known, and are this version from here on.
        assert_eq!(parent(&with(0, "cc")), same);
        assert_eq!(parent(&format!("{}-what-is-to-come", with(0, "cc"))), same);
        // Flags without a meaning yet go, unsampled stays unsampled.
        assert_eq!(parent(&with(53, "ff")), Some(with(53, "03")));
        assert_eq!(parent(&with(53, "fc")), Some(with(53, "00")));
        for text in [
            "",
            "00",
            "00-0-0-00",
            &PARENT[..54],
            &PARENT[..52],
            &format!("{PARENT}-"),
            &format!("{PARENT}-more"),
            &format!("{PARENT}."),
            &format!("{}.more", with(0, "cc")),
            &with(0, "ff"),
            &with(0, ".0"),
            &with(0, "0A"),
            &with(3, "0AF7"),
            &with(3, "+af7"),
            &with(3, "x"),
            &with(3, &"0".repeat(32)),
            &with(36, &"0".repeat(16)),
            &with(36, "."),
            &with(53, ".0"),
            &with(53, "0."),
            &PARENT.replace('-', "_"),
        ] {
            assert_eq!(parent(text), None, "{text}");
        }
        assert_eq!(carried(&[("traceparent", PARENT), ("traceparent", PARENT)]), None);
        assert_eq!(carried(&[("tracestate", "a=1")]), None);
    }

    #[test]
    fn a_state_is_carried_on_whole_or_not_at_all() {
        let state = |text: &str| {
            carried(&[("traceparent", PARENT), ("tracestate", text)]).expect("a parent").1
        };
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>();
        let same = ["a=1", "a=1,b=2", "tenant@system=x y", "0a_-*/=!~\"#", &many(32).join(",")];
        for text in same {
            assert_eq!(state(text), text);
        }
        assert_eq!(state(" a=1 \t, ,b=2,,"), "a=1,b=2");
        for text in [
            "",
            "a",
            "a=",
            "=1",
            "A=1",
            "a=1=2",
            "@a=1",
            "a@b@c=1",
            "a b=1",
            "a =1",
            "a=1,b",
            &format!("{}=1", "k".repeat(257)),
            &format!("a={}", "v".repeat(257)),
            &many(33).join(","),
        ] {
            assert_eq!(state(text), "", "{text}");
        }
        let two = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
        assert_eq!(carried(&two).expect("a parent").1, "a=1,b=2");
    }

    #[test]
    fn a_state_that_is_too_long_loses_long_members_first_and_then_the_last_ones() {
        let member = |key: char, length: usize| format!("{key}={}", "v".repeat(length - 2));
        let carried = |members: &[String]| state(&members.join(",")).expect("good");
        let (long, short) = (member('l', 200), |key| member(key, 100));
        let kept = [short('a'), short('b'), short('c'), short('d')];
        let with_long = [short('a'), long.clone(), short('b'), short('c'), short('d')];
        assert_eq!(carried(&with_long), kept.join(","));
        let five = [&kept[..], &[short('e')]].concat();
        assert_eq!(carried(&five), five.join(","), "504 bytes are not too long");
        assert_eq!(carried(&[&five[..], &[short('f')]].concat()), five.join(","));
        let exactly = [member('l', 200), member('m', 200), member('n', 110)];
        assert_eq!(exactly.join(",").len(), STATE_BYTES);
        assert_eq!(carried(&exactly), exactly.join(","));
    }
}

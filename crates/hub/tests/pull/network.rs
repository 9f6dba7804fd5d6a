//! Connections that break, servers that are busy, answers that are wrong.

use std::time::Instant;

use longreel_hub::{Client, HubError, Site};

use crate::stand_in::{COMMIT, Fault, StandIn};
use crate::{Place, WEIGHTS, small_repository};

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let (hub, weights) = small_repository();
    hub.fault(WEIGHTS, &[Fault::Cut(1_000_000), Fault::Status(503, ""), Fault::Cut(500_000)]);
    let kept = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = (kept.pull(&[]).expect("pulled"), kept);
    assert!(std::fs::read(kept.0.folder.join(WEIGHTS)).expect("readable") == weights);
    let calls = hub.calls_for(WEIGHTS);
    let ranges: Vec<_> = calls.iter().map(|call| call.header("range")).collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=1000000-"), Some("bytes=1000000-"), Some("bytes=1500000-")]
    );
    assert!(calls[1].header("if-range").is_some(), "{:?}", calls[1]);
}

#[test]
fn another_run_goes_on_with_what_is_there() {
    let (hub, weights) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    hub.fault(
        WEIGHTS,
        &[
            Fault::Cut(2_000_000),
            Fault::Status(500, ""),
            Fault::Status(500, ""),
            Fault::Status(500, ""),
            Fault::Status(500, ""),
        ],
    );
    let error = place.pull(&[]).expect_err("given up");
    assert!(error.to_string().contains("HTTP 500"), "{error}");
    assert!(error.to_string().contains("the same command goes on"), "{error}");
    let unfinished: Vec<String> =
        place.names().into_iter().filter(|name| name.ends_with(".incomplete")).collect();
    assert_eq!(unfinished.len(), 1, "{unfinished:?}");
    hub.with(|state| (state.faults.clear(), state.calls.clear()));
    let kept = place.pull(&[]).expect("pulled");
    assert!(std::fs::read(kept.folder.join(WEIGHTS)).expect("readable") == weights);
    assert_eq!(hub.calls_for(WEIGHTS)[0].header("range"), Some("bytes=2000000-"));
    assert!(!place.names().iter().any(|name| name.ends_with(".incomplete")));
    // And a third one asks for nothing but the list.
    hub.with(|state| state.calls.clear());
    place.pull(&[]).expect("pulled");
    assert_eq!(hub.calls().len(), 1);
}

#[test]
fn a_server_without_ranges_sends_the_whole_again() {
    let (hub, weights) = small_repository();
    hub.fault(WEIGHTS, &[Fault::Cut(1_000_000), Fault::NoRange]);
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    assert!(std::fs::read(kept.folder.join(WEIGHTS)).expect("readable") == weights);
    hub.with(|state| (state.faults.clear(), state.calls.clear()));
    let other = Place::new(Site::HuggingFace, &hub, &[]);
    hub.fault(WEIGHTS, &[Fault::Cut(1_000_000), Fault::WrongPart]);
    let kept = other.pull(&[]).expect("pulled");
    assert!(std::fs::read(kept.folder.join(WEIGHTS)).expect("readable") == weights);
}

#[test]
fn what_is_damaged_is_fetched_once_more_and_then_refused() {
    let (hub, weights) = small_repository();
    hub.fault(WEIGHTS, &[Fault::Spoilt]);
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("the second time it is sound");
    assert!(std::fs::read(kept.folder.join(WEIGHTS)).expect("readable") == weights);

    hub.fault(WEIGHTS, &[Fault::Spoilt, Fault::Spoilt]);
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let error = place.pull(&[]).expect_err("damaged");
    assert!(matches!(error, HubError::Damaged { tries: 2, .. }), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
    let sha = crate::stand_in::sha256(&weights);
    assert!(!place.names().iter().any(|name| name.contains(&sha)), "{:?}", place.names());
    assert!(place.cache().all().is_empty(), "a snapshot of what is not whole");
}

#[test]
fn a_small_file_is_checked_by_its_git_hash() {
    let (hub, _) = small_repository();
    hub.fault("vae/config.json", &[Fault::Spoilt, Fault::Spoilt]);
    let error = Place::new(Site::HuggingFace, &hub, &[]).pull(&[]).expect_err("damaged");
    assert!(error.to_string().contains("vae/config.json is damaged: its git hash"), "{error}");
}

#[test]
fn a_wait_that_the_server_asks_for_is_kept() {
    let (hub, _) = small_repository();
    hub.fault(WEIGHTS, &[Fault::Status(429, "retry-after: 1\r\n")]);
    let began = Instant::now();
    Place::new(Site::HuggingFace, &hub, &[]).pull(&[]).expect("pulled");
    assert!(began.elapsed().as_millis() >= 1000, "{:?}", began.elapsed());

    hub.fault(WEIGHTS, &[Fault::Status(429, "retry-after: 900\r\n")]);
    let error = Place::new(Site::HuggingFace, &hub, &[]).pull(&[]).expect_err("too long");
    assert!(error.to_string().contains("too many calls"), "{error}");
    assert!(error.to_string().contains("900 s of patience"), "{error}");
}

#[test]
fn the_token_goes_to_the_endpoint_and_not_along_with_a_redirect() {
    let (hub, _) = small_repository();
    let elsewhere = StandIn::new();
    elsewhere.with(|state| state.files = hub.with(|state| state.files.clone()));
    hub.with(|state| {
        state.elsewhere = Some(elsewhere.base());
        state.token = Some("hf_secret".into());
    });
    let place = Place::new(Site::HuggingFace, &hub, &[("HF_TOKEN", "hf_secret")]);
    place.pull(&[]).expect("pulled");
    assert!(hub.calls().iter().all(|c| c.header("authorization") == Some("Bearer hf_secret")));
    let there = elsewhere.calls();
    assert_eq!(there.len(), 1);
    assert!(
        there.iter().all(|c| c.header("authorization").is_none() && c.header("cookie").is_none())
    );
}

#[test]
fn a_refusal_says_what_to_do() {
    let (hub, _) = small_repository();
    let pull = |more: &[(&str, &str)]| {
        Place::new(Site::HuggingFace, &hub, more).pull(&[]).expect_err("refused").to_string()
    };
    let refuse = |status, head: &str| hub.with(|s| s.refuse = Some((status, head.to_owned())));
    refuse(401, "x-error-code: GatedRepo\r\n");
    let message = pull(&[]);
    assert!(message.contains("gated") && message.contains("HF_TOKEN"), "{message}");
    assert!(message.contains(&format!("{}/org/model", hub.base())), "{message}");
    refuse(403, "x-error-code: GatedRepo\r\n");
    let message = pull(&[("HF_TOKEN", "hf_secret")]);
    assert!(message.contains("ask for access") && !message.contains("hf_secret"), "{message}");
    refuse(401, "");
    assert!(pull(&[]).contains("no public repository org/model"));
    assert!(pull(&[("HF_TOKEN", "hf_secret")]).contains("the token is not known"));
    refuse(404, "x-error-code: RevisionNotFound\r\n");
    assert!(pull(&[]).contains("no revision main of org/model"));
    refuse(404, "x-error-code: RepoNotFound\r\n");
    assert!(pull(&[("HF_TOKEN", "x")]).contains("models search"));
}

#[test]
fn nobody_there_is_said_with_the_ways_out() {
    let (hub, _) = small_repository();
    let mut place = Place::new(Site::HuggingFace, &hub, &[]);
    // A port on which nobody listens any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", closed.local_addr().expect("bound"));
    drop(closed);
    place.settings.endpoint = address.parse().expect("an address");
    let message = place.pull(&[]).expect_err("nobody").to_string();
    for part in ["cannot be reached", "https_proxy", "HF_ENDPOINT", "--from modelscope", "4 times"]
    {
        assert!(message.contains(part), "no {part} in {message}");
    }
}

#[test]
fn offline_means_that_nobody_is_asked() {
    let (hub, _) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[("HF_HUB_OFFLINE", "1")]);
    let error = place.pull(&[]).expect_err("offline");
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(hub.calls().is_empty());
}

#[test]
fn a_proxy_of_the_environment_is_used_and_no_proxy_is_honoured() {
    let (hub, _) = small_repository();
    // A proxy that lets nothing through shows that it is asked.
    let proxy = StandIn::new();
    let through = proxy.base();
    let error = Place::new(Site::HuggingFace, &hub, &[("http_proxy", &through)]).pull(&[]);
    assert!(error.is_err());
    assert_eq!(proxy.calls()[0].method, "CONNECT");
    assert!(hub.calls().is_empty());
    let direct = [("http_proxy", through.as_str()), ("no_proxy", "127.0.0.0/8")];
    Place::new(Site::HuggingFace, &hub, &direct).pull(&[]).expect("pulled");
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused_before_anything_is_fetched() {
    for name in
        ["transformer/../../../evil.json", "../evil.safetensors", "/tmp/evil.json", "vae/a\\b.json"]
    {
        let (hub, _) = small_repository();
        hub.with(|state| state.more_names.push(name.into()));
        let place = Place::new(Site::HuggingFace, &hub, &[]);
        let error = place.pull(&["*"]).expect_err(name);
        assert!(matches!(error, HubError::Name { .. }), "{name}: {error}");
        assert!(place.names().is_empty(), "{name}: {:?}", place.names());
    }
}

#[test]
fn a_disk_that_is_too_small_is_said_before_anything_is_fetched() {
    let (hub, _) = small_repository();
    hub.with(|state| state.sizes.insert(WEIGHTS.into(), 1 << 60));
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let error = place.pull(&[]).expect_err("too small");
    assert!(matches!(error, HubError::Space { .. }), "{error}");
    assert!(error.to_string().contains("HF_HUB_CACHE"), "{error}");
    assert!(hub.calls_for(WEIGHTS).is_empty() && place.names().is_empty());
}

#[test]
fn a_search_gives_what_has_a_name() {
    let (hub, _) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let hits = Client::new(place.settings.clone()).expect("a client").search("sky", 20);
    let hits = hits.expect("found");
    assert_eq!(hits.len(), 2);
    assert!(hits[1].gated && !hits[0].gated);
    assert_eq!(COMMIT.len(), 40);
}

#[test]
fn modelscope_is_searched_too() {
    let (hub, _) = small_repository();
    let place = Place::new(Site::ModelScope, &hub, &[]);
    let client = Client::new(place.settings.clone()).expect("a client");
    let hits = client.search("wan", 20).expect("found");
    assert_eq!(hits.len(), 1);
    assert_eq!((hits[0].id.as_str(), hits[0].downloads), ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 7));
    assert!(hits[0].updated.is_some());
}

#[test]
fn a_list_that_is_none_is_an_error_and_writes_nothing() {
    let (hub, _) = small_repository();
    let sha = format!("\"sha\": \"{COMMIT}\"");
    let hash = "0".repeat(40);
    for (list, part) in [
        ("<html>sign in to this network</html>".to_owned(), "no JSON"),
        ("[]".to_owned(), "without a commit"),
        ("{\"sha\": \"../..\", \"siblings\": []}".to_owned(), "without a commit"),
        (format!("{{{sha}}}"), "without files"),
        (format!("{{{sha}, \"siblings\": [1]}}"), "no name"),
        (format!("{{{sha}, \"siblings\": []}}"), "holds no weights"),
        (
            format!("{{{sha}, \"siblings\": [{{\"rfilename\": \"a.gguf\", \"size\": 5}}]}}"),
            "without the hash",
        ),
        (
            format!(
                "{{{sha}, \"siblings\": [{{\"rfilename\": \"a.gguf\", \"blobId\": \"{hash}\"}}]}}"
            ),
            "without the size",
        ),
        (
            format!(
                "{{{sha}, \"siblings\": [{{\"rfilename\": \"a.gguf\", \"size\": 5, \"blobId\": \"../x\"}}]}}"
            ),
            "without the hash",
        ),
        ("[".repeat(100_000), "no JSON"),
    ] {
        hub.with(|state| state.list = Some(list.clone()));
        let place = Place::new(Site::HuggingFace, &hub, &[]);
        let message = place.pull(&[]).expect_err(part).to_string();
        assert!(message.contains(part), "no {part} in {message}");
        assert!(place.names().is_empty(), "{part}: {:?}", place.names());
    }
}

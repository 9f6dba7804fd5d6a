//! `longreel doctor` on machines with something wrong.

use serde_json::Value;

use crate::program::{Place, Ran};

fn doctor(place: &Place, more: &[&str]) -> Ran {
    let mut words = vec!["doctor", "--offline", "--listen", "127.0.0.1:0"];
    words.extend(more);
    place.run(&words)
}

/// What is told of `check`, in levels that matter.
fn found(ran: &Ran, check: &str) -> Vec<(String, String)> {
    let report = &ran.events()[0];
    let all = report["findings"].as_array().expect("a list").iter();
    all.filter(|finding| finding["check"] == check)
        .map(|finding| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&finding["level"]), text(&finding["found"]["en"]))
        })
        .collect()
}

#[test]
fn a_machine_in_order_has_no_errors_and_both_languages_say_so() {
    let place = Place::new();
    let ran = doctor(&place, &["--json"]).expect_code(0);
    // Each run measures anew, so that only one run says the same in both.
    for finding in ran.events()[0]["findings"].as_array().expect("a list") {
        let said = |what: &str, language: &str| finding[what][language].as_str().map(str::to_owned);
        let [english, chinese] =
            ["en", "zh"].map(|language| said("found", language).expect("words"));
        assert!(!english.is_empty() && english != chinese, "{finding:#}");
        assert!(!chinese.is_ascii(), "{finding:#}");
        assert_eq!(said("cure", "en").is_some(), said("cure", "zh").is_some(), "{finding:#}");
        // A command to type is the same in both.
        let cure = said("cure", "zh").unwrap_or_default();
        assert!(
            !cure.is_ascii() || cure.starts_with("longreel ") || cure.is_empty(),
            "{finding:#}"
        );
    }
    for check in ["processor", "memory", "disk", "models", "ffmpeg", "port", "proxy"] {
        assert!(!found(&ran, check).is_empty(), "{check} was not looked at");
    }
    let english = doctor(&place, &["--lang", "en"]).expect_code(0).stdout;
    let chinese = doctor(&place, &["--lang", "zh"]).expect_code(0).stdout;
    assert!(english.contains("Films can be made here"), "{english}");
    assert!(chinese.contains("这台机器可以生成视频"), "{chinese}");
}

#[test]
fn a_damaged_database_is_an_error_that_names_the_file() {
    let place = Place::new();
    std::fs::create_dir(place.path("longreel-data")).expect("writable");
    place.write("longreel-data/jobs.db", "this is no database at all, whatever its name says");
    let ran = doctor(&place, &["--json"]).expect_code(1);
    let (level, said) = found(&ran, "database").remove(0);
    assert_eq!(level, "error");
    assert!(said.contains("jobs.db"), "{said}");
}

#[cfg(unix)]
#[test]
fn what_is_safe_is_mended_when_asked_and_only_then() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    doctor(&place, &[]).expect_code(0);
    assert!(!place.path("longreel-data").exists(), "it was made unasked");
    doctor(&place, &["--fix"]).expect_code(0);
    let secret = place.write("longreel-data/webhook-secret", "whsec_c2VjcmV0");
    let mode = || std::fs::metadata(&secret).expect("a file").permissions().mode() & 0o777;
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).expect("ours");
    let ran = doctor(&place, &["--json"]).expect_code(0);
    assert_eq!(found(&ran, "secrets")[0].0, "warning");
    assert_eq!(mode(), 0o644);
    doctor(&place, &["--fix"]).expect_code(0);
    assert_eq!(mode(), 0o600);
}

#[test]
fn a_port_that_is_taken_and_a_folder_that_cannot_be_written_are_told() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("bound").to_string();
    let ran = place.run(&["doctor", "--offline", "--json", "--listen", &listen]).expect_code(0);
    let (level, said) = found(&ran, "port").remove(0);
    assert_eq!(level, "note");
    assert!(said.contains(&listen), "{said}");
    // A file stands where the folder should be; a folder of no rights would not stop root.
    place.write("in-the-way", "");
    for data in ["in-the-way/data", "in-the-way"] {
        for words in [&["--json", "--data", data][..], &["--json", "--fix", "--data", data]] {
            let ran = doctor(&place, words).expect_code(1);
            let (level, said) = found(&ran, "data").remove(0);
            assert_eq!(level, "error");
            assert!(said.contains(data) && said.ends_with("in-the-way is no folder"), "{said}");
        }
    }
}

#[test]
fn folders_of_logs_and_models_that_cannot_be_written_are_told_and_leave_nothing_behind() {
    let place = Place::new();
    place.write("in-the-way", "");
    let said = |logs: &str, home: &str| -> Ran {
        let words =
            ["doctor", "--offline", "--json", "--listen", "127.0.0.1:0", "--log-folder", logs];
        let output = place
            .command(&words)
            .env_remove("HF_HUB_CACHE")
            .env("HF_HOME", place.path(home))
            .env("MODELSCOPE_CACHE", place.path("modelscope"))
            .output();
        Ran::of(output.expect("the program starts"))
    };
    let ran = said("logs", "models").expect_code(0);
    assert_eq!(found(&ran, "logs")[0].0, "ok");
    let warned = |ran: &Ran| {
        let models = found(ran, "models").into_iter();
        models.filter(|(level, _)| level == "warning").map(|(_, said)| said).collect::<Vec<_>>()
    };
    assert!(warned(&ran).is_empty(), "{:?}", warned(&ran));
    assert_eq!(std::fs::read_dir(place.path("")).expect("a folder").count(), 1, "a leftover");
    // The server would not start with these logs; models that are there can be used all the same.
    let ran = said("in-the-way/logs", "in-the-way/models").expect_code(1);
    assert_eq!(found(&ran, "logs")[0].0, "error");
    let warned = warned(&ran);
    assert!(warned.len() == 1 && warned[0].contains("in-the-way/models"), "{warned:?}");
}

#[test]
fn what_is_in_the_way_of_hubs_is_told_in_both_languages() {
    let place = Place::new();
    let output = place
        .command(&["doctor", "--json", "--listen", "127.0.0.1:0"])
        .env("https_proxy", "http://127.0.0.1:9")
        .env("HF_ENDPOINT", "https://nowhere.invalid")
        .env("no_proxy", "nowhere.invalid")
        .output();
    let ran = Ran::of(output.expect("the program starts")).expect_code(0);
    let report = &ran.events()[0];
    let all = report["findings"].as_array().expect("a list").iter();
    let said: Vec<(&str, &str)> = all
        .filter(|finding| finding["check"] == "hub")
        .filter_map(|finding| {
            Some((finding["found"]["en"].as_str()?, finding["found"]["zh"].as_str()?))
        })
        .collect();
    assert_eq!(said.len(), 3, "{said:?}");
    let (english, chinese) = said[0];
    assert!(english.contains("nowhere.invalid is not known to the name server"), "{english}");
    assert!(chinese.contains("nowhere.invalid 域名服务器无法解析"), "{chinese}");
    for (english, chinese) in &said[1..] {
        assert!(english.contains("Connection refused"), "{english}");
        assert!(chinese.contains("无法连接") && !chinese.contains("cannot"), "{chinese}");
    }
}

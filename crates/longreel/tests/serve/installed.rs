//! Models that lie in a cache and were not named when the server was started.

use std::slice::from_ref;

use serde_json::{Value, json};

use crate::access::{With, key};
use crate::program::{Place, copy_folder, fixtures};
use crate::server::{Server, asked};

/// The name of the model that [`install`] puts into the cache, and the same in an address.
pub const NAME: &str = "org/model@0123456789ab";
const ADDRESS: &str = "/v1/models/org%2Fmodel%400123456789ab";

/// Puts a model into a cache, as Hugging Face's own tools have it; the variable that names the cache.
pub fn install(place: &Place) -> (&'static str, String) {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = place.path("cache/models--org--model");
    let model = fixtures().join("models/t2v");
    copy_folder(&model, &repository.join("snapshots").join(commit));
    std::fs::create_dir_all(repository.join("refs")).expect("writable");
    std::fs::write(repository.join("refs/main"), commit).expect("writable");
    ("HF_HUB_CACHE", place.path("cache").display().to_string())
}

fn film_of(name: &str) -> Value {
    let mut asked = asked(1);
    asked["model"] = json!(name);
    asked
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|m| m["id"].as_str().expect("a name")).collect()
}

#[test]
fn an_installed_model_is_listed_and_makes_films_once_it_is_served_and_after_a_restart() {
    let place = Place::new();
    let cache = install(&place);
    let server = Server::start_among(&place, from_ref(&cache));
    let list = server.get("/v1/models").expect(200).json();
    assert_eq!(names(&list["data"]), ["df"], "clients of other APIs see what is not served");
    assert_eq!(names(&list["installed"]), [NAME]);
    let installed = &list["installed"][0];
    assert_eq!(installed["state"], "installed", "{installed:#}");
    assert!(installed["memory"]["bytes"].as_u64() > Some(0), "{installed:#}");
    assert_eq!(installed["memory"]["fits"], true, "{installed:#}");
    assert_eq!(list["can_serve"], true);
    let available = list["available"].as_array().expect("a list");
    let known = available.iter().find(|m| m["id"] == "skyreels-v2-df-14b-720p").expect("published");
    assert_eq!(known["pull"], "longreel models pull skyreels-v2-df-14b-720p");
    assert!(known["memory"]["bytes"].as_u64() > Some(20 << 30), "{known:#}");
    assert_eq!(server.get(ADDRESS).expect(200).json()["state"], "installed");

    // Nothing is loaded because somebody names it.
    server.post("/v1/videos", &film_of(NAME)).problem(400, "model_not_found");
    for other in ["..%2Fcache", "skyreels-v2-df-14b-720p", "org%2Fmodel", "%2Fetc"] {
        server.post(&format!("/v1/models/{other}/serve"), &json!({})).problem(404, "not_found");
    }
    let served = server.post(&format!("{ADDRESS}/serve"), &json!({})).expect(200).json();
    assert_eq!((&served["state"], &served["is_default"]), (&json!("served"), &json!(false)));
    let id = server.ask(&film_of(NAME));
    let film = server.film(&id);
    assert_eq!(server.video(&id)["model"], NAME);
    let list = server.get("/v1/models").expect(200).json();
    assert_eq!((names(&list["data"]), names(&list["installed"])), (vec!["df", NAME], vec![]));
    server.post(&format!("{ADDRESS}/use"), &json!({})).expect(200);

    // Out and in again, with nothing to make; a default stays.
    let stop = |server: &Server| server.send("DELETE", &format!("{ADDRESS}/serve"), &[], []);
    stop(&server).problem(409, "model_is_default");
    server.post("/v1/models/df/use", &json!({})).expect(200);
    assert_eq!(stop(&server).expect(200).json()["state"], "stopped");
    assert_eq!(server.get(ADDRESS).expect(200).json()["state"], "installed");
    server.post("/v1/videos", &film_of(NAME)).problem(400, "model_not_found");
    server.post(&format!("{ADDRESS}/use"), &json!({})).expect(200);

    // A job that waits for it finds it with the next server, also as the default.
    server.kill();
    let server = Server::start_among(&place, from_ref(&cache));
    assert_eq!(server.get("/models/info").expect(200).json()["model"], NAME);
    assert!(server.film(&server.ask(&film_of(NAME))) == film, "another film");
    server.kill();
    // What is gone is no reason not to start.
    std::fs::remove_dir_all(place.path("cache")).expect("it was there");
    let server = Server::start_among(&place, &[cache]);
    assert_eq!(names(&server.get("/v1/models").expect(200).json()["data"]), ["df"]);
}

#[test]
fn a_model_that_is_not_whole_says_what_is_missing_and_is_not_served() {
    let place = Place::new();
    let cache = install(&place);
    let snapshots = place.path("cache/models--org--model/snapshots");
    let snapshot =
        std::fs::read_dir(snapshots).expect("a cache").next().expect("one").expect("one");
    std::fs::remove_dir_all(snapshot.path().join("vae")).expect("it was there");
    let server = Server::start_among(&place, &[cache]);
    let list = server.get("/v1/models").expect(200).json();
    let listed = &list["installed"][0];
    assert!(listed["problem"].as_str().expect("one").contains("VAE"), "{listed:#}");
    let refused = server.post(&format!("{ADDRESS}/serve"), &json!({}));
    let detail = refused.problem(409, "model_unusable");
    assert!(detail.contains("longreel models pull org/model@"), "{detail}");
    let place = place.path("").display().to_string();
    assert!(!detail.contains(&place) && !listed.to_string().contains(&place), "{detail} {listed}");
}

#[test]
fn an_ordinary_key_has_no_model_served_unless_the_operator_lets_it() {
    let place = Place::new();
    let cache = install(&place);
    let keys = ("LONGREEL_REQUIRE_KEYS", "true".to_owned());
    let (ordinary, _) = key(&place, &["ann"]);
    let (admin, _) = key(&place, &["operator", "--scope", "admin"]);
    let server = Server::start_among(&place, &[cache.clone(), keys.clone()]);
    let ann = With(&server, &ordinary);
    assert_eq!(ann.get("/v1/models").expect(200).json()["can_serve"], false);
    for what in ["serve", "use"] {
        let refused = ann.send("POST", &format!("{ADDRESS}/{what}"), &json!({}));
        refused.problem(403, "scope_missing");
    }
    ann.send("POST", "/v1/videos", &film_of(NAME)).problem(400, "model_not_found");
    ann.send("POST", "/v1/plan", &film_of(NAME)).problem(400, "model_not_found");
    let operator = With(&server, &admin);
    assert_eq!(operator.get("/v1/models").expect(200).json()["can_serve"], true);
    operator.send("POST", &format!("{ADDRESS}/serve"), &json!({})).expect(200);
    // From then on it is like any other, and only an operator ends it.
    ann.ask(&film_of(NAME));
    assert_eq!(ann.get("/v1/models").expect(200).json()["can_stop"], false);
    let end = format!("{ADDRESS}/serve");
    ann.send("DELETE", &end, &Value::Null).problem(403, "scope_missing");
    assert_eq!(operator.get("/v1/models").expect(200).json()["can_stop"], true);
    operator.send("DELETE", &end, &Value::Null).expect(200);
    server.kill();

    let place = Place::new();
    let cache = install(&place);
    let (ordinary, _) = key(&place, &["ann"]);
    let lets = ("LONGREEL_SERVE_INSTALLED", "true".to_owned());
    let server = Server::start_among(&place, &[cache, keys, lets]);
    let ann = With(&server, &ordinary);
    assert_eq!(ann.get("/v1/models").expect(200).json()["can_serve"], true);
    let id = ann.ask(&film_of(NAME));
    assert_eq!(ann.get(&format!("/v1/videos/{id}")).expect(200).json()["model"], NAME);
    ann.send("POST", "/v1/videos", &film_of("org/other")).problem(400, "model_not_found");
    ann.send("POST", &format!("{ADDRESS}/use"), &json!({})).problem(403, "scope_missing");
}

//! What an image needs of the program: its own health check, and a first key without a shell.

use crate::program::Place;
use crate::server::Server;

#[test]
fn health_says_whether_a_server_is_ready_and_needs_no_key() {
    let place = Place::new();
    let model = crate::program::model();
    let server = Server::start_with(&place, &["--model", &model, "--require-keys"]);
    let listens = server.url("").trim_start_matches("http://").to_owned();
    server.wait_ready();
    let ran = place.run(&["health", "--listen", &listens]).expect_code(0);
    assert_eq!(ran.stdout, "ready\n");
    let said = place.run(&["health", "--listen", &listens, "--json"]).expect_code(0).events();
    assert_eq!(said[0]["ready"], true, "{said:?}");
    // As it stands in the environment of a container, for `serve` and for this.
    let mut command = place.command(&["health"]);
    command
        .env("LONGREEL_LISTEN", format!("0.0.0.0:{}", listens.rsplit(':').next().expect("a port")));
    assert!(command.status().expect("the program starts").success());
    server.kill();
    let ran = place.run(&["health", "--listen", &listens]).expect_code(1);
    assert!(
        ran.stderr.contains(&format!("no server answers at http://{listens}")),
        "{}",
        ran.stderr
    );
}

#[test]
#[cfg(target_os = "linux")]
fn health_says_why_a_server_is_not_ready() {
    let place = Place::new();
    let server = Server::start(&place);
    let listens = server.url("").trim_start_matches("http://").to_owned();
    server.wait_ready();
    // A film in work keeps the server from ending at once.
    let id = server.ask(&crate::server::asked(40));
    server.wait(&id, "in work", |video| video["status"] == "in_progress");
    server.signal("-TERM");
    let started = std::time::Instant::now();
    while place.run(&["health", "--listen", &listens]).code == Some(0) {
        assert!(started.elapsed() < crate::server::PATIENCE, "{}", server.log());
    }
    let ran = place.run(&["health", "--listen", &listens]).expect_code(1);
    let says = ["is not ready: the server ends", "no server answers"];
    assert!(says.iter().any(|text| ran.stderr.contains(text)), "{}", ran.stderr);
}

#[test]
fn the_first_key_is_made_once_and_may_do_everything() {
    let place = Place::new();
    let model = crate::program::model();
    let words = ["--model", &model, "--require-keys", "--first-key"];
    let server = Server::start_with(&place, &words);
    let [said] = server.said.as_slice() else { panic!("{:?}", server.said) };
    assert_eq!(said["event"], "first_key");
    let key = format!("Bearer {}", said["key"].as_str().expect("a key"));
    server.get("/v1/videos").expect(401);
    for path in ["/v1/videos", "/metrics"] {
        server.send("GET", path, &[("authorization", &key)], []).expect(200);
    }
    server.kill();
    let server = Server::start_with(&place, &words);
    assert!(server.said.is_empty(), "a second one: {:?}", server.said);
    server.send("GET", "/v1/videos", &[("authorization", &key)], []).expect(200);
    let keys = place.run(&["keys", "list", "--data", "data", "--json"]).expect_code(0).events();
    assert_eq!((keys.len(), &keys[0]["scopes"][0]), (1, &"admin".into()), "{keys:?}");
    server.kill();
    // Whoever revoked it is not shut out.
    place.run(&["keys", "revoke", "first", "--data", "data"]).expect_code(0);
    assert_eq!(Server::start_with(&place, &words).said.len(), 1);
}

#[test]
fn no_key_is_made_where_none_is_needed() {
    let place = Place::new();
    let server = Server::start_with(&place, &["--model", &crate::program::model(), "--first-key"]);
    assert!(server.said.is_empty(), "{:?}", server.said);
    server.get("/v1/videos").expect(200);
}

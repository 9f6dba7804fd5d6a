//! Who may call, and for what.

use serde_json::{Value, json};

use crate::program::{Place, model};
use crate::server::{Answer, Server, asked};

/// Makes a key; the key and its id.
pub fn key(place: &Place, words: &[&str]) -> (String, String) {
    let words: Vec<&str> =
        ["keys", "create", "--data", "data", "--json"].iter().chain(words).copied().collect();
    let made = place.run(&words).expect_code(0).events().remove(0);
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("key"), text("id"))
}

fn keyed(place: &Place, more: &[&str]) -> Server {
    let model = model();
    let words: Vec<&str> =
        ["--require-keys", "--model", &model].iter().chain(more).copied().collect();
    Server::start_with(place, &words)
}

/// A server, and somebody with a key.
pub struct With<'a>(pub &'a Server, pub &'a str);

impl With<'_> {
    pub fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.1);
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        self.0.send(method, path, &headers, body.to_string())
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &Value::Null)
    }

    pub fn ask(&self, body: &Value) -> String {
        let video = self.send("POST", "/v1/videos", body).expect(201).json();
        video["id"].as_str().expect("an id").to_owned()
    }

    fn ids(&self) -> Vec<String> {
        let list = self.get("/v1/videos").expect(200).json();
        let videos = list["data"].as_array().expect("a list").iter();
        videos.map(|video| video["id"].as_str().expect("an id").to_owned()).collect()
    }
}

#[test]
fn a_key_holds_from_the_moment_it_is_made_until_it_is_revoked() {
    let place = Place::new();
    let server = keyed(&place, &[]);
    assert!(server.log().contains("longreel keys create"), "{}", server.log());
    for path in ["/v1/videos", "/models/info", "/status/x", "/v1/videos/x/content"] {
        let refused = server.get(path);
        assert!(refused.problem(401, "key_missing").contains("longreel keys create"), "{path}");
        assert!(refused.header("www-authenticate").starts_with("Bearer "), "{path}");
    }
    server.post("/v1/videos", &asked(1)).problem(401, "key_missing");
    for path in ["/", "/health", "/health/live", "/v1/session"] {
        server.get(path).expect(200);
    }

    let (secret, id) = key(&place, &["ann", "--expires-days", "1"]);
    With(&server, &secret).get("/v1/videos").expect(200);
    let basic = [("authorization", "Basic bHJfeA==")];
    server.send("GET", "/v1/videos", &basic, []).problem(401, "key_malformed");
    let other = secret[..secret.len() - 4].to_owned() + "AAAA";
    let unknown = With(&server, &other).get("/v1/videos");
    unknown.problem(401, "key_unknown");
    assert!(unknown.header("www-authenticate").contains("invalid_token"));

    let listed = place.run(&["keys", "list", "--data", "data"]).expect_code(0).stdout;
    assert!(
        listed.contains(&id) && listed.contains("ann") && !listed.contains(&secret),
        "{listed}"
    );
    assert!(listed.contains("read,write") && listed.contains("active"), "{listed}");
    let kept = String::from_utf8_lossy(&place.read("data/jobs.db")).into_owned();
    assert!(!kept.contains(&secret), "the database holds a key");
    place.run(&["keys", "revoke", &secret[..11], "--data", "data"]).expect_code(0);
    With(&server, &secret).get("/v1/videos").problem(401, "key_revoked");
    let (soon, _) = key(&place, &["soon", "--expires-days", "0.000001"]);
    std::thread::sleep(std::time::Duration::from_millis(100));
    With(&server, &soon).get("/v1/videos").problem(401, "key_expired");
}

#[test]
fn an_owner_sees_and_touches_its_own_films_alone_and_an_operator_all() {
    let place = Place::new();
    let server = keyed(&place, &[]);
    let secrets = [
        key(&place, &["ann"]).0,
        key(&place, &["bob"]).0,
        key(&place, &["boss", "--scope", "admin"]).0,
        key(&place, &["screen", "--owner", "ann", "--scope", "read"]).0,
    ];
    let [ann, bob, boss, screen] = secrets.each_ref().map(|secret| With(&server, secret));
    let film = ann.ask(&asked(100_000));
    let waiting = bob.ask(&asked(1));
    let all = |id: &str| {
        [
            ("GET", format!("/v1/videos/{id}")),
            ("GET", format!("/v1/videos/{id}/content")),
            ("GET", format!("/v1/videos/{id}/files/preview-00000000.png")),
            ("GET", format!("/v1/videos/{id}/events")),
            ("GET", format!("/v1/videos/{id}/webhooks")),
            ("GET", format!("/status/{id}")),
            ("GET", format!("/download/{id}")),
            ("POST", format!("/v1/videos/{id}/cancel")),
            ("POST", format!("/v1/videos/{id}/pause")),
            ("POST", format!("/v1/videos/{id}/resume")),
            ("POST", format!("/v1/videos/{id}/steer")),
            ("POST", format!("/v1/videos/{id}/remix")),
            ("POST", format!("/v1/videos/{id}/extend")),
            ("POST", format!("/v1/videos/{id}/branch")),
            ("DELETE", format!("/v1/videos/{id}")),
        ]
    };
    let nobodys = "0190b36e-0000-7000-8000-000000000000";
    for ((method, path), (_, nowhere)) in all(&film).iter().zip(all(nobodys)) {
        let told = bob.send(method, path, &json!({})).problem(404, "not_found");
        // Whether there is such a film is not told either.
        let nothing = bob.send(method, &nowhere, &json!({})).problem(404, "not_found");
        assert_eq!(told.replace(&film, nobodys), nothing, "{method} {path}");
    }
    assert_eq!((ann.ids(), bob.ids()), (vec![film.clone()], vec![waiting.clone()]));
    assert_eq!(boss.ids(), [waiting, film.clone()]);
    assert_eq!(screen.ids(), std::slice::from_ref(&film));
    let cancel = format!("/v1/videos/{film}/cancel");
    let refused = screen.send("POST", &cancel, &json!({})).problem(403, "scope_missing");
    assert!(refused.contains("write"), "{refused}");
    let video = boss.send("POST", &cancel, &json!({})).expect(200).json();
    assert_eq!(video["owner"], "ann");

    // A key for requests that may be repeated is its owner's alone.
    let once = |with: &With| {
        let bearer = format!("Bearer {}", with.1);
        let headers = [
            ("authorization", &*bearer),
            ("content-type", "application/json"),
            ("idempotency-key", "once"),
        ];
        server.send("POST", "/v1/videos", &headers, asked(1).to_string()).expect(201).json()
    };
    assert_ne!(once(&ann)["id"], once(&bob)["id"]);
}

#[test]
fn a_key_that_calls_too_often_is_told_when_to_come_back() {
    let place = Place::new();
    let server = keyed(&place, &["--rate-limit", "60:3"]);
    let (slow, _) = key(&place, &["slow", "--rate-limit", "6:2"]);
    let (usual, _) = key(&place, &["usual"]);
    let slow = With(&server, &slow);
    assert_eq!(slow.get("/v1/videos").expect(200).header("ratelimit-policy"), "\"key\";q=2;w=20");
    slow.get("/v1/videos").expect(200);
    let refused = slow.get("/v1/videos");
    assert!(refused.problem(429, "rate_limited").contains("6 times a minute"));
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=10).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").starts_with("\"key\";r=0;t="));
    let first = With(&server, &usual).get("/v1/videos").expect(200);
    assert!(first.header("ratelimit").starts_with("\"key\";r=2;"), "{:?}", first.headers);
}

#[test]
fn the_page_signs_in_with_a_key_and_its_cookie_is_good_for_the_page_alone() {
    let place = Place::new();
    let server = keyed(&place, &[]);
    let (secret, id) = key(&place, &["ann"]);
    let film = With(&server, &secret).ask(&asked(1));
    let session = server.get("/v1/session").expect(200).json();
    assert_eq!((&session["key_needed"], &session["signed_in"]), (&json!(true), &json!(false)));
    server.post("/v1/session", &json!({"key": "lr_wrong"})).problem(401, "key_unknown");
    server.post("/v1/session", &json!({})).problem(400, "invalid_value");
    let form = [("content-type", "multipart/form-data; boundary=x")];
    let form = server.send("POST", "/v1/session", &form, "--x--\r\n");
    form.problem(415, "unsupported_media_type");

    let opened = server.post("/v1/session", &json!({"key": secret})).expect(200);
    assert_eq!(
        (&opened.json()["owner"], &opened.json()["signed_in"]),
        (&json!("ann"), &json!(true))
    );
    let cookie = opened.header("set-cookie").to_owned();
    assert!(
        cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains(&secret),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let with = |method: &str, path: &str, more: &[(&str, &str)]| {
        let headers: Vec<_> = [("cookie", &*cookie)].iter().chain(more).copied().collect();
        server.send(method, path, &headers, [])
    };
    with("GET", &format!("/v1/videos/{film}"), &[]).expect(200);
    assert_eq!(with("GET", "/v1/session", &[]).expect(200).json()["owner"], "ann");
    let host = server.url("");
    with("POST", &format!("/v1/videos/{film}/pause"), &[("origin", &host)]).expect(200);
    // Pages of another port of this host come with the cookie too.
    let other = [("origin", "http://127.0.0.1:1")];
    with("DELETE", &format!("/v1/videos/{film}"), &other).problem(403, "origin_not_allowed");
    let made_up = cookie.replace("longreel_session=", "longreel_session=x");
    server.send("GET", "/v1/videos", &[("cookie", &made_up)], []).problem(401, "key_missing");

    let closed = server.send("DELETE", "/v1/session", &[("cookie", &cookie)], []).expect(200);
    assert!(closed.header("set-cookie").contains("Max-Age=0"), "{:?}", closed.headers);
    // The next server takes the session as this one did.
    drop(server);
    let server = keyed(&place, &[]);
    let list = |server: &Server| server.send("GET", "/v1/videos", &[("cookie", &cookie)], []);
    list(&server).expect(200);
    place.run(&["keys", "revoke", &id, "--data", "data"]).expect_code(0);
    list(&server).problem(401, "key_revoked");
}

#[test]
fn others_can_reach_a_server_as_soon_as_there_is_a_key() {
    let place = Place::new();
    let (_, id) = key(&place, &["ann"]);
    let server = Server::start_at(&place, "0.0.0.0:0", &["--model", &model()]);
    server.get("/v1/videos").problem(401, "key_missing");
    drop(server);
    place.run(&["keys", "revoke", &id, "--data", "data"]).expect_code(0);
    let ran = place.run(&["serve", "--listen", "0.0.0.0:0", "--data", "data"]).expect_code(2);
    assert!(ran.stderr.contains("longreel keys create NAME --data data"), "{}", ran.stderr);
}

#[test]
fn pages_of_named_origins_may_call_and_no_others() {
    let place = Place::new();
    let films = "https://films.example";
    let server = Server::start_with(&place, &["--cors-origin", films, "--model", &model()]);
    let question = |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        server.send("OPTIONS", "/v1/videos", &headers, [])
    };
    let answered = question(films).expect(204);
    assert_eq!(answered.header("access-control-allow-origin"), films);
    for header in ["authorization", "idempotency-key", "traceparent", "tracestate"] {
        let allowed = answered.header("access-control-allow-headers");
        assert!(allowed.split(", ").any(|allowed| allowed == header), "no {header}: {allowed}");
    }
    assert!(answered.header("access-control-allow-methods").contains("DELETE"));
    let refused = question("https://evil.example");
    refused.problem(403, "origin_not_allowed");
    assert_eq!(refused.header("access-control-allow-origin"), "");
    // Errors too have to be readable for the page.
    let headers = [("origin", films)];
    let missing = server.send("GET", "/v1/videos/none", &headers, []);
    missing.problem(404, "not_found");
    assert_eq!(missing.header("access-control-allow-origin"), films);
    assert!(missing.header("access-control-expose-headers").contains("x-request-id"));
    assert_eq!(missing.header("vary"), "origin");
    let words = ["serve", "--cors-origin", "*", "--data", "other", "--model", &model()];
    let ran = place.run(&words).expect_code(2);
    assert!(
        ran.stderr.contains("--cors-origin") && !place.path("other").exists(),
        "{}",
        ran.stderr
    );
}

#[test]
fn keys_that_are_not_there_are_told_with_the_way_out() {
    let place = Place::new();
    for (words, part) in [
        (&["keys", "list"][..], "longreel keys create"),
        (&["keys", "revoke", "ann"], "longreel keys create"),
        (&["keys", "create", "ann", "--rate-limit", "0"], "600:50"),
        (&["keys", "create", "ann", "--expires-days=-1"], "number of days"),
        (&["keys", "create", "ann", "--scope", "all"], "admin"),
        (&["keys", "create", ""], "name is 0 bytes long"),
    ] {
        let ran = place.run(words).expect_code(2);
        assert!(ran.stderr.contains(part), "{words:?}: no {part:?} in {}", ran.stderr);
    }
    key(&place, &["ann"]);
    key(&place, &["ann"]);
    let ran = place.run(&["keys", "revoke", "ann", "--data", "data"]).expect_code(2);
    assert!(ran.stderr.contains("2 keys are called"), "{}", ran.stderr);
    let ran = place.run(&["keys", "revoke", "bob", "--data", "data"]).expect_code(2);
    assert!(ran.stderr.contains("no key \"bob\""), "{}", ran.stderr);
}

#[test]
fn keys_are_looked_for_where_the_settings_say_that_the_server_works() {
    let place = Place::new();
    place.write("longreel.toml", "data = 'films'\nrate_limit = '7'\n");
    place.run(&["keys", "create", "ann"]).expect_code(0);
    assert!(place.path("films/jobs.db").exists());
    let listed = place.run(&["keys", "list", "--json"]).expect_code(0).events();
    // The rate of the settings is the server's, for keys that have none of their own.
    assert_eq!((&listed[0]["name"], &listed[0]["rate_limit"]), (&json!("ann"), &Value::Null));
    let ran = place.run(&["keys", "list", "--data", "other"]).expect_code(2);
    assert!(ran.stderr.contains("other holds no keys"), "{}", ran.stderr);
    let ran = place.run(&["keys", "--data", "other", "list"]).expect_code(2);
    assert!(ran.stderr.contains("other holds no keys"), "{}", ran.stderr);
}

#[test]
fn events_end_when_the_key_that_they_are_read_with_is_revoked() {
    let place = Place::new();
    let server = keyed(&place, &[]);
    let (secret, id) = key(&place, &["ann"]);
    let with = With(&server, &secret);
    let mut long = asked(100_000);
    long["steps"] = serde_json::json!(50);
    let url = server.url(&format!("/v1/videos/{}/events", with.ask(&long)));
    let bearer = format!("Bearer {secret}");
    let answer = ureq::get(url).header("authorization", bearer).call().expect("events");
    place.run(&["keys", "revoke", &id, "--data", "data"]).expect_code(0);
    let started = std::time::Instant::now();
    // The film has days to go.
    let _ = std::io::copy(&mut answer.into_body().into_reader(), &mut std::io::sink());
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}

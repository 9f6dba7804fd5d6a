//! Pictures and videos that come with a request.

use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate, encode_png};
use serde_json::{Value, json};

use crate::program::{Place, film_words};
use crate::server::{Answer, Server, asked};

fn picture(shade: u8) -> Vec<u8> {
    encode_png(&Frame::filled(48, 32, [shade, 40, 200]), None)
}

fn video(place: &Place) -> Vec<u8> {
    let path = place.path("made.mp4");
    let options = FilmOptions::new(48, 32, FrameRate::whole(24));
    let mut film = FilmWriter::create(&path, &options).expect("a film");
    for shade in 0..9 {
        film.push(&Frame::filled(48, 32, [shade * 20, 90, 160])).expect("a frame");
    }
    film.finish().expect("a film");
    place.read("made.mp4")
}

fn data_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("data:image/png;base64,");
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = word >> (18 - 6 * place) & 63;
            let is_padding = place > group.len();
            text.push(if is_padding { '=' } else { char::from(ALPHABET[digit as usize]) });
        }
    }
    text
}

/// Sends the request as a form with files.
pub fn send(server: &Server, to: &str, body: &Value, files: &[(&str, &[u8])]) -> Answer {
    let mut form = Vec::new();
    for (name, value) in body.as_object().expect("an object") {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let field =
            format!("--x\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n");
        form.extend(field.into_bytes());
    }
    for (name, bytes) in files {
        let head = format!(
            "--x\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"../../x\"\r\n\
             content-type: text/plain\r\n\r\n"
        );
        form.extend(head.into_bytes());
        form.extend(*bytes);
        form.extend(b"\r\n");
    }
    form.extend(b"--x--\r\n");
    server.send("POST", to, &[("content-type", "multipart/form-data; boundary=x")], form)
}

/// What the command makes with these files.
fn made_with(files: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let place = Place::new();
    let mut more = Vec::new();
    for (flag, name, bytes) in files {
        place.write(name, bytes);
        more.extend([*flag, *name]);
    }
    place.run(&film_words(3, &more)).expect_code(0);
    place.read("film.mp4")
}

#[test]
fn a_film_begins_with_a_picture_from_a_form_or_a_url_as_the_commands_does() {
    let place = Place::new();
    let server = Server::start(&place);
    let (first, last) = (picture(20), picture(220));
    let names = ["input-00000000.png", "input-00000001.png"];
    let expected = made_with(&[("--image", names[0], &first)]);
    let files: &[(&str, &[u8])] = &[("input_reference", &first)];
    let from_form = send(&server, "/v1/videos", &asked(3), files).expect(201).json();
    let id = from_form["id"].as_str().expect("an id");
    assert!(server.film(id) == expected, "from a form");
    let kept = server.get(&format!("/v1/videos/{id}/files/{}", names[0])).expect(200);
    assert!(kept.body == first && kept.content_type == "image/png");
    for image in [json!(data_url(&first)), json!({"image_url": data_url(&first)})] {
        let mut body = asked(3);
        body["image"] = image;
        assert!(server.film(&server.ask(&body)) == expected, "from a URL");
    }
    let expected = made_with(&[("--image", names[0], &first), ("--end-image", names[1], &last)]);
    let mut body = asked(3);
    body["image"] = json!(data_url(&first));
    body["end_image"] = json!(data_url(&last));
    let both = server.ask(&body);
    assert!(server.film(&both) == expected, "first and last");

    // The files go with what is made from it.
    let remix = server.post(&format!("/v1/videos/{both}/remix"), &json!({"prompt": "B"}));
    let remix = remix.expect(201).json()["id"].as_str().expect("an id").to_owned();
    server.send("DELETE", &format!("/v1/videos/{both}"), &[], []).expect(200);
    server.film(&remix);
    let branch = json!({"segment": 1});
    let branch = server.post(&format!("/v1/videos/{id}/branch"), &branch).expect(201).json();
    assert!(server.film(branch["id"].as_str().expect("an id")) == server.film(id), "a branch");
    let plan = server.post("/v1/plan", &body).expect(200).json();
    assert_eq!(plan["segments"], 3);
    let left: Vec<_> =
        std::fs::read_dir(place.path("data/uploads")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_video_is_gone_on_with_and_a_request_with_a_file_is_known_again() {
    let place = Place::new();
    let server = Server::start(&place);
    let bytes = video(&place);
    let expected = made_with(&[("--video", "input-00000000.mp4", &bytes)]);
    for name in ["video", "input_reference"] {
        let answer = send(&server, "/v1/videos", &asked(3), &[(name, &bytes)]).expect(201).json();
        assert!(server.film(answer["id"].as_str().expect("an id")) == expected, "{name}");
    }
    let mut body = asked(1);
    body["image"] = json!(data_url(&picture(1)));
    let headers = [("content-type", "application/json"), ("idempotency-key", "once")];
    let post = |body: &Value| server.send("POST", "/v1/videos", &headers, body.to_string());
    let first = post(&body).expect(201).json();
    assert_eq!(post(&body).expect(200).json()["id"], first["id"]);
    body["image"] = json!(data_url(&picture(2)));
    post(&body).problem(409, "idempotency_conflict");
    let files = std::fs::read_dir(place.path("data/films/jobs")).expect("a folder").count();
    assert_eq!(files, 3, "files of a refused job are left");
    let task = json!({"prompt": "a", "image": data_url(&picture(3)), "duration": 0.5});
    let task = server.post("/generate", &task).expect(200).json();
    assert!(task["task_id"].is_string(), "{task}");
}

#[test]
fn what_is_no_picture_or_video_is_refused_by_its_content() {
    let place = Place::new();
    let server = Server::start(&place);
    let png = picture(9);
    let list = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n";
    let cut = &png[..png.len() / 2];
    for (name, bytes, code, part) in [
        ("image", &list[..], "file_not_usable", "PNG"),
        ("video", &list[..], "file_not_usable", "MP4"),
        ("video", &png[..], "file_not_usable", "picture"),
        ("image", cut, "file_not_usable", "truncated"),
        ("image", b"", "file_not_usable", "PNG"),
        ("lora", &png[..], "file_not_taken", "input_reference"),
    ] {
        let detail = send(&server, "/v1/videos", &asked(1), &[(name, bytes)]).problem(400, code);
        assert!(detail.contains(part) && !detail.contains("uploads"), "{name}: {detail}");
    }
    let twice: &[(&str, &[u8])] = &[("image", &png), ("input_reference", &png)];
    send(&server, "/v1/videos", &asked(1), twice).problem(400, "invalid_value");
    let both: &[(&str, &[u8])] = &[("image", &png), ("video", &video(&place))];
    send(&server, "/v1/videos", &asked(1), both).problem(400, "invalid_value");
    for (image, code) in [
        (json!("/etc/passwd"), "invalid_value"),
        (json!("file:///etc/passwd"), "invalid_value"),
        (json!("data:image/png;base64,%%"), "invalid_value"),
        (json!(["a"]), "invalid_value"),
        (json!({"name": "input-00000000.png"}), "invalid_value"),
        (json!({"file_id": "file-1"}), "file_id_not_supported"),
    ] {
        let mut body = asked(1);
        body["image"] = image.clone();
        let detail = server.post("/v1/videos", &body).problem(400, code);
        assert!(detail.contains("image"), "{image}: {detail}");
    }
    // A video with fewer frames than the history that it has to give.
    let mut body = asked(3);
    body["overlap_history"] = json!(13);
    let short = video(&place);
    let detail = send(&server, "/v1/videos", &body, &[("video", &short)]);
    assert!(detail.problem(400, "invalid_value").contains("9 frames"));
    assert_eq!(server.get("/v1/videos").expect(200).json()["data"], json!([]), "a job was made");
    let left: Vec<_> =
        std::fs::read_dir(place.path("data/uploads")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_picture_is_fetched_from_its_address_unless_that_is_one_of_the_inside() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/first.png", listener.local_addr().expect("bound"));
    let first = picture(20);
    let mut body = asked(3);
    body["image"] = json!(url);
    let place = Place::new();
    let server = Server::start(&place);
    let refused = server.post("/v1/videos", &body).problem(400, "address_not_allowed");
    assert!(refused.contains("127.0.0.1"), "{refused}");
    drop(server);

    let file = first.clone();
    let served = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(&stream));
        while lines.next().is_some_and(|line| !line.expect("text").is_empty()) {}
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", file.len());
        std::io::Write::write_all(&mut &stream, &[head.as_bytes(), &file].concat()).expect("sent");
    });
    let words = ["--allow-private-webhooks", "--model", &crate::program::model()];
    let server = Server::start_with(&place, &words);
    let id = server.ask(&body);
    served.join().expect("served");
    let expected = made_with(&[("--image", "input-00000000.png", &first)]);
    assert!(server.film(&id) == expected, "another film");
    server.post("/v1/videos", &body).problem(400, "address_unreachable");
}

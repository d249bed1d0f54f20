//! `cial apps release create`: the parts of a tarball, and what happens when they break off; what a pull does.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, problem};

const ID: &str = "0192f0c4-0000-7000-8000-000000000009";
const TARBALL: &str = "the tarball of an image";

fn upload(offset: usize) -> Vec<u8> {
    let shown = json!({ "id": ID, "size": TARBALL.len(), "offset": offset, "max_part_bytes": 10 });
    json_response("200 OK", &shown)
}

fn released() -> Vec<u8> {
    let release = json!({ "app": "notes", "release": "v1", "image": "upload", "port": 3000 });
    json_response("201 Created", &release)
}

fn create(server: &Server) -> String {
    let cial = Cial::at(server).file("notes.tar", TARBALL);
    let file = cial.home().join("notes.tar");
    cial.run(&["apps", "release", "create", "notes", "--tarball", file.to_str().unwrap()])
}

#[test]
fn a_part_that_breaks_off_goes_on_where_the_server_says() {
    let server = Server::new(|number, _| match number {
        0 => upload(0),
        1 => upload(10),
        // The connection breaks, and the server has three bytes of the part.
        2 => Vec::new(),
        3 => upload(13),
        4 => problem("409 Conflict", "", "upload_conflict", "Another request.", Value::Null),
        5 => upload(13),
        6 => upload(23),
        _ => released(),
    });
    let printed = create(&server);
    assert!(printed.contains("exit code 0"), "{printed}");
    assert!(printed.contains("trying again"), "{printed}");
    assert!(printed.contains("(100 %)"), "{printed}");
    let place = format!("/v1/image-uploads/{ID}");
    assert_eq!(
        server.requests(),
        [
            "POST /v1/image-uploads".to_owned(),
            format!("PUT {place}?offset=0"),
            format!("PUT {place}?offset=10"),
            format!("GET {place}"),
            format!("PUT {place}?offset=13"),
            format!("GET {place}"),
            format!("PUT {place}?offset=13"),
            "POST /v1/apps/notes/releases".to_owned(),
        ]
    );
    let texts = server.texts();
    let digest = "a611d264da21f53eb1e70865a39709841c910475416b890fe0434dc069ee8005";
    assert!(texts[0].contains("\"size\":23") && texts[0].contains(digest), "{}", texts[0]);
    for (number, part) in [(1, &TARBALL[..10]), (2, &TARBALL[10..20]), (6, &TARBALL[13..])] {
        assert!(texts[number].ends_with(&format!("\r\n\r\n{part}")), "{}", texts[number]);
    }
    assert!(texts[7].contains(&format!("\"upload\":\"{ID}\"")), "{}", texts[7]);
}

#[test]
fn what_the_server_has_of_an_earlier_call_is_not_sent_again() {
    let server = Server::new(|number, _| match number {
        0 => upload(TARBALL.len()),
        _ => released(),
    });
    let printed = create(&server);
    assert!(printed.contains("exit code 0") && printed.contains("going on after"), "{printed}");
    assert_eq!(server.requests(), ["POST /v1/image-uploads", "POST /v1/apps/notes/releases"]);
}

#[test]
fn a_refusal_ends_the_upload() {
    let server = Server::new(|number, _| match number {
        0 => upload(0),
        _ => problem("507 Insufficient Storage", "", "disk_full", "No room.", Value::Null),
    });
    let printed = create(&server);
    assert!(printed.contains("exit code 1") && printed.contains("No room"), "{printed}");
    let both = Cial::at(&server).run(&[
        "apps",
        "release",
        "create",
        "notes",
        "--tarball",
        "a.tar",
        "--image",
        "notes:1",
    ]);
    assert!(both.contains("exit code 2"), "{both}");
}

/// The release is created once somebody has looked at the pull.
#[test]
fn a_pull_shows_what_it_does() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let request = || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4_096];
            let read = stream.read(&mut bytes).unwrap();
            (stream, String::from_utf8_lossy(&bytes[..read]).into_owned())
        };
        let (mut creation, first) = request();
        let (mut look, second) = request();
        let progress =
            json!({ "layers": 3, "layers_done": 1, "bytes": 5 << 20, "bytes_total": 9 << 20 });
        look.write_all(&json_response("200 OK", &json!({ "progress": progress }))).unwrap();
        creation.write_all(&released()).unwrap();
        [first, second].map(|text| text.lines().next().unwrap_or_default().to_owned())
    });
    let cial = Cial::new().server(&url).variable("CIAL_API_KEY", "cial_test");
    let create = ["apps", "release", "create", "notes", "--image", "r.example/notes:1"];
    let printed = cial.run(&create);
    assert!(printed.contains("exit code 0"), "{printed}");
    let line = "r.example/notes:1: 1 of 3 layers, 5.0 MiB of 9.0 MiB";
    assert!(printed.contains(line), "{printed}");
    assert_eq!(
        served.join().unwrap(),
        [
            "POST /v1/apps/notes/releases HTTP/1.1",
            "GET /v1/image-pulls?image=r.example%2Fnotes%3A1 HTTP/1.1",
        ]
    );
}

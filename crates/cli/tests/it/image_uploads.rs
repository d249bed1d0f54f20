//! `cial apps release create --tarball`: parts, and what happens when they break off.

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

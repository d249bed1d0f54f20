//! `cial packages`: what is sent, and what is shown.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use protocol::packages::{PackageSignature, to_hex};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::{Cial, Server, json as json_response, problem};

#[test]
fn a_file_is_uploaded_as_a_form() {
    let uploaded = json!({
        "package_id": "0192f0c4-0000-7000-8000-000000000002",
        "tenant_id": "0192f0c4-0000-7000-8000-000000000001",
        "name": "acme-etl", "version": "1.2.0", "workflows": ["nightly", "weekly"],
    });
    let server = Server::always(json_response("201 Created", &uploaded));
    let cial = Cial::at(&server).file("acme-etl-1.2.0.cial", "BZh-bytes");
    let file = cial.home().join("acme-etl-1.2.0.cial");
    let printed =
        cial.run(&["package", "upload", file.to_str().unwrap(), "--tenant", "acme", "-o", "json"]);
    assert!(printed.contains("exit code 0") && printed.contains("\"acme-etl\""), "{printed}");
    assert_eq!(server.requests(), ["POST /v1/tenants/acme/packages"]);
    let request = &server.texts()[0];
    assert!(
        request.contains("name=\"file\"") && request.contains("\r\n\r\nBZh-bytes\r\n--"),
        "{request}"
    );
}

/// The private key of RFC 8410, section 10.3.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
const PUBLIC_KEY: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

#[test]
fn a_signature_of_the_digest_is_written_beside_the_file_and_sent_with_it() {
    let uploaded = json!({
        "package_id": "0192f0c4-0000-7000-8000-000000000002",
        "tenant_id": "0192f0c4-0000-7000-8000-000000000001",
        "name": "acme-etl", "version": "1.2.0", "workflows": ["nightly"],
    });
    let server = Server::always(json_response("201 Created", &uploaded));
    let cial = Cial::at(&server).file("a.cial", "BZh-bytes").file("key.pem", PRIVATE_KEY);
    let path = |name: &str| cial.home().join(name).to_str().unwrap().to_owned();
    let printed = cial.run(&["package", "sign", &path("a.cial"), "--key", &path("key.pem")]);
    assert!(printed.contains("exit code 0") && printed.contains("a.cial.sig"), "{printed}");
    assert_eq!(server.requests(), [""; 0]);
    let text = std::fs::read_to_string(path("a.cial.sig")).unwrap();
    let signature: PackageSignature = text.parse().unwrap();
    assert_eq!(to_hex(&signature.public_key), PUBLIC_KEY);
    let key = UnparsedPublicKey::new(&ED25519, signature.public_key);
    key.verify(&Sha256::digest("BZh-bytes"), &signature.signature).unwrap();

    let (file, signed) = (path("a.cial"), path("a.cial.sig"));
    let args = ["package", "upload", &file, "--signature", &signed, "--tenant", "acme"];
    let printed = cial.run(&args);
    assert!(printed.contains("exit code 0"), "{printed}");
    let request = &server.texts()[0];
    let field = format!("name=\"signature\"\r\n\r\n{signature}\r\n--");
    assert!(request.contains(&field) && request.contains("\r\n\r\nBZh-bytes\r\n--"), "{request}");
}

#[test]
fn a_file_without_a_private_key_signs_nothing_and_is_not_shown() {
    let server = Server::always(json_response("200 OK", &json!({})));
    let public = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    for (name, text) in [("text", "hunter2"), ("public", public), ("cut", &PRIVATE_KEY[..80])] {
        let cial = Cial::at(&server).file("a.cial", "BZh-bytes").file("key.pem", text);
        let path = |name: &str| cial.home().join(name).to_str().unwrap().to_owned();
        let printed = cial.run(&["package", "sign", &path("a.cial"), "--key", &path("key.pem")]);
        assert!(printed.contains("no private key of Ed25519"), "{name}: {printed}");
        assert!(!printed.contains("hunter2") && !printed.contains("MC4C"), "{name}: {printed}");
        assert!(!cial.home().join("a.cial.sig").exists(), "{name}");
    }
}

#[test]
fn a_refused_package_shows_each_fault() {
    let errors = json!([
        { "field": "workflow[0].task[0].command", "code": "invalid", "message": "must begin with an executable file" },
    ]);
    let refusal =
        problem("400 Bad Request", "", "package_invalid", "package.toml breaks 1 rules.", errors);
    let server = Server::always(refusal);
    let cial = Cial::at(&server).file("a.cial", "x");
    let file = cial.home().join("a.cial");
    let printed = cial.run(&["package", "upload", file.to_str().unwrap(), "--tenant", "acme"]);
    assert!(printed.contains("workflow[0].task[0].command"), "{printed}");
    assert!(!printed.contains("exit code 0"), "{printed}");
    let missing = cial.run(&["package", "upload", "missing.cial", "--tenant", "acme"]);
    assert!(missing.contains("cannot read missing.cial"), "{missing}");
}

#[test]
fn a_package_is_deleted_by_name_and_version() {
    let server = Server::always("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
    let args = ["package", "delete", "acme-etl", "1.2.0", "--tenant", "acme", "--yes"];
    let printed = Cial::at(&server).run(&args);
    assert!(printed.contains("exit code 0"), "{printed}");
    assert_eq!(server.requests(), ["DELETE /v1/tenants/acme/packages/acme-etl/1.2.0"]);
}

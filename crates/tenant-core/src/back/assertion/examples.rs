//! The examples of docs/sign-in.md, run literally: each believes an assertion of this tenant, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use protocol::people::MemberRole;
use serde_json::{Value, json};

use super::tests::session;
use super::{Assertions, LIFETIME};
use crate::now;

const DOCUMENT: &str = include_str!("../../../../../docs/sign-in.md");
const ADDRESS: &str = "http://127.0.0.1:8080/.cial/api/jwks.json";
const TENANT: &str = "acme";

/// The first block of a language after a line that begins with `start`, with the address of a key server of this test.
fn block(start: &str, language: &str, address: &str) -> String {
    let (_, rest) = DOCUMENT.split_once(&format!("\n{start}")).expect(start);
    let (_, rest) = rest.split_once(&format!("\n```{language}\n")).expect(language);
    let (block, _) = rest.split_once("\n```\n").unwrap();
    assert!(block.contains(ADDRESS), "{start}: {block}");
    block.replace(ADDRESS, address) + "\n"
}

/// Responds with the public keys to every request, for as long as the process lives. Returns the address.
fn serve_keys(assertions: &Assertions) -> String {
    let keys = serde_json::to_string(assertions.key_set()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/.cial/api/jwks.json", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                head.extend(byte);
            }
            let length = keys.len();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            let _ = write!(stream, "{head}content-length: {length}\r\n\r\n{keys}");
        }
    });
    address
}

/// An assertion for an example, with the tenant that the program belongs to.
struct Case {
    name: &'static str,
    tenant: &'static str,
    assertion: String,
}

fn encode(part: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part.to_string())
}

/// The header and the claims of an assertion.
fn decode(assertion: &str) -> [Value; 2] {
    let part = |index| {
        let part = assertion.split('.').nth(index).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    [part(0), part(1)]
}

/// Returns the assertion with another last character: of its six bits, a signature of 64 bytes uses the upper two.
fn other_spelling(good: &str) -> String {
    let (start, last) = good.split_at(good.len() - 1);
    format!("{start}{}", char::from(last.as_bytes()[0] + 1))
}

/// Assertions that no program may believe.
fn hostile(assertions: &Assertions, good: &str, dir: &Path) -> Vec<Case> {
    let issue = |tenant: &str, dir: &Path, at| {
        let assertions = Assertions::open(dir, tenant).unwrap();
        assertions.issue(&session(MemberRole::Admin), at).unwrap()
    };
    let other = tempfile::tempdir().unwrap();
    let (body, signature) = good.rsplit_once('.').unwrap();
    let [mut header, mut claims] = decode(good);
    let (_, foreign) = issue(TENANT, other.path(), now())
        .rsplit_once('.')
        .map(|(body, signature)| (body.to_owned(), signature.to_owned()))
        .unwrap();
    claims["role"] = json!("owner");
    let promoted = format!("{}.{}.{signature}", encode(&header), encode(&claims));
    header["alg"] = json!("none");
    let unsigned = format!("{}.{}.", encode(&header), encode(&claims));
    header["alg"] = json!("HS256");
    let confused = format!("{}.{}", encode(&header), encode(&claims));
    let public = serde_json::to_vec(assertions.key_set()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &public);
    let mac = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, confused.as_bytes()));
    let case = |name, assertion: String| Case { name, tenant: TENANT, assertion };
    vec![
        case("a signature of another tenant's key", format!("{body}.{foreign}")),
        case("another tenant's assertion for this audience", issue(TENANT, other.path(), now())),
        case("other claims below the signature", promoted),
        case("no signature", format!("{body}.")),
        case("the algorithm none", unsigned),
        case("a signature by the public key as a secret", format!("{confused}.{mac}")),
        case("an expired assertion", issue(TENANT, dir, now() - LIFETIME - 1)),
        case("an assertion for another tenant", issue("globex", dir, now())),
        case("no assertion", String::new()),
        case("a text", "who.is.it".to_owned()),
        case("a fourth part", format!("{good}.more")),
        case("characters that are not base64url", format!("{good}!!!!")),
        case("a line break", format!("{good}\n")),
        case("bits that the signature does not use", other_spelling(good)),
        Case { name: "a program of another tenant", tenant: "globex", assertion: good.to_owned() },
    ]
}

/// Calls an example with the right assertion and with each hostile one. `prepare` gets a folder and the example, and returns the
/// command that takes an assertion as its last argument.
fn run(start: &str, prepare: impl Fn(&Path, &str) -> Vec<String>, language: &str) {
    let (dir, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let assertions = Assertions::open(dir.path(), TENANT).unwrap();
    let source = block(start, language, &serve_keys(&assertions));
    let command = prepare(folder.path(), &source);
    let call = |tenant: &str, assertion: &str| -> Output {
        let mut program = Command::new(&command[0]);
        program.args(&command[1..]).arg(assertion).env("TENANT_ID", tenant);
        program.current_dir(folder.path()).output().expect("scripts/install-tools installs it")
    };
    let good = assertions.issue(&session(MemberRole::Member), now()).unwrap();
    let believed = call(TENANT, &good);
    let printed = String::from_utf8_lossy(&believed.stdout).into_owned();
    let errors = String::from_utf8_lossy(&believed.stderr).into_owned();
    assert!(believed.status.success(), "{start}: {errors}");
    assert_eq!(printed.trim(), "u-1 owner@example.com member", "{start}");
    for case in hostile(&assertions, &good, dir.path()) {
        let refused = call(case.tenant, &case.assertion);
        let printed = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{start}, {}: {printed}", case.name);
        assert_eq!(printed, "", "{start}, {}", case.name);
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn the_example_in_python_believes_this_tenants_assertions_alone() {
    let main = "import sys\nshown = person(sys.argv[1])\nprint(shown['sub'], shown['email'], shown['role'])\n";
    let prepare = |folder: &Path, source: &str| {
        write(folder, "example.py", &format!("{source}\n{main}"));
        // Debian's packages belong to Debian's Python.
        words(&["/usr/bin/python3", "example.py"])
    };
    run("Python, with PyJWT", prepare, "python");
}

#[test]
fn the_example_in_javascript_believes_this_tenants_assertions_alone() {
    let main = "const { sub, email, role } = await person(process.argv[2]);\nconsole.log(sub, email, role);\n";
    let prepare = |folder: &Path, source: &str| {
        write(folder, "example.mjs", &format!("{source}\n{main}"));
        words(&["node", "example.mjs"])
    };
    run("JavaScript, with what Node", prepare, "js");
}

#[test]
fn the_example_in_go_believes_this_tenants_assertions_alone() {
    let main = "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\nfunc main() {\n\tkeys, err := fetchKeys()\n\tif err != nil {\n\t\t\
                os.Exit(3)\n\t}\n\tclaims, err := keys.person(os.Args[1])\n\tif err != nil {\n\t\tos.Exit(1)\n\t}\n\t\
                fmt.Println(claims.Sub, claims.Email, claims.Role)\n}\n";
    let prepare = |folder: &Path, source: &str| {
        write(folder, "example.go", source);
        write(folder, "main.go", main);
        let go = |arguments: &[&str]| {
            let mut go = Command::new("go");
            go.args(arguments).current_dir(folder).env("GOCACHE", folder.join("cache"));
            let output = go.env("GO111MODULE", "off").output();
            let output = output.expect("scripts/install-tools installs Go");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        go(&["vet", "example.go", "main.go"]);
        go(&["build", "-o", "example", "example.go", "main.go"]);
        words(&[&folder.join("example").display().to_string()])
    };
    run("Go, with its standard library", prepare, "go");
}

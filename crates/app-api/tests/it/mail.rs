//! Invitations, reset links and alerts leave by mail: to a real mail server, over TLS, and none is lost.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use app_api::db::mail::claim;
use chrono::TimeDelta;
use protocol::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::eventually;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::harness::schema::Schemas;
use crate::harness::{
    EMAIL, FakeOrchestrator, PASSWORD, Server, Setup, TEST_TIMEOUT, TestClient, acme,
};
use crate::passkeys;

const USER: &str = "cial@example.com";
const SMTP_PASSWORD: &str = "hunter2";

/// aiosmtpd of Debian, with a certificate of its own authority. It ends with this value.
struct MailServer {
    encryption: &'static str,
    port: u16,
    folder: TempDir,
    process: Child,
    lines: UnboundedReceiver<Value>,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl MailServer {
    fn start(encryption: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_certificates(folder.path());
        std::fs::write(folder.path().join("password"), format!("{SMTP_PASSWORD}\n")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mail/server.py");
        // The Python that Debian's packages belong to.
        let mut python = Command::new("/usr/bin/python3");
        python.arg(script).arg(encryption).arg(folder.path());
        if encryption != "plain" {
            python.args([USER, SMTP_PASSWORD]);
        }
        let pipes = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = pipes.spawn().expect("scripts/install-tools installs aiosmtpd");
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = output.next().expect("scripts/install-tools installs aiosmtpd").unwrap();
        let (sender, lines) = unbounded_channel();
        std::thread::spawn(move || {
            for line in output.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { encryption, port: port.parse().unwrap(), folder, process, lines }
    }

    /// The settings of an app-api that sends mail here, with these in the place of some.
    fn settings(&self, changed: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let user = USER.replace('@', "%40");
        let (scheme, user) = match self.encryption {
            "tls" => ("smtps", format!("{user}@")),
            "starttls" => ("smtp", format!("{user}@")),
            _ => ("smtp+plain", String::new()),
        };
        let mut settings = vec![
            ("CIAL_SMTP_URL", format!("{scheme}://{user}localhost:{}", self.port)),
            ("CIAL_MAIL_FROM", "Cial <cial@example.com>".to_owned()),
        ];
        if self.encryption != "plain" {
            settings.push(("CIAL_SMTP_PASSWORD_FILE", path("password")));
            settings.push(("CIAL_SMTP_CA_FILE", path("ca.pem")));
        }
        settings.extend(changed.iter().map(|(name, value)| (*name, (*value).to_owned())));
        settings
    }

    /// Sets the response to every recipient.
    fn respond(&self, response: &str) {
        std::fs::write(self.folder.path().join("response"), response).unwrap();
    }

    fn accept(&self) {
        std::fs::remove_file(self.folder.path().join("response")).unwrap();
    }

    /// Waits for the next mail, or the next recipient that was refused.
    async fn next(&mut self) -> Value {
        timeout(TEST_TIMEOUT, self.lines.recv()).await.expect("no mail").expect("a mail server")
    }
}

fn write_certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    for (name, pem) in [
        ("ca.pem", issuer.pem()),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), pem).unwrap();
    }
}

async fn start(env: Vec<(&'static str, String)>) -> (Server, TestClient) {
    let setup = Setup::new(FakeOrchestrator::obedient()).await;
    let server = Setup { env, ..setup }.start().await;
    let owner = server.sign_up().await;
    (server, owner)
}

async fn invite(owner: &TestClient, email: &str) -> Value {
    let body = json!({ "email": email, "role": "viewer" });
    let invited = owner.post("/v1/invitations", body).await;
    assert_eq!(invited.status, 201, "{}", invited.text());
    invited.json()
}

/// The path of the link in a mail, which stands in both forms.
fn link(mail: &Value) -> String {
    let (text, html) = (mail["text"].as_str().unwrap(), mail["html"].as_str().unwrap());
    let url = text.split_whitespace().find(|word| word.starts_with("http://localhost:3100/admin/"));
    let url = url.unwrap_or_else(|| panic!("no link in {text}"));
    assert!(html.contains(&format!("href=\"{url}\"")), "{html}");
    url.strip_prefix("http://localhost:3100").unwrap().to_owned()
}

async fn is_empty(server: &Server) {
    let empty = async || Ok(server.database.count("mails").await == 0);
    eventually("an empty outbox", TEST_TIMEOUT, empty).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_arrives_over_each_encryption() {
    for (encryption, is_encrypted) in [("starttls", true), ("tls", true), ("plain", false)] {
        let mut mails = MailServer::start(encryption);
        let (server, owner) = start(mails.settings(&[])).await;
        let invited = invite(&owner, "bob@example.com").await;
        assert_eq!(invited["mailed"], true);
        let mail = mails.next().await;
        assert_eq!((&mail["from"], &mail["to"]), (&json!(USER), &json!(["bob@example.com"])));
        assert_eq!(mail["tls"], is_encrypted, "{encryption}");
        assert_eq!(mail["user"], if is_encrypted { json!(USER) } else { Value::Null });
        assert_eq!(mail["host"], "localhost", "the name of the admin");
        let headers = &mail["headers"];
        assert_eq!(headers["from"], "Cial <cial@example.com>");
        assert_eq!(
            (&headers["subject"], &headers["auto-submitted"]),
            (&json!("An invitation"), &json!("auto-generated"))
        );
        assert!(headers["message-id"].as_str().unwrap().ends_with("@example.com>"), "{headers}");
        let path = link(&mail);
        assert!(invited["url"].as_str().unwrap().ends_with(&path), "{path}");
        let form = [("name", "Bob"), ("password", PASSWORD)];
        assert_eq!(server.visitor.submit(&path, &form).await.status, 303);
        is_empty(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_invited_by_mail_and_the_page_says_so() {
    let mut mails = MailServer::start("plain");
    let (_server, owner) = start(mails.settings(&[])).await;
    owner.post("/v1/tenants", acme()).await;
    let form = [("email", "bob@example.com"), ("role", "member")];
    let page = owner.submit("/admin/tenants/acme/members/invitations", &form).await;
    assert_eq!(page.status, 201);
    let mail = mails.next().await;
    assert!(mail["text"].as_str().unwrap().contains("“Acme Ltd”, as member"), "{mail}");
    assert!(page.text().contains("on its way by mail") && page.text().contains(&link(&mail)));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_waits_and_never_its_link() {
    let mut mails = MailServer::start("starttls");
    let (server, owner) = start(mails.settings(&[])).await;
    owner.post("/v1/tenants", acme()).await;
    let viewer = server.sign_in_as("vic", "viewer", &[]).await;
    // The alert of that sign-in.
    assert_eq!(mails.next().await["to"], json!(["vic@example.com"]));
    is_empty(&server).await;
    let empty = json!({ "mails": [], "next": null });
    assert_eq!(owner.get("/v1/mails").await.json(), empty);
    // A filter that repeats what it dislikes.
    mails.respond("451 blocked: http://localhost:3100/admin/invitations/x, later");
    let invited = invite(&owner, "bob@example.com").await;
    assert_eq!(mails.next().await["refused"], "bob@example.com");
    let has_failed =
        async || Ok(server.database.count("mails WHERE last_error IS NOT NULL").await == 1);
    eventually("a failed attempt", TEST_TIMEOUT, has_failed).await.unwrap();

    let listed = viewer.get("/v1/mails").await;
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("MailList", &listed.json()), [""; 0]);
    let mail = listed.json()["mails"][0].clone();
    assert_eq!(
        (&mail["kind"], &mail["recipient"]),
        (&json!("invitation"), &json!("bob@example.com"))
    );
    assert_eq!(mail["attempts"], 1);
    let reason = mail["last_error"].as_str().unwrap();
    assert!(reason.contains("blocked: [hidden] later"), "{reason}");
    let at = |field: &str| mail[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(at("queued_at") <= server.now() && at("next_attempt_at") > server.now(), "{mail}");
    assert_eq!(at("expires_at") - server.now(), TimeDelta::days(1));
    let page = viewer.visit("/admin/team").await.text();
    assert!(page.contains("bob@example.com") && page.contains("blocked: [hidden] later"), "{page}");
    let token = invited["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    for text in [&listed.text(), &page] {
        assert!(!text.contains(&token) && !text.contains("/admin/invitations/"), "{text}");
    }
    let members = owner.visit("/admin/tenants/acme/members").await.text();
    assert!(!members.contains("Mails that wait"), "{members}");

    mails.accept();
    server.advance_clock(Duration::from_secs(60));
    mails.next().await;
    is_empty(&server).await;
    assert_eq!(viewer.get("/v1/mails").await.json(), empty);
    assert!(!viewer.visit("/admin/team").await.text().contains("Mails that wait"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_survives_a_mail_server_that_is_not_ready_and_a_kill() {
    let mut mails = MailServer::start("starttls");
    let (server, owner) = start(mails.settings(&[])).await;
    mails.respond("451 later");
    invite(&owner, "bob@example.com").await;
    assert_eq!(mails.next().await["refused"], "bob@example.com");
    let setup = Setup { env: mails.settings(&[]), ..server.replica() };
    server.kill().await;
    mails.accept();
    let server = setup.start().await;
    // Past the claim of the process that was killed.
    server.advance_clock(Duration::from_secs(120));
    let mail = mails.next().await;
    assert_eq!(server.visitor.visit(&link(&mail)).await.status, 200);
    is_empty(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_recipient_is_given_up() {
    let mut mails = MailServer::start("plain");
    let (server, owner) = start(mails.settings(&[])).await;
    mails.respond("550 no such mailbox");
    invite(&owner, "bob@example.com").await;
    assert_eq!(mails.next().await["refused"], "bob@example.com");
    is_empty(&server).await;
}

/// Neither a server with an untrusted certificate nor one without STARTTLS receives a mail or a password.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_proof_gets_no_mail() {
    let (mut starttls, mut plain) = (MailServer::start("starttls"), MailServer::start("plain"));
    let without_starttls = format!("smtp://localhost:{}", plain.port);
    for env in [
        starttls.settings(&[("CIAL_SMTP_CA_FILE", "")]),
        plain.settings(&[("CIAL_SMTP_URL", &without_starttls)]),
    ] {
        let (server, owner) = start(env).await;
        invite(&owner, "bob@example.com").await;
        let tried = async || {
            server.advance_clock(Duration::from_secs(60));
            Ok(server.database.count("mails WHERE attempts >= 2").await == 1)
        };
        eventually("two attempts", TEST_TIMEOUT, tried).await.unwrap();
        server.stop().await;
    }
    assert!(starttls.lines.try_recv().is_err() && plain.lines.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_replaced_by_mail_and_unknown_addresses_learn_nothing() {
    let mut mails = MailServer::start("plain");
    let (server, owner) = start(mails.settings(&[])).await;
    let visitor = &server.visitor;
    assert!(visitor.visit("/admin/login").await.text().contains("href=\"/admin/forgot\""));
    let ask = async |email: &str| visitor.submit("/admin/forgot", &[("email", email)]).await;
    assert_eq!(ask("nonsense").await.status, 422);
    let unknown = ask("nobody@example.com").await;
    let known = ask(&EMAIL.to_uppercase()).await;
    assert_eq!((unknown.status.as_u16(), known.status.as_u16()), (202, 202));
    let same = known.text().replace(&EMAIL.to_uppercase(), "nobody@example.com");
    assert_eq!(unknown.text(), same);
    let mail = mails.next().await;
    assert_eq!(mail["to"], json!([EMAIL]));
    is_empty(&server).await;
    let path = link(&mail);
    assert_eq!(visitor.visit(&path).await.status, 200);
    let (_, token) = path.split_once("?token=").unwrap();
    let form = [("token", token), ("password", "another good one")];
    assert_eq!(visitor.submit("/admin/reset", &form).await.status, 303);
    assert_eq!(owner.get("/api/auth/session").await.status, 401, "every session ended");
    let logged = server.database.count("audit_log WHERE actor = 'mail'").await;
    assert_eq!(logged, 1, "the link is in the audit log");
    for _ in 0..2 {
        assert_eq!(ask(EMAIL).await.status, 202);
    }
    assert_eq!(ask(EMAIL).await.status, 429, "nobody's mailbox is flooded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_for_a_link_is_not_delayed_by_an_outage_before_it() {
    let mut mails = MailServer::start("plain");
    let (server, _owner) = start(mails.settings(&[])).await;
    let ask = async || server.visitor.submit("/admin/forgot", &[("email", EMAIL)]).await.status;
    mails.respond("451 later");
    assert_eq!(ask().await, 202);
    assert_eq!(mails.next().await["refused"], EMAIL);
    // The claim of the failed attempt has ended.
    let soon = server.now().timestamp() + 30;
    let waits = format!("mails WHERE attempts = 1 AND next_attempt_at < to_timestamp({soon})");
    eventually("the next attempt is planned", TEST_TIMEOUT, async || {
        Ok(server.database.count(&waits).await == 1)
    })
    .await
    .unwrap();
    // As after many attempts.
    let late =
        "UPDATE mails SET attempts = 7, next_attempt_at = next_attempt_at + interval '6 hours'";
    assert_eq!(server.database.sql(late).await, 1);
    mails.accept();
    assert_eq!(ask().await, 202);
    assert_eq!(mails.next().await["to"], json!([EMAIL]));
    is_empty(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_on_a_new_device_is_reported_and_on_a_known_one_is_not() {
    let mut mails = MailServer::start("plain");
    let (server, owner) = start(mails.settings(&[])).await;
    let form = [("email", EMAIL), ("password", PASSWORD)];
    let first = server.visitor.submit("/admin/login", &form).await;
    assert_eq!(first.status, 303);
    let mail = mails.next().await;
    assert_eq!(mail["headers"]["subject"], "A sign-in on a new device");
    assert!(mail["text"].as_str().unwrap().contains("from 127.0.0.1, "), "{mail}");
    assert_eq!(link(&mail), "/admin/forgot");
    let cookies = first.headers.get_all("set-cookie").iter();
    let device =
        cookies.map(|line| line.to_str().unwrap()).find(|line| line.starts_with("cial_device"));
    let mut known = server.visitor.new_client();
    known.cookie = device.and_then(|line| line.split(';').next()).map(str::to_owned);
    assert_eq!(known.submit("/admin/login", &form).await.status, 303);
    // The next mail is the invitation.
    invite(&owner, "bob@example.com").await;
    assert_eq!(mails.next().await["to"], json!(["bob@example.com"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_on_a_new_device_is_reported() {
    let mut mails = MailServer::start("plain");
    let (server, owner) = start(mails.settings(&[])).await;
    let mut laptop = passkeys::authenticator();
    assert_eq!(passkeys::add(&owner, &mut laptop).await.status, 201);
    assert_eq!(passkeys::sign_in(&server, &mut laptop).await.status, 200);
    assert_eq!(mails.next().await["headers"]["subject"], "A sign-in on a new device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_is_not_flooded_by_sign_ins() {
    let mut mails = MailServer::start("plain");
    let (server, _owner) = start(mails.settings(&[])).await;
    let sign_in = async || {
        let form = [("email", EMAIL), ("password", PASSWORD)];
        assert_eq!(server.visitor.submit("/admin/login", &form).await.status, 303);
    };
    mails.respond("451 later");
    sign_in().await;
    sign_in().await;
    assert_eq!(server.database.count("mails").await, 1, "one waits");
    mails.accept();
    server.advance_clock(Duration::from_secs(300));
    let sent = async || {
        server.advance_clock(Duration::from_secs(60));
        Ok(server.database.count("mails").await == 0)
    };
    eventually("the alert leaves", TEST_TIMEOUT, sent).await.unwrap();
    while !mails.next().await["refused"].is_null() {}
    server.advance_clock(Duration::from_secs(300));
    for _ in 0..3 {
        sign_in().await;
        assert_eq!(mails.next().await["to"], json!([EMAIL]));
        is_empty(&server).await;
    }
    sign_in().await;
    assert_eq!(server.database.count("mails").await, 0, "three within five minutes");
    server.advance_clock(Duration::from_secs(300));
    sign_in().await;
    assert_eq!(mails.next().await["to"], json!([EMAIL]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_invitation_of_an_address_is_handed_over() {
    let mails = MailServer::start("plain");
    let (server, owner) = start(mails.settings(&[])).await;
    for is_mailed in [true, true, true, false] {
        let invited = invite(&owner, "bob@example.com").await;
        assert_eq!(invited["mailed"], is_mailed);
    }
    assert_eq!(invite(&owner, "eve@example.com").await["mailed"], true);
    is_empty(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_sent_before_older_mails() {
    let (server, _owner) = start(Vec::new()).await;
    for (kind, due) in [("invitation", "2020-01-01"), ("password_reset", "2020-01-02")] {
        let insert = format!(
            "INSERT INTO mails (id, kind, recipient, content, next_attempt_at, expires_at) \
             VALUES (gen_random_uuid(), '{kind}', 'bob@example.com', '', '{due}', '2100-01-01')"
        );
        server.database.sql(&insert).await;
    }
    let (mut conn, now) = (server.database.conn().await, server.now());
    for expected in ["password_reset", "invitation"] {
        let claimed = claim(&mut conn, now, now + Duration::from_secs(60), 1).await.unwrap();
        let kinds: Vec<_> = claimed.iter().map(|mail| mail.kind.as_str()).collect();
        assert_eq!(kinds, [expected]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mail_server_links_are_handed_over() {
    let (server, owner) = start(Vec::new()).await;
    assert_eq!(invite(&owner, "bob@example.com").await["mailed"], false);
    assert!(server.visitor.visit("/admin/login").await.text().contains("reset-password EMAIL"));
    assert!(server.visitor.visit("/admin/forgot").await.text().contains("reset-password EMAIL"));
    let asked = server.visitor.submit("/admin/forgot", &[("email", EMAIL)]).await;
    assert_eq!(asked.status, 404);
    assert_eq!(server.database.count("mails").await, 0);
}

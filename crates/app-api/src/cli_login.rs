//! The sign-in of the command line: it begins without a session, a person confirms it in the browser, and who began it
//! fetches an API key, once.
//!
//! The verifier binds the key to the command that began (RFC 7636). Beside a browser, a one-time code travels through
//! the loopback address of the same machine, so that nobody gets a key by a link that they send (RFC 8252). Without a
//! browser the person types a code in, which the command shows (RFC 8628).

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::api_keys::{CreatedKey, Role};
use protocol::cli_login::{CliLoginProof, NewCliLogin};
use protocol::problem::{Code, FieldCode};
use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use sha2::{Digest as _, Sha256};
use url::{Host, Url};
use uuid::Uuid;

use crate::access::authority::{authority_of, refused};
use crate::access::principal::AccessError;
use crate::access::{Person, Principal};
use crate::accounts::count_attempt;
use crate::api_keys::{self, Scope};
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::throttle::Attempt;
use crate::auth::token::{Token, random_bytes};
use crate::db::cli_login::{self, CliLogin, Confirmation, Name, Proof};
use crate::db::{Conn, QueryResult, Transaction as _, api_key, audit_log, session, tenant};
use crate::validation::{self, FieldError, invalid_fields};

/// From the beginning until the key is fetched.
pub const LIFETIME: Duration = Duration::from_secs(300);
/// How long a command without a redirect waits before it asks again.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Letters that spell no words and look like no others (RFC 8628 §6.1).
const USER_CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const USER_CODE_LENGTH: usize = 8;

/// Begins a sign-in.
///
/// # Errors
/// `invalid_fields`; `too_many_attempts`.
pub async fn begin(app: &App, new: &NewCliLogin, client: IpAddr) -> Result<CliLogin, ApiError> {
    let device = validation::name(&new.device);
    let challenge = challenge(&new.challenge);
    let redirect = new.redirect.as_deref().map(loopback_address).transpose();
    let (Ok(device), Ok(challenge), Ok(redirect)) = (&device, &challenge, &redirect) else {
        let errors = [
            ("device", device.err()),
            ("challenge", challenge.err()),
            ("redirect", redirect.err()),
        ];
        return Err(invalid_fields(&errors));
    };
    count_attempt(app, Attempt::Client(client))?;
    let now = app.clock.now();
    let login = CliLogin {
        id: Uuid::new_v4(),
        user_code: user_code()?,
        challenge: challenge.to_vec(),
        device: device.clone(),
        address: client.to_string(),
        redirect: redirect.as_ref().map(Url::to_string),
        created_at: now,
        expires_at: now + LIFETIME,
        session_id: None,
        tenant_id: None,
        code_hash: None,
    };
    let mut conn = app.conn().await?;
    cli_login::delete_expired(&mut conn, now).await?;
    if cli_login::insert(&mut conn, &login).await? {
        Ok(login)
    } else {
        Err(ApiError::internal(anyhow::anyhow!("a user code came twice")))
    }
}

/// Finds a sign-in with a redirect. Without one the person must type the user code in: a link to it would let anyone
/// fetch a key of who follows the link.
///
/// # Errors
/// `login_ended`.
pub async fn find(app: &App, id: Uuid) -> Result<CliLogin, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let found = cli_login::find_open(&mut conn, Name::Id(id), now).await?;
    found.filter(|login| login.redirect.is_some()).ok_or_else(login_ended)
}

/// Finds the sign-in without a redirect that has this user code, in any case and spacing.
///
/// # Errors
/// `invalid_fields` for an unknown code; `too_many_attempts`.
pub async fn find_by_user_code(
    app: &App,
    typed: &str,
    client: IpAddr,
) -> Result<CliLogin, ApiError> {
    count_attempt(app, Attempt::Client(client))?;
    let code: String =
        typed.chars().filter(char::is_ascii_alphabetic).take(USER_CODE_LENGTH).collect();
    let code = shown(&code.to_ascii_uppercase());
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let found = cli_login::find_open(&mut conn, Name::UserCode(&code), now).await?;
    found.ok_or_else(|| {
        let message = "No sign-in waits under this code. A code works for 5 minutes.";
        invalid_fields(&[("code", Some(FieldError { code: FieldCode::UnknownCode, message }))])
    })
}

/// Confirms a sign-in: for the tenant of this slug, or for all tenants. Returns the sign-in, and the one-time code for
/// its redirect.
///
/// # Errors
/// `login_ended`; `forbidden` or `insufficient_role` for a person without a role there.
pub async fn confirm(
    app: &App,
    person: &Person,
    id: Uuid,
    slug: Option<&str>,
) -> Result<(CliLogin, Token), ApiError> {
    let (mut conn, now, code) = (app.conn().await?, app.clock.now(), Token::random()?);
    let scope = grant(&mut conn, person, slug).await?.scope;
    let login = cli_login::find_open(&mut conn, Name::Id(id), now).await?;
    let login = login.ok_or_else(login_ended)?;
    let hash = login.redirect.is_some().then(|| code.hash());
    let confirmation = Confirmation {
        session_id: person.session.id,
        tenant_id: scope.tenant_id().map(TenantId::uuid),
        code_hash: hash.as_deref(),
    };
    let entry = entry(person, Action::CliLoginConfirm, &login);
    let entry = entry.after(json!({ "address": login.address, "tenant": scope.slug() }));
    let confirmed = conn
        .transaction(async |conn| {
            let confirmed = cli_login::confirm(conn, id, &confirmation, now).await?;
            if confirmed {
                audit_log::append(conn, &entry, now).await?;
            }
            QueryResult::Ok(confirmed)
        })
        .await?;
    if confirmed { Ok((login, code)) } else { Err(login_ended()) }
}

/// Refuses a sign-in, and returns it.
///
/// # Errors
/// `login_ended`.
pub async fn refuse(app: &App, person: &Person, id: Uuid) -> Result<CliLogin, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let login = cli_login::find_open(&mut conn, Name::Id(id), now).await?;
    let login = login.ok_or_else(login_ended)?;
    let entry = entry(person, Action::CliLoginRefuse, &login);
    let entry = entry.before(json!({ "address": login.address }));
    let refused = conn
        .transaction(async |conn| {
            let refused = cli_login::refuse(conn, id).await?;
            if refused {
                audit_log::append(conn, &entry, now).await?;
            }
            QueryResult::Ok(refused)
        })
        .await?;
    if refused { Ok(login) } else { Err(login_ended()) }
}

fn entry(person: &Person, action: Action, login: &CliLogin) -> Entry {
    let actor = Actor::user(&person.user, Some(person.session.id));
    Entry::new(actor, action, Resource::new("cli_login", &login.device))
}

/// Consumes a confirmed sign-in and creates its key: named after the device, with the rights that the person has. Both
/// happen or neither does; a key whose response is lost ends, because nobody uses it.
///
/// # Errors
/// `login_pending` until somebody confirms; `login_ended`; `forbidden` or `insufficient_role` for a person without a
/// role there any more.
pub async fn fetch_key(app: &App, id: Uuid, proof: &CliLoginProof) -> Result<CreatedKey, ApiError> {
    let challenge = Sha256::digest(proof.verifier.as_bytes());
    let code_hash = proof.code.as_deref().map(|code| Token::from(code).hash());
    let proof = Proof { id, challenge: &challenge, code_hash: code_hash.as_deref() };
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let Some((login, person)) = confirmed(conn, &proof, now).await? else {
            let open = cli_login::find_open(conn, Name::Id(id), now).await?;
            let is_pending = open.is_some_and(|open| open.challenge == challenge.as_slice());
            return Err(if is_pending { login_pending() } else { login_ended() });
        };
        // The person and the tenant are locked before the sign-in, like in their deletion.
        let tenant = login.tenant_id.map(TenantId::new);
        api_key::lock_person(conn, person.user.id, tenant).await?;
        // The rights that count are those that nobody can end any more before the key exists.
        let (login, person) = confirmed(conn, &proof, now).await?.ok_or_else(login_ended)?;
        let slug = match login.tenant_id {
            Some(id) => {
                let tenant = tenant::by_id(conn, TenantId::new(id)).await?;
                Some(tenant.ok_or_else(login_ended)?.slug)
            }
            None => None,
        };
        let grant = grant(conn, &person, slug.as_ref().map(|slug| slug.as_str())).await?;
        let (scope, key) = (&grant.scope, (login.device.as_str(), grant.role));
        let created = api_keys::create_for_person(conn, &person, scope, key, now).await?;
        if cli_login::take(conn, id).await? {
            Ok(created)
        } else {
            // Another request was faster: the key is not created.
            Err(login_ended())
        }
    })
    .await
}

/// Finds a confirmed sign-in with the person who confirmed it, whose session still lives.
async fn confirmed(
    conn: &mut Conn,
    proof: &Proof<'_>,
    now: Timestamp,
) -> QueryResult<Option<(CliLogin, Person)>> {
    let Some(login) = cli_login::find_confirmed(conn, proof, now).await? else { return Ok(None) };
    let session = session::by_id(conn, login.session_id.unwrap_or_default(), now).await?;
    Ok(session.map(|(session, user)| (login, Person { user, session })))
}

/// All that a person may give a key.
struct Grant {
    scope: Scope,
    role: Role,
}

async fn grant(conn: &mut Conn, person: &Person, slug: Option<&str>) -> Result<Grant, ApiError> {
    let caller = Principal::Session(person.clone());
    let Some(slug) = slug else {
        let role = caller.scope().role_on_tenant(None);
        let role = role.ok_or_else(|| refused(AccessError::InsufficientRole))?;
        return Ok(Grant { scope: Scope::AllTenants, role });
    };
    let found = authority_of(conn, &caller, slug).await?;
    let found = found.and_then(|found| Some((Scope::of(&found), found.role?)));
    let (scope, role) = found.ok_or_else(|| refused(AccessError::Forbidden))?;
    Ok(Grant { scope, role })
}

/// The address to which the browser carries the one-time code, or the refusal.
pub fn redirect_url(redirect: &str, name: &str, value: &str) -> Option<String> {
    let mut url = Url::parse(redirect).ok()?;
    url.query_pairs_mut().append_pair(name, value);
    Some(url.into())
}

fn challenge(text: &str) -> Result<[u8; 32], FieldError> {
    let decoded = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    let message = "Must be a SHA-256 in base64url, 43 characters.";
    decoded.ok_or(FieldError { code: FieldCode::InvalidChallenge, message })
}

/// Accepts `http` at a loopback address with a port (RFC 8252 §7.3). `localhost` may name another machine (§8.3).
fn loopback_address(text: &str) -> Result<Url, FieldError> {
    let is_loopback = |url: &Url| match url.host() {
        Some(Host::Ipv4(ip)) => ip == std::net::Ipv4Addr::LOCALHOST,
        Some(Host::Ipv6(ip)) => ip == std::net::Ipv6Addr::LOCALHOST,
        Some(Host::Domain(_)) | None => false,
    };
    let is_plain = |url: &Url| {
        let has_user = !url.username().is_empty() || url.password().is_some();
        url.scheme() == "http" && url.port().is_some() && !has_user
    };
    let fits = |url: &Url| {
        is_loopback(url) && is_plain(url) && url.query().is_none() && url.fragment().is_none()
    };
    let message = "Must be http://127.0.0.1 or http://[::1] with a port, without a query.";
    let url = Url::parse(text).ok().filter(|_| text.len() <= 200);
    url.filter(fits).ok_or(FieldError { code: FieldCode::InvalidRedirect, message })
}

fn user_code() -> anyhow::Result<String> {
    let mut code = String::with_capacity(USER_CODE_LENGTH);
    while code.len() < USER_CODE_LENGTH {
        let [byte] = random_bytes()?;
        // A byte above the last multiple of 20 would favour the first letters.
        if let Some(letter) = USER_CODE_LETTERS.get(usize::from(byte / 12)) {
            code.push(char::from(*letter));
        }
    }
    Ok(shown(&code))
}

/// The code with a hyphen in its middle.
fn shown(code: &str) -> String {
    match code.split_at_checked(USER_CODE_LENGTH / 2) {
        Some((first, second)) => format!("{first}-{second}"),
        None => code.to_owned(),
    }
}

fn login_pending() -> ApiError {
    let detail = "Nobody has confirmed this sign-in in the browser yet.";
    ApiError::new(Code::LoginPending, detail).with_retry_after(POLL_INTERVAL)
}

fn login_ended() -> ApiError {
    let detail =
        "This sign-in was confirmed, refused, or is older than 5 minutes. Run cial login again.";
    ApiError::new(Code::LoginEnded, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_get_a_code() {
        for good in ["http://127.0.0.1:49152", "http://127.0.0.1:1/x", "http://[::1]:49152/abc"] {
            assert!(loopback_address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://127.0.0.1",
            "http://127.0.0.1:80/",
            "https://127.0.0.1:1",
            "http://localhost:1",
            "http://127.0.0.2:1",
            "http://0.0.0.0:1",
            "http://[::]:1",
            "http://[::ffff:127.0.0.1]:1",
            "http://127.0.0.1:1?x=1",
            "http://127.0.0.1:1#x",
            "http://a@127.0.0.1:1",
            "http://127.0.0.1:1@evil.example",
            "http://127.0.0.1.evil.example:1",
            "//127.0.0.1:1",
            "javascript:alert(1)",
            &format!("http://127.0.0.1:1/{}", "x".repeat(200)),
        ] {
            assert!(loopback_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_challenge_is_a_hash() {
        assert!(challenge(&"A".repeat(43)).is_ok());
        for bad in ["", "A", &"A".repeat(44), &"=".repeat(43), &"+".repeat(43)] {
            assert!(challenge(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn user_codes_are_for_people() {
        let codes: Vec<_> = (0..100).map(|_| user_code().unwrap()).collect();
        for code in &codes {
            assert_eq!((code.len(), code.find('-')), (9, Some(4)), "{code}");
            let letters = code.bytes().filter(|byte| *byte != b'-');
            assert!(letters.into_iter().all(|byte| USER_CODE_LETTERS.contains(&byte)), "{code}");
        }
        assert_ne!(codes[0], codes[1]);
    }
}

//! The sessions of a tenant, the used SSO tokens and the revoked admin sessions. Pure: time is an argument, and
//! secrets arrive as hashes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::gauges::{Gauge, GaugeName};
use protocol::people::MemberRole;
use protocol::site::Site;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::Seconds;
use crate::token::{LEEWAY, MAX_TOKEN_LIFETIME, VerifiedToken};

/// A session ends after this time without use.
pub const IDLE_LIFETIME: Seconds = 30 * 60;
/// A session ends after this time in any case.
pub const MAX_LIFETIME: Seconds = 12 * 60 * 60;
/// Uses within this time of each other count as one, so that not every use costs a write.
pub const USE_RESOLUTION: Seconds = 60;

const MAX_SESSIONS: usize = 1_000;
const MAX_USED_TOKENS: usize = 10_000;
const MAX_REVOKED: usize = 10_000;
/// How long a used token is remembered after its end: a clock that steps back by less revives no token.
const USED_TOKEN_RETENTION: Seconds = MAX_TOKEN_LIFETIME + LEEWAY;

/// The SHA-256 hash of a secret, base64url. Secrets themselves are never stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretHash(String);

impl SecretHash {
    pub fn of(secret: &str) -> Self {
        Self(URL_SAFE_NO_PAD.encode(Sha256::digest(secret)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub sub: String,
    pub email: String,
    pub name: String,
    pub role: MemberRole,
    /// The admin session from which this session derives (claim `sid`). `None` for a token without
    /// the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The only site on which the session counts.
    #[serde(default)]
    pub site: Site,
    #[serde(rename = "since")]
    pub created_at: Seconds,
    #[serde(rename = "seen")]
    pub last_used_at: Seconds,
}

impl Session {
    /// When the session ends, unless it is used before.
    pub fn ends_at(&self) -> Seconds {
        (self.last_used_at + IDLE_LIFETIME).min(self.created_at + MAX_LIFETIME)
    }
}

/// Why a valid token opens no session.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TokenReuseError {
    #[error("was used before")]
    Already,
    #[error("may have been used before: the record of used ones was lost after it was issued")]
    Unknown,
    #[error("cannot be recorded: too many were used in the last minutes")]
    Full,
    #[error("its admin session has ended")]
    AdminSessionEnded,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTable {
    #[serde(deserialize_with = "readable_sessions")]
    sessions: BTreeMap<SecretHash, Session>,
    /// The used tokens, each with the end of its validity.
    #[serde(rename = "spent")]
    used_tokens: BTreeMap<SecretHash, Seconds>,
    /// A token issued up to this time may have been used without a record.
    #[serde(default)]
    trust_after: Seconds,
    /// The ended admin sessions, each with the time of its revocation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    revoked: BTreeMap<String, Seconds>,
}

impl SessionTable {
    /// The table that replaces a lost one.
    pub fn after_loss(now: Seconds) -> Self {
        Self { trust_after: now, ..Self::default() }
    }

    /// Uses up a token and opens a session for it.
    ///
    /// # Errors
    /// [`TokenReuseError`], and then nothing has changed.
    pub fn open_session(
        &mut self,
        token: &VerifiedToken,
        session: SecretHash,
        now: Seconds,
    ) -> Result<(), TokenReuseError> {
        self.prune(now);
        let jti = SecretHash::of(&token.jti);
        if self.used_tokens.contains_key(&jti) {
            return Err(TokenReuseError::Already);
        }
        if token.iat <= self.trust_after {
            return Err(TokenReuseError::Unknown);
        }
        if token.sid.as_ref().is_some_and(|sid| self.revoked.contains_key(sid)) {
            return Err(TokenReuseError::AdminSessionEnded);
        }
        if self.used_tokens.len() >= MAX_USED_TOKENS {
            return Err(TokenReuseError::Full);
        }
        self.used_tokens.insert(jti, token.exp);
        self.make_room();
        self.sessions.insert(
            session,
            Session {
                sub: token.sub.clone(),
                email: token.email.clone(),
                name: token.name.clone(),
                role: token.role,
                sid: token.sid.clone(),
                site: token.site,
                created_at: now,
                last_used_at: now,
            },
        );
        Ok(())
    }

    /// The sizes of the table, and their bounds.
    pub fn gauges(&self) -> [Gauge; 3] {
        [
            Gauge::new(GaugeName::TenantSessions, self.sessions.len(), MAX_SESSIONS),
            Gauge::new(GaugeName::UsedTokens, self.used_tokens.len(), MAX_USED_TOKENS),
            Gauge::new(GaugeName::RevokedSessions, self.revoked.len(), MAX_REVOKED),
        ]
    }

    /// The session of this site with this hash, unless it has ended.
    pub fn find(&self, session: &SecretHash, site: Site, now: Seconds) -> Option<&Session> {
        self.sessions.get(session).filter(|found| found.site == site && now < found.ends_at())
    }

    /// Records a use of the session; `true` when the change must be written.
    pub fn record_use(&mut self, session: &SecretHash, now: Seconds) -> bool {
        match self.sessions.get_mut(session) {
            Some(session)
                if now < session.ends_at() && now >= session.last_used_at + USE_RESOLUTION =>
            {
                session.last_used_at = now;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends a session; `false` when there was none.
    pub fn end_session(&mut self, session: &SecretHash) -> bool {
        self.sessions.remove(session).is_some()
    }

    /// Ends every session that derives from one of these admin sessions, and refuses their unused tokens from now on.
    /// `true` when the table has changed.
    pub fn revoke(&mut self, admin_sessions: &[String], now: Seconds) -> bool {
        let mut has_changed = false;
        for admin_session in admin_sessions {
            if !self.revoked.contains_key(admin_session) {
                self.revoked.insert(admin_session.clone(), now);
                has_changed = true;
            }
        }
        let revoked = &self.revoked;
        let before = self.sessions.len();
        self.sessions
            .retain(|_, session| session.sid.as_ref().is_none_or(|sid| !revoked.contains_key(sid)));
        self.forget_oldest_revocations();
        has_changed || self.sessions.len() != before
    }

    fn prune(&mut self, now: Seconds) {
        self.sessions.retain(|_, session| now < session.ends_at());
        self.used_tokens.retain(|_, until| now <= until.saturating_add(USED_TOKEN_RETENTION));
        // No token and no session of an admin session outlives this time.
        self.revoked.retain(|_, at| now <= at.saturating_add(MAX_LIFETIME));
    }

    /// Bounds the memory: the revocation itself has ended the sessions already.
    fn forget_oldest_revocations(&mut self) {
        while self.revoked.len() > MAX_REVOKED {
            let oldest = self.revoked.iter().min_by_key(|(_, at)| **at);
            let Some(oldest) = oldest.map(|(admin_session, _)| admin_session.clone()) else {
                return;
            };
            self.revoked.remove(&oldest);
        }
    }

    /// Ends the least recently used sessions until there is room for one.
    fn make_room(&mut self) {
        while self.sessions.len() >= MAX_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used_at);
            let Some(oldest) = oldest.map(|(hash, _)| hash.clone()) else { return };
            self.sessions.remove(&oldest);
        }
    }
}

/// Leaves out the sessions of an earlier release that lack a fact: their people sign in again.
fn readable_sessions<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<SecretHash, Session>, D::Error> {
    let all = BTreeMap::<SecretHash, serde_json::Value>::deserialize(from)?;
    let readable =
        |(hash, session)| serde_json::from_value(session).ok().map(|session| (hash, session));
    Ok(all.into_iter().filter_map(readable).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Seconds = 1_800_000_000;

    fn token(jti: &str, iat: Seconds) -> VerifiedToken {
        let text = str::to_owned;
        VerifiedToken {
            sub: text("s"),
            email: text("e@x"),
            name: text("Eve"),
            role: MemberRole::Admin,
            jti: text(jti),
            sid: None,
            nonce: text("n"),
            site: Site::Tenant,
            to: None,
            iat,
            exp: iat + 60,
        }
    }

    fn signed_in() -> (SessionTable, SecretHash) {
        let (mut table, hash) = (SessionTable::default(), SecretHash::of("secret"));
        table.open_session(&token("a", START), hash.clone(), START).unwrap();
        (table, hash)
    }

    #[test]
    fn a_session_of_an_earlier_release_ends_and_the_others_live() {
        let (table, hash) = signed_in();
        let mut stored = serde_json::to_value(&table).unwrap();
        let sessions = stored["sessions"].as_object_mut().unwrap();
        let mut old = sessions[hash.as_str()].clone();
        old.as_object_mut().unwrap().remove("name");
        old["role"] = "owner".into();
        sessions.insert(SecretHash::of("old").as_str().to_owned(), old);
        assert_eq!(serde_json::from_value::<SessionTable>(stored).unwrap(), table);
    }

    #[test]
    fn a_token_works_once() {
        let (mut table, _) = signed_in();
        let again = table.open_session(&token("a", START), SecretHash::of("other"), START + 59);
        assert_eq!(again, Err(TokenReuseError::Already));
        assert_eq!(
            table.open_session(&token("b", START), SecretHash::of("other"), START + 59),
            Ok(())
        );
    }

    #[test]
    fn used_tokens_are_forgotten_after_their_end() {
        let (mut table, _) = signed_in();
        let last = START + 60 + USED_TOKEN_RETENTION;
        for (jti, now, remembered) in [("b", last, 2), ("c", last + 1, 2)] {
            table.open_session(&token(jti, now), SecretHash::of(jti), now).unwrap();
            assert_eq!(table.used_tokens.len(), remembered, "{jti}");
        }
    }

    #[test]
    fn a_clock_that_steps_back_revives_no_used_token() {
        for step in [1, LEEWAY, MAX_TOKEN_LIFETIME, USED_TOKEN_RETENTION] {
            let (mut table, _) = signed_in();
            // An event occurs just after the final end of the token; then the clock is set.
            let ended = START + 60;
            let ahead = ended - 1 + step;
            table.open_session(&token("b", ahead), SecretHash::of("b"), ahead).unwrap();
            let again =
                table.open_session(&token("a", START), SecretHash::of("again"), ahead - step);
            assert_eq!(again, Err(TokenReuseError::Already), "{step} s back");
        }
    }

    #[test]
    fn after_a_loss_older_tokens_are_refused() {
        let mut table = SessionTable::after_loss(START);
        assert_eq!(
            table.open_session(&token("a", START), SecretHash::of("x"), START),
            Err(TokenReuseError::Unknown)
        );
        assert_eq!(
            table.open_session(&token("a", START + 1), SecretHash::of("x"), START + 1),
            Ok(())
        );
    }

    #[test]
    fn a_session_ends_without_use_and_lasts_with_it() {
        let (mut table, hash) = signed_in();
        assert!(table.find(&hash, Site::Tenant, START + IDLE_LIFETIME - 1).is_some());
        assert!(table.find(&hash, Site::Tenant, START + IDLE_LIFETIME).is_none());
        assert!(!table.record_use(&hash, START + USE_RESOLUTION - 1));
        assert!(table.record_use(&hash, START + IDLE_LIFETIME - 1));
        assert!(table.find(&hash, Site::Tenant, START + IDLE_LIFETIME).is_some());
        assert!(
            !table.record_use(&hash, START + 3 * IDLE_LIFETIME),
            "an ended session stays ended"
        );
    }

    #[test]
    fn no_use_extends_a_session_past_its_maximum_lifetime() {
        let (mut table, hash) = signed_in();
        for minute in 1..MAX_LIFETIME / 60 {
            assert!(table.record_use(&hash, START + minute * 60), "minute {minute}");
        }
        assert!(table.find(&hash, Site::Tenant, START + MAX_LIFETIME - 1).is_some());
        assert!(table.find(&hash, Site::Tenant, START + MAX_LIFETIME).is_none());
    }

    #[test]
    fn a_session_counts_on_its_own_site_only() {
        let (mut table, hash) = signed_in();
        assert!(table.find(&hash, Site::Core, START).is_none());
        let token = VerifiedToken { site: Site::Core, ..token("b", START) };
        table.open_session(&token, SecretHash::of("core"), START).unwrap();
        assert!(table.find(&SecretHash::of("core"), Site::Core, START).is_some());
        assert!(table.find(&SecretHash::of("core"), Site::Tenant, START).is_none());
    }

    #[test]
    fn an_ended_session_is_gone() {
        let (mut table, hash) = signed_in();
        assert!(table.end_session(&hash));
        assert!(!table.end_session(&hash));
        assert!(table.find(&hash, Site::Tenant, START).is_none());
    }

    #[test]
    fn the_least_recently_used_session_ends_when_there_are_too_many() {
        let (mut table, first) = signed_in();
        for n in 0..MAX_SESSIONS as Seconds {
            let (jti, now) = (format!("n{n}"), START + 1);
            table.open_session(&token(&jti, now), SecretHash::of(&jti), now).unwrap();
        }
        assert_eq!(table.sessions.len(), MAX_SESSIONS);
        assert!(table.find(&first, Site::Tenant, START + 1).is_none());
    }

    #[test]
    fn with_too_many_used_tokens_further_tokens_are_refused() {
        let mut table = SessionTable::default();
        for n in 0..MAX_USED_TOKENS {
            let jti = n.to_string();
            table.used_tokens.insert(SecretHash::of(&jti), START + 60);
        }
        let more = table.open_session(&token("more", START), SecretHash::of("more"), START);
        assert_eq!(more, Err(TokenReuseError::Full));
    }

    fn derived(jti: &str, sid: &str) -> VerifiedToken {
        VerifiedToken { sid: Some(sid.to_owned()), ..token(jti, START) }
    }

    #[test]
    fn the_end_of_an_admin_session_ends_its_sessions_and_its_unused_tokens() {
        let (mut table, other) = signed_in();
        for (jti, sid) in [("b", "one"), ("c", "one"), ("d", "two")] {
            table.open_session(&derived(jti, sid), SecretHash::of(jti), START).unwrap();
        }
        assert!(table.revoke(&["one".to_owned()], START));
        let alive = |jti: &str| table.find(&SecretHash::of(jti), Site::Tenant, START).is_some();
        assert_eq!(["b", "c", "d"].map(alive), [false, false, true]);
        assert!(
            table.find(&other, Site::Tenant, START).is_some(),
            "a session without an admin session stays"
        );
        assert!(
            !table.revoke(&["one".to_owned()], START + 1),
            "a repeated revocation changes nothing"
        );
        let late = table.open_session(&derived("e", "one"), SecretHash::of("e"), START);
        assert_eq!(late, Err(TokenReuseError::AdminSessionEnded));
    }

    #[test]
    fn revocations_are_bounded_and_forgotten_when_no_session_can_be_left() {
        let mut table = SessionTable::default();
        let admin_sessions: Vec<_> = (0..=MAX_REVOKED).map(|n| n.to_string()).collect();
        table.revoke(&admin_sessions, START);
        assert_eq!(table.revoked.len(), MAX_REVOKED);
        table.prune(START + MAX_LIFETIME + 1);
        assert!(table.revoked.is_empty());
    }

    proptest! {
        /// In every order of events, a valid token opens at most one session.
        #[test]
        fn no_order_of_events_uses_a_token_twice(
            steps in prop::collection::vec((0_u64..20, 0..6_usize), 1..200),
        ) {
            let mut table = SessionTable::default();
            let tokens: Vec<_> =
                (0..6).map(|n| token(&n.to_string(), START + n * 30)).collect();
            let (mut now, mut granted) = (START, [0; 6]);
            for (pause, which) in steps {
                now += pause;
                let token = &tokens[which];
                if token.iat <= now && now < token.exp {
                    let session = SecretHash::of(&format!("{now} {which}"));
                    granted[which] += u32::from(table.open_session(token, session, now).is_ok());
                }
            }
            prop_assert!(granted.iter().all(|times| *times <= 1), "{granted:?}");
        }
    }
}

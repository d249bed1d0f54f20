//! Who is signed in, and which tokens are spent. Pure: time is an argument, secrets arrive as hashes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::Seconds;
use crate::token::{Granted, LEEWAY, LONGEST_LIFE};

/// A session ends after this long without use.
pub const IDLE: Seconds = 30 * 60;
/// A session ends after this long in any case.
pub const LONGEST: Seconds = 12 * 60 * 60;
/// Uses within this time of each other are one: not each is worth a write.
pub const SLIDE: Seconds = 60;

const MOST_SESSIONS: usize = 1_000;
const MOST_SPENT: usize = 10_000;
/// How long a token that has ended is still remembered as spent: a clock that steps back by less revives none.
const KEPT: Seconds = LONGEST_LIFE + LEEWAY;

/// The hash of a secret: what is stored in its stead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hash(String);

impl Hash {
    pub fn of(secret: &str) -> Self {
        Self(URL_SAFE_NO_PAD.encode(Sha256::digest(secret)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub sub: String,
    pub email: String,
    pub role: String,
    pub since: Seconds,
    pub seen: Seconds,
}

impl Session {
    /// When it ends unless it is used before.
    pub fn until(&self) -> Seconds {
        (self.seen + IDLE).min(self.since + LONGEST)
    }
}

/// Why a good token opens no session.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Spent {
    #[error("was used before")]
    Already,
    #[error("may have been used before: the record of used ones was lost after it was issued")]
    Unknown,
    #[error("cannot be recorded: too many were used in the last minutes")]
    Full,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    sessions: BTreeMap<Hash, Session>,
    /// Tokens that were used, each until it would have ended by itself.
    spent: BTreeMap<Hash, Seconds>,
    /// What was issued up to this moment may be spent without our knowing.
    #[serde(default)]
    trust_after: Seconds,
}

impl Ledger {
    /// The ledger that follows one which was lost.
    pub fn after_loss(now: Seconds) -> Self {
        Self { trust_after: now, ..Self::default() }
    }

    /// Spends a token and opens a session for it.
    pub fn grant(&mut self, token: &Granted, session: Hash, now: Seconds) -> Result<(), Spent> {
        self.prune(now);
        let jti = Hash::of(&token.jti);
        if self.spent.contains_key(&jti) {
            return Err(Spent::Already);
        }
        if token.iat <= self.trust_after {
            return Err(Spent::Unknown);
        }
        if self.spent.len() >= MOST_SPENT {
            return Err(Spent::Full);
        }
        self.spent.insert(jti, token.exp);
        self.make_room();
        let (sub, email, role) = (token.sub.clone(), token.email.clone(), token.role.clone());
        self.sessions.insert(session, Session { sub, email, role, since: now, seen: now });
        Ok(())
    }

    /// Whose session this is.
    pub fn who(&self, session: &Hash, now: Seconds) -> Option<&Session> {
        self.sessions.get(session).filter(|session| now < session.until())
    }

    /// Moves the session's end on; `true` when that is worth a write.
    pub fn slide(&mut self, session: &Hash, now: Seconds) -> bool {
        match self.sessions.get_mut(session) {
            Some(session) if now < session.until() && now >= session.seen + SLIDE => {
                session.seen = now;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends a session; `false` when there was none.
    pub fn close(&mut self, session: &Hash) -> bool {
        self.sessions.remove(session).is_some()
    }

    fn prune(&mut self, now: Seconds) {
        self.sessions.retain(|_, session| now < session.until());
        self.spent.retain(|_, until| now <= until.saturating_add(KEPT));
    }

    /// The least recently used gives way.
    fn make_room(&mut self) {
        while self.sessions.len() >= MOST_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.seen);
            let Some(oldest) = oldest.map(|(hash, _)| hash.clone()) else { return };
            self.sessions.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Seconds = 1_800_000_000;

    fn token(jti: &str, iat: Seconds) -> Granted {
        let text = str::to_owned;
        let (sub, email, role) = (text("s"), text("e@x"), text("owner"));
        Granted { sub, email, role, jti: text(jti), iat, exp: iat + 60 }
    }

    fn signed_in() -> (Ledger, Hash) {
        let (mut ledger, hash) = (Ledger::default(), Hash::of("secret"));
        ledger.grant(&token("a", START), hash.clone(), START).unwrap();
        (ledger, hash)
    }

    #[test]
    fn a_token_is_spent_once() {
        let (mut ledger, _) = signed_in();
        let again = ledger.grant(&token("a", START), Hash::of("other"), START + 59);
        assert_eq!(again, Err(Spent::Already));
        assert_eq!(ledger.grant(&token("b", START), Hash::of("other"), START + 59), Ok(()));
    }

    #[test]
    fn spent_tokens_are_forgotten_once_they_have_ended() {
        let (mut ledger, _) = signed_in();
        let last = START + 60 + KEPT;
        for (jti, now, remembered) in [("b", last, 2), ("c", last + 1, 2)] {
            ledger.grant(&token(jti, now), Hash::of(jti), now).unwrap();
            assert_eq!(ledger.spent.len(), remembered, "{jti}");
        }
    }

    #[test]
    fn a_clock_that_steps_back_revives_no_spent_token() {
        for step in [1, LEEWAY, LONGEST_LIFE, KEPT] {
            let (mut ledger, _) = signed_in();
            // Something happens when the token has just ended for good; then the clock is set.
            let ended = START + 60;
            let ahead = ended - 1 + step;
            ledger.grant(&token("b", ahead), Hash::of("b"), ahead).unwrap();
            let again = ledger.grant(&token("a", START), Hash::of("again"), ahead - step);
            assert_eq!(again, Err(Spent::Already), "{step} s back");
        }
    }

    #[test]
    fn after_a_loss_older_tokens_are_not_believed() {
        let mut ledger = Ledger::after_loss(START);
        assert_eq!(ledger.grant(&token("a", START), Hash::of("x"), START), Err(Spent::Unknown));
        assert_eq!(ledger.grant(&token("a", START + 1), Hash::of("x"), START + 1), Ok(()));
    }

    #[test]
    fn a_session_ends_when_unused_and_slides_while_used() {
        let (mut ledger, hash) = signed_in();
        assert!(ledger.who(&hash, START + IDLE - 1).is_some());
        assert!(ledger.who(&hash, START + IDLE).is_none());
        assert!(!ledger.slide(&hash, START + SLIDE - 1));
        assert!(ledger.slide(&hash, START + IDLE - 1));
        assert!(ledger.who(&hash, START + IDLE).is_some());
        assert!(!ledger.slide(&hash, START + 3 * IDLE), "an ended session stays ended");
    }

    #[test]
    fn no_use_carries_a_session_past_its_absolute_end() {
        let (mut ledger, hash) = signed_in();
        for minute in 1..LONGEST / 60 {
            assert!(ledger.slide(&hash, START + minute * 60), "minute {minute}");
        }
        assert!(ledger.who(&hash, START + LONGEST - 1).is_some());
        assert!(ledger.who(&hash, START + LONGEST).is_none());
    }

    #[test]
    fn a_closed_session_is_gone() {
        let (mut ledger, hash) = signed_in();
        assert!(ledger.close(&hash));
        assert!(!ledger.close(&hash));
        assert!(ledger.who(&hash, START).is_none());
    }

    #[test]
    fn sessions_are_bounded_and_the_least_used_goes() {
        let (mut ledger, first) = signed_in();
        for n in 0..MOST_SESSIONS as Seconds {
            let (jti, now) = (format!("n{n}"), START + 1);
            ledger.grant(&token(&jti, now), Hash::of(&jti), now).unwrap();
        }
        assert_eq!(ledger.sessions.len(), MOST_SESSIONS);
        assert!(ledger.who(&first, START + 1).is_none());
    }

    #[test]
    fn a_flood_of_tokens_is_refused_rather_than_forgotten() {
        let mut ledger = Ledger::default();
        for n in 0..MOST_SPENT {
            let jti = n.to_string();
            ledger.spent.insert(Hash::of(&jti), START + 60);
        }
        let more = ledger.grant(&token("more", START), Hash::of("more"), START);
        assert_eq!(more, Err(Spent::Full));
    }

    proptest! {
        /// Whatever else happens, in whatever order: a token that still lives opens one session at most.
        #[test]
        fn no_order_of_events_spends_a_token_twice(
            steps in prop::collection::vec((0_u64..20, 0..6_usize), 1..200),
        ) {
            let mut ledger = Ledger::default();
            let tokens: Vec<_> =
                (0..6).map(|n| token(&n.to_string(), START + n * 30)).collect();
            let (mut now, mut granted) = (START, [0; 6]);
            for (pause, which) in steps {
                now += pause;
                let token = &tokens[which];
                if token.iat <= now && now < token.exp {
                    let session = Hash::of(&format!("{now} {which}"));
                    granted[which] += u32::from(ledger.grant(token, session, now).is_ok());
                }
            }
            prop_assert!(granted.iter().all(|times| *times <= 1), "{granted:?}");
        }
    }
}

//! The decision for each use of a session: valid, to be extended, to be replaced, or ended. Pure.

use std::time::Duration;

use protocol::Timestamp;

/// A session ends this long after the request that extended it last.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(1_800);
/// A request extends the session only when at most this much time is left.
pub const RENEWAL_WINDOW: Duration = Duration::from_secs(600);
/// No session lives longer, however much it is used.
pub const MAX_LIFETIME: Duration = Duration::from_secs(12 * 3_600);
/// The time of the last request is written at most this often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// A replaced token stays valid this long, for the requests that a browser sent at the same time.
const ROTATION_GRACE: Duration = Duration::from_secs(10);

/// The state of a session at the time of a request.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub last_seen_at: Timestamp,
    /// The role or the password of the user changed since the token was issued.
    pub must_rotate: bool,
    /// When the presented token was replaced; `None` for the current token.
    pub replaced_at: Option<Timestamp>,
}

/// The outcome of a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The session is over; its row can be deleted.
    Expired,
    /// The token was replaced a while ago. The session itself may live.
    Replaced,
    Valid,
    /// Valid; the time of the last request is due to be written.
    Touch,
    /// Valid until this time from now on; the browser needs a fresh cookie.
    Renew(Timestamp),
    /// Valid until this time under a new id and a new token.
    Rotate(Timestamp),
}

impl Lifetime {
    pub fn at(&self, now: Timestamp) -> Use {
        let renewed = expiry(self.created_at, now);
        if now >= self.expires_at || now >= self.created_at + MAX_LIFETIME {
            Use::Expired
        } else if let Some(replaced_at) = self.replaced_at {
            if now < replaced_at + ROTATION_GRACE { Use::Valid } else { Use::Replaced }
        } else if self.must_rotate {
            Use::Rotate(renewed)
        } else if now >= self.expires_at - RENEWAL_WINDOW && renewed > self.expires_at {
            Use::Renew(renewed)
        } else if now >= self.last_seen_at + TOUCH_INTERVAL {
            Use::Touch
        } else {
            Use::Valid
        }
    }
}

/// The end of a session that a request at `now` extends.
pub fn expiry(created_at: Timestamp, now: Timestamp) -> Timestamp {
    (now + IDLE_TIMEOUT).min(created_at + MAX_LIFETIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time, in seconds after the session began.
    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn fresh() -> Lifetime {
        Lifetime {
            created_at: at(0),
            expires_at: at(1_800),
            last_seen_at: at(0),
            must_rotate: false,
            replaced_at: None,
        }
    }

    #[test]
    fn a_session_is_extended_only_near_its_end() {
        for (seconds, expected) in [
            (0, Use::Valid),
            (59, Use::Valid),
            (60, Use::Touch),
            (1_199, Use::Touch),
            (1_200, Use::Renew(at(3_000))),
            (1_799, Use::Renew(at(3_599))),
            (1_800, Use::Expired),
            (1_860, Use::Expired),
        ] {
            assert_eq!(fresh().at(at(seconds)), expected, "after {seconds} s");
        }
    }

    #[test]
    fn nothing_extends_a_session_beyond_twelve_hours() {
        let end = 12 * 3_600;
        let late = Lifetime { expires_at: at(end - 60), last_seen_at: at(end - 90), ..fresh() };
        assert_eq!(late.at(at(end - 61)), Use::Renew(at(end)));
        let last = Lifetime { expires_at: at(end), last_seen_at: at(end - 2), ..fresh() };
        assert_eq!(last.at(at(end - 1)), Use::Valid, "it would be extended to the same time");
        assert_eq!(last.at(at(end)), Use::Expired);
        let forged = Lifetime { expires_at: at(end * 2), ..fresh() };
        assert_eq!(forged.at(at(end)), Use::Expired);
    }

    #[test]
    fn a_privilege_change_replaces_the_token_and_the_old_one_ends_soon() {
        let changed = Lifetime { must_rotate: true, ..fresh() };
        assert_eq!(changed.at(at(5)), Use::Rotate(at(1_805)));
        assert_eq!(changed.at(at(1_800)), Use::Expired);
        // The request that was on its way with the old token does not replace the new one.
        let old = Lifetime { must_rotate: true, replaced_at: Some(at(5)), ..fresh() };
        assert_eq!(old.at(at(14)), Use::Valid);
        assert_eq!(old.at(at(15)), Use::Replaced);
        assert_eq!(old.at(at(1_800)), Use::Expired);
    }
}

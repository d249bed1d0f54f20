//! Slows guessing down: so many failed sign-ins within a window. Bounded memory.
//!
//! A stranger who fails on purpose shuts out their own address. Only many addresses together rest an account.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::Timestamp;
use service::forwarded;

const WINDOW: Duration = Duration::from_secs(300);
/// Of one client at one account.
const PER_PAIR: u32 = 10;
/// Of one client, whatever accounts it tries.
const PER_CLIENT: u32 = 50;
/// Of all clients at one account: high, because it shuts its owner out too.
const PER_ACCOUNT: u32 = 100;
/// Beyond this many names the oldest windows are forgotten.
const REMEMBERED: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Pair(String, IpAddr),
    Client(IpAddr),
    Account(String),
}

#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<Who, Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Timestamp,
    failures: u32,
}

impl Throttle {
    /// Counts an attempt before it is looked at, so that many at once are not all let through. `Err`: wait.
    pub fn attempt(&self, account: &str, client: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let client = forwarded::rate_limit_key(client);
        let names = [
            (Who::Pair(account.to_owned(), client), PER_PAIR),
            (Who::Client(client), PER_CLIENT),
            (Who::Account(account.to_owned()), PER_ACCOUNT),
        ];
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = names.iter().filter_map(|(who, most)| {
            held.get(who).filter(|w| w.failures >= *most).and_then(|w| w.left(now))
        });
        if let Some(wait) = full.max() {
            return Err(wait);
        }
        for (who, _) in names {
            make_room(&mut held, now);
            let window = held.entry(who).or_insert(Window { since: now, failures: 0 });
            if window.left(now).is_none() {
                *window = Window { since: now, failures: 0 };
            }
            window.failures += 1;
        }
        Ok(())
    }

    /// The attempt was good: this client starts afresh at this account, and the others get this one back.
    pub fn succeeded(&self, account: &str, client: IpAddr) {
        let client = forwarded::rate_limit_key(client);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&Who::Pair(account.to_owned(), client));
        for who in [Who::Client(client), Who::Account(account.to_owned())] {
            if let Some(window) = held.get_mut(&who) {
                window.failures = window.failures.saturating_sub(1);
            }
        }
    }
}

/// When full: what is over goes, and if that is not enough, the older half.
fn make_room(held: &mut HashMap<Who, Window>, now: Timestamp) {
    if held.len() < REMEMBERED {
        return;
    }
    held.retain(|_, window| window.left(now).is_some());
    if held.len() >= REMEMBERED {
        let mut since: Vec<_> = held.values().map(|window| window.since).collect();
        let middle = since.len() / 2;
        let (_, middle, _) = since.select_nth_unstable(middle);
        held.retain(|_, window| window.since > *middle);
    }
}

impl Window {
    /// What is left of it; `None` when it is over.
    fn left(&self, now: Timestamp) -> Option<Duration> {
        let passed = (now - self.since).to_std().unwrap_or_default();
        WINDOW.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    #[test]
    fn a_client_rests_at_an_account_after_ten_failures_and_recovers() {
        let throttle = Throttle::default();
        for _ in 0..PER_PAIR {
            throttle.attempt("a", CLIENT, at(0)).unwrap();
        }
        assert_eq!(throttle.attempt("a", CLIENT, at(100)), Err(Duration::from_secs(200)));
        assert!(throttle.attempt("b", CLIENT, at(100)).is_ok());
        assert!(throttle.attempt("a", CLIENT, at(300)).is_ok());
    }

    #[test]
    fn a_client_with_a_network_of_its_own_is_one_client() {
        let throttle = Throttle::default();
        let client = |n: u32| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n as u16]);
        for n in 0..PER_PAIR {
            throttle.attempt("a", client(n), at(0)).unwrap();
        }
        assert!(throttle.attempt("a", client(PER_PAIR), at(0)).is_err());
        throttle.succeeded("a", client(PER_PAIR));
        assert!(throttle.attempt("a", client(PER_PAIR), at(0)).is_ok());
    }

    #[test]
    fn a_stranger_who_fails_shuts_out_nobody_else() {
        let (throttle, owner) = (Throttle::default(), IpAddr::from([192, 0, 2, 1]));
        while throttle.attempt("a", CLIENT, at(0)).is_ok() {}
        assert!(throttle.attempt("a", owner, at(0)).is_ok());
    }

    #[test]
    fn an_account_rests_once_many_clients_together_fail_at_it() {
        let throttle = Throttle::default();
        for n in 0..PER_ACCOUNT {
            throttle.attempt("a", IpAddr::from(n.to_be_bytes()), at(0)).unwrap();
        }
        assert_eq!(throttle.attempt("a", CLIENT, at(60)), Err(Duration::from_secs(240)));
        assert!(throttle.attempt("b", CLIENT, at(60)).is_ok());
    }

    #[test]
    fn a_success_starts_afresh() {
        let throttle = Throttle::default();
        for _ in 0..2 * PER_ACCOUNT {
            throttle.attempt("a", CLIENT, at(0)).unwrap();
            throttle.succeeded("a", CLIENT);
        }
    }

    #[test]
    fn a_client_rests_whatever_accounts_it_tries_and_memory_is_bounded() {
        let throttle = Throttle::default();
        for n in 0..PER_CLIENT {
            throttle.attempt(&n.to_string(), CLIENT, at(0)).unwrap();
        }
        assert!(throttle.attempt("x", CLIENT, at(1)).is_err());
        for n in 0..20_000_u32 {
            let _ = throttle.attempt(&n.to_string(), IpAddr::from(n.to_be_bytes()), at(2));
        }
        assert!(throttle.0.lock().unwrap().len() <= REMEMBERED);
    }
}

//! Limits password guessing per client, per client and account, and per account, and changes per session and per API
//! key. Fixed memory, nothing is evicted.
//!
//! Attempts are counted in count-min sketches: a flood of invented names can raise a count, never lower one. Windows
//! start at multiples of [`WINDOW`], the same for all counts, so that no choice of names or times adds guesses.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::Timestamp;
use service::forwarded;
use uuid::Uuid;

/// The length of a window. A count starts anew with each window.
pub const WINDOW: Duration = Duration::from_secs(300);
/// The most attempts of one client at one account.
const MAX_PER_PAIR: u32 = 10;
/// The most attempts of one client at all accounts together.
const MAX_PER_CLIENT: u32 = 50;
/// The most attempts of all clients at one account. High, because reaching this limit locks out new devices.
pub const MAX_PER_ACCOUNT: u32 = 100;
/// The most sign-ins of one known device, which count against no other limit.
const MAX_PER_DEVICE: u32 = 10;
/// The most codes of a second factor at one account from all devices that are not known there together. Only a client
/// that knows the password uses them up, and known devices have counts of their own.
const MAX_CODES_OF_UNKNOWN_DEVICES: u32 = 10;
/// The most codes of a second factor from one known device.
const MAX_CODES_PER_DEVICE: u32 = 10;
/// The most codes of a second factor at one account from all devices: whoever had the password before the enrolment may have
/// any number of known devices. A guess among a million codes, of which three count, succeeds once in about two months.
const MAX_CODES_PER_ACCOUNT: u32 = 20;
/// The most links to reset the password of one account: nobody's mailbox is flooded.
const MAX_RESETS: u32 = 3;
/// The most mails of one kind to one recipient, beside the links that reset a password. Each kind has a count of its own, so
/// that no flood of invitations keeps an alert away.
const MAX_MAILS: u32 = 3;
/// The most requests of one session or API key that change something: a script that runs away writes no more into the
/// audit log.
pub const MAX_CHANGES: u32 = 3_000;
/// The most requests of one session or API key that only take access away. They have a count of their own, so that whoever
/// stole the credential cannot keep its owner from revoking it.
const MAX_REVOCATIONS: u32 = 300;
/// The most calls of the webhook of one trigger.
const MAX_TRIGGER_CALLS: u32 = 300;
/// The most calls of one client by which it names no webhook of a trigger.
const MAX_STRAY_CALLS: u32 = 50;

const SKETCH_ROWS: usize = 4;
const SKETCH_WIDTH: usize = 16_384;

/// The limits that one attempt counts against.
#[derive(Clone, Copy, Debug)]
pub enum Attempt<'a> {
    /// A sign-in by a client that is not known at the account.
    SignIn { account: &'a str, client: IpAddr },
    /// A sign-in from a device on which the account signed in before.
    KnownDevice { account: &'a str, device: Uuid },
    /// A code of the account's second factor, on a device that is not known there.
    SecondFactor { account: &'a str },
    /// A code of the account's second factor, from a device on which the account signed in before.
    SecondFactorOnDevice { account: &'a str, device: Uuid },
    /// A request for the link that resets the password of an account, whether or not there is one.
    Reset { account: &'a str, client: IpAddr },
    /// A mail that nobody with the recipient's mailbox asked for: an invitation, or an alert.
    Mail { kind: &'a str, recipient: &'a str },
    /// Other work on unauthenticated input: sign-up and password reset.
    Client(IpAddr),
    /// A request with this session or API key that changes something.
    Change(Uuid),
    /// A request with this session or API key that only takes access away.
    Revocation(Uuid),
    /// A call of a trigger's webhook.
    TriggerCall(Uuid),
    /// A call that names no webhook of a trigger.
    StrayCall(IpAddr),
}

#[derive(Debug)]
pub struct Throttle {
    max_changes: u32,
    hasher: RandomState,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    window: i64,
    /// One row per hash; each row has [`SKETCH_WIDTH`] cells.
    rows: Vec<u32>,
}

#[derive(Clone, Copy, Hash)]
enum Key<'a> {
    Pair(&'a str, IpAddr),
    Client(IpAddr),
    Account(&'a str),
    Device(&'a str, Uuid),
    CodesOfUnknownDevices(&'a str),
    CodesOfDevice(&'a str, Uuid),
    Codes(&'a str),
    Resets(&'a str),
    Mails(&'a str, &'a str),
    Changes(Uuid),
    Revocations(Uuid),
    TriggerCalls(Uuid),
    StrayCalls(IpAddr),
}

impl Throttle {
    /// `max_changes`: of one session or API key in a window.
    pub fn new(max_changes: u32) -> Self {
        let rows = vec![0; SKETCH_ROWS * SKETCH_WIDTH];
        let counts = Mutex::new(Counts { window: 0, rows });
        Self { max_changes, hasher: RandomState::new(), counts }
    }

    /// Counts an attempt before its password is verified, so that concurrent attempts are counted, too.
    ///
    /// # Errors
    /// The time to wait when a limit is reached; a refused attempt is not counted.
    pub fn attempt(&self, attempt: Attempt<'_>, now: Timestamp) -> Result<(), Duration> {
        let limits = self.limits(attempt);
        self.with_counts(now, |counts| {
            for (key, limit) in &limits {
                if self.estimate(counts, key) >= *limit {
                    return Err(time_left(now));
                }
            }
            for (key, _) in &limits {
                for cell in self.cells(key) {
                    counts.rows[cell] = counts.rows[cell].saturating_add(1);
                }
            }
            Ok(())
        })
    }

    /// Takes the count of a successful attempt back.
    pub fn succeeded(&self, attempt: Attempt<'_>, now: Timestamp) {
        self.with_counts(now, |counts| {
            for (key, _) in self.limits(attempt) {
                for cell in self.cells(&key) {
                    counts.rows[cell] = counts.rows[cell].saturating_sub(1);
                }
            }
        });
    }

    fn limits<'a>(&self, attempt: Attempt<'a>) -> Vec<(Key<'a>, u32)> {
        match attempt {
            Attempt::SignIn { account, client } => {
                let client = forwarded::rate_limit_key(client);
                vec![
                    (Key::Pair(account, client), MAX_PER_PAIR),
                    (Key::Client(client), MAX_PER_CLIENT),
                    (Key::Account(account), MAX_PER_ACCOUNT),
                ]
            }
            Attempt::KnownDevice { account, device } => {
                vec![(Key::Device(account, device), MAX_PER_DEVICE)]
            }
            Attempt::SecondFactor { account } => vec![
                (Key::CodesOfUnknownDevices(account), MAX_CODES_OF_UNKNOWN_DEVICES),
                (Key::Codes(account), MAX_CODES_PER_ACCOUNT),
            ],
            Attempt::SecondFactorOnDevice { account, device } => vec![
                (Key::CodesOfDevice(account, device), MAX_CODES_PER_DEVICE),
                (Key::Codes(account), MAX_CODES_PER_ACCOUNT),
            ],
            Attempt::Reset { account, client } => vec![
                (Key::Client(forwarded::rate_limit_key(client)), MAX_PER_CLIENT),
                (Key::Resets(account), MAX_RESETS),
            ],
            Attempt::Mail { kind, recipient } => vec![(Key::Mails(kind, recipient), MAX_MAILS)],
            Attempt::Client(client) => {
                vec![(Key::Client(forwarded::rate_limit_key(client)), MAX_PER_CLIENT)]
            }
            Attempt::Change(credential) => vec![(Key::Changes(credential), self.max_changes)],
            Attempt::Revocation(credential) => {
                vec![(Key::Revocations(credential), MAX_REVOCATIONS)]
            }
            Attempt::TriggerCall(trigger) => {
                vec![(Key::TriggerCalls(trigger), MAX_TRIGGER_CALLS)]
            }
            Attempt::StrayCall(client) => {
                vec![(Key::StrayCalls(forwarded::rate_limit_key(client)), MAX_STRAY_CALLS)]
            }
        }
    }

    /// The number of cells in the sketches.
    pub const fn cells_limit() -> usize {
        SKETCH_ROWS * SKETCH_WIDTH
    }

    /// The number of cells that hold a count in the current window.
    pub fn cells_used(&self) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.rows.iter().filter(|count| **count > 0).count()
    }

    /// Never less than the true count, because other keys can only add to a cell.
    fn estimate(&self, counts: &Counts, key: &Key<'_>) -> u32 {
        self.cells(key).map(|cell| counts.rows[cell]).min().unwrap_or_default()
    }

    fn cells(&self, key: &Key<'_>) -> impl Iterator<Item = usize> {
        (0..SKETCH_ROWS).map(move |row| {
            let hash = self.hasher.hash_one((row, key));
            row * SKETCH_WIDTH + usize::try_from(hash % SKETCH_WIDTH as u64).unwrap_or_default()
        })
    }

    fn with_counts<R>(&self, now: Timestamp, work: impl FnOnce(&mut Counts) -> R) -> R {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let window = window_of(now);
        // A clock that steps back must not clear the counts.
        if window > counts.window {
            counts.window = window;
            counts.rows.fill(0);
        }
        work(&mut counts)
    }
}

fn window_seconds() -> i64 {
    i64::try_from(WINDOW.as_secs()).unwrap_or(i64::MAX)
}

fn window_of(now: Timestamp) -> i64 {
    now.timestamp().div_euclid(window_seconds())
}

fn time_left(now: Timestamp) -> Duration {
    let passed = now.timestamp().rem_euclid(window_seconds());
    Duration::from_secs(u64::try_from(window_seconds() - passed).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// `second` counts from the start of a window.
    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(300 * 5_666_667 + second, 0).unwrap()
    }

    fn sign_in(account: &str, client: IpAddr) -> Attempt<'_> {
        Attempt::SignIn { account, client }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_client_is_limited_at_one_account_until_the_window_ends() {
        let throttle = Throttle::new(MAX_CHANGES);
        for _ in 0..MAX_PER_PAIR {
            throttle.attempt(sign_in("a", CLIENT), at(0)).unwrap();
        }
        let refused = throttle.attempt(sign_in("a", CLIENT), at(100));
        assert_eq!(refused, Err(Duration::from_secs(200)));
        assert!(throttle.attempt(sign_in("b", CLIENT), at(100)).is_ok());
        assert!(throttle.attempt(sign_in("a", CLIENT), at(300)).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let throttle = Throttle::new(MAX_CHANGES);
        let client = |n: u32| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n as u16]);
        for n in 0..MAX_PER_PAIR {
            throttle.attempt(sign_in("a", client(n)), at(0)).unwrap();
        }
        assert!(throttle.attempt(sign_in("a", client(MAX_PER_PAIR)), at(0)).is_err());
        throttle.succeeded(sign_in("a", client(MAX_PER_PAIR)), at(0));
        assert!(throttle.attempt(sign_in("a", client(MAX_PER_PAIR)), at(0)).is_ok());
    }

    #[test]
    fn a_failing_client_locks_out_only_itself() {
        let (throttle, owner) = (Throttle::new(MAX_CHANGES), IpAddr::from([192, 0, 2, 1]));
        while throttle.attempt(sign_in("a", CLIENT), at(0)).is_ok() {}
        assert!(throttle.attempt(sign_in("a", owner), at(0)).is_ok());
    }

    #[test]
    fn an_account_under_attack_still_admits_known_devices() {
        let throttle = Throttle::new(MAX_CHANGES);
        for n in 0..MAX_PER_ACCOUNT {
            throttle.attempt(sign_in("a", address(n)), at(0)).unwrap();
        }
        let refused = throttle.attempt(sign_in("a", CLIENT), at(60));
        assert_eq!(refused, Err(Duration::from_secs(240)));
        assert!(throttle.attempt(sign_in("b", CLIENT), at(60)).is_ok());
        let known = Attempt::KnownDevice { account: "a", device: Uuid::nil() };
        for _ in 0..MAX_PER_DEVICE {
            throttle.attempt(known, at(60)).unwrap();
        }
        assert!(throttle.attempt(known, at(60)).is_err(), "a stolen device is limited, too");
    }

    #[test]
    fn a_mailbox_gets_few_reset_links_whoever_asks() {
        let throttle = Throttle::new(MAX_CHANGES);
        let reset = |account, n| Attempt::Reset { account, client: address(n) };
        for n in 0..MAX_RESETS {
            throttle.attempt(reset("a", n), at(0)).unwrap();
        }
        assert_eq!(throttle.attempt(reset("a", 100), at(60)), Err(Duration::from_secs(240)));
        assert!(throttle.attempt(reset("b", 100), at(60)).is_ok());
        assert!(throttle.attempt(sign_in("a", CLIENT), at(60)).is_ok(), "nobody is locked out");
    }

    #[test]
    fn a_mailbox_gets_few_mails_of_each_kind() {
        let throttle = Throttle::new(MAX_CHANGES);
        let mail = |kind, recipient| Attempt::Mail { kind, recipient };
        for _ in 0..MAX_MAILS {
            throttle.attempt(mail("invitation", "a"), at(0)).unwrap();
        }
        assert_eq!(
            throttle.attempt(mail("invitation", "a"), at(60)),
            Err(Duration::from_secs(240))
        );
        assert!(throttle.attempt(mail("invitation", "b"), at(60)).is_ok());
        assert!(throttle.attempt(mail("sign_in", "a"), at(60)).is_ok(), "alerts still leave");
        assert!(throttle.attempt(mail("invitation", "a"), at(300)).is_ok());
    }

    #[test]
    fn successes_are_not_counted() {
        let throttle = Throttle::new(MAX_CHANGES);
        for _ in 0..2 * MAX_PER_ACCOUNT {
            throttle.attempt(sign_in("a", CLIENT), at(0)).unwrap();
            throttle.succeeded(sign_in("a", CLIENT), at(0));
        }
        assert_eq!(throttle.cells_used(), 0);
    }

    #[test]
    fn codes_of_unknown_devices_leave_the_known_ones_some() {
        let throttle = Throttle::new(MAX_CHANGES);
        let code = Attempt::SecondFactor { account: "a" };
        for _ in 0..MAX_CODES_OF_UNKNOWN_DEVICES {
            throttle.attempt(code, at(0)).unwrap();
        }
        assert_eq!(throttle.attempt(code, at(0)), Err(Duration::from_secs(300)));
        assert!(throttle.attempt(Attempt::SecondFactor { account: "b" }, at(0)).is_ok());
        assert!(throttle.attempt(sign_in("a", CLIENT), at(0)).is_ok());
        let known = Attempt::SecondFactorOnDevice { account: "a", device: Uuid::nil() };
        for _ in 0..MAX_CODES_PER_DEVICE {
            throttle.attempt(known, at(0)).unwrap();
        }
        assert!(throttle.attempt(known, at(0)).is_err(), "a stolen device is limited, too");
    }

    #[test]
    fn any_number_of_known_devices_makes_no_more_guesses_at_codes() {
        let throttle = Throttle::new(MAX_CHANGES);
        let code = |n| Attempt::SecondFactorOnDevice { account: "a", device: Uuid::from_u128(n) };
        let admitted = (0..100).filter(|n| throttle.attempt(code(*n), at(0)).is_ok()).count();
        assert_eq!(u32::try_from(admitted), Ok(MAX_CODES_PER_ACCOUNT));
        assert!(throttle.attempt(code(0), at(300)).is_ok(), "until the window ends");
        throttle.succeeded(code(0), at(300));
        assert_eq!(throttle.cells_used(), 0);
    }

    #[test]
    fn a_client_is_limited_over_all_accounts_and_other_work() {
        let throttle = Throttle::new(MAX_CHANGES);
        for n in 0..MAX_PER_CLIENT {
            throttle.attempt(sign_in(&n.to_string(), CLIENT), at(0)).unwrap();
        }
        assert!(throttle.attempt(sign_in("x", CLIENT), at(1)).is_err());
        assert!(throttle.attempt(Attempt::Client(CLIENT), at(1)).is_err());
    }

    #[test]
    fn twenty_thousand_invented_names_do_not_free_an_account() {
        let throttle = Throttle::new(MAX_CHANGES);
        let mut guesses = 0;
        for n in 0..20_000_u32 {
            let _ = throttle.attempt(sign_in(&n.to_string(), address(1_000_000 + n)), at(2));
            if n % 20 == 0 && throttle.attempt(sign_in("owner", address(n)), at(3)).is_ok() {
                guesses += 1;
            }
        }
        assert!((1..=MAX_PER_ACCOUNT).contains(&guesses), "{guesses}");
        let honest = throttle.attempt(sign_in("honest", CLIENT), at(4));
        assert_eq!(honest, Ok(()), "a flood does not lock out others");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Under every flood of other names, at all times: the limits bound the guesses at one
        /// account in a window.
        #[test]
        fn guesses_per_account_and_window_are_bounded(
            flood in proptest::collection::vec((0..5_000_u32, any::<u32>(), 0..900_i64, any::<bool>()), 1..3_000),
        ) {
            let throttle = Throttle::new(MAX_CHANGES);
            let mut guesses = std::collections::HashMap::<i64, u32>::new();
            let mut flood = flood;
            flood.sort_by_key(|(_, _, second, _)| *second);
            for (name, client, second, is_guess) in flood {
                let name = if is_guess { "owner".to_owned() } else { name.to_string() };
                let attempt = sign_in(&name, address(client));
                if throttle.attempt(attempt, at(second)).is_ok() && is_guess {
                    *guesses.entry(second / 300).or_default() += 1;
                }
            }
            prop_assert!(guesses.values().all(|count| *count <= MAX_PER_ACCOUNT));
        }
    }
}

//! What holds for all tenants of an installation.

use std::time::Duration;

use lease::{AuthoritySettings, Millis, SleepPolicy, WakeLimits};
use protocol::spec::{self, Spec, WakeOn};

#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Starts at the engine at once. An engine that starts many at once starts each of them later.
    pub starts: usize,
    /// Thaws at the engine at once.
    pub thaws: usize,
    /// Freezes and stops at the engine at once: few, so that wakes do not stand behind them.
    pub falls: usize,
    /// Wakes that wait for their turn at the engine.
    pub queue: usize,
    /// Asks that wait: for one tenant, and for all.
    pub waiters_each: usize,
    pub waiters: usize,
    /// Of tenants whose policy says nothing else; `None` is never.
    pub freeze_after: Option<Duration>,
    pub sleep_after: Option<Duration>,
    /// How long a lease lasts; also how long nothing falls asleep after a start of this process.
    pub lease: Duration,
    /// How long a woken tenant may take from the engine's answer to readiness.
    pub boot: Duration,
    /// Between two tries to put a tenant to sleep that the engine refused.
    pub pause: Duration,
}

impl Rules {
    pub const DEFAULT: Self = Self {
        starts: 2,
        thaws: 16,
        falls: 4,
        queue: 512,
        waiters_each: 2_048,
        waiters: 8_192,
        freeze_after: Some(Duration::from_secs(60)),
        sleep_after: Some(Duration::from_secs(1_200)),
        lease: Duration::from_secs(15),
        boot: Duration::from_secs(45),
        pause: Duration::from_secs(30),
    };

    pub(super) fn settings(&self) -> AuthoritySettings {
        AuthoritySettings {
            lease_duration: millis(self.lease),
            retry_delay: millis(self.pause),
            limits: WakeLimits {
                concurrent_starts: self.starts,
                concurrent_thaws: self.thaws,
                queued_wakes: self.queue,
                waiters_per_tenant: self.waiters_each,
                waiters: self.waiters,
                readiness_timeout: millis(self.boot),
            },
        }
    }

    /// Of a tenant whose spec is not known: the installation's.
    pub(super) fn policy(&self, spec: Option<&Spec>) -> SleepPolicy {
        let policy = spec.map(|spec| spec.policy).unwrap_or_default();
        let or = |own: Option<u32>, house: Option<Duration>| match own {
            Some(own) => seconds(own),
            None => house.map(millis),
        };
        let spec::Policy { freeze_after_seconds, sleep_after_seconds, max_awake_seconds, wake_on } =
            policy;
        SleepPolicy {
            freeze_after: or(freeze_after_seconds, self.freeze_after),
            sleep_after: or(sleep_after_seconds, self.sleep_after),
            max_awake: max_awake_seconds.and_then(seconds),
            wake_on_any: wake_on == Some(WakeOn::AnyRequest),
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// 0 is never.
fn seconds(seconds: u32) -> Option<Millis> {
    (seconds > 0).then(|| Millis::from(seconds) * 1_000)
}

pub(super) fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_policy_stands_before_the_installations() {
        let policy = |own: serde_json::Value| {
            let spec = serde_json::json!({
                "id": uuid::Uuid::nil(), "slug": "acme", "generation": 1, "policy": own,
            });
            let spec: Spec = serde_json::from_value(spec).unwrap();
            let SleepPolicy { freeze_after, sleep_after, max_awake, wake_on_any } =
                Rules::DEFAULT.policy(Some(&spec));
            (freeze_after, sleep_after, max_awake, wake_on_any)
        };
        let none = serde_json::json!({});
        assert_eq!(policy(none), (Some(60_000), Some(1_200_000), None, false));
        let never = serde_json::json!({"freeze_after_seconds": 0, "sleep_after_seconds": 0});
        assert_eq!(policy(never), (None, None, None, false));
        let own = serde_json::json!({
            "freeze_after_seconds": 5, "max_awake_seconds": 7, "wake_on": "any_request",
        });
        assert_eq!(policy(own), (Some(5_000), Some(1_200_000), Some(7_000), true));
    }
}

//! The limits and defaults of sleep and wake that hold for all tenants of an installation.

use std::time::Duration;

use lease::{AuthoritySettings, Millis, SleepPolicy, WakeLimits};
use protocol::spec::{Policy, Spec, WakeOn};

#[derive(Clone, Copy, Debug)]
pub struct SleepSettings {
    /// Concurrent starts at the engine: one that starts many containers at once starts each of them later.
    pub concurrent_starts: usize,
    /// Concurrent thaws at the engine.
    pub concurrent_thaws: usize,
    /// Concurrent freezes and stops at the engine. Few, so that wakes do not queue behind them.
    pub concurrent_suspends: usize,
    /// Wakes that wait for their call at the engine.
    pub queued_wakes: usize,
    /// Lease requests that wait for one tenant.
    pub waiters_per_tenant: usize,
    /// Lease requests that wait for all tenants together.
    pub waiters: usize,
    /// For tenants whose policy sets no time of its own; `None`: never.
    pub freeze_after: Option<Duration>,
    pub sleep_after: Option<Duration>,
    /// How long a lease lasts. For as long, nothing is suspended after a start of this process.
    pub lease_duration: Duration,
    /// How long a woken tenant may take from the engine's response to readiness.
    pub readiness_timeout: Duration,
    /// The pause before a tenant is suspended, or woken again under a live lease, after a refused suspend or a failed wake.
    pub retry_delay: Duration,
}

impl SleepSettings {
    pub const DEFAULT: Self = Self {
        concurrent_starts: 2,
        concurrent_thaws: 16,
        concurrent_suspends: 4,
        queued_wakes: 512,
        waiters_per_tenant: 2_048,
        waiters: 8_192,
        freeze_after: Some(Duration::from_secs(60)),
        sleep_after: Some(Duration::from_secs(1_200)),
        lease_duration: Duration::from_secs(15),
        readiness_timeout: Duration::from_secs(45),
        retry_delay: Duration::from_secs(30),
    };

    pub(crate) fn authority_settings(&self) -> AuthoritySettings {
        AuthoritySettings {
            lease_duration: to_millis(self.lease_duration),
            retry_delay: to_millis(self.retry_delay),
            limits: WakeLimits {
                concurrent_starts: self.concurrent_starts,
                concurrent_thaws: self.concurrent_thaws,
                queued_wakes: self.queued_wakes,
                waiters_per_tenant: self.waiters_per_tenant,
                waiters: self.waiters,
                readiness_timeout: to_millis(self.readiness_timeout),
            },
        }
    }

    /// The policy of a tenant: its own where it sets one, otherwise the installation's.
    pub(super) fn policy(&self, spec: Option<&Spec>) -> SleepPolicy {
        let own = spec.map(|spec| spec.policy).unwrap_or_default();
        let or_default = |own: Option<u32>, default: Option<Duration>| match own {
            Some(own) => from_seconds(own),
            None => default.map(to_millis),
        };
        let Policy {
            freeze_after_seconds, sleep_after_seconds, max_awake_seconds, wake_on, ..
        } = own;
        SleepPolicy {
            freeze_after: or_default(freeze_after_seconds, self.freeze_after),
            sleep_after: or_default(sleep_after_seconds, self.sleep_after),
            max_awake: max_awake_seconds.and_then(from_seconds),
            wake_on_any: wake_on == Some(WakeOn::AnyRequest),
        }
    }
}

impl Default for SleepSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// 0 means never.
fn from_seconds(seconds: u32) -> Option<Millis> {
    (seconds > 0).then(|| Millis::from(seconds) * 1_000)
}

pub(super) fn to_millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_policy_overrides_the_installations() {
        let policy = |own: serde_json::Value| {
            let spec = serde_json::json!({
                "id": uuid::Uuid::nil(), "slug": "acme", "generation": 1, "policy": own,
            });
            let spec: Spec = serde_json::from_value(spec).unwrap();
            let SleepPolicy { freeze_after, sleep_after, max_awake, wake_on_any } =
                SleepSettings::DEFAULT.policy(Some(&spec));
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

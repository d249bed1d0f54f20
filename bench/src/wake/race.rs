//! Requests around the moment at which their tenant falls asleep. No request may be lost.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::{join, try_join_all};

use crate::engine_events::EngineEvents;
use crate::figure::Figure;
use crate::fixture::{ContainerStatus, Fixture, IdlePolicy, Tenant};
use crate::now;
use crate::request::TimedResponse;

/// Half of the tenants freeze, half of them stop, at the same time. With more tenants, the engine
/// would miss every deadline.
const TENANTS: usize = 8;
const FREEZES: IdlePolicy = IdlePolicy { freeze_after: 1, sleep_after: 0 };
const STOPS: IdlePolicy = IdlePolicy { freeze_after: 0, sleep_after: 1 };
/// The window in which requests are due, centred on the moment from which they meet a tenant that
/// falls asleep. Requesting the busy list and freezing take some milliseconds; a stop takes some
/// hundred.
const AROUND_FREEZE: Duration = Duration::from_millis(350);
const AROUND_STOP: Duration = Duration::from_millis(850);
/// The least share of rounds that meet a tenant asleep or on its way there. Below this share, there
/// was no race.
const LEAST_MET: f64 = 0.25;
/// How often the rounds are repeated where too few of them met their tenant: a busy machine moves the moment while it is
/// being looked for.
const MOST_REPEATS: usize = 4;

/// The outcome of one tenant's rounds.
#[derive(Clone, Copy, Debug, Default)]
struct RaceResult {
    rounds: usize,
    failed: usize,
    met: usize,
}

impl RaceResult {
    /// Whether there is another round after these, of at least `rounds`.
    fn needs_another(self, rounds: usize) -> bool {
        let share = self.met as f64 / self.rounds.max(1) as f64;
        self.rounds < rounds || (share < LEAST_MET && self.rounds < MOST_REPEATS * rounds)
    }
}

pub(super) async fn measure(fixture: &Fixture<'_>, rounds: usize) -> Result<Vec<Figure>> {
    let freezing = fixture.tenants("freezing", TENANTS / 2, FREEZES).await?;
    let stopping = fixture.tenants("stopping", TENANTS / 2, STOPS).await?;
    let each = rounds.div_ceil(TENANTS);
    // The moment depends on the machine as much as on the policy.
    let freezing_takes = falls_asleep(fixture, &freezing, ContainerStatus::Paused).await?;
    let stopping_takes = falls_asleep(fixture, &stopping, ContainerStatus::Exited).await?;
    // Counting begins here, because no request met the tenants that fell asleep for the measurement
    // of the moment.
    let events = EngineEvents::watch(&fixture.docker, &fixture.installation.name);
    let race = async |tenant: &Tenant, aim, action| {
        run(tenant, each, aim, || events.count(action, Some(&tenant.container))).await
    };
    let (freeze, stop) =
        (Aim::at(freezing_takes, AROUND_FREEZE), Aim::at(stopping_takes, AROUND_STOP));
    let frozen = freezing.iter().map(|tenant| race(tenant, freeze, "pause"));
    let stopped = stopping.iter().map(|tenant| race(tenant, stop, "die"));
    let (frozen, stopped) = join(try_join_all(frozen), try_join_all(stopped)).await;
    for tenant in freezing.iter().chain(&stopping) {
        fixture.policy(&tenant.slug, IdlePolicy::NEVER).await?;
    }
    Ok(figures(&frozen?, &stopped?))
}

fn figures(frozen: &[RaceResult], stopped: &[RaceResult]) -> Vec<Figure> {
    let sum = |results: &[RaceResult], of: fn(&RaceResult) -> usize| {
        results.iter().map(of).sum::<usize>() as f64
    };
    let both = |of| sum(frozen, of) + sum(stopped, of);
    let share =
        |results| sum(results, |results| results.met) / sum(results, |results| results.rounds);
    vec![
        Figure::new("requests around the idle deadline", both(|results| results.rounds), ""),
        Figure::new("of these, failed", both(|results| results.failed), "").bar(0.0),
        Figure::new("share that met a freeze", share(frozen), "").at_least(LEAST_MET),
        Figure::new("share that met a stop", share(stopped), "").at_least(LEAST_MET),
    ]
}

/// Returns how long after a response the engine shows the last tenant as asleep.
async fn falls_asleep(
    fixture: &Fixture<'_>,
    tenants: &[Tenant],
    status: ContainerStatus,
) -> Result<Duration> {
    // The first time does not count, because a router may still hold a lease from before the policy
    // changed.
    fixture.all(tenants, status).await?;
    for tenant in tenants {
        tenant.request().await?.good()?;
    }
    let start = now();
    fixture.all(tenants, status).await?;
    Ok(start.elapsed())
}

/// Sends `rounds` requests or more, each due a while after the previous response. `fell` counts how often
/// the tenant fell asleep. A higher count after a round means that the request met a tenant falling
/// asleep.
async fn run(
    tenant: &Tenant,
    rounds: usize,
    mut aim: Aim,
    fell: impl Fn() -> usize,
) -> Result<RaceResult> {
    let mut results = RaceResult::default();
    // Wakes the tenant, so that the moment is still ahead.
    tenant.request().await?.good()?;
    while results.needs_another(rounds) {
        let before = fell();
        tokio::time::sleep(aim.due(results.rounds)).await;
        results.rounds += 1;
        if let Err(error) = tenant.request().await.and_then(TimedResponse::good) {
            eprintln!("round {} of {}: {error:#}", results.rounds, tenant.slug);
            results.failed += 1;
        }
        let met = fell() > before;
        results.met += usize::from(met);
        aim.learn(met);
    }
    Ok(results)
}

/// The due time of the next request after a response: around an estimated moment, which the
/// outcomes of requests correct.
#[derive(Clone, Copy)]
struct Aim {
    moment: Duration,
    length: Duration,
}

impl Aim {
    const fn at(moment: Duration, length: Duration) -> Self {
        Self { moment, length }
    }

    /// Spreads the requests evenly, in an order in which few rounds already cover the whole window.
    fn due(self, round: usize) -> Duration {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let from = self.moment.saturating_sub(self.length / 2);
        from + self.length.mul_f64((round as f64 * GOLDEN).fract())
    }

    /// Corrects the moment: earlier after a request that met it, later after one that did not. The
    /// step later is twice as large. Two of three requests then come after the moment, some of them
    /// late enough to find the tenant asleep.
    fn learn(&mut self, met: bool) {
        let step = self.length / 16;
        self.moment = match met {
            true => self.moment.saturating_sub(step),
            false => self.moment + 2 * step,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rounds_already_reach_before_at_and_after() {
        let moment = Duration::from_millis(1_200);
        let aim = Aim::at(moment, AROUND_FREEZE);
        let dues: Vec<_> = (0..13).map(|round| aim.due(round)).collect();
        let (from, half) = (moment - AROUND_FREEZE / 2, AROUND_FREEZE / 2);
        assert!(dues.iter().all(|due| (from..moment + half).contains(due)));
        for fifth in 0..5 {
            let at = |part: u32| from + AROUND_FREEZE * part / 5;
            assert!(dues.iter().any(|due| (at(fifth)..at(fifth + 1)).contains(due)), "{fifth}");
        }
    }

    /// A busy machine gives a wrong moment. Here the error is so large that at first every request,
    /// or none, comes after the moment.
    #[test]
    fn a_moment_that_was_told_wrong_is_found_within_the_rounds_of_ci() {
        let truth = Duration::from_millis(1_500);
        let half = AROUND_STOP / 2;
        for results in [truth - half, truth, truth + half] {
            let mut aim = Aim::at(results, AROUND_STOP);
            let (mut met, mut missed) = (0, 0);
            for round in 0..13 {
                let is_met = aim.due(round) >= truth;
                *(if is_met { &mut met } else { &mut missed }) += 1;
                aim.learn(is_met);
            }
            assert!(met >= 4 && missed >= 1, "{results:?}: {met} met, {missed} missed");
        }
    }

    #[test]
    fn rounds_go_on_until_enough_of_them_met_their_tenant() {
        let needs_another = |rounds, met| RaceResult { rounds, met, failed: 0 }.needs_another(13);
        assert!(needs_another(0, 0) && needs_another(12, 12));
        assert!(!needs_another(13, 4));
        assert!(needs_another(13, 3) && needs_another(51, 12));
        assert!(!needs_another(52, 0));
    }

    #[test]
    fn a_race_that_met_nothing_is_none() {
        let holds = |met| {
            let results = [RaceResult { rounds: 13, failed: 0, met }; 4];
            figures(&results, &results).iter().all(Figure::holds)
        };
        assert!(holds(4));
        assert!(!holds(3));
        assert!(!holds(0));
        let lost = [RaceResult { rounds: 13, failed: 1, met: 13 }];
        assert!(!figures(&lost, &lost).iter().all(Figure::holds));
    }
}

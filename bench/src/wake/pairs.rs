//! The first byte from a tenant that slept, and the engine alone, by turns.

use std::time::Duration;

use anyhow::Result;
use testkit::engine::TenantContainer;

use crate::baseline::EngineBaseline;
use crate::figure::Figure;
use crate::fixture::{ContainerStatus, Fixture, IdlePolicy, Tenant};
use crate::now;

const FROZEN_BAR: f64 = 1.2;
const SLEEPING_BAR: f64 = 1.15;
/// The first pair pays for cold caches and is dropped.
const WARM_UP: usize = 1;

/// The idle state of a tenant, and the engine's call that ends the state.
#[derive(Clone, Copy)]
enum IdleState {
    Frozen,
    Sleeping,
}

pub(super) async fn measure(fixture: &Fixture<'_>, times: usize) -> Result<Vec<Figure>> {
    let tenant = fixture.tenant("pairs", IdlePolicy::NEVER).await?;
    let baseline = EngineBaseline::new(&fixture.docker, fixture.installation);
    let seen = baseline.stand(async |empty| {
        let mut figures = Vec::new();
        for state in [IdleState::Frozen, IdleState::Sleeping] {
            fixture.policy(&tenant.slug, state.policy()).await?;
            let mut pairs = Vec::with_capacity(times);
            for number in 0..times + WARM_UP {
                let pair = state.pair(fixture, &tenant, empty, number % 2 == 1).await?;
                pairs.push(pair);
            }
            figures.extend(state.figures(&pairs[WARM_UP..]));
        }
        Ok(figures)
    });
    let figures = seen.await?;
    fixture.policy(&tenant.slug, IdlePolicy::NEVER).await?;
    Ok(figures)
}

impl IdleState {
    const fn policy(self) -> IdlePolicy {
        match self {
            Self::Frozen => IdlePolicy { freeze_after: 1, sleep_after: 0 },
            Self::Sleeping => IdlePolicy { freeze_after: 0, sleep_after: 1 },
        }
    }

    const fn status(self) -> ContainerStatus {
        match self {
            Self::Frozen => ContainerStatus::Paused,
            Self::Sleeping => ContainerStatus::Exited,
        }
    }

    /// Measures Cial and the engine, alternating which goes first; both have rested equally long.
    async fn pair(
        self,
        fixture: &Fixture<'_>,
        tenant: &Tenant,
        empty: &TenantContainer,
        engine_first: bool,
    ) -> Result<(Duration, Duration)> {
        fixture.all(std::slice::from_ref(tenant), self.status()).await?;
        self.rest(empty).await?;
        let before = if engine_first { Some(self.engine(empty).await?) } else { None };
        let cial = tenant.request().await?.good()?.first_byte;
        let engine = match before {
            Some(engine) => engine,
            None => self.engine(empty).await?,
        };
        Ok((cial, engine))
    }

    /// Puts the empty container to rest; its process ignores SIGTERM.
    async fn rest(self, empty: &TenantContainer) -> Result<()> {
        match self {
            Self::Frozen => empty.freeze().await,
            Self::Sleeping => empty.kill().await,
        }
    }

    /// Times the engine's call.
    async fn engine(self, empty: &TenantContainer) -> Result<Duration> {
        let start = now();
        match self {
            Self::Frozen => empty.thaw().await?,
            Self::Sleeping => empty.start().await?,
        }
        Ok(start.elapsed())
    }

    fn figures(self, pairs: &[(Duration, Duration)]) -> Vec<Figure> {
        let (names, bar) = match self {
            Self::Frozen => (
                ["first byte, frozen", "the engine's unpause", "first byte, frozen / unpause"],
                FROZEN_BAR,
            ),
            Self::Sleeping => (
                [
                    "first byte, sleeping",
                    "the engine's start, empty container",
                    "first byte, sleeping / start",
                ],
                SLEEPING_BAR,
            ),
        };
        let milliseconds = |time: &Duration| time.as_secs_f64() * 1e3;
        let cial: Vec<_> = pairs.iter().map(|(cial, _)| milliseconds(cial)).collect();
        let engine: Vec<_> = pairs.iter().map(|(_, engine)| milliseconds(engine)).collect();
        let ratios: Vec<_> = cial.iter().zip(&engine).map(|(cial, engine)| cial / engine).collect();
        let [first, second, third] = names;
        vec![
            Figure::median(first, &cial, "ms"),
            Figure::median(second, &engine, "ms"),
            Figure::median(third, &ratios, "").bar(bar),
        ]
    }
}

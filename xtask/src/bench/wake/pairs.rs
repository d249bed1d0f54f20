//! First byte from a tenant that slept, and the engine doing no more than it must, by turns.

use std::time::Duration;

use anyhow::Result;

use crate::bench::figure::{Figure, quantile};
use crate::bench::floor::{Empty, Floor};
use crate::bench::scene::{Scene, Shown, Sleepy, Tenant};

const FROZEN_BAR: f64 = 1.2;
const SLEEPING_BAR: f64 = 1.15;
/// The first of each pays for what is cold.
const WARM_UP: usize = 1;

/// What a tenant falls into, and what the engine does to get it out again.
#[derive(Clone, Copy)]
enum Depth {
    Frozen,
    Sleeping,
}

pub(super) async fn measure(scene: &Scene<'_>, times: usize) -> Result<Vec<Figure>> {
    let tenant = scene.tenant("pairs", Sleepy::NEVER).await?;
    let floor = Floor::new(&scene.docker, scene.installation);
    let seen = floor.stand(async |empty| {
        let mut figures = Vec::new();
        for depth in [Depth::Frozen, Depth::Sleeping] {
            scene.policy(&tenant.slug, depth.policy()).await?;
            let mut pairs = Vec::with_capacity(times);
            for number in 0..times + WARM_UP {
                let pair = depth.pair(scene, &tenant, empty, number % 2 == 1).await?;
                pairs.push(pair);
            }
            figures.extend(depth.figures(&pairs[WARM_UP..]));
        }
        Ok(figures)
    });
    let figures = seen.await?;
    scene.policy(&tenant.slug, Sleepy::NEVER).await?;
    Ok(figures)
}

impl Depth {
    const fn policy(self) -> Sleepy {
        match self {
            Self::Frozen => Sleepy { freeze_after: 1, sleep_after: 0 },
            Self::Sleeping => Sleepy { freeze_after: 0, sleep_after: 1 },
        }
    }

    const fn shown(self) -> Shown {
        match self {
            Self::Frozen => Shown::Paused,
            Self::Sleeping => Shown::Exited,
        }
    }

    /// Cial's, and the engine's, which of them first changing from pair to pair; both have rested for
    /// no longer than a moment.
    async fn pair(
        self,
        scene: &Scene<'_>,
        tenant: &Tenant,
        empty: &Empty<'_>,
        engine_first: bool,
    ) -> Result<(Duration, Duration)> {
        scene.all(std::slice::from_ref(tenant), self.shown()).await?;
        self.rest(empty).await?;
        let before = if engine_first { Some(self.engine(empty).await?) } else { None };
        let cial = tenant.visit().await?.good()?.first_byte;
        let engine = match before {
            Some(engine) => engine,
            None => self.engine(empty).await?,
        };
        Ok((cial, engine))
    }

    async fn rest(self, empty: &Empty<'_>) -> Result<()> {
        match self {
            Self::Frozen => empty.pause().await,
            Self::Sleeping => empty.kill().await,
        }
    }

    async fn engine(self, empty: &Empty<'_>) -> Result<Duration> {
        match self {
            Self::Frozen => empty.unpause().await,
            Self::Sleeping => empty.start().await,
        }
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
        let figure = |name, values: &[f64], unit| {
            let at = |fraction| quantile(values, fraction);
            Figure::new(name, at(0.5), unit).between(at(0.0), at(1.0))
        };
        let [first, second, third] = names;
        vec![
            figure(first, &cial, "ms"),
            figure(second, &engine, "ms"),
            figure(third, &ratios, "").bar(bar),
        ]
    }
}

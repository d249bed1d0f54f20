//! Waking: how long it takes beside what the engine takes by itself, what a crowd costs, and whether anything is lost
//! between falling asleep and arriving.

mod pairs;
mod race;
mod stampede;

use anyhow::{Context as _, Result, ensure};

use super::figure::{Figure, Setting};
use super::scene::{Scene, Sleepy};
use crate::local::{self, Installation};
use crate::smoke_local::passing;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Pairs of wakes, Cial's and the engine's.
    pub(crate) pairs: usize,
    /// Crowds before a sleeping tenant.
    pub(crate) crowds: usize,
    /// Requests around the idle deadline.
    pub(crate) races: usize,
    /// Tenants that run meanwhile.
    pub(crate) beside: usize,
}

impl Size {
    /// What every push can afford, and what must hold on a machine however busy.
    const CI: Self = Self { pairs: 0, crowds: 2, races: 100, beside: 0 };
}

/// In an installation of its own, that is gone afterwards.
pub(crate) async fn measure(size: Size) -> Result<(Setting, Vec<Figure>)> {
    let mut installation = Installation::passing("wake")?;
    let mut measured = None;
    passing::with(&mut installation, async |installation| {
        local::up::up(installation).await?;
        measured = Some(on(installation, size).await?);
        Ok(())
    })
    .await?;
    measured.context("nothing was measured")
}

/// [`ci`] in an installation of its own.
pub(crate) async fn ci_alone() -> Result<()> {
    let mut installation = Installation::passing("race")?;
    passing::with(&mut installation, async |installation| {
        local::up::up(installation).await?;
        ci(installation).await
    })
    .await
}

/// The race and the stampede at the size for every push, in an installation that is ready and has no owner yet. A
/// figure that misses its bar is an error.
pub(crate) async fn ci(installation: &Installation) -> Result<()> {
    let (_, figures) = on(installation, Size::CI).await?;
    for figure in &figures {
        crate::world::say(figure);
    }
    let missed: Vec<_> = figures.iter().filter(|figure| !figure.holds()).collect();
    ensure!(missed.is_empty(), "{} figures miss their bar: see above", missed.len());
    Ok(())
}

async fn on(installation: &Installation, size: Size) -> Result<(Setting, Vec<Figure>)> {
    let scene = Scene::open(installation).await?;
    let setting = Setting::look(&scene.docker).await?.and("running beside", size.beside);
    scene.tenants("beside", size.beside, Sleepy::NEVER).await?;
    let mut figures = Vec::new();
    if size.pairs > 0 {
        figures.extend(pairs::measure(&scene, size.pairs).await?);
    }
    if size.crowds > 0 {
        figures.extend(stampede::measure(&scene, size.crowds).await?);
    }
    if size.races > 0 {
        figures.extend(race::measure(&scene, size.races).await?);
    }
    Ok((setting, figures))
}

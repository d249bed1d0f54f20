//! Waking: its time beside the engine alone, the cost of a crowd, and lost requests while a tenant
//! falls asleep.

mod pairs;
mod race;
mod thundering_herd;

use anyhow::{Result, ensure};
use testkit::Installation;

use super::figure::Environment;
use super::fixture::{Fixture, IdlePolicy};
use crate::{Measured, print_line};

/// How often each part is measured.
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
    /// The size for every push; its bars must hold on a busy machine, too.
    const CI: Self = Self { pairs: 0, crowds: 2, races: 100, beside: 0 };
}

/// Measures in an installation that is ready and has no owner yet.
pub(crate) async fn measure(installation: &Installation, size: Size) -> Result<Measured> {
    let fixture = Fixture::open(installation).await?;
    let environment = Environment::look(&fixture.docker).await?.and("running beside", size.beside);
    fixture.tenants("beside", size.beside, IdlePolicy::NEVER).await?;
    let mut figures = Vec::new();
    if size.pairs > 0 {
        figures.extend(pairs::measure(&fixture, size.pairs).await?);
    }
    if size.crowds > 0 {
        figures.extend(thundering_herd::measure(&fixture, size.crowds).await?);
    }
    if size.races > 0 {
        figures.extend(race::measure(&fixture, size.races).await?);
    }
    Ok((environment, figures))
}

/// Runs the race and the crowds at the size for every push, in an installation that is ready and
/// has no owner yet. A figure that misses its bar is an error.
pub(crate) async fn ci(installation: &Installation) -> Result<()> {
    let (_, figures) = measure(installation, Size::CI).await?;
    for figure in &figures {
        print_line(figure);
    }
    let missed: Vec<_> = figures.iter().filter(|figure| !figure.holds()).collect();
    ensure!(missed.is_empty(), "{} figures miss their bar: see above", missed.len());
    Ok(())
}

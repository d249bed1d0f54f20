//! `local-status`: what of the installation runs, how it is, and where.

use std::process::ExitCode;

use anyhow::Result;

use super::engine;
use super::health::{self, Verdict};
use super::installation::Installation;
use crate::{images, world};

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    world::block_on(async {
        let docker = images::engine().await?;
        let verdicts = health::look(&docker, &installation).await?;
        for (service, verdict) in &verdicts {
            let (mark, words) = match verdict {
                Verdict::Healthy => ("✔", "is healthy"),
                Verdict::Waiting(words) | Verdict::Broken(words) => ("✘", words.as_str()),
            };
            world::say(format_args!("{mark} {service:<14} {words}"));
        }
        let tenants = engine::containers(&docker, engine::of_tenants(&installation)).await?;
        for tenant in tenants {
            let slug = engine::label(&tenant, "cial.slug");
            let status = tenant.status.clone().unwrap_or_default();
            world::say(format_args!(
                "  tenant {slug:<20} {status:<28} {}",
                installation.tenant_url(slug)
            ));
        }
        let is_up = verdicts.values().all(|verdict| *verdict == Verdict::Healthy);
        if is_up {
            world::say(format_args!("→ {}", installation.admin_page()));
        } else {
            world::say("not everything is up: cargo xtask local-up");
        }
        Ok(if is_up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

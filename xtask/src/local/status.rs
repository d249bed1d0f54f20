//! `local-status` shows which parts of the installation run, their health, and their addresses.

use std::process::ExitCode;

use anyhow::Result;

use super::health::{self, ServiceHealth};
use super::installation::Installation;
use super::objects;
use crate::docker::Docker;
use crate::environment::print_line;

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<ExitCode> {
    let (installation, docker) = (Installation::of_checkout()?, Docker::connect()?);
    let services = health::services(&docker, &installation)?;
    for (service, health) in &services {
        let (mark, words) = match health {
            ServiceHealth::Healthy => ("✔", "is healthy"),
            ServiceHealth::Waiting(words) | ServiceHealth::Broken(words) => ("✘", words.as_str()),
        };
        print_line(format_args!("{mark} {service:<14} {words}"));
    }
    for tenant in docker.containers(&objects::of_tenants(&installation))? {
        let (slug, status) = (objects::slug(&tenant), tenant.state["Status"].as_str());
        let (status, url) = (status.unwrap_or_default(), installation.tenant_url(slug));
        print_line(format_args!("  tenant {slug:<20} {status:<12} {url}"));
    }
    let is_up = services.values().all(|health| *health == ServiceHealth::Healthy);
    match is_up {
        true => print_line(format_args!("→ {}", installation.admin_page())),
        false => print_line("not everything is up: cargo xtask local-up"),
    }
    Ok(if is_up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

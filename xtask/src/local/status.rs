//! `local-status` shows which parts of the installation run, their health, and their addresses.

use std::process::ExitCode;

use anyhow::Result;

use super::health::{self, ServiceHealth};
use super::installation::Installation;
use crate::environment::{connect_docker, exit_code, print_line};

pub(crate) fn run() -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    connect_docker()?;
    let services = health::services(&installation)?;
    for (service, health) in &services {
        let mark = if *health == ServiceHealth::Healthy { "✔" } else { "✘" };
        print_line(format_args!("{mark} {service:<14} {}", health.describe()));
    }
    for tenant in installation.objects().tenants()? {
        let (slug, status) = (tenant.slug(), tenant.status());
        let url = installation.tenant_url(slug);
        print_line(format_args!("  tenant {slug:<20} {status:<12} {url}"));
    }
    let is_up = services.values().all(|health| *health == ServiceHealth::Healthy);
    match is_up {
        true => print_line(format_args!("→ {}", installation.admin_page())),
        false => print_line("not everything is up: cargo xtask local-up"),
    }
    Ok(exit_code(is_up))
}

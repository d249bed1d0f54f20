//! The images of an installation: pulled where they can be, made here where not.

use anyhow::Result;
use bollard::Docker;
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions};

use super::installation::Installation;
use crate::images::binaries::{self, Binaries, Set};
use crate::images::build::{self, Recipe};
use crate::images::{self, Chosen, base};

const OURS: [&str; 3] = ["app-api", "orchestrator", "router"];
const POSTGRES: &str = "postgres:16";
const POSTGRES_MADE: &str = "cial-postgres:17";
const POSTGRES_BASE: &str = "cial-postgres-base:17";

/// Everything that compose.yml names exists afterwards; the choices are kept in `installation`.
pub(super) async fn provide(docker: &Docker, installation: &mut Installation) -> Result<()> {
    let (base, binaries) = ground(docker, installation).await?;
    for service in OURS {
        let tag = format!("cial-{service}:{}", installation.tag);
        let recipe = Recipe::new(&tag, "docker/service.Dockerfile")
            .base(&base)
            .binaries(binaries, Set::Control)
            .arg("SERVICE", service);
        build::build(docker, &recipe).await?;
    }
    images::tenant(docker, &installation.tenant_image, &installation.chosen).await?;
    Ok(())
}

/// What a build of all images needs and compose cannot make: bases and binaries.
pub(super) async fn ground(
    docker: &Docker,
    installation: &mut Installation,
) -> Result<(String, Binaries)> {
    let base = base::debian(docker, installation.chosen.base.as_deref()).await?;
    let binaries = binaries::provide(docker, Set::Control, installation.chosen.binaries).await?;
    binaries::provide(docker, Set::Tenant, installation.chosen.binaries).await?;
    installation.postgres_image = Some(postgres(docker, installation.postgres_image.take()).await?);
    installation.chosen = Chosen { base: Some(base.clone()), binaries: Some(binaries) };
    Ok((base, binaries))
}

/// Removes images under tags that are a passing installation's own; those of others stay.
pub async fn remove_own(docker: &Docker, installation: &Installation) {
    if !installation.is_passing {
        return;
    }
    let is_own = |tag: &String| is_own(tag, &installation.name);
    let images = docker.list_images(None::<ListImagesOptions>).await.unwrap_or_default();
    for tag in images.into_iter().flat_map(|image| image.repo_tags).filter(is_own) {
        // In use by something that could not be removed, either: that is told.
        let _ = docker.remove_image(&tag, None::<RemoveImageOptions>, None).await;
    }
}

/// Whether a tag is called after an installation: `cial-tenant:{name}`, `cial-tenant:{name}-broken`.
fn is_own(tag: &str, name: &str) -> bool {
    let Some((repository, version)) = tag.split_once(':') else { return false };
    let rest = version.strip_prefix(name);
    repository.starts_with("cial-")
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The image that was chosen before; otherwise the official one, or ours where that cannot be had. A choice is
/// kept, because a database never meets another major version.
async fn postgres(docker: &Docker, chosen: Option<String>) -> Result<String> {
    let wanted = match chosen {
        Some(chosen) => chosen,
        None if base::exists(docker, POSTGRES).await? => POSTGRES.to_owned(),
        None if base::exists(docker, POSTGRES_MADE).await? => POSTGRES_MADE.to_owned(),
        None => match base::pull(docker, POSTGRES).await {
            Ok(()) => POSTGRES.to_owned(),
            Err(why) => {
                eprintln!(
                    "{POSTGRES} cannot be pulled ({why:#}): making {POSTGRES_MADE} from packages"
                );
                POSTGRES_MADE.to_owned()
            }
        },
    };
    if wanted == POSTGRES_MADE {
        base::rootfs(docker, POSTGRES_BASE, "trixie", &["postgresql-17"]).await?;
        build::build(
            docker,
            &Recipe::new(POSTGRES_MADE, "docker/postgres/Dockerfile").base(POSTGRES_BASE),
        )
        .await?;
    } else if !base::exists(docker, &wanted).await? {
        base::pull(docker, &wanted).await?;
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_that_are_called_after_an_installation_are_its_own() {
        let cases = [
            ("cial-tenant:smoke-12", true),
            ("cial-tenant:smoke-12-broken", true),
            ("cial-tenant:smoke-123", false),
            ("cial-tenant:dev", false),
            ("tenant:smoke-12", false),
            ("cial-tenant", false),
        ];
        for (tag, own) in cases {
            assert_eq!(is_own(tag, "smoke-12"), own, "{tag}");
        }
    }
}

//! On the real engine: images of apps, wrapped for tenants.

use std::collections::BTreeMap;

use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, ListImagesOptions};
use futures_util::TryStreamExt as _;
use orchestrator::driver::{Driver as _, DriverErrorCode};
use protocol::process::{AppProcess, AppSpec};
use protocol::spec::Spec;
use protocol::variables::SecretNames;
use service::{Secret, keys, sealed};

use crate::support::{Install, SSO_MASTER, image, spec, with_install};

/// An installation whose tenant image can be laid over others.
pub(crate) async fn with_overlay(test: impl AsyncFnOnce(&Install)) {
    with_install(async |install| {
        let mut own = install.sibling();
        own.image = image::overlay(&install.client).await;
        test(&own).await;
    })
    .await;
}

/// The spec of a tenant with an app.
async fn app_spec(install: &Install, slug: &str, image: &str) -> Spec {
    let app = AppSpec::default();
    let prepared = install.driver().prepare_image(image, &app).await.unwrap();
    let env = BTreeMap::from([("GREETING".to_owned(), "tenant".to_owned())]);
    Spec { image: Some(prepared.image_id), app: Some(app), env, ..spec(slug, "") }
}

/// User, group and mode of a path in the tenant's container.
async fn owner(install: &Install, spec: &Spec, path: &str) -> (u64, u64, u32) {
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let pieces = install.client.download_from_container(&spec.id.container(), Some(options));
    let pieces: Vec<_> = pieces.try_collect().await.unwrap();
    let bytes = pieces.concat();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    let header = entry.header();
    (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap() & 0o7777)
}

/// Whether the tenant's container has a file there, in its image or its volumes.
async fn exists(install: &Install, spec: &Spec, path: &str) -> bool {
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let pieces = install.client.download_from_container(&spec.id.container(), Some(options));
    pieces.try_collect::<Vec<_>>().await.is_ok()
}

async fn wrapped_images(install: &Install) -> Vec<String> {
    let filters = Some(install.filters(None));
    let options = ListImagesOptions { filters, ..ListImagesOptions::default() };
    let images = install.client.list_images(Some(options)).await.unwrap();
    images.into_iter().map(|image| image.id).collect()
}

pub(crate) const BARE: &str = "ENTRYPOINT [\"/bin/notes\"]\nCMD [\"--flag\"]\n";
/// Has accounts, a health check, a volume, a user, and things of its own where the platform's are.
const GREEDY: &str = "COPY tenant /etc/passwd\nCOPY --chown=1001:1001 tenant /opt/own\nCOPY tenant /run\n\
    COPY --chown=1001:1001 tenant /home/agent/files/own\n\
    COPY --chown=1000:1000 tenant /var/lib/cial/sessions.json\n\
    HEALTHCHECK CMD [\"/bin/notes\"]\nVOLUME /data/\n\
    USER 33\nWORKDIR /srv\nSTOPSIGNAL SIGQUIT\nEXPOSE 5000\nCMD [\"/bin/notes\"]\n";

#[tokio::test]
async fn any_image_becomes_a_tenant_with_the_platforms_own_start() {
    with_overlay(async |install| {
        let cases = [("wrap-bare", BARE, 3000, "/"), ("wrap-greedy", GREEDY, 5000, "/srv")];
        for (tag, lines, port, working_dir) in cases {
            let source = image::app(&install.client, tag, lines).await;
            let spec = app_spec(install, tag, &source).await;
            let driver = install.driver();
            driver.ensure(&spec).await.unwrap();
            let seen = install.client.inspect_container(&spec.id.container(), None).await.unwrap();
            let (config, host) = (seen.config.unwrap(), seen.host_config.unwrap());
            assert_eq!(config.entrypoint.unwrap(), ["/opt/cial/supervisor"], "{tag}");
            assert_eq!(config.cmd.unwrap_or_default(), Vec::<String>::new(), "{tag}");
            assert_eq!(config.user.as_deref(), Some("0:0"), "{tag}");
            assert_eq!(config.stop_signal.as_deref(), Some("SIGTERM"), "{tag}");
            let check = config.healthcheck.and_then(|check| check.test);
            assert_eq!(check.unwrap(), ["NONE"], "{tag}");
            assert_eq!(host.readonly_rootfs, Some(true), "{tag}");
            let env = config.env.unwrap();
            let process = env.iter().find_map(|line| line.strip_prefix("CIAL_APP_PROCESS="));
            let process: AppProcess = serde_json::from_str(process.unwrap()).unwrap();
            assert_eq!((process.port, process.working_dir.as_str()), (port, working_dir), "{tag}");
            assert_eq!(process.command[0], "/bin/notes", "{tag}");
            assert_eq!(process.env["TAG"], tag);
            assert_eq!(process.env["GREETING"], "tenant");
            assert!(env.contains(&format!("CIAL_APP_PORT={port}")), "{tag}: {env:?}");
            let mut mounts: Vec<_> =
                seen.mounts.unwrap().into_iter().filter_map(|m| m.destination).collect();
            mounts.sort();
            let expected =
                ["/home/agent/files", "/run/cial/ingress", "/run/cial/secrets", "/var/lib/cial"];
            assert_eq!(mounts, expected, "{tag}: no volume of the image's own");
            assert_eq!(host.tmpfs.unwrap().contains_key("/data"), lines == GREEDY, "{tag}");
            for (path, expected) in [
                ("/opt", (0, 0, 0o755)),
                ("/opt/cial", (0, 0, 0o755)),
                ("/opt/cial/supervisor", (0, 0, 0o755)),
                ("/opt/cial-core", (1000, 1000, 0o700)),
                ("/opt/cial-core/core", (1000, 1000, 0o755)),
                ("/run/cial", (0, 0, 0o755)),
                ("/var/lib/cial", (1000, 1000, 0o700)),
                ("/home", (0, 0, 0o755)),
                ("/home/agent", (1001, 1001, 0o755)),
            ] {
                assert_eq!(owner(install, &spec, path).await, expected, "{tag} {path}");
            }
            let planted = exists(install, &spec, "/var/lib/cial/sessions.json").await;
            assert!(!planted, "{tag}: the image has no say in the core's data");
            let again = driver.ensure(&spec).await.unwrap();
            assert!(again.drift.is_empty(), "{tag}: {:?}", again.drift);
            driver.remove(spec.id).await.unwrap();
            assert_eq!(wrapped_images(install).await, Vec::<String>::new(), "{tag}");
            image::remove(&install.client, &source).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_image_is_wrapped_once_and_kept_while_a_container_needs_it() {
    with_overlay(async |install| {
        let source = image::app(&install.client, "wrap-once", BARE).await;
        let one = app_spec(install, "one", &source).await;
        let two = app_spec(install, "two", &source).await;
        let driver = install.driver();
        let (first, second) = tokio::join!(driver.ensure(&one), driver.ensure(&two));
        first.unwrap();
        second.unwrap();
        let wrapped = wrapped_images(install).await;
        assert_eq!(wrapped.len(), 1, "{wrapped:?}");
        let [containers, ..] = install.objects(None).await;
        assert_eq!(containers.len(), 2, "no container of the wrapping stays");
        driver.remove(one.id).await.unwrap();
        assert_eq!(wrapped_images(install).await, wrapped, "the other tenant is made from it");
        let again = driver.ensure(&two).await.unwrap();
        assert!(again.drift.is_empty(), "{:?}", again.drift);
        driver.remove(two.id).await.unwrap();
        assert_eq!(wrapped_images(install).await, Vec::<String>::new());
        // The app's own image stays.
        image::remove(&install.client, &source).await;
    })
    .await;
}

#[tokio::test]
async fn another_release_recreates_the_container_from_its_image() {
    with_overlay(async |install| {
        let sources = [
            image::app(&install.client, "wrap-v1", BARE).await,
            image::app(&install.client, "wrap-v2", BARE).await,
        ];
        let (first, driver) = (app_spec(install, "acme", &sources[0]).await, install.driver());
        driver.ensure(&first).await.unwrap();
        let container = async || {
            let seen = install.client.inspect_container(&first.id.container(), None).await;
            seen.unwrap().id
        };
        let before = container().await;
        let image = driver.prepare_image(&sources[1], &AppSpec::default()).await.unwrap().image_id;
        assert_eq!(container().await, before, "a tenant of the first release stays");
        let second = Spec { generation: 2, image: Some(image), ..first.clone() };
        let status = driver.ensure(&second).await.unwrap();
        assert_eq!(status.generation, 2);
        let seen = install.client.inspect_container(&first.id.container(), None).await.unwrap();
        let env = seen.config.unwrap().env.unwrap();
        assert!(env.iter().any(|line| line.contains(r#""TAG":"wrap-v2""#)), "{env:?}");
        assert_eq!(wrapped_images(install).await.len(), 1, "the first release's is unused");
        driver.remove(first.id).await.unwrap();
        for source in &sources {
            image::remove(&install.client, source).await;
        }
    })
    .await;
}

#[tokio::test]
async fn images_that_cannot_be_tenants_are_refused_and_leave_nothing() {
    with_overlay(async |install| {
        let driver = install.driver();
        let app = AppSpec::default();
        let missing = driver.prepare_image("cial-test-orchestrator:never", &app).await;
        assert_eq!(missing.unwrap_err().code, DriverErrorCode::ImageMissing);
        for (tag, lines, reason) in [
            ("wrap-mute", "", "names no command"),
            ("wrap-privileged", "EXPOSE 80\nCMD [\"/bin/notes\"]\n", "privileged port 80"),
            ("wrap-reserved", "ENV CIAL_X=1\nCMD [\"/bin/notes\"]\n", "variable CIAL_X"),
            ("wrap-reaching", "VOLUME /run/cial\nCMD [\"/bin/notes\"]\n", "volume /run/cial"),
        ] {
            let source = image::app(&install.client, tag, lines).await;
            let refused = driver.prepare_image(&source, &app).await.unwrap_err();
            assert_eq!(refused.code, DriverErrorCode::ImageInvalid, "{tag}");
            assert!(refused.detail.contains(reason), "{refused}");
            image::remove(&install.client, &source).await;
        }
        assert_eq!(wrapped_images(install).await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_release_without_its_required_secret_replaces_nothing_until_it_has_a_value() {
    with_overlay(async |install| {
        let source = image::app(&install.client, "wrap-secret", BARE).await;
        let first = app_spec(install, "wrap-secret", &source).await;
        let driver = install.driver();
        driver.ensure(&first).await.unwrap();
        let secrets = SecretNames { required: vec!["TOKEN".to_owned()], ..SecretNames::default() };
        let app = first.app.clone().map(|app| AppSpec { secrets, ..app });
        let second = Spec { app, generation: 2, ..first.clone() };
        let refused = driver.ensure(&second).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::SecretMissing);
        let command = "`cial tenants secrets set wrap-secret TOKEN`";
        assert!(refused.detail.contains(command), "{refused}");
        let status = driver.inspect(first.id).await.unwrap().unwrap();
        assert_eq!(status.generation, 1, "the container of the first release stays");
        let key = keys::env_key(&Secret::new(SSO_MASTER), first.id);
        let own = br#"{"TOKEN":{"value":"x","secret":true}}"#;
        let sealed_env = Some(sealed::seal(&key, own).unwrap());
        let status = driver.ensure(&Spec { sealed_env, ..second }).await.unwrap();
        assert_eq!(status.generation, 2);
        driver.remove(first.id).await.unwrap();
    })
    .await;
}

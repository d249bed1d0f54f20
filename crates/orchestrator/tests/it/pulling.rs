//! Images from registries, on the real engine and from a real registry: pulled, refused with the reason, and removed again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use orchestrator::controller::Controller;
use orchestrator::driver::docker::DockerDriver;
use orchestrator::driver::memory::MemoryDriver;
use orchestrator::driver::{
    Driver as _, DriverError, DriverErrorCode, ImagePull, PullMeter, PullOutcome,
};
use orchestrator::tenants::state_dir::StateDir;
use protocol::images::{PullPolicy, RegistryHost, RegistryImage, RegistryLogin, SealedLogin};
use protocol::process::{AppSpec, PrepareImage};
use service::{Secret, keys, sealed};
use testkit::registry::{PASSWORD, Registry, USERNAME};
use testkit::{SmallDisk, eventually, peer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::registry::{
    CutOff, SlowRemoval, Then, image_for, names_of, outer_address, pulled_names, remove_name,
    response,
};
use crate::support::{AWAKE, Install, PATIENCE, Running, SSO_MASTER, TempDir, image, spec};
use crate::wrapping::{BARE, with_overlay};

fn login(host: &str, password: &str) -> SealedLogin {
    let host: RegistryHost = host.parse().unwrap();
    let (username, password) = (USERNAME.to_owned(), password.to_owned());
    let plain = serde_json::to_vec(&RegistryLogin { username, password }).unwrap();
    let key = keys::registry_key(&Secret::new(SSO_MASTER), &host);
    SealedLogin { sealed: sealed::seal(&key, &plain).unwrap(), host }
}

fn pull_of(name: &str, policy: PullPolicy) -> ImagePull {
    let image = RegistryImage::parse(name).unwrap().unwrap();
    let login = Some(login(image.host().as_str(), PASSWORD));
    ImagePull { image, policy, login, meter: PullMeter::default() }
}

async fn pull(
    driver: &DockerDriver,
    name: &str,
    policy: PullPolicy,
) -> Result<PullOutcome, DriverError> {
    driver.pull_image(&pull_of(name, policy), &CancellationToken::new()).await
}

/// A request to prepare an image without a trial of its program.
fn preparation(name: &str) -> PrepareImage {
    PrepareImage {
        image: name.to_owned(),
        pull: PullPolicy::Missing,
        login: Some(login(name.split('/').next().unwrap(), PASSWORD)),
        app: AppSpec::default(),
        smoke_start: None,
        app_env: None,
    }
}

/// An app's image in the registry, and no longer on the engine.
async fn pushed(install: &Install, registry: &Registry, tag: &str) -> String {
    let source = image::app(&install.client, tag, BARE).await;
    let name = registry.push(&source, &format!("team/{tag}:1")).unwrap();
    image::remove(&install.client, &source).await;
    name
}

/// Like [`pushed`], with a layer of 4 MB that no compression makes smaller, and that no other test has: the engine asks no
/// registry for a layer that it has.
async fn pushed_large(install: &Install, registry: &Registry, tag: &str) -> String {
    let mut state =
        tag.bytes().fold(1_u32, |state, b| state.wrapping_mul(31).wrapping_add(b.into()));
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let noise: Vec<_> = noise.take(4 << 20).collect();
    let source = image::app_with(&install.client, tag, BARE, &noise).await;
    let name = registry.push(&source, &format!("team/{tag}:1")).unwrap();
    image::remove(&install.client, &source).await;
    name
}

/// The same image by another way to its registry.
fn by(name: &str, address: SocketAddr) -> String {
    format!("{address}/{}", name.split_once('/').unwrap().1)
}

#[tokio::test]
async fn an_image_is_pulled_with_the_stored_account_and_removed_without_a_trace() {
    with_overlay(async |install| {
        let mut registry = Registry::start().unwrap();
        let name = pushed(install, &registry, "pull-whole").await;
        let driver = install.driver();
        let absent = pull(&driver, &name, PullPolicy::Never).await.unwrap();
        assert_eq!(absent, PullOutcome { image_id: None, is_new: false });
        let request = pull_of(&name, PullPolicy::Missing);
        let pulled = driver.pull_image(&request, &CancellationToken::new()).await.unwrap();
        let progress = request.meter.get();
        assert!(progress.layers > 0 && progress.layers_done == progress.layers, "{progress:?}");
        assert_eq!(progress.bytes, progress.bytes_total, "{progress:?}");
        let id = pulled.image_id.clone().unwrap();
        assert!(pulled.is_new);
        assert_eq!(driver.list_pulled().await.unwrap(), [id.as_str()]);
        let prepared = driver.prepare_image(&name, &AppSpec::default()).await.unwrap();
        assert_eq!(prepared.image_id, id);
        let digest = prepared.repository_digest.unwrap();
        let repository = name.strip_suffix(":1").unwrap();
        assert!(digest.starts_with(&format!("{repository}@sha256:")), "{digest}");
        // Neither the image nor a container has the password.
        let image = install.client.inspect_image(&name).await.unwrap();
        assert!(!serde_json::to_string(&image).unwrap().contains(PASSWORD));

        registry.stop();
        let known = PullOutcome { is_new: false, ..pulled };
        for (name, policy) in [
            (&name, PullPolicy::Missing),
            (&digest, PullPolicy::Missing),
            (&digest, PullPolicy::Always),
        ] {
            assert_eq!(pull(&driver, name, policy).await, Ok(known.clone()), "{name} {policy:?}");
        }
        let refused = pull(&driver, &name, PullPolicy::Always).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::RegistryUnreachable, "{refused}");
        assert!(refused.detail.contains("does not respond as it should"), "{refused}");
        let still = driver.prepare_image(&name, &AppSpec::default()).await;
        assert_eq!(still.unwrap().image_id, id, "a failed pull takes nothing away");

        assert_eq!(driver.remove_pulled(&id).await, Ok(true));
        assert_eq!(driver.list_pulled().await.unwrap(), [""; 0]);
        assert!(install.client.inspect_image(&id).await.is_err(), "the image is gone");
        assert_eq!(driver.remove_pulled(&id).await, Ok(true), "it is gone already");
    })
    .await;
}

#[tokio::test]
async fn an_image_stays_while_a_tenant_or_its_person_needs_it() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let driver = install.driver();
        let name = pushed(install, &registry, "pull-used").await;
        let id = pull(&driver, &name, PullPolicy::Missing).await.unwrap().image_id.unwrap();
        let tenant = protocol::spec::Spec {
            image: Some(id.clone()),
            app: Some(AppSpec::default()),
            ..spec("pull-used", "")
        };
        driver.ensure(&tenant).await.unwrap();
        assert_eq!(driver.remove_pulled(&id).await, Ok(false));
        assert_eq!(driver.list_pulled().await.unwrap(), [id.as_str()]);
        driver.remove(tenant.id).await.unwrap();
        assert_eq!(driver.remove_pulled(&id).await, Ok(true));

        // An image from before the pull belongs to the person who brought it.
        let source = image::app(&install.client, "pull-own", BARE).await;
        let name = registry.push(&source, "team/own:1").unwrap();
        let own = pull(&driver, &name, PullPolicy::Missing).await.unwrap();
        assert!(!own.is_new);
        assert_eq!(driver.list_pulled().await.unwrap(), [""; 0]);
        assert_eq!(driver.remove_pulled(&own.image_id.unwrap()).await, Ok(false));
        remove_name(&install.client, &name).await.unwrap();
        image::remove(&install.client, &source).await;
    })
    .await;
}

#[tokio::test]
async fn an_image_that_two_installations_pulled_goes_with_the_second() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let mut other = install.sibling();
        other.name = format!("{}-b", install.name).parse().unwrap();
        let (first, second) = (install.driver(), other.driver());
        for (tag, policy) in [("pull-two", PullPolicy::Missing), ("pull-twice", PullPolicy::Always)]
        {
            let name = pushed(install, &registry, tag).await;
            let id = pull(&first, &name, PullPolicy::Missing).await.unwrap().image_id.unwrap();
            let shared = pull(&second, &name, policy).await.unwrap();
            assert_eq!(shared, PullOutcome { image_id: Some(id.clone()), is_new: false });
            assert_eq!(first.remove_pulled(&id).await, Ok(true));
            assert_eq!(first.list_pulled().await.unwrap(), [""; 0]);
            assert_eq!(second.list_pulled().await.unwrap(), [id.as_str()]);
            install.client.inspect_image(&name).await.expect("the second one needs it");
            assert_eq!(second.remove_pulled(&id).await, Ok(true));
            assert!(install.client.inspect_image(&id).await.is_err(), "the image is gone");
        }
    })
    .await;
}

#[tokio::test]
async fn a_removal_that_takes_the_engine_long_keeps_nobody_from_a_container() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let slow = SlowRemoval::new(install);
        let driver = Arc::new(install.driver_at(&slow.path.display().to_string()));
        let name = pushed(install, &registry, "pull-slow").await;
        let id = pull(&driver, &name, PullPolicy::Missing).await.unwrap().image_id.unwrap();
        let source = image::app(&install.client, "pull-beside", BARE).await;
        let removing = tokio::spawn({
            let (driver, id) = (driver.clone(), id.clone());
            async move { driver.remove_pulled(&id).await }
        });
        slow.until_stalled().await;
        let tenant = protocol::spec::Spec {
            image: Some(source.clone()),
            app: Some(AppSpec::default()),
            ..spec("pull-beside", "")
        };
        driver.ensure(&tenant).await.unwrap();
        let refused = driver.prepare_image(&name, &AppSpec::default()).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::ImageMissing, "{refused}");
        assert!(refused.detail.contains("is being removed"), "{refused}");
        assert_eq!(driver.remove_pulled(&id).await, Ok(false), "one removal at a time");
        slow.resume();
        assert_eq!(removing.await.unwrap(), Ok(true), "it did not run out of time meanwhile");
        driver.remove(tenant.id).await.unwrap();
        image::remove(&install.client, &source).await;
    })
    .await;
}

#[tokio::test]
async fn a_tag_that_moved_is_pulled_on_request_and_both_images_are_known() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let driver = install.driver();
        let name = pushed(install, &registry, "pull-moved").await;
        let first = pull(&driver, &name, PullPolicy::Missing).await.unwrap().image_id.unwrap();
        let other = image::app(&install.client, "pull-moved-2", BARE).await;
        let moved = registry.push(&other, "team/pull-moved:1").unwrap();
        assert_eq!(moved, name);
        image::remove(&install.client, &other).await;
        let second = pull(&driver, &name, PullPolicy::Always).await.unwrap();
        let second = second.image_id.unwrap();
        assert_ne!(first, second);
        let mut pulled = driver.list_pulled().await.unwrap();
        pulled.sort();
        let mut both = [first.clone(), second.clone()];
        both.sort();
        assert_eq!(pulled, both);
        for id in both {
            assert_eq!(driver.remove_pulled(&id).await, Ok(true));
        }
        assert_eq!(names_of(&install.client, &registry.host()).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_wants_an_account_is_refused_with_the_command_that_stores_one() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let name = pushed(install, &registry, "pull-denied").await;
        let host = registry.host();
        let command = format!("`cial registries set {host} --username NAME < password`");
        let foreign =
            SealedLogin { sealed: login("r.example", PASSWORD).sealed, ..login(&host, "") };
        for (login, reason) in [
            (None, "does not give"),
            (Some(login(&host, "wrong")), "to the stored account bob"),
            (Some(foreign), "belong to another installation"),
        ] {
            let request = ImagePull { login, ..pull_of(&name, PullPolicy::Missing) };
            let driver = install.driver();
            let refused = driver.pull_image(&request, &CancellationToken::new()).await.unwrap_err();
            assert_eq!(refused.code, DriverErrorCode::RegistryRefused, "{refused}");
            assert!(refused.detail.contains(reason), "{refused}");
            let has_command = refused.detail.contains(&command);
            assert!(has_command || reason.starts_with("belong"), "{refused}");
        }
        assert_eq!(names_of(&install.client, &host).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn each_refusal_names_the_registry_and_the_reason_and_leaves_nothing() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let name = pushed(install, &registry, "pull-refused").await;
        let denied = peer::answering_tcp(|request| {
            let body = br#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
            let is_root = request.split(' ').nth(1) == Some("/v2/");
            let status = if is_root { "200 OK" } else { "403 Forbidden" };
            response(request, status, "application/json", body)
        });
        let broken = peer::answering_tcp(|request| {
            response(request, "500 Internal Server Error", "text/plain", b"no")
        });
        let lies = peer::answering_tcp(image_for(std::env::consts::ARCH));
        // The engine wants TLS of everybody but loopback, and this peer speaks none.
        let plain = TcpListener::bind((outer_address(), 0)).await.unwrap();
        let without_tls = plain.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = plain.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        let unused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let nobody = unused.local_addr().unwrap();
        drop(unused);
        let digest = format!("sha256:{}", "1".repeat(64));
        let repository = name.strip_suffix(":1").unwrap();
        use DriverErrorCode as C;
        for (name, code, reason) in [
            (format!("{nobody}/notes:1"), C::RegistryUnreachable, "connection refused"),
            ("nothing.invalid/notes:1".to_owned(), C::RegistryUnreachable, "no address"),
            (format!("{without_tls}/notes:1"), C::RegistryUnreachable, "no trusted TLS"),
            (by(&name, broken.unwrap()), C::RegistryUnreachable, "500 Internal Server Error"),
            (by(&name, denied.unwrap()), C::RegistryRefused, "does not give"),
            (format!("{repository}:2"), C::ImageMissing, "has no image"),
            (format!("{}/nothing:1", registry.host()), C::ImageMissing, "has no image"),
            (format!("{repository}@{digest}"), C::ImageMissing, "has no image"),
            (format!("{}/notes@{digest}", lies.unwrap()), C::ImageInvalid, "something else"),
        ] {
            let refused = pull(&install.driver(), &name, PullPolicy::Missing).await.unwrap_err();
            assert_eq!(refused.code, code, "{name}: {refused}");
            assert!(refused.detail.contains(reason), "{name}: {refused}");
            let host = name.split('/').next().unwrap();
            assert!(refused.detail.contains(host), "{name}: {refused}");
            assert_eq!(names_of(&install.client, host).await.len(), 0, "{name}");
        }
        assert_eq!(pulled_names(&install.client, &install.name).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_pulled_image_that_cannot_be_a_tenant_does_not_stay() {
    with_overlay(async |install| {
        let foreign = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
        let registry = peer::answering_tcp(image_for(foreign)).unwrap();
        let running = install.controller();
        let name = format!("{registry}/notes:1");
        let refused = running.controller.operations.prepare_image(preparation(&name)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::ImageInvalid, "{refused}");
        assert!(refused.detail.contains("Build the image for this machine"), "{refused}");
        assert_eq!(names_of(&install.client, &registry.to_string()).await.len(), 0);
        assert_eq!(pulled_names(&install.client, &install.name).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_breaks_off_again_and_again_is_given_up() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let name = pushed_large(install, &registry, "pull-broken").await;
        let cut = CutOff::new(registry.address(), 1 << 20, Then::BreaksOff).await;
        let name = by(&name, cut.address);
        let refused = pull(&install.driver(), &name, PullPolicy::Missing).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::RegistryUnreachable, "{refused}");
        assert!(refused.detail.contains("broke off the layer"), "{refused}");
        assert_eq!(names_of(&install.client, &cut.address.to_string()).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends_on_the_engine_too() {
    with_overlay(async |install| {
        let registry = Registry::start().unwrap();
        let name = pushed_large(install, &registry, "pull-left").await;
        let cut = CutOff::new(registry.address(), 1 << 20, Then::FallsSilent).await;
        let name = by(&name, cut.address);
        let running = install.controller();
        let operations = running.controller.operations.clone();
        let request = preparation(&name);
        let caller = tokio::spawn(async move { operations.prepare_image(request).await });
        cut.until_cut(1).await;
        caller.abort();
        let ended = eventually("the end of the pull", PATIENCE, async || {
            Ok(running.controller.operations.pulls_under_way() == 0)
        });
        ended.await.unwrap();
        cut.resume();
        // The engine hangs up instead of reading the rest.
        cut.until_cut(0).await;
        assert_eq!(names_of(&install.client, &cut.address.to_string()).await.len(), 0);
        // Nothing of it is in the way of the next one.
        let outcome = running
            .controller
            .operations
            .prepare_image(preparation(&by(&name, registry.address())));
        let prepared = outcome.await.unwrap();
        let driver = install.driver();
        let removed = eventually("the removal", PATIENCE, async || {
            Ok(driver.remove_pulled(&prepared.image_id).await?)
        });
        removed.await.unwrap();
    })
    .await;
}

/// The disk of the orchestrator's state counts as the engine's. Needs root.
#[tokio::test]
async fn a_pull_ends_where_the_disk_has_less_left_than_its_reserve() {
    with_overlay(async |install| {
        let disk = SmallDisk::mount("pull", 16 << 20).unwrap();
        let mut install = install.sibling();
        (install.state_dir, install.disk_reserve_bytes) = (disk.path().to_owned(), 4 << 20);
        let registry = Registry::start().unwrap();
        let name = pushed_large(&install, &registry, "pull-full").await;
        let cut = CutOff::new(registry.address(), 1 << 20, Then::FallsSilent).await;
        let stalled = by(&name, cut.address);
        let driver = Arc::new(install.driver());
        let pulling = tokio::spawn({
            let (driver, name) = (driver.clone(), stalled.clone());
            async move { pull(&driver, &name, PullPolicy::Missing).await }
        });
        cut.until_cut(1).await;
        disk.fill().unwrap();
        let refused = pulling.await.unwrap().unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::DiskFull, "{refused}");
        assert!(refused.detail.contains("CIAL_DISK_RESERVE_BYTES"), "{refused}");
        cut.resume();
        cut.until_cut(0).await;
        let before = pull(&driver, &name, PullPolicy::Missing).await.unwrap_err();
        assert_eq!(before.code, DriverErrorCode::DiskFull, "no pull begins");
        for host in [cut.address, registry.address()] {
            assert_eq!(names_of(&install.client, &host.to_string()).await.len(), 0);
        }
        disk.make_space().unwrap();
        let id = pull(&driver, &name, PullPolicy::Missing).await.unwrap().image_id.unwrap();
        assert_eq!(driver.remove_pulled(&id).await, Ok(true));
    })
    .await;
}

fn on_memory(engine: &MemoryDriver, state: &TempDir) -> Running {
    let state_dir = StateDir::new(state.path().to_owned());
    Running::new(Controller::new(Arc::new(engine.clone()), state_dir, 1, AWAKE))
}

#[tokio::test(start_paused = true)]
async fn an_image_is_held_for_a_moment_after_its_preparation() {
    let (engine, state) = (MemoryDriver::default(), TempDir::new("orchestrator").unwrap());
    let running = on_memory(&engine, &state);
    let operations = &running.controller.operations;
    let wait = |seconds| tokio::time::sleep(std::time::Duration::from_secs(seconds));
    wait(60).await;
    operations.prepare_image(preparation("r.example/notes:1")).await.unwrap();
    assert_eq!(operations.list_pulled_images().await.unwrap(), [], "its release is being written");
    wait(60).await;
    let [listed] = &operations.list_pulled_images().await.unwrap()[..] else { panic!("one image") };
    operations.prepare_image(preparation("r.example/notes:1")).await.unwrap();
    wait(60).await;
    let removed = operations.remove_pulled_image(&listed.image_id, listed.preparations).await;
    assert_eq!(removed, Ok(false), "another release has it since");
    let [listed] = &operations.list_pulled_images().await.unwrap()[..] else { panic!("one image") };
    let removed = operations.remove_pulled_image(&listed.image_id, listed.preparations).await;
    assert_eq!(removed, Ok(true));
    assert_eq!(engine.calls(), ["pull r.example/notes:1", "remove-image r.example/notes:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_pinned_to_the_image_that_was_pulled_or_refused() {
    let (engine, state) = (MemoryDriver::default(), TempDir::new("orchestrator").unwrap());
    let running = on_memory(&engine, &state);
    engine.move_name("r.example/notes:1", "sha256:another");
    let refused = running.controller.operations.prepare_image(preparation("r.example/notes:1"));
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code, DriverErrorCode::ImageMissing, "{refused}");
    assert!(refused.detail.contains("became another"), "{refused}");
    assert_eq!(engine.calls(), ["pull r.example/notes:1", "remove-image r.example/notes:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_local_image_is_never_asked_of_a_registry() {
    let (engine, state) = (MemoryDriver::default(), TempDir::new("orchestrator").unwrap());
    let running = on_memory(&engine, &state);
    let request = PrepareImage { login: None, image: "notes:1".to_owned(), ..preparation("a.b/c") };
    running.controller.operations.prepare_image(request).await.unwrap();
    assert_eq!(engine.calls(), [""; 0]);
}

//! On the real engine: leftovers, manual changes, and concurrent creates.

use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HostConfig, NetworkConnectRequest,
    NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, EventsOptionsBuilder};
use futures_util::StreamExt as _;
use orchestrator::driver::docker::EngineDirs;
use orchestrator::driver::{Driver as _, DriverErrorCode, LogOptions};
use orchestrator::sleep::SleepSettings;
use protocol::orchestrator::{ApplyRequest, Drift, ObservedTenant, Phase, Upstream};
use protocol::spec::{Limits, Spec};

use crate::support::router::Router;
use crate::support::{
    AWAKE, Install, PATIENCE, SOCKET, apply, image, spec, until_logged, with_install,
};

#[tokio::test]
async fn a_container_is_as_the_contract_says() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        running.run(&spec).await;
        let ready = running.until_phase(spec.id, Phase::Ready).await;
        let seen = install.client.inspect_container(&spec.id.container(), None).await.unwrap();
        let (config, host) = (seen.config.unwrap(), seen.host_config.unwrap());
        let labels = config.labels.unwrap();
        for (key, value) in [
            ("cial.managed", "1"),
            ("cial.install", install.name.as_str()),
            ("cial.tenant", &spec.id.to_string()),
            ("cial.slug", "acme"),
            ("cial.generation", "1"),
        ] {
            assert_eq!(labels.get(key).map(String::as_str), Some(value), "{key}");
        }
        let env = config.env.unwrap();
        assert!(env.contains(&"TENANT_ID=acme".to_owned()), "{env:?}");
        assert!(env.contains(&format!("CIAL_TENANT_UUID={}", spec.id)), "{env:?}");
        assert_eq!(config.image.unwrap(), install.image);
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(32)));
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert!(host.security_opt.unwrap().iter().any(|o| o.starts_with("seccomp={")));

        let networks = seen.network_settings.unwrap();
        let bindings = networks.ports.unwrap().remove("8080/tcp").unwrap().unwrap();
        let published: Vec<_> = bindings.into_iter().map(|b| (b.host_ip, b.host_port)).collect();
        let port = ready.container_port.unwrap();
        assert_eq!(published, [(Some("127.0.0.1".to_owned()), Some(port.to_string()))]);
        let names: Vec<_> = networks.networks.unwrap().into_keys().collect();
        assert_eq!(names, [spec.id.network()]);
        let socket = install.tenant_dirs().ingress_socket(spec.id).display().to_string();
        assert_eq!(ready.upstream, Some(Upstream::Unix(socket)));

        let mut mounts: Vec<_> =
            seen.mounts.unwrap().into_iter().filter_map(|m| m.destination).collect();
        mounts.sort();
        let expected =
            ["/home/agent/files", "/run/cial/ingress", "/run/cial/secrets", "/var/lib/cial"];
        assert_eq!(mounts, expected);
    })
    .await;
}

/// No key appears in the output of `inspect`.
#[tokio::test]
async fn secrets_are_in_files_only() {
    with_install(async |install| {
        let (spec, driver) = (spec("acme", ""), install.driver());
        driver.ensure(&spec).await.unwrap();
        driver.start(&spec).await.unwrap();
        let secrets = install.base.join("secrets").join(spec.id.to_string());
        let token = std::fs::read_to_string(secrets.join("route-token")).unwrap();
        let seen = install.client.inspect_container(&spec.id.container(), None).await.unwrap();
        let shown = serde_json::to_string(&seen).unwrap();
        assert!(token.len() > 40 && !shown.contains(&token));
        let binds = seen.mounts.unwrap();
        let mount = binds.iter().find(|m| m.destination.as_deref() == Some("/run/cial/secrets"));
        assert_eq!(mount.unwrap().rw, Some(false));
    })
    .await;
}

/// An orchestrator in a container knows its directories by other paths than the engine does.
#[tokio::test]
async fn directories_in_volumes_are_mounted_by_the_engines_paths() {
    with_install(async |install| {
        let (spec, driver) = (spec("acme", ""), install.driver_with(SOCKET, EngineDirs::Volumes));
        // The directories are missing, because this test does not live in those volumes.
        let refusal = driver.ensure(&spec).await.unwrap_err();
        assert_eq!(refusal.code, DriverErrorCode::EngineRefused);
        let volume = install.client.inspect_volume(&install.name.sockets_volume()).await.unwrap();
        let path = format!("{}/{}", volume.mountpoint, spec.id);
        assert!(refusal.detail.contains(&path), "{path}: {refusal}");
        assert_eq!(volume.labels.get("cial.install").unwrap(), install.name.as_str());
    })
    .await;
}

#[tokio::test]
async fn a_tenant_is_not_ready_before_its_health_endpoint_responds() {
    with_install(async |install| {
        let (spec, running) = (spec("slow", "slow"), install.controller());
        let started = running.run(&spec).await;
        assert_eq!((started.phase, started.upstream), (Phase::Starting, None));
        assert!(started.container_port.is_some());
        running.until_phase(spec.id, Phase::Ready).await;
    })
    .await;
}

#[tokio::test]
async fn twenty_applies_at_once_make_one_container() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        let applies = (0..20).map(|_| running.controller.operations.apply(apply(&spec, true)));
        for result in futures_util::future::join_all(applies).await {
            result.unwrap();
        }
        let [containers, networks, volumes] = install.objects(Some(spec.id)).await;
        assert_eq!((containers.len(), networks.len(), volumes.len()), (1, 1, 2));
    })
    .await;
}

/// After a kill at any step of a create, the next process ends with exactly one object of each
/// kind.
#[tokio::test]
async fn an_interrupted_create_is_adopted() {
    with_install(async |install| {
        for (kind, action) in [
            ("network", "create"),
            ("volume", "create"),
            ("container", "create"),
            ("container", "start"),
        ] {
            let spec = spec("acme", "");
            let filters = std::collections::HashMap::from([
                ("type".to_owned(), vec![kind.to_owned()]),
                ("event".to_owned(), vec![action.to_owned()]),
            ]);
            // The engine keeps its events, so none is missed before the stream is open.
            let now = install.client.info().await.unwrap().system_time.unwrap();
            let now = chrono::DateTime::parse_from_rfc3339(&now).unwrap();
            let since = format!("{}.{:09}", now.timestamp(), now.timestamp_subsec_nanos());
            let wanted = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
            let ours = async {
                let mut events = install.client.events(Some(wanted));
                loop {
                    let event = events.next().await.unwrap().unwrap();
                    let actor = event.actor.unwrap();
                    let names = actor.attributes.unwrap_or_default();
                    let volume = actor.id.unwrap_or_default();
                    let mine = [spec.id.container(), spec.id.network(), spec.id.data_volume()];
                    if names.get("name").is_some_and(|n| mine.contains(n)) || mine.contains(&volume)
                    {
                        return;
                    }
                }
            };
            let first = install.driver();
            let making = async {
                first.ensure(&spec).await.unwrap();
                first.start(&spec).await.unwrap();
                // The test cuts the call off here or earlier.
                std::future::pending::<()>().await;
            };
            let cut = async {
                tokio::select! {
                    () = ours => {}
                    () = making => {}
                }
            };
            tokio::time::timeout(PATIENCE, cut).await.expect("the step is reached");
            drop(first);

            let running = install.controller();
            running.run(&spec).await;
            running.until_phase(spec.id, Phase::Ready).await;
            let [containers, networks, volumes] = install.objects(Some(spec.id)).await;
            assert_eq!(
                (containers.len(), networks.len(), volumes.len()),
                (1, 1, 2),
                "{kind} {action}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn manual_changes_are_observed_and_corrected() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        running.run(&spec).await;
        let before = running.until_phase(spec.id, Phase::Ready).await;
        let name = spec.id.container();

        install.client.pause_container(&name).await.unwrap();
        running.until_phase(spec.id, Phase::Frozen).await;
        install.client.unpause_container(&name).await.unwrap();
        running.until_phase(spec.id, Phase::Ready).await;

        install.remove_container_by_hand(&before.container_id).await;
        running.until(spec.id, |o| o.is_none()).await;
        let [_, _, volumes] = install.objects(Some(spec.id)).await;
        assert_eq!(volumes.len(), 2, "its data stays");
        running.run(&spec).await;
        let after = running.until_phase(spec.id, Phase::Ready).await;
        assert_ne!(after.container_id, before.container_id);

        // Creates the tenant again as soon as its end is visible, before the engine has finished
        // the removal.
        let mend = async {
            running.until(spec.id, |o| o.is_none_or(|o| o.phase != Phase::Ready)).await;
            running.run(&spec).await
        };
        let (_, mended) = tokio::join!(install.remove_container_by_hand(&after.container_id), mend);
        assert_ne!(mended.container_id, after.container_id);
        running.until_phase(spec.id, Phase::Ready).await;

        // The container is stopped without the driver and then loses its network and its socket
        // directory, as after a prune.
        install.client.stop_container(&name, None).await.unwrap();
        let exited = running.until_phase(spec.id, Phase::Exited).await;
        assert_eq!((exited.exits, exited.last_exit.unwrap().was_ready), (1, true));
        install.client.remove_network(&spec.id.network()).await.unwrap();
        std::fs::remove_dir_all(install.tenant_dirs().ingress_dir(spec.id)).unwrap();
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Ready).await;
    })
    .await;
}

#[tokio::test]
async fn the_engine_restarts_a_crashed_container_and_each_crash_is_counted() {
    with_install(async |install| {
        let running = install.controller();
        let (never, later) = (spec("never", "exits"), spec("later", "answers-then-exits"));
        running.run(&never).await;
        let many =
            |o: Option<&protocol::orchestrator::ObservedTenant>| o.is_some_and(|o| o.exits >= 3);
        let seen = running.until(never.id, many).await.unwrap();
        let exit = seen.last_exit.unwrap();
        assert_eq!((exit.code, exit.was_ready), (3, false));
        running.run(&later).await;
        let seen = running.until(later.id, |o| o.is_some_and(|o| o.exits >= 2)).await.unwrap();
        let exit = seen.last_exit.unwrap();
        assert_eq!((exit.code, exit.was_ready), (4, true));
    })
    .await;
}

#[tokio::test]
async fn a_stop_and_a_restart_by_the_owner_are_no_crashes() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        running.run(&spec).await;
        let first = running.until_phase(spec.id, Phase::Ready).await;
        let again = ApplyRequest { restart: true, ..apply(&spec, true) };
        running.controller.operations.apply(again).await.unwrap();
        let second = running.until_phase(spec.id, Phase::Ready).await;
        assert_eq!(second.container_id, first.container_id);
        let stopped = running.controller.operations.stop(spec.id).await.unwrap();
        assert_eq!(
            (stopped.phase, stopped.exits, stopped.container_port),
            (Phase::Stopped, 0, None)
        );
        running.controller.operations.stop(spec.id).await.unwrap();
        running.run(&spec).await;
        let third = running.until_phase(spec.id, Phase::Ready).await;
        assert_eq!((third.exits, third.last_exit), (0, None));
    })
    .await;
}

/// `docker network disconnect -f` leaves a container that starts without a network from then on.
#[tokio::test]
async fn a_container_that_lost_its_network_is_reported_and_recreated_at_the_next_start() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        running.run(&spec).await;
        let before = running.until_phase(spec.id, Phase::Ready).await;
        assert!(before.drift.is_empty(), "{before:?}");
        let disconnect =
            NetworkDisconnectRequest { container: spec.id.container(), force: Some(true) };
        install.client.disconnect_network(&spec.id.network(), disconnect).await.unwrap();
        running.controller.operations.resync().await;
        let drifted =
            running.until(spec.id, |o| o.is_some_and(|o| !o.drift.is_empty())).await.unwrap();
        assert_eq!((drifted.phase, &drifted.drift), (Phase::Ready, &[Drift::Network].into()));
        assert!(drifted.reason.unwrap().contains("not attached to its own network"));
        assert_eq!(
            running.run(&spec).await.container_id,
            before.container_id,
            "a running container is kept"
        );

        running.controller.operations.stop(spec.id).await.unwrap();
        running.run(&spec).await;
        let healed = running.until_phase(spec.id, Phase::Ready).await;
        assert_ne!(healed.container_id, before.container_id);
        assert_eq!((healed.drift, healed.reason), (Default::default(), None));
        assert_eq!(networks_of(install, &spec).await, [spec.id.network()]);
        // Its data stays.
        until_logged(&running, &spec, "start 2 on this volume").await;
    })
    .await;
}

#[tokio::test]
async fn a_sleeping_container_that_lost_its_network_is_recreated_by_its_wake() {
    with_install(async |install| {
        let spec = spec("acme", "");
        let settings = SleepSettings {
            freeze_after: None,
            sleep_after: Some(Duration::from_secs(1)),
            lease_duration: Duration::from_millis(1_500),
            ..SleepSettings::DEFAULT
        };
        let running = install.controller_with(1_795_000_000_000, settings);
        running.run(&spec).await;
        let before = running.until_phase(spec.id, Phase::Sleeping).await;
        let disconnect =
            NetworkDisconnectRequest { container: spec.id.container(), force: Some(true) };
        install.client.disconnect_network(&spec.id.network(), disconnect).await.unwrap();
        running.controller.operations.resync().await;
        assert!(Router::new(&running.controller).visit(spec.id).await.unwrap().woke);
        assert_eq!(networks_of(install, &spec).await, [spec.id.network()]);
        let after = running.until(spec.id, |o| o.is_some()).await.unwrap();
        assert_ne!(after.container_id, before.container_id);
    })
    .await;
}

#[tokio::test]
async fn a_container_in_a_foreign_network_is_reported_and_leaves_it_at_the_next_start() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Ready).await;
        let connect = NetworkConnectRequest {
            container: spec.id.container(),
            ..NetworkConnectRequest::default()
        };
        install.client.connect_network("bridge", connect).await.unwrap();
        running.controller.operations.resync().await;
        let network =
            |o: Option<&ObservedTenant>| o.is_some_and(|o| o.drift == [Drift::Network].into());
        running.until(spec.id, network).await;
        let again = ApplyRequest { restart: true, ..apply(&spec, true) };
        running.controller.operations.apply(again).await.unwrap();
        running.until_phase(spec.id, Phase::Ready).await;
        assert_eq!(networks_of(install, &spec).await, [spec.id.network()]);
    })
    .await;
}

/// Covers `docker update`, also while no orchestrator runs.
#[tokio::test]
async fn limits_that_were_changed_by_hand_are_reported_and_corrected() {
    with_install(async |install| {
        let (spec, first) = (spec("acme", ""), install.controller());
        first.run(&spec).await;
        first.until_phase(spec.id, Phase::Ready).await;
        let name = spec.id.container();
        let limits = |pids| ContainerUpdateBody { pids_limit: Some(pids), ..Default::default() };
        let reported =
            |o: Option<&ObservedTenant>| o.is_some_and(|o| o.drift == [Drift::Limits].into());
        install.client.update_container(&name, limits(300)).await.unwrap();
        let drifted = first.until(spec.id, reported).await.unwrap();
        assert!(drifted.reason.unwrap().contains("limits were changed"));
        assert!(first.run(&spec).await.drift.is_empty(), "applied in place");

        drop(first);
        install.client.update_container(&name, limits(301)).await.unwrap();
        let second = install.controller_with(2, AWAKE);
        second.until(spec.id, reported).await;
    })
    .await;
}

/// Covers a container of the right name and owner that somebody created by hand over another
/// volume.
#[tokio::test]
async fn a_container_with_other_mounts_and_labels_is_replaced() {
    with_install(async |install| {
        let (spec, driver) = (spec("acme", ""), install.driver());
        let created = driver.ensure(&spec).await.unwrap();
        assert_eq!(driver.inspect(spec.id).await.unwrap().unwrap().drift, Default::default());
        let seen = install.client.inspect_container(&created.container, None).await.unwrap();
        install.remove_container_by_hand(&created.container).await;
        let mut labels = seen.config.unwrap().labels.unwrap();
        labels.remove("cial.slug");
        let named = CreateContainerOptionsBuilder::default().name(&spec.id.container()).build();
        let body = ContainerCreateBody {
            image: Some(install.image.clone()),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some(spec.id.network()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        install.client.create_container(Some(named), body).await.unwrap();
        let drift = [Drift::Mounts, Drift::Labels].into();
        assert_eq!(driver.inspect(spec.id).await.unwrap().unwrap().drift, drift);
        assert_eq!(driver.list().await.unwrap().remove(0).drift, drift);
        assert_eq!(driver.ensure(&spec).await.unwrap().drift, Default::default());
        assert_eq!(driver.inspect(spec.id).await.unwrap().unwrap().drift, Default::default());
    })
    .await;
}

/// The stand-in writes into its volume; the engine measures it.
#[tokio::test]
async fn a_tenant_over_its_disk_limit_is_stopped_until_the_limit_is_raised() {
    with_install(async |install| {
        let limits = |disk_bytes| Limits { disk_bytes, ..spec("any", "").limits };
        let roomy = Spec { limits: limits(64 << 20), ..spec("acme", "fills") };
        let small = Spec { limits: limits(4 << 20), ..roomy.clone() };
        let first = install.controller();
        first.run(&roomy).await;
        first.until_phase(roomy.id, Phase::Ready).await;
        drop(first);

        // The first measurement of a new process follows the writes, and its loop repeats one that
        // the engine refused because of another test's.
        let running = install.controller();
        let operations = &running.controller.operations;
        running.run(&small).await;
        let stopped = running.until_phase(small.id, Phase::Exited).await;
        assert_eq!(stopped.exits, 0, "it did not crash");
        let has_reason = |o: Option<&ObservedTenant>| {
            o.and_then(|o| o.reason.as_deref())
                .is_some_and(|reason| reason.contains("it may use 4.0 MiB"))
        };
        running.until(small.id, has_reason).await;
        let refused = operations.apply(apply(&small, true)).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::DiskLimitReached, "{refused}");
        assert!(refused.detail.contains("Raise its disk limit"), "{refused}");

        running.run(&roomy).await;
        let ready = running.until_phase(roomy.id, Phase::Ready).await;
        assert_eq!(ready.reason, None);
        assert!(operations.resource_usage(roomy.id).await.unwrap().disk_bytes > Some(4 << 20));
    })
    .await;
}

#[tokio::test]
async fn below_the_reserve_no_new_tenant_is_created_and_existing_ones_are_kept() {
    with_install(async |install| {
        let (old, new) = (spec("old", ""), spec("new", ""));
        install.driver().ensure(&old).await.unwrap();
        let full = Install { disk_reserve_bytes: u64::MAX, ..install.sibling() }.driver();
        let refused = full.ensure(&new).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::DiskFull, "{refused}");
        assert!(refused.detail.contains("CIAL_DISK_RESERVE_BYTES"), "{refused}");
        assert_eq!(install.objects(Some(new.id)).await, [const { Vec::<String>::new() }; 3]);

        install.remove_container_by_hand(&old.id.container()).await;
        full.ensure(&old).await.unwrap();
        full.start(&old).await.unwrap();
        let disk = full.capacity().await.unwrap().disk.unwrap();
        assert!(disk.free_bytes < disk.total_bytes && disk.reserve_bytes == u64::MAX, "{disk:?}");
    })
    .await;
}

async fn networks_of(install: &Install, spec: &Spec) -> Vec<String> {
    let seen = install.client.inspect_container(&spec.id.container(), None).await.unwrap();
    let networks = seen.network_settings.and_then(|settings| settings.networks);
    networks.unwrap_or_default().into_keys().collect()
}

#[tokio::test]
async fn limits_apply_in_place() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        let before = running.run(&spec).await;
        let limits =
            Limits { pids: 64, cpu_millis: 250, memory_bytes: 128 << 20, ..Limits::default() };
        let after = running.run(&Spec { limits, ..spec.clone() }).await;
        assert_eq!(after.container_id, before.container_id);
        let seen = install.client.inspect_container(&spec.id.container(), None).await.unwrap();
        let host = seen.host_config.unwrap();
        assert_eq!((host.pids_limit, host.nano_cpus), (Some(64), Some(250_000_000)));
        assert_eq!((host.memory, host.memory_swap), (Some(128 << 20), Some(128 << 20)));
        assert_eq!(seen.state.unwrap().running, Some(true));
    })
    .await;
}

#[tokio::test]
async fn a_rebuilt_image_is_taken_up_at_the_next_start_and_data_is_kept() {
    with_install(async |install| {
        let tag = install.name.to_string();
        let old = image::rebuild(&install.client, &tag, 1).await;
        let spec = Spec { image: Some(image::name(&tag)), ..spec("acme", "") };
        let running = install.controller();
        running.run(&spec).await;
        let before = running.until_phase(spec.id, Phase::Ready).await;
        until_logged(&running, &spec, "start 1 on this volume").await;
        let new = image::rebuild(&install.client, &tag, 2).await;
        running.controller.operations.resync().await;
        running.until(spec.id, |o| o.is_some_and(|o| o.image_outdated)).await;
        let kept = running.run(&spec).await;
        assert_eq!(kept.container_id, before.container_id, "a running container is kept");
        let again = ApplyRequest { restart: true, ..apply(&spec, true) };
        let after = running.controller.operations.apply(again).await.unwrap();
        assert!(after.container_id != before.container_id && !after.image_outdated, "{after:?}");
        running.until_phase(spec.id, Phase::Ready).await;
        // Another container, the same data.
        until_logged(&running, &spec, "start 2 on this volume").await;
        running.controller.operations.delete(spec.id).await.unwrap();
        for image in [old, new] {
            image::remove(&install.client, &image).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_broken_image_is_reported_with_its_remedy() {
    with_install(async |install| {
        let image = image::broken(&install.client, install.name.as_str()).await;
        let spec = Spec { image: Some(image.clone()), ..spec("acme", "") };
        let running = install.controller();
        let refusal = running.controller.operations.apply(apply(&spec, true)).await.unwrap_err();
        assert_eq!(refusal.code, DriverErrorCode::ImageInvalid, "{refusal}");
        assert!(refusal.detail.contains("entry point"), "{refusal}");
        let shown = running.until(spec.id, |o| o.is_some_and(|o| o.reason.is_some())).await;
        assert_eq!(shown.unwrap().reason, Some(refusal.detail));
        running.controller.operations.delete(spec.id).await.unwrap();
        image::remove(&install.client, &image).await;
    })
    .await;
}

/// An object with the same name and other labels is never adopted or removed.
#[tokio::test]
async fn objects_of_others_are_never_touched() {
    with_install(async |install| {
        let (spec, driver) = (spec("acme", ""), install.driver());
        let other = std::collections::HashMap::from([
            ("cial.managed".to_owned(), "1".to_owned()),
            ("cial.install".to_owned(), format!("{}-other", install.name)),
        ]);
        let volume = VolumeCreateRequest {
            name: Some(spec.id.data_volume()),
            labels: Some(other.clone()),
            ..VolumeCreateRequest::default()
        };
        install.client.create_volume(volume).await.unwrap();
        let named = CreateContainerOptionsBuilder::default().name(&spec.id.container()).build();
        let body = ContainerCreateBody {
            image: Some(install.image.clone()),
            labels: Some(other),
            host_config: Some(HostConfig::default()),
            ..ContainerCreateBody::default()
        };
        let theirs = install.client.create_container(Some(named), body).await.unwrap().id;

        assert_eq!(driver.ensure(&spec).await.unwrap_err().code, DriverErrorCode::NameTaken);
        assert_eq!(driver.start(&spec).await.unwrap_err().code, DriverErrorCode::NameTaken);
        assert_eq!(driver.inspect(spec.id).await.unwrap(), None);
        driver.remove(spec.id).await.unwrap();
        assert!(install.client.inspect_container(&theirs, None).await.is_ok());
        assert!(install.client.inspect_volume(&spec.id.data_volume()).await.is_ok());

        install.remove_container_by_hand(&theirs).await;
        assert_eq!(
            driver.ensure(&spec).await.unwrap_err().code,
            DriverErrorCode::NameTaken,
            "its volume"
        );
        let none = None::<bollard::query_parameters::RemoveVolumeOptions>;
        install.client.remove_volume(&spec.id.data_volume(), none).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_delete_removes_leftovers_of_every_kind() {
    with_install(async |install| {
        let (spec, driver) = (spec("acme", ""), install.driver());
        driver.ensure(&spec).await.unwrap();
        driver.start(&spec).await.unwrap();
        // A foreign container in its network blocks the removal.
        let guest = ContainerCreateBody {
            image: Some(install.image.clone()),
            labels: Some(install.labels()),
            host_config: Some(HostConfig {
                network_mode: Some(spec.id.network()),
                ..HostConfig::default()
            }),
            env: Some(vec!["MODE=never".to_owned()]),
            ..ContainerCreateBody::default()
        };
        let none = None::<bollard::query_parameters::CreateContainerOptions>;
        let guest = install.client.create_container(none, guest).await.unwrap().id;
        // The guest has no ingress directory and exits at once, yet stays attached as long as it
        // restarts.
        let _ = install.client.start_container(&guest, None).await;
        driver.remove(spec.id).await.unwrap();
        assert_eq!(install.objects(Some(spec.id)).await, [const { Vec::<String>::new() }; 3]);
        assert!(!install.tenant_dirs().ingress_dir(spec.id).exists());
        assert!(!install.base.join("secrets").join(spec.id.to_string()).exists());
    })
    .await;
}

#[tokio::test]
async fn logs_are_demultiplexed_plain_and_bounded() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Ready).await;
        let read = async |wanted| {
            let pieces = running.controller.operations.logs(spec.id, wanted).await.unwrap();
            let pieces: Vec<_> = pieces.map(|p| p.unwrap()).collect().await;
            String::from_utf8(pieces.concat()).unwrap()
        };
        for text in ["hello from the tenant\n", "and its other stream\n"] {
            until_logged(&running, &spec, text).await;
        }
        let one = LogOptions { tail: Some(1), ..Default::default() };
        assert_eq!(read(one).await.lines().count(), 1);
        let timed = LogOptions { timestamps: true, ..Default::default() };
        for line in read(timed).await.lines() {
            let (time, _) = line.split_once(' ').unwrap();
            assert!(time.parse::<protocol::Timestamp>().is_ok(), "{line}");
        }
        let follow = LogOptions { follow: true, ..Default::default() };
        let following = read(follow);
        let stopping = running.controller.operations.stop(spec.id);
        let (text, stopped) = tokio::join!(following, stopping);
        stopped.unwrap();
        assert!(text.contains("hello"), "followed until its end");
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_engine_is_a_state_and_not_a_failure() {
    with_install(async |install| {
        let driver = install.driver_at("/nowhere/docker.sock");
        let refusal = driver.list().await.unwrap_err();
        assert_eq!(refusal.code, DriverErrorCode::EngineUnreachable);
        assert!(refusal.detail.contains("/nowhere/docker.sock"), "{refusal}");
        let mut events = driver.watch();
        let lost = tokio::time::timeout(PATIENCE.max(Duration::from_secs(10)), events.next()).await;
        assert!(
            matches!(lost, Ok(Some(orchestrator::driver::EngineEvent::Disconnected(_)))),
            "{lost:?}"
        );
    })
    .await;
}

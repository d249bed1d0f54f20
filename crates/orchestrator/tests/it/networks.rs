//! On the real engine: a network for each tenant, out of the installation's own pool.

use std::collections::HashSet;

use bollard::models::NetworkCreateRequest;
use orchestrator::driver::{Driver as _, DriverErrorCode};
use protocol::orchestrator::Phase;

use crate::support::{Install, apply, spec, with_install};

/// The engine's own address pools end at 31 networks.
#[tokio::test]
async fn forty_concurrent_tenants_get_their_own_ports_and_networks() {
    with_install(async |install| {
        let running = install.controller();
        let specs: Vec<_> = (0..40).map(|n| spec(&format!("t-{n}"), "")).collect();
        let applies =
            specs.iter().map(|spec| running.controller.operations.apply(apply(spec, true)));
        for result in futures_util::future::join_all(applies).await {
            result.unwrap();
        }
        let mut ports = HashSet::new();
        for spec in &specs {
            let ready = running.until_phase(spec.id, Phase::Ready).await;
            ports.insert(ready.container_port.unwrap());
        }
        let [containers, networks, volumes] = install.objects(None).await;
        assert_eq!(
            (ports.len(), containers.len(), networks.len(), volumes.len()),
            (40, 40, 40, 80)
        );
        let capacity = running.controller.operations.capacity().await.unwrap();
        assert_eq!((capacity.networks_used, capacity.networks_total), (40, 128));
        let deletes = specs.iter().map(|spec| running.controller.operations.delete(spec.id));
        for result in futures_util::future::join_all(deletes).await {
            result.unwrap();
        }
        assert_eq!(install.objects(None).await, [const { Vec::<String>::new() }; 3]);
    })
    .await;
}

#[tokio::test]
async fn an_exhausted_pool_is_an_error_and_a_delete_frees_a_subnet() {
    with_install(async |install| {
        let small = Install { pool: install.pool.replace("/22", "/28"), ..install.sibling() };
        let driver = small.driver();
        let specs = [spec("one", ""), spec("two", ""), spec("three", "")];
        for spec in &specs[..2] {
            driver.ensure(spec).await.unwrap();
        }
        let refusal = driver.ensure(&specs[2]).await.unwrap_err();
        assert_eq!(refusal.code, DriverErrorCode::SubnetsExhausted);
        assert!(refusal.detail.contains("CIAL_SUBNET_POOL"), "{refusal}");
        driver.remove(specs[0].id).await.unwrap();
        driver.ensure(&specs[2]).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_subnet_of_another_network_is_skipped() {
    with_install(async |install| {
        let (driver, first, second) = (install.driver(), spec("one", ""), spec("two", ""));
        driver.ensure(&first).await.unwrap();
        // A foreign network takes the subnet after the driver has listed the networks.
        let foreign: NetworkCreateRequest = serde_json::from_value(serde_json::json!({
            "Name": format!("{}-foreign", install.name),
            "IPAM": {"Config": [{"Subnet": install.pool.replace(".0/22", ".8/29")}]},
            "Labels": {"cial.managed": "1", "cial.install": install.name},
        }))
        .unwrap();
        install.client.create_network(foreign).await.unwrap();
        driver.ensure(&second).await.unwrap();
    })
    .await;
}

/// The tenant's container is gone, and its network shows other settings of the installation.
#[tokio::test]
async fn a_leftover_network_is_adopted_if_it_fits_and_recreated_otherwise() {
    with_install(async |install| {
        let spec = spec("acme", "");
        let make = async |install: &Install| {
            let created = install.driver().ensure(&spec).await.unwrap();
            let network = install.client.inspect_network(&spec.id.network(), None).await.unwrap();
            install.client.remove_container(&created.container, None).await.unwrap();
            (network.id, network.internal)
        };
        let first = make(install).await;
        assert_eq!(make(install).await, first);
        let closed = make(&Install { egress: false, ..install.sibling() }).await;
        assert!(closed.0 != first.0 && closed.1 == Some(true), "{closed:?}");
    })
    .await;
}

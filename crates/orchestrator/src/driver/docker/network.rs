//! One bridge network per tenant, with a subnet of our pool, because the engine's own pools end at
//! 31 networks.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::models::{Ipam, NetworkInspect};
use bollard::query_parameters::ListNetworksOptions;
use protocol::TenantId;

use super::DockerDriver;
use super::engine::{ACTION_TIMEOUT, INSPECT_TIMEOUT, optional, with_timeout};
use super::subnet_pool::{Net, Pool};
use super::template::TEMPLATE_HASH_LABEL;
use crate::driver::{DriverError, DriverErrorCode};

/// The subnets in use: the engine's last list, and those of networks that are being created.
pub(super) struct Subnets {
    pool: Pool,
    in_use: Mutex<SubnetsInUse>,
}

#[derive(Default)]
struct SubnetsInUse {
    /// `None`: the engine must be listed before the next subnet is reserved.
    listed: Option<Vec<Net>>,
    reserved: Vec<Net>,
}

/// An existing network of a tenant.
pub(super) struct Network {
    pub(super) id: String,
    /// Whether the network was created with the installation's current flags.
    pub(super) fits: bool,
}

/// Reserves a subnet: nobody else in this process takes it during the reservation.
struct ReservedSubnet<'a> {
    net: Net,
    subnets: &'a Subnets,
}

impl ReservedSubnet<'_> {
    fn commit(self) {
        if let Some(listed) = &mut self.subnets.lock().listed {
            listed.push(self.net);
        }
    }
}

impl Drop for ReservedSubnet<'_> {
    fn drop(&mut self) {
        self.subnets.lock().reserved.retain(|net| *net != self.net);
    }
}

/// Other processes may take a chosen subnet; each attempt lists the networks again.
const MAX_ATTEMPTS: u32 = 60;
/// The delay between attempts while an unlisted network holds a subnet, and the number of delays
/// before another subnet is tried.
const UNLISTED_WAIT: Duration = Duration::from_millis(100);
const UNLISTED_WAITS_PER_SUBNET: u32 = 20;
/// A removal is tried this often while containers join the network, with [`UNLISTED_WAIT`] between.
const MAX_NETWORK_REMOVALS: u32 = 20;

impl Subnets {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, in_use: Mutex::default() }
    }

    pub(super) async fn usage(&self, client: &Client) -> Result<(u32, u32), DriverError> {
        let listed = subnets(client).await?;
        Ok(self.pool.usage(&listed))
    }

    async fn reserve(
        &self,
        client: &Client,
        avoid: &[Net],
    ) -> Result<ReservedSubnet<'_>, DriverError> {
        if let Some(reserved) = self.pick(avoid) {
            return Ok(reserved);
        }
        // The list is missing or used up; some subnets may be free again.
        let listed = subnets(client).await?;
        self.lock().listed = Some(listed);
        let detail = || {
            format!(
                "No free subnet is left in {}: each tenant needs a /29. Delete tenants, or give CIAL_SUBNET_POOL a larger network.",
                self.pool
            )
        };
        self.pick(avoid)
            .ok_or_else(|| DriverError::new(DriverErrorCode::SubnetsExhausted, detail()))
    }

    fn pick(&self, avoid: &[Net]) -> Option<ReservedSubnet<'_>> {
        let mut in_use = self.lock();
        let all = [in_use.listed.as_deref()?, &in_use.reserved, avoid].concat();
        let net = self.pool.pick(&all)?;
        in_use.reserved.push(net);
        Some(ReservedSubnet { net, subnets: self })
    }

    fn free(&self, nets: &[Net]) {
        if let Some(listed) = &mut self.lock().listed {
            listed.retain(|net| !nets.contains(net));
        }
    }

    fn invalidate(&self) {
        self.lock().listed = None;
    }

    fn lock(&self) -> MutexGuard<'_, SubnetsInUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DockerDriver {
    /// Finds the tenant's network. Returns `None` when there is none, and an error when a
    /// network of another owner has its name.
    pub(super) async fn find_network(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<Option<Network>, DriverError> {
        let name = id.network();
        let looked = optional(INSPECT_TIMEOUT, client.inspect_network(&name, None)).await;
        let network = match looked {
            // An engine without a name check made two networks of one name; the right one is
            // unknown.
            Err(error) if error.detail.contains("ambiguous") => {
                self.remove_networks(client, id).await?;
                return Ok(None);
            }
            looked => looked?,
        };
        network.map(|n| self.claim_network(n, id)).transpose()
    }

    /// Returns the id of the tenant's network and creates the network unless a matching one exists.
    /// The create call itself detects an existing one, because lookups are slow on an engine with
    /// hundreds of networks. No container may be attached to a network that does not match.
    pub(super) async fn create_network(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<String, DriverError> {
        let (mut avoid, mut waits) = (Vec::new(), 0);
        for _ in 0..MAX_ATTEMPTS {
            let reserved = self.subnets.reserve(client, &avoid).await?;
            let subnet = reserved.net;
            let wanted = self.template.network(id, subnet);
            let refused = match with_timeout(ACTION_TIMEOUT, client.create_network(wanted)).await {
                Ok(network) => {
                    reserved.commit();
                    return Ok(network.id);
                }
                Err(refused) => refused,
            };
            drop(reserved);
            self.subnets.invalidate();
            let overlaps = refused.detail.contains("overlap");
            if !overlaps && !refused.detail.contains("already exists") {
                return Err(refused);
            }
            match self.find_network(client, id).await? {
                Some(network) if network.fits => return Ok(network.id),
                Some(_) => {
                    self.remove_networks(client, id).await?;
                    continue;
                }
                None => {}
            }
            if subnets(client).await?.iter().any(|net| net.overlaps(subnet)) {
                continue;
            }
            // An unlisted network holds the subnet: perhaps our own, begun before this process was
            // killed.
            waits += 1;
            if waits % UNLISTED_WAITS_PER_SUBNET == 0 {
                avoid.push(subnet);
            }
            tokio::time::sleep(UNLISTED_WAIT).await;
        }
        let detail = format!(
            "Every subnet tried in {} meets another network of this machine. Set CIAL_SUBNET_POOL to a range that is free.",
            self.subnets.pool
        );
        Err(DriverError::new(DriverErrorCode::SubnetsExhausted, detail))
    }

    /// Removes all networks of the tenant, whichever containers are attached.
    pub(super) async fn remove_networks(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<(), DriverError> {
        for network in self.networks_of(client, id).await? {
            let mut attempts = 1;
            loop {
                let ipam = self.disconnect_all(client, &network).await?;
                match optional(ACTION_TIMEOUT, client.remove_network(&network)).await {
                    // A container may join after it was looked for, and the engine may list it late.
                    Err(error)
                        if error.detail.contains("has active endpoints")
                            && attempts < MAX_NETWORK_REMOVALS =>
                    {
                        attempts += 1;
                        tokio::time::sleep(UNLISTED_WAIT).await;
                    }
                    removed => {
                        removed?;
                        self.subnets.free(&of(ipam).collect::<Vec<_>>());
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Disconnects every container that the engine lists for a network; returns the network's subnets.
    async fn disconnect_all(
        &self,
        client: &Client,
        network: &str,
    ) -> Result<Option<Ipam>, DriverError> {
        let inspected = optional(INSPECT_TIMEOUT, client.inspect_network(network, None)).await?;
        let NetworkInspect { containers, ipam, .. } = inspected.unwrap_or_default();
        for container in containers.unwrap_or_default().into_keys() {
            let leave = bollard::models::NetworkDisconnectRequest { container, force: Some(true) };
            optional(ACTION_TIMEOUT, client.disconnect_network(network, leave)).await?;
        }
        Ok(ipam)
    }

    pub(super) async fn networks_of(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<Vec<String>, DriverError> {
        let wanted = ListNetworksOptions { filters: Some(self.template.filters(Some(id))) };
        let networks = with_timeout(INSPECT_TIMEOUT, client.list_networks(Some(wanted))).await?;
        Ok(networks.into_iter().filter_map(|n| n.id).collect())
    }

    fn claim_network(&self, network: NetworkInspect, id: TenantId) -> Result<Network, DriverError> {
        let labels = network.labels.unwrap_or_default();
        self.claim("network", &id.network(), &labels, id)?;
        Ok(Network { id: network.id.unwrap_or_default(), fits: self.template_matches(&labels) })
    }

    /// Objects from before the template hash was recorded match no template.
    pub(super) fn template_matches(&self, labels: &HashMap<String, String>) -> bool {
        labels.get(TEMPLATE_HASH_LABEL).is_some_and(|made_with| *made_with == self.template_hash)
    }

    /// Refuses an object that has our name but is not ours.
    pub(super) fn claim(
        &self,
        kind: &str,
        name: &str,
        labels: &HashMap<String, String>,
        id: TenantId,
    ) -> Result<(), DriverError> {
        if self.template.owns_for(labels, id) {
            return Ok(());
        }
        let detail = format!(
            "A {kind} named {name} exists on the engine but does not belong to installation {}. Remove or rename it.",
            self.template.install
        );
        Err(DriverError::new(DriverErrorCode::NameTaken, detail))
    }
}

/// Lists all IPv4 subnets of the engine's networks, ours and others'.
async fn subnets(client: &Client) -> Result<Vec<Net>, DriverError> {
    let networks = with_timeout(INSPECT_TIMEOUT, client.list_networks(None)).await?;
    Ok(networks.into_iter().flat_map(|network| of(network.ipam)).collect())
}

fn of(ipam: Option<Ipam>) -> impl Iterator<Item = Net> {
    let configs = ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    configs.into_iter().filter_map(|config| config.subnet?.parse().ok())
}

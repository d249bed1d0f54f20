//! The routes as one persistent table: a change copies the path to one entry and shares the rest with the table before.
//! Readers hold a whole table and take no lock.

use std::sync::Arc;

use protocol::State;
use protocol::TenantId;
use protocol::routes::Route;
use protocol::spec::Desired;
use rpds::HashTrieMapSync;
use service::Secret;

use crate::clock;
use crate::routes::cached_lease::CachedLease;
use crate::routes::keys::TenantKeys;

/// The complete table at one moment. A clone shares all entries.
#[derive(Clone, Default)]
pub struct RouteTable {
    by_slug: HashTrieMapSync<Arc<str>, Arc<RouteEntry>>,
    by_tenant: HashTrieMapSync<TenantId, Arc<RouteEntry>>,
    /// `None` before the first table was read, from app-api or from disk.
    pub(crate) revision: Option<u64>,
}

/// One tenant.
pub(crate) struct RouteEntry {
    pub(crate) route: Route,
    pub(crate) keys: Arc<TenantKeys>,
    /// `None` while no address of the tenant is known.
    pub(crate) lease: Option<Arc<CachedLease>>,
}

/// The inputs of every entry beside its route.
pub struct EntryParameters {
    /// The installation's route secret.
    pub master: Secret,
    /// How many threads serve requests.
    pub threads: usize,
}

/// Whether a request may reach a tenant, by the table alone. `protocol::State` is the owner's view
/// of the tenant; this enum is the router's decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Running,
    /// Frozen, asleep or starting: the orchestrator decides when a lease on the tenant is due.
    Wakeable,
    StoppedByOwner,
    /// The tenant should run, and no request can start it.
    NotRunning,
    /// The orchestrator gave up: the tenant stays stopped until its owner acts.
    Failed,
}

impl RouteTable {
    /// The table of these routes. An entry whose route is the same is taken over from `self`, so that its lease and
    /// its idle connections live on.
    pub fn with_snapshot<'a>(
        &self,
        revision: u64,
        routes: impl Iterator<Item = &'a Route>,
        parameters: &EntryParameters,
    ) -> Self {
        let mut next = Self { revision: Some(revision), ..Self::default() };
        for route in routes.filter(|route| is_listed(route)) {
            let entry = RouteEntry::next(self.by_tenant(route.tenant), route, parameters);
            next.insert(entry);
        }
        next
    }

    /// The table after one route changed. Copies the path to its entry, which grows with the logarithm (base 64) of the
    /// number of routes; figures in docs/benchmarks.md.
    pub fn with_route(&self, revision: u64, route: &Route, parameters: &EntryParameters) -> Self {
        let before = self.by_tenant(route.tenant);
        if before.is_some_and(|before| before.route == *route) {
            return Self { revision: Some(revision), ..self.clone() };
        }
        if !is_listed(route) {
            return self.without(revision, route.tenant);
        }
        let mut next = Self { revision: Some(revision), ..self.clone() };
        if let Some(before) = before.filter(|before| before.route.slug != route.slug) {
            next.remove_slug(before);
        }
        next.insert(RouteEntry::next(before, route, parameters));
        next
    }

    /// The table after one tenant is gone.
    pub(crate) fn without(&self, revision: u64, tenant: TenantId) -> Self {
        let mut next = Self { revision: Some(revision), ..self.clone() };
        if let Some(before) = self.by_tenant(tenant) {
            next.by_tenant.remove_mut(&tenant);
            next.remove_slug(before);
        }
        next
    }

    /// Removes the slug of `entry`, unless the slug belongs to another tenant by now.
    fn remove_slug(&mut self, entry: &RouteEntry) {
        let Route { slug, tenant, .. } = &entry.route;
        if self.get(slug.as_str()).is_some_and(|owner| owner.route.tenant == *tenant) {
            self.by_slug.remove_mut(slug.as_str());
        }
    }

    /// The table in which one tenant is reached at `lease`.
    pub(crate) fn with_upstream(&self, lease: &Arc<CachedLease>) -> Self {
        let mut next = self.clone();
        if let Some(entry) = self.by_tenant(lease.tenant) {
            let (route, keys) = (entry.route.clone(), entry.keys.clone());
            next.insert(Arc::new(RouteEntry { route, keys, lease: Some(lease.clone()) }));
        }
        next
    }

    /// Returns the tenants whose entry is another than in `before`, those of one table alone included.
    pub(crate) fn changed_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = TenantId> + 'a {
        let is_same = |tenant, entry: &Arc<RouteEntry>| {
            self.by_tenant(tenant).is_some_and(|now| Arc::ptr_eq(now, entry))
        };
        let changed =
            before.by_tenant.iter().filter(move |(tenant, entry)| !is_same(**tenant, entry));
        let added = self.by_tenant.keys().filter(|tenant| before.by_tenant(**tenant).is_none());
        changed.map(|(tenant, _)| *tenant).chain(added.copied())
    }

    fn insert(&mut self, entry: Arc<RouteEntry>) {
        let slug: Arc<str> = entry.route.slug.as_str().into();
        self.by_tenant.insert_mut(entry.route.tenant, entry.clone());
        self.by_slug.insert_mut(slug, entry);
    }

    pub(crate) fn get(&self, slug: &str) -> Option<&Arc<RouteEntry>> {
        self.by_slug.get(slug)
    }

    pub(crate) fn by_tenant(&self, tenant: TenantId) -> Option<&Arc<RouteEntry>> {
        self.by_tenant.get(&tenant)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_slug.size()
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.by_tenant.values().map(|entry| &entry.route)
    }
}

/// A tenant that is being deleted is gone for its visitors, and its slug may be given to another tenant.
fn is_listed(route: &Route) -> bool {
    route.desired != Desired::Deleted
}

impl RouteEntry {
    fn next(before: Option<&Arc<Self>>, route: &Route, parameters: &EntryParameters) -> Arc<Self> {
        if let Some(before) = before.filter(|before| before.route == *route) {
            return before.clone();
        }
        let derive = || Arc::new(TenantKeys::derive(&parameters.master, route.tenant));
        let keys = before.map_or_else(derive, |before| before.keys.clone());
        let reusable_lease = before.and_then(|before| before.lease.as_ref());
        let reusable_lease = reusable_lease.filter(|lease| is_still_reached_there(lease, route));
        let lease = reusable_lease.cloned().or_else(|| {
            let target = (route.generation, route.upstream.clone()?);
            Some(CachedLease::new(route.tenant, keys.clone(), target, parameters.threads))
        });
        Arc::new(Self { route: route.clone(), keys, lease })
    }

    pub(crate) fn availability(&self) -> Availability {
        match (self.route.desired, self.route.state) {
            (Desired::Stopped | Desired::Deleted, _) => Availability::StoppedByOwner,
            (Desired::Running, State::Running) => Availability::Running,
            (Desired::Running, State::Frozen | State::Sleeping | State::Starting) => {
                Availability::Wakeable
            }
            (Desired::Running, State::Error) => Availability::Failed,
            (Desired::Running, State::Provisioning | State::Stopped | State::Deleting) => {
                Availability::NotRunning
            }
        }
    }
}

/// Whether a tenant is reached where it was. A sleeping tenant stays where it was, and a live lease is newer than a
/// route of the same or an earlier generation.
fn is_still_reached_there(lease: &CachedLease, route: &Route) -> bool {
    let target = &lease.target;
    let is_same = target.generation == route.generation
        && route.upstream.as_ref().is_none_or(|upstream| *upstream == target.address);
    is_same || (target.generation >= route.generation && lease.is_live(clock::now()))
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::orchestrator::Upstream;

    use super::*;

    pub(crate) fn route(number: u128, slug: &str, state: State, desired: Desired) -> Route {
        Route {
            tenant: TenantId::new(uuid::Uuid::from_u128(number)),
            slug: slug.parse().unwrap(),
            generation: 1,
            desired,
            state,
            upstream: Some(Upstream::Unix(format!("/{number}"))),
            sign_in_url: None,
            requires_sign_in: false,
        }
    }

    fn parameters() -> EntryParameters {
        EntryParameters { master: Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa"), threads: 2 }
    }

    fn table(routes: &[Route]) -> RouteTable {
        RouteTable::default().with_snapshot(1, routes.iter(), &parameters())
    }

    fn lease(table: &RouteTable) -> Arc<CachedLease> {
        table.get("acme").unwrap().lease.clone().unwrap()
    }

    #[test]
    fn availability_by_desired_and_observed_state() {
        let mut lines = String::new();
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            for state in State::ALL {
                let routes = vec![route(1, "acme", state, desired)];
                let table = table(&routes);
                let availability = table.get("acme").map(|entry| entry.availability());
                let availability =
                    availability.map_or("not listed".to_owned(), |s| format!("{s:?}"));
                lines.push_str(&format!("{desired:?} {state}: {availability}\n"));
            }
        }
        insta::assert_snapshot!(lines);
    }

    #[test]
    fn connections_are_kept_exactly_while_the_tenant_stays_where_it_is() {
        let first = route(1, "acme", State::Running, Desired::Running);
        let table = table(std::slice::from_ref(&first));
        let same = |after: Route| {
            let next = table.with_route(2, &after, &parameters());
            next.get("acme").unwrap().lease.as_ref().is_some_and(|t| Arc::ptr_eq(t, &lease(&table)))
        };
        assert!(same(first.clone()));
        assert!(same(Route { state: State::Starting, ..first.clone() }));
        assert!(same(Route { state: State::Sleeping, upstream: None, ..first.clone() }));
        assert!(!same(Route { generation: 2, ..first.clone() }));
        assert!(!same(Route { generation: 2, upstream: None, ..first.clone() }));
        assert!(!same(Route { upstream: Some(Upstream::Unix("/other".into())), ..first }));
        assert!(!same(route(2, "acme", State::Running, Desired::Running)), "another tenant");
    }

    #[test]
    fn a_live_lease_wins_over_an_older_route() {
        let first = route(1, "acme", State::Running, Desired::Running);
        let table = table(std::slice::from_ref(&first));
        let keys = table.get("acme").unwrap().keys.clone();
        let there = (2, Upstream::Unix("/there".to_owned()));
        let leased = CachedLease::new(first.tenant, keys, there.clone(), 2);
        leased.set_valid_until(clock::now().plus(60_000));
        let table = table.with_upstream(&leased);
        assert!(Arc::ptr_eq(&lease(&table), &leased));
        let late = Route { state: State::Starting, ..first.clone() };
        assert!(Arc::ptr_eq(&lease(&table.with_route(2, &late, &parameters())), &leased));
        let caught_up = Route { generation: 2, upstream: Some(there.1), ..first.clone() };
        assert!(Arc::ptr_eq(&lease(&table.with_route(2, &caught_up, &parameters())), &leased));
        let newer = Route { generation: 3, ..first };
        assert!(!Arc::ptr_eq(&lease(&table.with_route(2, &newer, &parameters())), &leased));
        leased.set_valid_until(lease::Moment(0));
        assert!(!Arc::ptr_eq(&lease(&table.with_route(2, &late, &parameters())), &leased));
    }

    #[test]
    fn a_tenant_has_changed_if_its_entry_is_another() {
        let running = |number, slug| route(number, slug, State::Running, Desired::Running);
        let before = table(&[running(1, "same"), running(2, "moved"), running(3, "gone")]);
        let moved = Route { generation: 2, ..running(2, "moved") };
        let routes = [running(1, "same"), moved, running(4, "new")];
        let after = before.with_snapshot(2, routes.iter(), &parameters());
        let mut changed: Vec<_> = after.changed_since(&before).collect();
        changed.sort_unstable();
        assert_eq!(changed, [2, 3, 4].map(|id| TenantId::new(uuid::Uuid::from_u128(id))));
        assert_eq!(after.changed_since(&after).count(), 0);
    }

    #[test]
    fn a_slug_that_is_given_again_belongs_to_the_new_tenant() {
        let old = route(1, "acme", State::Deleting, Desired::Deleted);
        let new = route(2, "acme", State::Running, Desired::Running);
        for routes in [vec![old.clone(), new.clone()], vec![new.clone(), old]] {
            let table = table(&routes);
            assert_eq!(table.get("acme").unwrap().route, new);
            assert_eq!(table.len(), 1);
        }
    }
    #[test]
    fn the_end_of_a_former_owner_of_a_slug_leaves_the_new_owner_alone() {
        let old = route(1, "acme", State::Running, Desired::Running);
        let deleted = Route { desired: Desired::Deleted, ..old.clone() };
        let new = route(2, "acme", State::Running, Desired::Running);
        let table = table(std::slice::from_ref(&old)).with_route(2, &deleted, &parameters());
        assert!(table.get("acme").is_none() && table.by_tenant(old.tenant).is_none());
        let table = table.with_route(3, &new, &parameters()).without(4, old.tenant);
        assert_eq!(table.get("acme").unwrap().route, new);
        assert_eq!((table.len(), table.revision), (1, Some(4)));
    }

    #[test]
    fn a_new_slug_replaces_the_old_one() {
        let old = route(1, "acme", State::Running, Desired::Running);
        let renamed = route(1, "acme-two", State::Running, Desired::Running);
        let table = table(&[old]).with_route(2, &renamed, &parameters());
        assert!(table.get("acme").is_none() && table.len() == 1);
        assert_eq!(table.get("acme-two").unwrap().route, renamed);
    }

    #[test]
    fn a_change_of_one_route_makes_no_other_entry_anew() {
        let routes: Vec<_> = (0..1_000)
            .map(|n| route(n, &format!("t-{n}"), State::Running, Desired::Running))
            .collect();
        let before = table(&routes);
        let changed = Route { state: State::Frozen, ..routes[7].clone() };
        let after = before.with_route(2, &changed, &parameters());
        let made = routes.iter().filter(|route| {
            let slug = route.slug.as_str();
            !Arc::ptr_eq(before.get(slug).unwrap(), after.get(slug).unwrap())
        });
        assert_eq!(made.count(), 1);
        assert_eq!(before.get("t-7").unwrap().route, routes[7], "a reader keeps its own table");
        assert_eq!(after.get("t-7").unwrap().route, changed);
    }

    proptest::proptest! {
        /// Deltas one by one lead to the table that a snapshot of their sum makes.
        #[test]
        fn deltas_lead_where_a_snapshot_leads(
            steps in proptest::collection::vec((0_u128..6, 0_u8..4, 0_usize..8, proptest::bool::ANY), 0..60)
        ) {
            let mut held = std::collections::HashMap::new();
            let mut by_deltas = RouteTable::default();
            for (revision, (tenant, slug, state, is_gone)) in (1..).zip(steps) {
                // No two tenants hold one slug at the same time.
                let route = route(
                    tenant,
                    &format!("s-{tenant}-{slug}"),
                    State::ALL[state % State::ALL.len()],
                    Desired::Running,
                );
                if is_gone {
                    held.remove(&route.tenant);
                    by_deltas = by_deltas.without(revision, route.tenant);
                } else {
                    by_deltas = by_deltas.with_route(revision, &route, &parameters());
                    held.insert(route.tenant, route);
                }
            }
            let revision = by_deltas.revision.unwrap_or(0);
            let at_once =
                RouteTable::default().with_snapshot(revision, held.values(), &parameters());
            let listed = |table: &RouteTable| {
                let mut all: Vec<_> = table.routes().cloned().collect();
                all.sort_by_key(|route| route.tenant.to_string());
                all
            };
            proptest::prop_assert_eq!(listed(&by_deltas), listed(&at_once));
            proptest::prop_assert_eq!(by_deltas.len(), at_once.len());
            for route in held.values() {
                let entry = by_deltas.get(route.slug.as_str());
                proptest::prop_assert!(entry.is_some_and(|entry| entry.route == *route));
            }
        }
    }
}

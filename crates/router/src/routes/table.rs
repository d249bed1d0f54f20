//! The routes as one immutable table: built aside, swapped whole, read without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use protocol::State;
use protocol::TenantId;
use protocol::routes::Route;
use protocol::spec::Desired;
use service::Secret;

use crate::clock;
use crate::routes::keys::TenantKeys;
use crate::tenure::Tenure;

/// All that is known at one moment.
#[derive(Clone, Default)]
pub(crate) struct RouteTable {
    by_slug: HashMap<Arc<str>, Arc<RouteEntry>>,
    slugs: HashMap<TenantId, Arc<str>>,
    /// `None` before the first table was read, from app-api or from disk.
    pub(crate) revision: Option<u64>,
}

/// One tenant.
pub(crate) struct RouteEntry {
    pub(crate) route: Route,
    pub(crate) keys: Arc<TenantKeys>,
    /// `None` while nobody has said where it is reached.
    pub(crate) tenure: Option<Arc<Tenure>>,
}

/// What all entries are made with.
pub(crate) struct EntryParameters {
    pub(crate) master: Secret,
    /// How many threads serve.
    pub(crate) threads: usize,
}

/// What the table alone says of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Running,
    /// It sleeps, or is on its way: who keeps it knows more.
    Wakeable,
    /// Its owner wants it so.
    StoppedByOwner,
    /// It should be there, and no request can make it so.
    Down,
}

impl RouteTable {
    pub(crate) fn get(&self, slug: &str) -> Option<&Arc<RouteEntry>> {
        self.by_slug.get(slug)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_slug.len()
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.by_slug.values().map(|entry| &entry.route)
    }

    pub(crate) fn of(&self, tenant: TenantId) -> Option<&Arc<RouteEntry>> {
        self.by_slug.get(self.slugs.get(&tenant)?).filter(|entry| entry.route.tenant == tenant)
    }

    /// The table of `routes`. What stays the same is taken over from `self`: leases and idle connections live on.
    pub(crate) fn next(&self, revision: u64, routes: Vec<Route>, making: &EntryParameters) -> Self {
        let mut slugs = HashMap::with_capacity(routes.len());
        let mut by_slug: HashMap<Arc<str>, Arc<RouteEntry>> = HashMap::with_capacity(routes.len());
        // One on the way out is gone for whoever asks for it, and its slug may be given anew.
        for route in routes.into_iter().filter(|route| route.desired != Desired::Deleted) {
            let slug: Arc<str> = route.slug.as_str().into();
            slugs.insert(route.tenant, slug.clone());
            let entry = RouteEntry::next(self.of(route.tenant), route, making);
            by_slug.insert(slug, entry);
        }
        Self { by_slug, slugs, revision: Some(revision) }
    }

    /// The same, but for where one tenant is reached.
    pub(crate) fn moved(&self, tenure: &Arc<Tenure>) -> Self {
        let mut next = self.clone();
        if let Some(entry) = self.of(tenure.tenant) {
            let (route, keys) = (entry.route.clone(), entry.keys.clone());
            let slug = route.slug.as_str().into();
            let entry = RouteEntry { route, keys, tenure: Some(tenure.clone()) };
            next.by_slug.insert(slug, Arc::new(entry));
        }
        next
    }
}

impl RouteEntry {
    fn next(before: Option<&Arc<Self>>, route: Route, making: &EntryParameters) -> Arc<Self> {
        if let Some(before) = before.filter(|before| before.route == route) {
            return before.clone();
        }
        let keys = before.map_or_else(
            || Arc::new(TenantKeys::derive(&making.master, route.tenant)),
            |before| before.keys.clone(),
        );
        let kept = before.and_then(|before| before.tenure.as_ref()).filter(|t| stays(t, &route));
        let tenure = kept.cloned().or_else(|| {
            let target = (route.generation, route.upstream.clone()?);
            Some(Tenure::new(route.tenant, keys.clone(), target, making.threads))
        });
        Arc::new(Self { route, keys, tenure })
    }

    pub(crate) fn availability(&self) -> Availability {
        match (self.route.desired, self.route.state) {
            (Desired::Stopped | Desired::Deleted, _) => Availability::StoppedByOwner,
            (Desired::Running, State::Running) => Availability::Running,
            (Desired::Running, State::Frozen | State::Sleeping | State::Starting) => {
                Availability::Wakeable
            }
            (
                Desired::Running,
                State::Provisioning | State::Stopped | State::Error | State::Deleting,
            ) => Availability::Down,
        }
    }
}

/// Whether a tenant is reached as before. One that sleeps is where it was, and what a lease says is newer than a table.
fn stays(tenure: &Tenure, route: &Route) -> bool {
    let told = &tenure.target;
    let is_same = told.generation == route.generation
        && route.upstream.as_ref().is_none_or(|upstream| *upstream == told.told);
    is_same || (told.generation >= route.generation && tenure.is_live(clock::now()))
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
        }
    }

    fn making() -> EntryParameters {
        EntryParameters { master: Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa"), threads: 2 }
    }

    fn tenure(table: &RouteTable) -> Arc<Tenure> {
        table.get("acme").unwrap().tenure.clone().unwrap()
    }

    #[test]
    fn who_is_asked_for_by_the_table() {
        let mut lines = String::new();
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            for state in State::ALL {
                let routes = vec![route(1, "acme", state, desired)];
                let table = RouteTable::default().next(1, routes, &making());
                let availability = table.get("acme").map(|entry| entry.availability());
                let availability = availability.map_or("nobody".to_owned(), |s| format!("{s:?}"));
                lines.push_str(&format!("{desired:?} {state}: {availability}\n"));
            }
        }
        insta::assert_snapshot!(lines);
    }

    #[test]
    fn connections_live_on_while_the_tenant_is_the_same_and_never_longer() {
        let first = route(1, "acme", State::Running, Desired::Running);
        let table = RouteTable::default().next(1, vec![first.clone()], &making());
        let same = |after: Route| {
            let next = table.next(2, vec![after], &making());
            next.get("acme")
                .unwrap()
                .tenure
                .as_ref()
                .is_some_and(|t| Arc::ptr_eq(t, &tenure(&table)))
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
    fn what_a_lease_says_wins_over_an_older_table_while_it_lasts() {
        let first = route(1, "acme", State::Running, Desired::Running);
        let table = RouteTable::default().next(1, vec![first.clone()], &making());
        let keys = table.get("acme").unwrap().keys.clone();
        let there = (2, Upstream::Unix("/there".to_owned()));
        let leased = Tenure::new(first.tenant, keys, there.clone(), 2);
        leased.set_until(clock::now().plus(60_000));
        let table = table.moved(&leased);
        assert!(Arc::ptr_eq(&tenure(&table), &leased));
        let late = Route { state: State::Starting, ..first.clone() };
        assert!(Arc::ptr_eq(&tenure(&table.next(2, vec![late.clone()], &making())), &leased));
        let caught_up = Route { generation: 2, upstream: Some(there.1), ..first.clone() };
        assert!(Arc::ptr_eq(&tenure(&table.next(2, vec![caught_up], &making())), &leased));
        let newer = Route { generation: 3, ..first };
        assert!(!Arc::ptr_eq(&tenure(&table.next(2, vec![newer], &making())), &leased));
        leased.set_until(lease::Moment(0));
        assert!(!Arc::ptr_eq(&tenure(&table.next(2, vec![late], &making())), &leased));
    }

    #[test]
    fn a_slug_given_anew_belongs_to_the_new_one() {
        let old = route(1, "acme", State::Deleting, Desired::Deleted);
        let new = route(2, "acme", State::Running, Desired::Running);
        for routes in [vec![old.clone(), new.clone()], vec![new.clone(), old]] {
            let table = RouteTable::default().next(1, routes, &making());
            assert_eq!(table.get("acme").unwrap().route, new);
            assert_eq!(table.len(), 1);
        }
    }
}

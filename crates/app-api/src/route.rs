//! One row of a route table, and the router that a table becomes.

use axum::Router;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::MethodRouter;

use crate::access::Access;
use crate::access::layer::{self, Rule};
use crate::app::App;
use crate::http::describe::Call;

/// The prefixes of the API: the browser's and the programs'. The same handlers answer at both.
pub const API_PREFIXES: [&str; 2] = ["/api/admin", "/v1"];

/// The kind of a route: it decides which credentials count and how an anonymous client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// JSON, for a session or an API key; described by OpenAPI.
    Api,
    /// HTML and assets, for a session.
    Page,
    /// The internal listener, for services.
    Internal,
}

/// The entry of a route in the API's description.
#[derive(Clone, Copy)]
pub struct Description {
    pub summary: &'static str,
    pub describe: fn(&mut Call),
}

/// One row: a method and path with the access that they require. A row without access does not compile.
#[derive(Clone)]
pub struct Route {
    pub method: Method,
    /// Below each of `prefixes`.
    path: &'static str,
    prefixes: &'static [&'static str],
    pub surface: Surface,
    pub access: Access,
    /// `None` for a route that is no API.
    pub description: Option<Description>,
    handler: fn() -> MethodRouter<App>,
}

impl Route {
    /// A route at one path that is no API.
    ///
    /// # Panics
    /// At compile time, when the access is about a tenant and the path names none.
    pub const fn new(
        surface: Surface,
        method: Method,
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<App>,
    ) -> Self {
        assert!(!access.needs_tenant() || names_tenant(path), "the path names no tenant");
        Self { method, path, prefixes: &[""], surface, access, description: None, handler }
    }

    /// A route of the API at one path.
    ///
    /// # Panics
    /// Like [`Self::new`].
    pub const fn call(
        method: Method,
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<App>,
        description: Description,
    ) -> Self {
        let mut route = Self::new(Surface::Api, method, path, access, handler);
        route.description = Some(description);
        route
    }

    /// Mounts the route below each of [`API_PREFIXES`].
    #[must_use]
    pub const fn below_api_prefixes(mut self) -> Self {
        self.prefixes = &API_PREFIXES;
        self
    }

    /// Each path at which the route is mounted.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.prefixes.iter().map(|prefix| format!("{prefix}{}", self.path))
    }

    pub fn names_tenant(&self) -> bool {
        names_tenant(self.path)
    }

    /// Whether the route only takes access away: ends a session, a key or an invitation.
    pub fn is_revocation(&self) -> bool {
        const DELETED: [&str; 5] =
            ["/sessions", "/sessions/{id}", "/keys/{id}", "/passkeys/{id}", "/invitations/{id}"];
        let ends_with = |end: &str| self.path.ends_with(end);
        ends_with("/revoke")
            || ends_with("/sign-out")
            || (self.method == Method::DELETE && DELETED.into_iter().any(ends_with))
    }
}

/// Whether the path has the segment `{slug}`.
const fn names_tenant(path: &str) -> bool {
    const SEGMENT: &[u8] = b"{slug}";
    let path = path.as_bytes();
    let mut start = 0;
    while start + SEGMENT.len() <= path.len() {
        let mut matched = 0;
        while matched < SEGMENT.len() && path[start + matched] == SEGMENT[matched] {
            matched += 1;
        }
        if matched == SEGMENT.len() {
            return true;
        }
        start += 1;
    }
    false
}

/// A router of these routes, each behind its access check.
pub fn mount(app: &App, routes: &[Route]) -> Router<App> {
    let mut router = Router::new();
    for route in routes {
        for path in route.paths() {
            let handler = (route.handler)();
            let handler = if route.access == Access::Public {
                handler
            } else {
                let rule = Rule {
                    app: app.clone(),
                    access: route.access,
                    surface: route.surface,
                    names_tenant: route.names_tenant(),
                    is_revocation: route.is_revocation(),
                };
                handler.route_layer(from_fn_with_state(rule, layer::check))
            };
            router = router.route(&path, handler);
        }
    }
    router
}

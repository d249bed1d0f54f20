//! The handlers of the internal listener: the route feed for the router, the responses that it counts, and metrics.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use protocol::response_counts::{CountedTenants, ResponseCounts};
use protocol::{State as TenantState, TenantId};
use service::api_error::ApiError;
use service::descriptors::open_files;
use service::metrics::{self, Bounded, Samples};

use crate::app::App;
use crate::auth::throttle::Throttle;
use crate::db::rollout;
use crate::http::extract::Json;
use crate::reconcile::MAX_CONCURRENT_RUNS;

/// The feed of routes, for the router.
pub async fn watch_routes(State(app): State<App>) -> Result<Response, ApiError> {
    Ok(app.until_stop(app.routes.watch_response()?))
}

/// Records how tenants answered, as a router counted it, and names those whose counts the rollouts need.
pub async fn count_responses(
    State(app): State<App>,
    body: Json<ResponseCounts>,
) -> Result<axum::Json<CountedTenants>, ApiError> {
    let mut conn = app.conn().await?;
    let counts = &body.value.tenants;
    if !counts.is_empty() {
        rollout::add_responses(&mut conn, counts).await?;
    }
    let tenants = rollout::counted_tenants(&mut conn).await?;
    let tenants = tenants.into_iter().map(TenantId::new).collect();
    Ok(axum::Json(CountedTenants { tenants }))
}

/// The metrics of this process, in the text format of Prometheus.
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let mut registry = Registry::with_prefix("cial");
    register_gauges(&mut registry, &app);
    register_bounded(&mut registry, &app);
    for (name, help, value) in [
        (
            "password_verifications",
            "Passwords verified since the start",
            app.passwords.verifications(),
        ),
        (
            "password_hashes",
            "Password hashes since the start, verifications included",
            app.passwords.hashes(),
        ),
    ] {
        registry.register(name, help, ConstCounter::new(value));
    }
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&registry))
}

fn register_gauges(registry: &mut Registry, app: &App) {
    let routes = app.routes.list();
    let tenants = TenantState::ALL.map(|state| {
        ([("state", state.as_str())], routes.iter().filter(|route| route.state == state).count())
    });
    registry.register("tenants", "Tenants by state", Samples::gauges(tenants));
    for (name, help, value) in [
        ("routes_revision", "Revision of the route feed", app.routes.revision()),
        ("database_ready", "1 once the database is migrated", app.is_database_ready().into()),
        (
            "orchestrator_connected",
            "1 while the watch of the orchestrator is connected",
            app.observed.is_connected().into(),
        ),
    ] {
        registry.register(name, help, ConstGauge::new(value));
    }
}

fn register_bounded(registry: &mut Registry, app: &App) {
    let (passwords, pool) = (app.passwords.load(), app.database.pool_load());
    let (runs, cells) = (app.reconcile.runs(), app.throttle.cells_used());
    let (public, internal) = (&app.public_connections, &app.internal_connections);
    let (descriptor_limit, descriptors) = open_files();
    for (name, help, current, limit) in [
        ("database_pool", "Connections to the database in use", pool.current, pool.limit),
        ("password_hashes", "Password hashes that run", passwords.running, passwords.max_running),
        ("password_queue", "Password hashes that wait", passwords.queued, passwords.max_queued),
        ("connections", "Connections of the public listener", public.current(), public.limit()),
        (
            "internal_connections",
            "Connections of the internal listener",
            internal.current(),
            internal.limit(),
        ),
        ("descriptors", "Open file descriptors", descriptors.unwrap_or_default(), descriptor_limit),
        (
            "throttle_cells",
            "Cells of the sign-in throttle that hold a count",
            cells,
            Throttle::cells_limit(),
        ),
        ("reconcile_runs", "Reconcile runs under way", runs, MAX_CONCURRENT_RUNS),
    ] {
        Bounded { current, limit }.register(registry, name, help);
    }
}

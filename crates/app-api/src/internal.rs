//! The handlers of the internal listener: the route feed for the router, and metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::response::Response;
use protocol::State as TenantState;
use service::api_error::ApiError;
use service::descriptors::open_files;

use crate::app::App;
use crate::auth::throttle::Throttle;
use crate::reconcile::MAX_CONCURRENT_RUNS;

/// The feed of routes, for the router.
pub async fn watch_routes(State(app): State<App>) -> Result<Response, ApiError> {
    Ok(app.until_stop(app.routes.watch_response()?))
}

/// The metrics of this process, in the text format of Prometheus.
pub async fn metrics(State(app): State<App>) -> String {
    let mut text = String::new();
    let mut counts: BTreeMap<_, u32> = TenantState::ALL.map(|s| (s.as_str(), 0)).into();
    for route in app.routes.list() {
        *counts.entry(route.state.as_str()).or_default() += 1;
    }
    describe(&mut text, "cial_tenants", "gauge", "Tenants by state.");
    for (state, count) in counts {
        let _ = writeln!(text, "cial_tenants{{state=\"{state}\"}} {count}");
    }
    let passwords = app.passwords.load();
    let pool = app.database.pool_load();
    let open_files = open_files();
    let gauges = [
        ("cial_routes_revision", "Revision of the route feed.", app.routes.revision()),
        ("cial_database_ready", "1 once the database is migrated.", app.is_database_ready().into()),
        (
            "cial_orchestrator_connected",
            "1 while the watch of the orchestrator is connected.",
            app.observed.is_connected().into(),
        ),
        ("cial_database_pool_limit", "Connections that the pool may open.", count(pool.limit)),
        ("cial_database_pool_current", "Connections that are in use.", count(pool.current)),
        (
            "cial_password_hashes_limit",
            "Password hashes that may run at once.",
            count(passwords.max_running),
        ),
        ("cial_password_hashes_current", "Password hashes that run.", count(passwords.running)),
        (
            "cial_password_queue_limit",
            "Password hashes that may wait.",
            count(passwords.max_queued),
        ),
        ("cial_password_queue_current", "Password hashes that wait.", count(passwords.queued)),
        (
            "cial_connections_limit",
            "Connections that the public listener may hold.",
            count(app.public_connections.limit()),
        ),
        (
            "cial_connections_current",
            "Connections that the public listener holds.",
            count(app.public_connections.current()),
        ),
        (
            "cial_internal_connections_limit",
            "Connections that the internal listener may hold.",
            count(app.internal_connections.limit()),
        ),
        (
            "cial_internal_connections_current",
            "Connections that the internal listener holds.",
            count(app.internal_connections.current()),
        ),
        ("cial_descriptors_limit", "Descriptors that the process may open.", count(open_files.0)),
        (
            "cial_descriptors_current",
            "Open file descriptors.",
            count(open_files.1.unwrap_or_default()),
        ),
        (
            "cial_throttle_cells_limit",
            "Cells of the sign-in throttle.",
            count(Throttle::cells_limit()),
        ),
        (
            "cial_throttle_cells_current",
            "Cells of the sign-in throttle that hold a count.",
            count(app.throttle.cells_used()),
        ),
        (
            "cial_reconcile_runs_limit",
            "Reconcile runs that may run at once.",
            count(MAX_CONCURRENT_RUNS),
        ),
        ("cial_reconcile_runs_current", "Reconcile runs that run.", count(app.reconcile.runs())),
    ];
    for (name, help, value) in gauges {
        describe(&mut text, name, "gauge", help);
        let _ = writeln!(text, "{name} {value}");
    }
    let counters = [
        (
            "cial_password_verifications_total",
            "Passwords verified since the start.",
            app.passwords.verifications(),
        ),
        (
            "cial_password_hashes_total",
            "Password hashes since the start, verifications included.",
            app.passwords.hashes(),
        ),
    ];
    for (name, help, value) in counters {
        describe(&mut text, name, "counter", help);
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

fn describe(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

//! The cost of one route's change in the table of all routes, beside a rebuilt table. Prints one
//! JSON object per size of the table; `cargo xtask bench routes` shows them beside their bars.

use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use protocol::orchestrator::Upstream;
use protocol::routes::Route;
use protocol::spec::Desired;
use protocol::{State, TenantId};
use router::{EntryParameters, RouteTable};
use service::Secret;
use uuid::Uuid;

const SIZES: [usize; 2] = [1_000, 10_000];
const CHANGES: usize = 5_000;
const REBUILDS: usize = 20;
/// The golden ratio of 2^128.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834;

fn main() -> Result<(), Box<dyn Error>> {
    for size in SIZES {
        let figures = measure_table(size)?;
        writeln!(std::io::stdout(), "{figures}")?;
    }
    Ok(())
}

fn measure_table(size: usize) -> Result<serde_json::Value, Box<dyn Error>> {
    let secret = Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa");
    let parameters = EntryParameters { master: secret, threads: 2 };
    let mut routes = (0..size).map(route).collect::<Result<Vec<_>, _>>()?;
    let mut table = RouteTable::default().with_snapshot(1, routes.iter(), &parameters);
    // Each change meets another entry, and each is a change.
    let changed: Vec<Route> = (0..CHANGES)
        .map(|n| {
            let at = n * 7_919 % size;
            let is_frozen = routes[at].state == State::Frozen;
            routes[at].state = if is_frozen { State::Running } else { State::Frozen };
            routes[at].clone()
        })
        .collect();
    let mut time = Duration::ZERO;
    let change = measure(|| {
        let start = now();
        for (revision, route) in (2..).zip(&changed) {
            table = table.with_route(revision, route, &parameters);
        }
        time = start.elapsed();
    });
    let per_change = time / u32::try_from(CHANGES)?;
    // Every entry is taken over: the least that a table without sharing would cost per change.
    let rebuild = measure(|| {
        let start = now();
        for _ in 0..REBUILDS {
            black_box(table.with_snapshot(2, black_box(&routes).iter(), &parameters));
        }
        time = start.elapsed();
    });
    let per_rebuild = time / u32::try_from(REBUILDS)?;
    let each = |count: u64, times: usize| count as f64 / times as f64;
    Ok(serde_json::json!({
        "routes": size,
        "change_us": per_change.as_secs_f64() * 1e6,
        "change_allocations": each(change.count_total, CHANGES),
        "change_bytes": each(change.bytes_total, CHANGES),
        "rebuild_us": per_rebuild.as_secs_f64() * 1e6,
        "rebuild_allocations": each(rebuild.count_total, REBUILDS),
        "rebuild_bytes": each(rebuild.bytes_total, REBUILDS),
    }))
}

fn route(number: usize) -> Result<Route, Box<dyn Error>> {
    Ok(Route {
        // Spread as real ids are.
        tenant: TenantId::new(Uuid::from_u128((number as u128).wrapping_mul(SPREAD))),
        slug: format!("tenant-{number}").parse()?,
        generation: 1,
        desired: Desired::Running,
        state: State::Running,
        upstream: Some(Upstream::Unix(format!("/run/cial/sockets/{number}/edge.sock"))),
        sign_in_url: None,
        requires_sign_in: false,
    })
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

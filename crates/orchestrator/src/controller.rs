//! The parts of the orchestrator, wired together, and the loop that drives them.
//!
//! ```text
//!  SleepController ──► Operations ──► TenantStore ──► (TenantObserver)
//!        │                 │  (OwnerIntents)               │
//!        └────────────────►└──────────────► LeaseService ◄─┘
//! ```
//!
//! Each part has one lock and holds only the parts that an arrow leads to, so that locks are always taken along the arrows:
//! turns, then tenants, then leases. A part in parentheses is a trait with the few methods that the caller may use.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use service::connections::Connections;
use service::metrics::Bounded;
use tokio::time::MissedTickBehavior;

use crate::commands::{CommandKind, Commands};
use crate::descriptors;
use crate::driver::Driver;
use crate::metrics::{BoundedGauge, Gauges, Metrics};
use crate::operations::Operations;
use crate::sleep::{LeaseService, SleepController, SleepSettings};
use crate::tenants::state_dir::StateDir;
use crate::tenants::{MAX_TOMBSTONES, TenantStore};

pub struct Controller {
    pub store: Arc<TenantStore>,
    pub operations: Arc<Operations>,
    pub sleep: Arc<SleepController>,
    pub commands: Arc<Commands>,
    metrics: Arc<Metrics>,
}

/// After this time the resync finds what no event reported.
const RESYNC_INTERVAL: Duration = Duration::from_secs(10);
/// A check reads the free space of the disk, and measures the volumes only when much of it is gone.
const DISK_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// A crash loses at most this much, and a lease, of a tenant's idle time.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

impl Controller {
    /// `epoch`: now, in milliseconds since 1970; later than that of any earlier process on the same `state_dir`. Must be called
    /// inside a runtime.
    pub fn new(
        driver: Arc<dyn Driver>,
        state_dir: StateDir,
        epoch: u64,
        settings: SleepSettings,
    ) -> Arc<Self> {
        match state_dir.recover() {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "temporary state files removed"),
            Err(error) => tracing::warn!(%error, "state files of earlier processes not recovered"),
        }
        let metrics = Arc::new(Metrics::default());
        let (leases, commands) = LeaseService::new(epoch, settings);
        let leases = Arc::new(leases);
        let store = TenantStore::new(state_dir, epoch, leases.clone(), metrics.clone());
        let store = Arc::new(store);
        let operations = Arc::new(Operations::new(
            driver,
            store.clone(),
            leases.clone(),
            settings.concurrent_starts,
            metrics.clone(),
        ));
        let sleep = SleepController::new(
            leases,
            commands,
            store.clone(),
            operations.clone(),
            metrics.clone(),
        );
        let commands = Arc::new(Commands::new());
        Arc::new(Self { store, operations, sleep: Arc::new(sleep), commands, metrics })
    }

    /// Follows the engine and executes commands, for as long as it is polled. A second call on the same controller ends at
    /// once.
    pub async fn run(self: Arc<Self>) {
        let Some(mut commands) = self.sleep.take_commands() else { return };
        let revocations = self.operations.revocations().run();
        tokio::pin!(revocations);
        let mut events = self.operations.watch_engine();
        let mut resync = tokio::time::interval(RESYNC_INTERVAL);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut save = tokio::time::interval(SAVE_INTERVAL);
        save.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut disk = tokio::time::interval(DISK_CHECK_INTERVAL);
        // A process that starts has more urgent calls for the engine than a measurement.
        disk.reset();
        disk.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.operations.on_engine_event(event),
                    None => return,
                },
                Some(command) = commands.recv() => self.sleep.execute(command),
                () = self.sleep.run_timer() => {}
                () = &mut revocations => return,
                _ = resync.tick() => self.operations.resync_later(),
                _ = save.tick() => self.sleep.save_states(),
                _ = disk.tick() => self.operations.check_disk_later(),
            }
        }
    }

    /// The response to `/metrics`. `connections`: those of the listener that serves it, if any.
    pub fn metrics_text(&self, connections: Option<&Connections>) -> String {
        let tenants = self.store.feed().map(|feed| feed.list()).unwrap_or_default();
        let (leases, settings) = (self.sleep.gauges(), self.sleep.settings());
        let calls = self.operations.gauges();
        let (suspends, thaws) = (self.sleep.active_suspends(), leases.thaws);
        let engine_calls = vec![
            // Includes the starts that owners request.
            ("start", calls.starts),
            ("thaw", Bounded { current: thaws, limit: settings.concurrent_thaws }),
            ("sleep", Bounded { current: suspends, limit: settings.concurrent_suspends }),
            ("other", calls.other),
        ];
        let mut bounded = vec![
            BoundedGauge {
                name: "busy_checks",
                help: "Busy checks under way",
                value: calls.busy_checks,
            },
            BoundedGauge {
                name: "volume_transfers",
                help: "Exports and imports of volumes under way",
                value: calls.transfers,
            },
            BoundedGauge::new(
                "wake_queue",
                "Wakes that wait for their call at the engine",
                leases.queued_wakes,
                settings.queued_wakes,
            ),
            BoundedGauge::new(
                "lease_requests_waiting",
                "Lease requests that wait for a wake",
                leases.waiters,
                settings.waiters,
            ),
            BoundedGauge::new(
                "commands",
                "Commands that people run in tenants",
                self.commands.current(CommandKind::Person),
                CommandKind::Person.limit(),
            ),
            BoundedGauge::new(
                "tasks",
                "Tasks of workflows that run in tenants",
                self.commands.current(CommandKind::Task),
                CommandKind::Task.limit(),
            ),
            BoundedGauge::new(
                "tombstones",
                "Deleted tenants that are remembered",
                self.store.tombstone_count(),
                MAX_TOMBSTONES,
            ),
        ];
        bounded.extend(connections.map(|connections| {
            let (current, limit) = (connections.current(), connections.limit());
            BoundedGauge::new("connections", "Connections to the API", current, limit)
        }));
        bounded.extend(descriptors::gauge());
        let gauges = Gauges { leases: leases.leases, starts: leases.starts, engine_calls, bounded };
        self.metrics.text(&tenants, &gauges)
    }
}

//! Tries the program of an image once, in a throw-away tenant that nobody else sees.
//!
//! The id of that tenant has a version that no other tenant's has. So a process recognizes what an earlier one left on
//! the engine, and removes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use protocol::TenantId;
use protocol::orchestrator::Exit;
use protocol::process::{PrepareImage, PreparedImage};
use protocol::spec::{Limits, Policy, Spec};
use tokio::time::timeout;
use uuid::{Builder, Uuid};

use super::Operations;
use crate::driver::{DriverError, DriverErrorCode, EngineEvent, LogOptions, LogStream};

/// How long the program may take to get ready. The command line waits for one minute in all.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the program must stay ready, so that one that is ready and then ends is found.
const SETTLE_TIME: Duration = Duration::from_secs(2);
const LOG_LINES: u32 = 20;
const MAX_LOG_BYTES: usize = 4 << 10;
/// The engine ends a log by itself. Much longer than a loaded machine takes, and within the minute of the command line.
const LOG_TIMEOUT: Duration = Duration::from_secs(20);
const THROW_AWAY_VERSION: usize = 8;
const SLUG: &str = "smoke-start";

/// One smoke start at a time.
#[derive(Default)]
pub(super) struct SmokeStarts {
    turn: tokio::sync::Mutex<()>,
    under_way: Mutex<Option<TenantId>>,
}

impl SmokeStarts {
    fn set(&self, id: Option<TenantId>) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    fn is_under_way(&self, id: TenantId) -> bool {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) == Some(id)
    }
}

/// The reason why the program of an image does not run.
enum ProgramError {
    Ended(Exit),
    NotReady,
}

pub(super) fn is_throw_away(id: TenantId) -> bool {
    id.uuid().get_version_num() == THROW_AWAY_VERSION
}

fn throw_away_id() -> TenantId {
    TenantId::new(Builder::from_custom_bytes(*Uuid::new_v4().as_bytes()).into_uuid())
}

impl Operations {
    /// Checks that an image of the engine can run an app, makes it ready for tenants, and tries its program when that is
    /// requested. The caller must let this run to its end; otherwise the throw-away tenant would stay.
    pub(super) async fn check_and_try(
        &self,
        request: &PrepareImage,
    ) -> Result<PreparedImage, DriverError> {
        let PrepareImage { image, app, smoke_start, app_env, .. } = request;
        let prepared = self.driver.prepare_image(image, app).await?;
        let Some(env) = smoke_start else { return Ok(prepared) };
        let spec = Spec {
            id: throw_away_id(),
            slug: SLUG.parse().map_err(|_| internal("the slug of a smoke start is none"))?,
            generation: 1,
            image: Some(prepared.image_id.clone()),
            env: env.clone(),
            sealed_env: None,
            app_env: app_env.clone(),
            database_user: None,
            app: Some(app.clone()),
            limits: Limits::default(),
            policy: Policy::default(),
        };
        self.smoke_start(&spec).await?;
        // The wrapped image went with its only container.
        self.driver.prepare_image(&prepared.image_id, app).await?;
        Ok(prepared)
    }

    async fn smoke_start(&self, spec: &Spec) -> Result<(), DriverError> {
        let _turn = self.smoke_starts.turn.lock().await;
        self.smoke_starts.set(Some(spec.id));
        let tried = self.try_program(spec).await;
        if let Err(error) = self.driver.remove(spec.id).await {
            // The next listing of the engine removes what is left.
            tracing::warn!(tenant = %spec.id, %error, "throw-away tenant not removed");
        }
        self.smoke_starts.set(None);
        tried
    }

    async fn try_program(&self, spec: &Spec) -> Result<(), DriverError> {
        let mut events = self.driver.watch();
        self.driver.ensure(spec).await?;
        let permit = self.starts.acquire().await;
        self.driver.start(spec).await?;
        drop(permit);
        match self.stays_ready(&mut events, spec.id).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let log = self.end_of_log(spec.id, LOG_LINES, MAX_LOG_BYTES).await;
                let detail = describe(&error, &log);
                Err(DriverError::new(DriverErrorCode::ProgramFailed, detail))
            }
        }
    }

    async fn stays_ready(
        &self,
        events: &mut BoxStream<'static, EngineEvent>,
        id: TenantId,
    ) -> Result<(), ProgramError> {
        let ready = timeout(READY_TIMEOUT, self.until_ready(events, id)).await;
        ready.unwrap_or(Err(ProgramError::NotReady))?;
        match timeout(SETTLE_TIME, until_ended(events, id)).await {
            Ok(exit) => Err(ProgramError::Ended(exit)),
            Err(_) => Ok(()),
        }
    }

    async fn until_ready(
        &self,
        events: &mut BoxStream<'static, EngineEvent>,
        id: TenantId,
    ) -> Result<(), ProgramError> {
        while let Some(event) = events.next().await {
            match event {
                EngineEvent::Ready { id: of, .. } if of == id => return Ok(()),
                EngineEvent::Died { id: of, exit, .. } if of == id => {
                    return Err(ProgramError::Ended(exit));
                }
                EngineEvent::EventsMissed | EngineEvent::Reconnected => {
                    let status = self.driver.inspect(id).await.ok().flatten();
                    if status.is_some_and(|status| status.ready) {
                        return Ok(());
                    }
                }
                EngineEvent::Ready { .. }
                | EngineEvent::Died { .. }
                | EngineEvent::Changed(_)
                | EngineEvent::Disconnected(_) => {}
            }
        }
        Err(ProgramError::NotReady)
    }

    /// The last lines of the tenant's log, as far as they can be read.
    pub(super) async fn end_of_log(&self, id: TenantId, lines: u32, max_bytes: usize) -> String {
        let options = LogOptions { tail: Some(lines), ..LogOptions::default() };
        let bytes = read_in_time(self.driver.logs(id, options)).await;
        let end = &bytes[bytes.len().saturating_sub(max_bytes)..];
        printable(&String::from_utf8_lossy(end))
    }

    /// Removes a throw-away tenant that a listing shows, unless a smoke start needs it.
    pub(super) fn remove_left_smoke_start(self: &Arc<Self>, id: TenantId) {
        if self.smoke_starts.is_under_way(id) {
            return;
        }
        let operations = self.clone();
        tokio::spawn(async move {
            match operations.driver.remove(id).await {
                Ok(()) => tracing::info!(tenant = %id, "left smoke start removed"),
                Err(error) => {
                    tracing::warn!(tenant = %id, %error, "left smoke start not removed");
                }
            }
        });
    }
}

/// Reads a log to its end, or until a timeout.
async fn read_in_time(log: impl Future<Output = Result<LogStream, DriverError>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async {
        let Ok(mut pieces) = log.await else { return };
        while let Some(piece) = pieces.next().await {
            bytes.extend(piece.unwrap_or_default());
        }
    };
    let _ = timeout(LOG_TIMEOUT, read).await;
    bytes
}

async fn until_ended(events: &mut BoxStream<'static, EngineEvent>, id: TenantId) -> Exit {
    while let Some(event) = events.next().await {
        if let EngineEvent::Died { id: of, exit, .. } = event
            && of == id
        {
            return exit;
        }
    }
    // The driver is ending, and with it this process.
    std::future::pending().await
}

fn describe(error: &ProgramError, log: &str) -> String {
    let what = match error {
        ProgramError::Ended(exit) if exit.out_of_memory => {
            "The program was killed for want of memory when it was tried.".to_owned()
        }
        ProgramError::Ended(exit) => {
            let when =
                if exit.was_ready { "soon after it was ready" } else { "before it was ready" };
            format!("The program ended {when}; its tenant exited with code {}.", exit.code)
        }
        ProgramError::NotReady => {
            format!("The program was not ready within {} seconds.", READY_TIMEOUT.as_secs())
        }
    };
    if log.is_empty() { what } else { format!("{what} The last lines of its log:\n{log}") }
}

/// Removes what could control the terminal that shows a log, and NUL, which no database stores.
fn printable(log: &str) -> String {
    let is_printed = |c: &char| matches!(c, '\n' | '\t') || !c.is_control();
    log.trim_end().chars().filter(is_printed).collect()
}

fn internal(why: &str) -> DriverError {
    DriverError::new(DriverErrorCode::Internal, why)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_line_of_a_log_is_read_from_a_slow_engine() {
        let line = |text: &'static str| std::io::Result::Ok(Bytes::from_static(text.as_bytes()));
        let first = || stream::iter([line("first\n")]);
        let slow = first().chain(stream::once(async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            line("last\n")
        }));
        let endless = first().chain(stream::pending());
        for (log, expected) in [(slow.boxed(), "first\nlast\n"), (endless.boxed(), "first\n")] {
            let read = read_in_time(std::future::ready(Ok(log))).await;
            assert_eq!(String::from_utf8(read).unwrap(), expected);
        }
    }

    #[test]
    fn a_log_controls_no_terminal() {
        assert_eq!(printable("a\x1b[31mred\0\r\n\tb\n\n"), "a[31mred\n\tb");
    }
}

//! The orchestrator as tests need it: silent, obedient, or by a script that must be used up.

use std::collections::VecDeque;
use std::sync::Mutex;

use app_api::orchestrator::{Listener, Orchestrator};
use axum::body::Body;
use futures_util::future::BoxFuture;
use protocol::orchestrator::{ApplyRequest, Exit, ObservedTenant, Phase, Upstream};
use protocol::sleep::{SleepStatus, SleepStatusList};
use protocol::watch::Message;
use protocol::{Problem, TenantId, Timestamp};
use service::client::CallError;
use service::watch::{Feed, WatchEnded};
use tokio::sync::watch;

/// A call as the script expects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Run,
    Restart,
    Wake,
    Stop,
    Remove,
}

/// What comes of a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Done; the tenant is seen so.
    Seen(Phase),
    /// Done; the tenant is seen so, of the generation after the first.
    Newer(Phase),
    /// Done; nothing of it is left.
    Gone,
    Refused(u16, &'static str),
    /// Done, but the answer is lost.
    DoneUnanswered(Phase),
}

enum Mind {
    Obedient,
    Script(VecDeque<(Call, Reply)>),
}

pub(crate) struct Fake {
    mind: Mutex<Mind>,
    feed: Feed<ObservedTenant>,
    heard: watch::Sender<bool>,
    calls: Mutex<Vec<Call>>,
    faults: Mutex<Vec<String>>,
    pub(crate) specs: Mutex<Vec<ApplyRequest>>,
    /// What it says of who sleeps; `None`: it is asked and never answers.
    pub(crate) sleeps: Mutex<Option<Vec<SleepStatus>>>,
}

impl Fake {
    fn new(mind: Mind, heard: bool) -> Self {
        Self {
            mind: Mutex::new(mind),
            feed: Feed::new(1),
            heard: watch::Sender::new(heard),
            calls: Mutex::default(),
            faults: Mutex::default(),
            specs: Mutex::default(),
            sleeps: Mutex::new(Some(Vec::new())),
        }
    }

    /// Cannot be reached.
    pub(crate) fn silent() -> Self {
        Self::new(Mind::Obedient, false)
    }

    /// Whatever is asked comes true at once.
    pub(crate) fn obedient() -> Self {
        Self::new(Mind::Obedient, true)
    }

    pub(crate) fn scripted(script: &[(Call, Reply)]) -> Self {
        Self::new(Mind::Script(script.iter().cloned().collect()), true)
    }

    /// It can be reached from now on, or not any more.
    pub(crate) fn be_heard(&self, heard: bool) {
        self.heard.send_replace(heard);
    }

    /// Something happens on the engine.
    pub(crate) fn show(&self, observed: ObservedTenant) {
        self.feed.put(observed);
    }

    pub(crate) fn show_gone(&self, id: TenantId) {
        self.feed.remove(&id);
    }

    pub(crate) fn seen(&self, id: TenantId) -> Option<ObservedTenant> {
        self.feed.get(&id)
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The whole script was played, and nothing beside it.
    pub(crate) fn verify(&self) {
        assert_eq!(*self.faults.lock().unwrap(), Vec::<String>::new());
        if let Mind::Script(left) = &*self.mind.lock().unwrap() {
            assert!(left.is_empty(), "not called: {left:?}");
        }
    }

    fn reply(&self, call: Call) -> Reply {
        self.calls.lock().unwrap().push(call);
        match &mut *self.mind.lock().unwrap() {
            Mind::Obedient => match call {
                Call::Run | Call::Restart | Call::Wake => Reply::Seen(Phase::Ready),
                Call::Stop => Reply::Seen(Phase::Stopped),
                Call::Remove => Reply::Gone,
            },
            Mind::Script(script) => match script.pop_front() {
                Some((expected, reply)) if expected == call => reply,
                other => {
                    self.faults.lock().unwrap().push(format!("{call:?} instead of {other:?}"));
                    Reply::Refused(500, "off_script")
                }
            },
        }
    }

    fn play(&self, id: TenantId, call: Call) -> Result<Option<ObservedTenant>, CallError> {
        if !*self.heard.borrow() {
            return Err(CallError::Unreachable("connection refused".into()));
        }
        match self.reply(call) {
            Reply::Seen(phase) => {
                let seen = observed(id, phase);
                self.feed.put(seen.clone());
                Ok(Some(seen))
            }
            Reply::Newer(phase) => {
                let seen = ObservedTenant { generation: 2, ..observed(id, phase) };
                self.feed.put(seen.clone());
                Ok(Some(seen))
            }
            Reply::Gone => {
                self.feed.remove(&id);
                Ok(None)
            }
            Reply::DoneUnanswered(phase) => {
                self.feed.put(observed(id, phase));
                Err(CallError::Unreachable("the connection broke off".into()))
            }
            Reply::Refused(status, code) => {
                let detail = format!("The engine says {code}.");
                Err(CallError::Refused(Box::new(Problem::new(status, code, "No", detail))))
            }
        }
    }
}

pub(crate) fn observed(id: TenantId, phase: Phase) -> ObservedTenant {
    let up = matches!(phase, Phase::Ready | Phase::Starting);
    ObservedTenant {
        id,
        generation: 1,
        phase,
        container_id: format!("container-of-{id}"),
        container_port: up.then_some(41_234),
        upstream: up.then(|| Upstream::Unix(format!("/run/cial/sockets/{id}/edge.sock"))),
        image_outdated: false,
        exits: 0,
        last_exit: None,
        reason: None,
    }
}

/// Its `n`th exit by itself, `n` seconds in.
pub(crate) fn crashed(id: TenantId, n: u32) -> ObservedTenant {
    let at = Timestamp::from_timestamp(1_700_000_000 + i64::from(n), 0).unwrap();
    let exit = Exit { at, code: 3, out_of_memory: false, was_ready: false };
    ObservedTenant { exits: n, last_exit: Some(exit), ..observed(id, Phase::Starting) }
}

impl Orchestrator for Fake {
    fn apply<'a>(
        &'a self,
        id: TenantId,
        apply: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<ObservedTenant, CallError>> {
        Box::pin(async move {
            self.specs.lock().unwrap().push(apply.clone());
            let call = if apply.restart { Call::Restart } else { Call::Run };
            let seen = self.play(id, call)?;
            seen.ok_or_else(|| CallError::Unexpected("a start that leaves nothing".into()))
        })
    }

    fn wake(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move { self.play(id, Call::Wake).map(drop) })
    }

    fn sleep(&self, id: TenantId) -> BoxFuture<'_, Result<SleepStatus, CallError>> {
        Box::pin(async move {
            let said = self.sleeps().await?.tenants.into_iter().find(|s| s.tenant == id);
            said.ok_or_else(|| {
                CallError::Refused(Box::new(Problem::new(404, "no_such_tenant", "No", "")))
            })
        })
    }

    fn sleeps(&self) -> BoxFuture<'_, Result<SleepStatusList, CallError>> {
        Box::pin(async move {
            let said = self.sleeps.lock().unwrap().clone();
            match said {
                Some(tenants) => Ok(SleepStatusList { tenants }),
                None => std::future::pending().await,
            }
        })
    }

    fn stop(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move { self.play(id, Call::Stop).map(drop) })
    }

    fn remove(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move { self.play(id, Call::Remove).map(drop) })
    }

    fn logs<'a>(&'a self, id: TenantId, query: &'a str) -> BoxFuture<'a, Result<Body, CallError>> {
        Box::pin(async move { Ok(Body::from(format!("[edge] log of {id}, {query}\n"))) })
    }

    fn watch<'a>(&'a self, tell: Listener<'a>) -> BoxFuture<'a, WatchEnded> {
        Box::pin(async move {
            let mut heard = self.heard.subscribe();
            let _ = heard.wait_for(|heard| *heard).await;
            let mut lines = self.feed.bell();
            tell(Message::Snapshot { revision: self.feed.revision(), items: self.feed.list() });
            loop {
                tokio::select! {
                    line = lines.recv() => tell(line.unwrap()),
                    _ = heard.wait_for(|heard| !*heard) => break,
                }
            }
            WatchEnded::Broken("cut".into())
        })
    }
}

//! The orchestrator's side of the service `quota`. Without the service, or after a failure, limits are measured.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connect::connect_unix;
use protocol::TenantId;
use protocol::orchestrator::QuotaService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::wire::{QuotaError, QuotaRequest, QuotaResponse, TenantQuota, VolumeUse};
use crate::driver::DiskQuota;

/// Bounds one call: a change waits for the filesystem to write what it has. A caller that waits no longer may start the
/// tenant, so the service must have left its volumes alone by then.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
const _: () = assert!(CALL_TIMEOUT.as_secs() >= 2 * super::CHANGE_TIMEOUT.as_secs());
/// Far above the size of a list of ten thousand tenants.
const MAX_RESPONSE_BYTES: u64 = 16 << 20;

pub struct QuotaClient {
    socket: PathBuf,
    observed: Mutex<Observed>,
}

/// The result of the last calls.
#[derive(Default)]
struct Observed {
    service: QuotaService,
    quotas: HashMap<TenantId, DiskQuota>,
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("the installation does not run the service quota")]
    Absent,
    #[error(transparent)]
    Refused(QuotaError),
    #[error("the service quota does not respond: {0}")]
    NoResponse(io::Error),
}

impl QuotaClient {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, observed: Mutex::default() }
    }

    /// The limit of a tenant that the filesystem enforces, as last observed.
    pub(crate) fn quota(&self, id: TenantId) -> Option<DiskQuota> {
        self.observed().quotas.get(&id).copied()
    }

    pub(crate) fn service(&self) -> QuotaService {
        self.observed().service.clone()
    }

    pub(crate) async fn refresh(&self) {
        let quotas = self.call(QuotaRequest::List).await.map(|list| {
            let quotas = list.into_iter().map(|quota| (quota.tenant, quota.into()));
            quotas.collect()
        });
        let mut observed = self.observed();
        observed.service = service_after(&quotas);
        observed.quotas = quotas.unwrap_or_default();
    }

    /// Sets the limit, unless the filesystem enforces it already.
    pub(crate) async fn set(&self, id: TenantId, limit_bytes: u64, volume_use: VolumeUse) {
        if self.quota(id).is_some_and(|quota| quota.is_of_limit(limit_bytes)) {
            return;
        }
        let request = QuotaRequest::Set { tenant: id, limit_bytes, volume_use };
        let set = self.call(request).await;
        if let Err(error @ (CallError::NoResponse(_) | CallError::Refused(QuotaError::Failed(_)))) =
            &set
        {
            tracing::warn!(tenant = %id, %error, "disk limit not set on the filesystem");
        }
        let mut observed = self.observed();
        observed.service = service_after(&set);
        match set.unwrap_or_default().first() {
            Some(quota) => observed.quotas.insert(id, (*quota).into()),
            None => observed.quotas.remove(&id),
        };
    }

    /// Removes the limit and the content of the tenant's volumes. After a failure the engine removes the content, and the
    /// service removes the limit when it starts.
    pub(crate) async fn remove(&self, id: TenantId) {
        match self.call(QuotaRequest::Remove { tenant: id }).await {
            Ok(_) | Err(CallError::Absent | CallError::Refused(QuotaError::Unsupported(_))) => {}
            Err(error) => {
                tracing::warn!(tenant = %id, %error, "disk limit not removed from the filesystem");
            }
        }
        self.observed().quotas.remove(&id);
    }

    pub(super) async fn responds(&self) -> bool {
        matches!(self.call(QuotaRequest::List).await, Ok(_) | Err(CallError::Refused(_)))
    }

    async fn call(&self, request: QuotaRequest) -> Result<Vec<TenantQuota>, CallError> {
        let call = tokio::time::timeout(CALL_TIMEOUT, self.exchange(request)).await;
        match call.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(QuotaResponse::Quotas(quotas)) => Ok(quotas),
            Ok(QuotaResponse::Error(error)) => Err(CallError::Refused(error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CallError::Absent),
            Err(error) => Err(CallError::NoResponse(error)),
        }
    }

    async fn exchange(&self, request: QuotaRequest) -> io::Result<QuotaResponse> {
        let mut stream = connect_unix(&self.socket).await?;
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut response = Vec::new();
        stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
        Ok(serde_json::from_slice(&response)?)
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn service_after<T>(outcome: &Result<T, CallError>) -> QuotaService {
    match outcome {
        Ok(_) => QuotaService::Ready,
        Err(CallError::Absent) => QuotaService::Absent,
        Err(CallError::Refused(QuotaError::Unsupported(why))) => {
            QuotaService::Unsupported(why.clone())
        }
        Err(error) => QuotaService::Failed(error.to_string()),
    }
}

impl From<TenantQuota> for DiskQuota {
    fn from(quota: TenantQuota) -> Self {
        let TenantQuota { used_bytes, limit_bytes, .. } = quota;
        Self { used_bytes, limit_bytes }
    }
}

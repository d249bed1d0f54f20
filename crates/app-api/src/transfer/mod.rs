//! Export and import of a tenant as one archive: see [`tenant_archive`] for what is in it.
//!
//! The orchestrator reads and fills the volumes; this process makes and checks the archive. An import writes a row in
//! `tenant_imports` with the tenant's own. As long as the row is there, the tenant does not start, and a tenant whose import
//! nobody continues is deleted.

mod dump;
mod export;
mod import;
mod restore;
mod slots;
mod sweep;
mod writing;

pub use dump::DumpSettings;
pub use export::{Archive, DatabaseChoice, export, export_by};
pub use import::import;
pub use slots::{ExportTimes, Exports};
pub use sweep::run;

use protocol::problem::Code;
use service::api_error::ApiError;
use tenant_archive::Fault;

use crate::db::{Conn, tenant_import};
use crate::tenant::Tenant;

/// # Errors
/// `tenant_importing`.
pub async fn refuse_while_importing(conn: &mut Conn, tenant: &Tenant) -> Result<(), ApiError> {
    if tenant_import::is_open(conn, tenant.id).await? {
        let detail =
            "The data of this tenant are still being imported. Wait for the end of the import.";
        return Err(ApiError::new(Code::TenantImporting, detail));
    }
    Ok(())
}

fn refused(fault: &Fault) -> ApiError {
    let code = match fault {
        Fault::NotCompressed(_) | Fault::Corrupt(_) | Fault::WrongChecksum => Code::ArchiveCorrupt,
        Fault::UnknownFormat(_) => Code::ArchiveFormat,
        Fault::Unsafe { .. } => Code::ArchiveUnsafe,
        Fault::TooLarge { .. } | Fault::TooLargeToExport { .. } | Fault::DatabaseTooLarge => {
            Code::ArchiveTooLarge
        }
    };
    ApiError::new(code, fault.to_string())
}

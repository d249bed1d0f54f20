//! The directories that a container receives before it starts: one for its socket, one for its
//! secrets. Both are created again before each start and hold nothing of any other tenant.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chown, geteuid};
use protocol::TenantId;
use protocol::inside;
use service::{Secret, keys, sealed};

/// The secrets that the per-tenant keys are derived from. They never leave this process.
#[derive(Clone, Debug)]
pub struct MasterKeys {
    pub sso: Secret,
    /// A public key in PEM. Where the key exists, tenants receive it and no SSO key of their own.
    pub sso_public: Option<String>,
    pub route: Secret,
}

#[derive(Clone, Debug)]
pub struct TenantDirs {
    sockets: PathBuf,
    secrets: PathBuf,
    master_keys: MasterKeys,
}

impl TenantDirs {
    pub fn new(sockets: PathBuf, secrets: PathBuf, master_keys: MasterKeys) -> Self {
        Self { sockets, secrets, master_keys }
    }

    /// The directory that the tenant's PID 1 puts its socket into.
    pub fn ingress_dir(&self, id: TenantId) -> PathBuf {
        self.sockets.join(id.to_string())
    }

    /// The router uses the same path, because both processes mount the volume at the same place.
    pub fn ingress_socket(&self, id: TenantId) -> PathBuf {
        self.ingress_dir(id).join(inside::INGRESS_SOCKET)
    }

    /// The socket on which the tenant lists the work that keeps it busy.
    pub fn busy_socket(&self, id: TenantId) -> PathBuf {
        self.ingress_dir(id).join(inside::BUSY_SOCKET)
    }

    /// Must not be called while the container runs, because the container would keep the old
    /// directories. `sealed_env`: [`Spec::sealed_env`](protocol::spec::Spec::sealed_env).
    pub fn create(&self, id: TenantId, sealed_env: Option<&str>) -> io::Result<()> {
        self.remove(id)?;
        directory(&self.ingress_dir(id), 0o750)?;
        let secrets = self.secrets.join(id.to_string());
        directory(&secrets, 0o700)?;
        match &self.master_keys.sso_public {
            Some(pem) => file(&secrets, inside::SSO_PUBLIC_KEY, pem.as_bytes())?,
            None => file(&secrets, inside::SSO_KEY, &keys::sso_key(&self.master_keys.sso, id))?,
        }
        if let Some(text) = sealed_env {
            let key = keys::env_key(&self.master_keys.sso, id);
            let variables = sealed::open(&key, text).map_err(io::Error::other)?;
            file(&secrets, inside::APP_VARIABLES, &variables)?;
        }
        let route = &self.master_keys.route;
        file(&secrets, inside::ROUTE_TOKEN, keys::route_token(route, id).as_bytes())?;
        file(&secrets, inside::ROUTE_PROOF, keys::route_proof(route, id).as_bytes())
    }

    pub fn remove(&self, id: TenantId) -> io::Result<()> {
        for parent in [&self.sockets, &self.secrets] {
            match fs::remove_dir_all(parent.join(id.to_string())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    give(path)
}

/// Writes the file completely or not at all, so that a tenant never reads half a key.
fn file(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let unfinished = directory.join(format!(".{name}"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&unfinished)?;
    file.write_all(content)?;
    give(&unfinished)?;
    fs::rename(&unfinished, directory.join(name))
}

/// Gives the path to the tenant's user `cial`. The service runs as that user; only a manual start
/// as root changes the owner.
fn give(path: &Path) -> io::Result<()> {
    if geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(inside::CIAL_UID), Gid::from_raw(inside::CIAL_UID));
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Deleted together with its test.
    struct Base(PathBuf);

    impl Drop for Base {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn tenant_dirs(sso_public: Option<&str>) -> (TenantDirs, TenantId, Base) {
        let id = TenantId::new(uuid::Uuid::now_v7());
        let base = std::env::temp_dir().join(format!("cial-tenant_dirs-{id}"));
        let (sockets, secrets) = (base.join("sockets"), base.join("secrets"));
        fs::create_dir_all(&sockets).unwrap();
        fs::create_dir_all(&secrets).unwrap();
        let master_keys = MasterKeys {
            sso: Secret::new("s".repeat(40)),
            sso_public: sso_public.map(str::to_owned),
            route: Secret::new("r".repeat(40)),
        };
        (TenantDirs::new(sockets, secrets, master_keys), id, Base(base))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_tenant_gets_its_own_keys_and_only_it_may_read_them() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        tenant_dirs.create(id, None).unwrap();
        let secrets = tenant_dirs.secrets.join(id.to_string());
        assert_eq!(names(&secrets), ["route-proof", "route-token", "sso-key"]);
        assert_eq!(mode(&secrets), 0o700);
        assert_eq!(mode(&tenant_dirs.ingress_dir(id)), 0o750);
        for name in names(&secrets) {
            assert_eq!(mode(&secrets.join(name)), 0o400);
        }
        let key = fs::read(secrets.join(inside::SSO_KEY)).unwrap();
        assert_eq!(key, keys::sso_key(&tenant_dirs.master_keys.sso, id));
    }

    #[test]
    fn where_there_is_a_public_key_no_tenant_holds_a_key_to_sign_with() {
        let (tenant_dirs, id, _base) = tenant_dirs(Some("PEM"));
        tenant_dirs.create(id, None).unwrap();
        let secrets = tenant_dirs.secrets.join(id.to_string());
        assert_eq!(names(&secrets), ["route-proof", "route-token", "sso-public.pem"]);
    }

    #[test]
    fn variables_are_decrypted_for_their_own_tenant_only() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let key = keys::env_key(&tenant_dirs.master_keys.sso, id);
        let text = sealed::seal(&key, b"{}").unwrap();
        tenant_dirs.create(id, Some(&text)).unwrap();
        let path = tenant_dirs.secrets.join(id.to_string()).join(inside::APP_VARIABLES);
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"{}".to_vec(), 0o400));
        tenant_dirs.create(id, None).unwrap();
        assert!(!path.exists(), "nothing of an earlier start stays");
        let other = TenantId::new(uuid::Uuid::now_v7());
        assert!(tenant_dirs.create(other, Some(&text)).is_err());
    }

    #[test]
    fn made_anew_means_nothing_old_is_left_and_removing_twice_is_fine() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        tenant_dirs.create(id, None).unwrap();
        fs::write(tenant_dirs.ingress_socket(id), "stale").unwrap();
        tenant_dirs.create(id, None).unwrap();
        assert!(!tenant_dirs.ingress_socket(id).exists());
        tenant_dirs.remove(id).unwrap();
        tenant_dirs.remove(id).unwrap();
        assert!(!tenant_dirs.ingress_dir(id).exists());
    }
}

//! The directories that a container receives before it starts: one for its socket, one for its
//! secrets, and one for its database, if its app wants one. They hold nothing of any other tenant.
//! The first two are created again before each start. In the third, the database proxy listens, also
//! while the tenant sleeps.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::{Gid, Uid, chown, geteuid};
use protocol::database_proxy;
use protocol::files::DiskShare;
use protocol::images::{RegistryLogin, SealedLogin};
use protocol::orchestrator::{DiskEnforcement, DiskUse};
use protocol::spec::Spec;
use protocol::variables::Variables;
use protocol::{TenantId, inside};
use service::sealing_keys::{Purpose, SealingKeys};
use service::{Secret, keys};

use crate::tenants::state_dir::remove_if_present;

/// The secrets that the per-tenant keys are derived from. They never leave this process.
#[derive(Clone, Debug)]
pub struct MasterKeys {
    pub sso: Secret,
    /// A public key in PEM. Where the key exists, tenants receive it and no SSO key of their own.
    pub sso_public: Option<String>,
    pub route: Secret,
    /// Decrypt what app-api encrypted.
    pub sealing: SealingKeys,
}

/// The parents of the tenants' directories.
#[derive(Clone, Debug)]
pub struct DirRoots {
    pub sockets: PathBuf,
    pub secrets: PathBuf,
    pub databases: PathBuf,
    /// No parent: the directory with the socket of the model, which tenants share.
    pub models: PathBuf,
}

/// The directories of one tenant.
#[derive(Clone, Debug)]
pub struct TenantPaths {
    pub ingress: PathBuf,
    pub secrets: PathBuf,
    pub database: PathBuf,
    /// Shared by all tenants. Only the engine needs it.
    pub models: PathBuf,
}

impl DirRoots {
    pub fn of(&self, id: TenantId) -> TenantPaths {
        let own = |parent: &Path| parent.join(id.to_string());
        TenantPaths {
            ingress: own(&self.sockets),
            secrets: own(&self.secrets),
            database: own(&self.databases),
            models: self.models.clone(),
        }
    }
}

/// The reason why the directories of a start are not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The names of the secrets that the release requires and that have no value.
    #[error("these required secrets have no value: {0:?}")]
    SecretMissing(Vec<String>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Clone, Debug)]
pub struct TenantDirs {
    roots: DirRoots,
    master_keys: MasterKeys,
    /// Held while directories change: a file that is added meanwhile would let their removal fail.
    change: Arc<Mutex<()>>,
}

impl TenantDirs {
    pub fn new(roots: DirRoots, master_keys: MasterKeys) -> Self {
        Self { roots, master_keys, change: Arc::default() }
    }

    fn begin_change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decrypts the credentials of a registry; `None` if they were encrypted for another installation or registry.
    pub fn open_login(&self, login: &SealedLogin) -> Option<RegistryLogin> {
        let opened =
            self.master_keys.sealing.open(&Purpose::Registry(login.host.clone()), &login.sealed);
        let opened = opened.inspect_err(|error| {
            tracing::warn!(registry = %login.host, %error, "credentials of a registry cannot be opened");
        });
        let opened = opened.ok()?;
        serde_json::from_slice(&opened).ok()
    }

    /// The directory that the tenant's PID 1 puts its socket into.
    pub fn ingress_dir(&self, id: TenantId) -> PathBuf {
        self.roots.of(id).ingress
    }

    /// The directory in which the database proxy listens for the tenant, if its app wants a database.
    pub fn database_dir(&self, id: TenantId) -> PathBuf {
        self.roots.of(id).database
    }

    /// The socket on which the database proxy takes calls of this process.
    pub fn database_proxy_socket(&self) -> PathBuf {
        self.roots.databases.join(database_proxy::CONTROL_SOCKET)
    }

    /// The router uses the same path, because both processes mount the volume at the same place.
    pub fn ingress_socket(&self, id: TenantId) -> PathBuf {
        self.ingress_dir(id).join(inside::INGRESS_SOCKET)
    }

    /// The socket on which core-back serves this process.
    pub fn orchestrator_socket(&self, id: TenantId) -> PathBuf {
        self.ingress_dir(id).join(inside::ORCHESTRATOR_SOCKET)
    }

    /// Must not be called while the container runs, because the container would keep the old
    /// directories. The program receives the variables and the database of `spec`.
    ///
    /// # Errors
    /// [`CreateError::SecretMissing`], with everything as it was; I/O errors.
    pub fn create(&self, spec: &Spec) -> Result<(), CreateError> {
        let variables = self.variables_of_start(spec)?;
        Ok(self.create_with(spec, variables.as_ref())?)
    }

    /// Decrypts the variables of `spec`: a variable of the tenant replaces one of its app, whatever the kind of each. `None`
    /// where neither has any.
    ///
    /// # Errors
    /// [`CreateError::SecretMissing`]; a record that was encrypted for another installation, tenant or app.
    pub fn variables_of_start(&self, spec: &Spec) -> Result<Option<Variables>, CreateError> {
        let sealing = &self.master_keys.sealing;
        let mut variables = Variables::new();
        if let Some(env) = &spec.app_env {
            variables.extend(open(sealing, &Purpose::AppEnv(env.app), &env.sealed)?);
        }
        if let Some(text) = &spec.sealed_env {
            variables.extend(open(sealing, &Purpose::TenantEnv(spec.id), text)?);
        }
        let missing = spec.app.as_ref().map(|app| app.secrets.missing(&variables));
        if let Some(missing) = missing.filter(|missing| !missing.is_empty()) {
            return Err(CreateError::SecretMissing(missing));
        }
        let has_any = spec.app_env.is_some() || spec.sealed_env.is_some();
        Ok(has_any.then_some(variables))
    }

    fn create_with(&self, spec: &Spec, variables: Option<&Variables>) -> io::Result<()> {
        let id = spec.id;
        let TenantPaths { ingress, secrets, database, .. } = self.roots.of(id);
        let _change = self.begin_change();
        let limit_bytes = spec.limits.disk_bytes;
        let share = match read_share(&secrets) {
            // A filesystem that enforces another limit does not hold the tenant to this one.
            Some(known) => DiskShare {
                limit_bytes,
                is_enforced: known.is_enforced && known.limit_bytes == limit_bytes,
                ..known
            },
            None => DiskShare { limit_bytes, used_bytes: None, is_enforced: false },
        };
        remove(&ingress)?;
        remove(&secrets)?;
        directory(&ingress, 0o750)?;
        directory(&secrets, 0o700)?;
        write_share(&secrets, share)?;
        match &self.master_keys.sso_public {
            Some(pem) => file(&secrets, inside::SSO_PUBLIC_KEY, pem.as_bytes())?,
            None => file(&secrets, inside::SSO_KEY, &keys::sso_key(&self.master_keys.sso, id))?,
        }
        if let Some(variables) = variables {
            file(&secrets, inside::APP_VARIABLES, &serde_json::to_vec(variables)?)?;
        }
        match &spec.database_user {
            Some(user) => {
                let password = keys::tenant_database_password(&self.master_keys.sso, id);
                file(
                    &secrets,
                    inside::DATABASE_URL_FILE,
                    database_url(user, &password).as_bytes(),
                )?;
                database_directory(&database, user)?;
            }
            None => remove(&database)?,
        }
        if spec.uses_model() {
            let token = keys::model_token(&self.master_keys.sso, id);
            file(&secrets, inside::MODEL_TOKEN, token.as_bytes())?;
        }
        let route = &self.master_keys.route;
        file(&secrets, inside::ROUTE_TOKEN, keys::route_token(route, id).as_bytes())?;
        file(&secrets, inside::ROUTE_PROOF, keys::route_proof(route, id).as_bytes())
    }

    /// Lets the tenant know its share of the disk. `false` for a tenant that never started: it learns its share then.
    pub fn report_disk(&self, disk_use: &DiskUse) -> io::Result<bool> {
        let &DiskUse { limit_bytes, used_bytes, enforced_by, .. } = disk_use;
        let is_enforced = enforced_by == DiskEnforcement::Filesystem;
        let secrets = self.roots.of(disk_use.tenant).secrets;
        let _change = self.begin_change();
        if !secrets.exists() {
            return Ok(false);
        }
        write_share(&secrets, DiskShare { limit_bytes, used_bytes, is_enforced }).map(|()| true)
    }

    /// The variables that the tenant's program received at its last start beside those of its release, with the URL of its
    /// database, as JSON. `None` where there are none.
    pub fn variables(&self, id: TenantId) -> io::Result<Option<String>> {
        let secrets = self.roots.of(id).secrets;
        let read = |name: &str| match fs::read(secrets.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        };
        let mut all = BTreeMap::new();
        if let Some(url) = read(inside::DATABASE_URL_FILE)? {
            let url = String::from_utf8(url).map_err(io::Error::other)?;
            all.insert(inside::DATABASE_URL.to_owned(), url);
        }
        if let Some(text) = read(inside::APP_VARIABLES)? {
            let own: Variables = serde_json::from_slice(&text).map_err(io::Error::other)?;
            // A tenant that names another database keeps it.
            all.extend(own.into_iter().map(|(name, variable)| (name, variable.value)));
        }
        Ok((!all.is_empty()).then(|| serde_json::json!(all).to_string()))
    }

    pub fn remove(&self, id: TenantId) -> io::Result<()> {
        let TenantPaths { ingress, secrets, database, .. } = self.roots.of(id);
        let _change = self.begin_change();
        [ingress, secrets, database].iter().try_for_each(|path| remove(path))
    }
}

/// Decrypts a record of variables.
fn open(keys: &SealingKeys, purpose: &Purpose, sealed: &str) -> io::Result<Variables> {
    let plain = keys.open(purpose, sealed).map_err(io::Error::other)?;
    Ok(serde_json::from_slice(&plain)?)
}

/// The share that was last reported to the tenant.
fn read_share(secrets: &Path) -> Option<DiskShare> {
    serde_json::from_slice(&fs::read(secrets.join(inside::DISK_SHARE)).ok()?).ok()
}

fn write_share(secrets: &Path, share: DiskShare) -> io::Result<()> {
    file(secrets, inside::DISK_SHARE, serde_json::to_string(&share)?.as_bytes())
}

/// The URL by which programs inside reach the tenant's database, in the form of libpq. The database proxy takes the role's
/// name for the name of the database. Both parts are made of letters, digits, `_` and `-` only.
fn database_url(user: &str, password: &Secret) -> String {
    let password = password.reveal();
    format!("postgresql://{user}:{password}@/{user}?host={}", inside::DATABASE_DIR)
}

/// Creates the directory of the database proxy's socket, unless it exists: a socket in it stays. Every user inside may
/// enter it, and none may write there.
fn database_directory(path: &Path, user: &str) -> io::Result<()> {
    match directory(path, 0o755) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    file(path, inside::DATABASE_ROLE, user.as_bytes())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    give(path)
}

/// Replaces the file as a whole or not at all, so that nobody ever reads half a key. An unfinished file of an earlier
/// start, which a kill or a full disk left, is removed first.
fn file(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let unfinished = directory.join(format!(".{name}"));
    remove_if_present(&unfinished)?;
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

    use protocol::process::AppSpec;
    use protocol::variables::{SealedAppEnv, SecretNames};
    use service::sealed;

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
        let of = |name: &str| base.join(name);
        let roots = DirRoots {
            sockets: of("sockets"),
            secrets: of("secrets"),
            databases: of("databases"),
            models: of("models"),
        };
        for root in [&roots.sockets, &roots.secrets, &roots.databases] {
            fs::create_dir_all(root).unwrap();
        }
        let master_keys = MasterKeys {
            sso: Secret::new("s".repeat(40)),
            sso_public: sso_public.map(str::to_owned),
            route: Secret::new("r".repeat(40)),
            sealing: SealingKeys::new(Secret::new("s".repeat(40)), None),
        };
        (TenantDirs::new(roots, master_keys), id, Base(base))
    }

    fn spec(id: TenantId) -> Spec {
        let spec = serde_json::json!({ "id": id, "slug": "acme", "generation": 1 });
        serde_json::from_value(spec).unwrap()
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
        tenant_dirs.create(&spec(id)).unwrap();
        let secrets = tenant_dirs.roots.of(id).secrets;
        assert_eq!(names(&secrets), ["disk-share.json", "route-proof", "route-token", "sso-key"]);
        assert_eq!(mode(&secrets), 0o700);
        assert_eq!(mode(&tenant_dirs.ingress_dir(id)), 0o750);
        for name in names(&secrets) {
            assert_eq!(mode(&secrets.join(name)), 0o400);
        }
        let key = fs::read(secrets.join(inside::SSO_KEY)).unwrap();
        assert_eq!(key, keys::sso_key(&tenant_dirs.master_keys.sso, id));
    }

    #[test]
    fn a_tenant_knows_its_share_of_the_disk_while_it_runs_and_after_a_start() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let disk_use = |limit_bytes, used_bytes| DiskUse {
            tenant: id,
            used_bytes,
            limit_bytes,
            enforced_by: DiskEnforcement::Measurement,
        };
        let share = || {
            let share = read_share(&tenant_dirs.roots.of(id).secrets).unwrap();
            (share.limit_bytes, share.used_bytes)
        };
        assert!(!tenant_dirs.report_disk(&disk_use(1, Some(1))).unwrap(), "it never started");
        let mut spec = spec(id);
        spec.limits.disk_bytes = 1_000;
        tenant_dirs.create(&spec).unwrap();
        assert_eq!(share(), (1_000, None));
        assert!(tenant_dirs.report_disk(&disk_use(1_000, Some(300))).unwrap());
        assert_eq!(share(), (1_000, Some(300)));
        spec.limits.disk_bytes = 2_000;
        tenant_dirs.create(&spec).unwrap();
        assert_eq!(share(), (2_000, Some(300)), "what is known of it survives a start");
        let is_enforced = || read_share(&tenant_dirs.roots.of(id).secrets).unwrap().is_enforced;
        assert!(!is_enforced());
        let enforced_by = DiskEnforcement::Filesystem;
        let enforced = DiskUse { enforced_by, ..disk_use(2_000, Some(300)) };
        tenant_dirs.report_disk(&enforced).unwrap();
        tenant_dirs.create(&spec).unwrap();
        assert!(is_enforced());
        spec.limits.disk_bytes = 3_000;
        tenant_dirs.create(&spec).unwrap();
        assert!(!is_enforced(), "the filesystem enforces another limit");
        tenant_dirs.remove(id).unwrap();
        assert!(!tenant_dirs.report_disk(&disk_use(1, None)).unwrap());
        assert!(!tenant_dirs.roots.of(id).secrets.exists(), "nothing comes back");
    }

    #[test]
    fn where_there_is_a_public_key_no_tenant_holds_a_key_to_sign_with() {
        let (tenant_dirs, id, _base) = tenant_dirs(Some("PEM"));
        tenant_dirs.create(&spec(id)).unwrap();
        let secrets = tenant_dirs.roots.of(id).secrets;
        assert_eq!(
            names(&secrets),
            ["disk-share.json", "route-proof", "route-token", "sso-public.pem"]
        );
    }

    #[test]
    fn variables_are_decrypted_for_their_own_tenant_only() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let key = keys::env_key(&tenant_dirs.master_keys.sso, id);
        let plain = spec(id);
        let spec = Spec { sealed_env: Some(sealed::seal(&key, b"{}").unwrap()), ..plain.clone() };
        tenant_dirs.create(&spec).unwrap();
        let path = tenant_dirs.roots.of(id).secrets.join(inside::APP_VARIABLES);
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"{}".to_vec(), 0o400));
        tenant_dirs.create(&plain).unwrap();
        assert!(!path.exists(), "nothing of an earlier start stays");
        let other = TenantId::new(uuid::Uuid::now_v7());
        assert!(tenant_dirs.create(&Spec { id: other, ..spec }).is_err());
    }

    /// The values that the program of a start with `spec` receives.
    fn received(tenant_dirs: &TenantDirs, spec: &Spec) -> BTreeMap<String, String> {
        tenant_dirs.create(spec).unwrap();
        let text = tenant_dirs.variables(spec.id).unwrap().unwrap_or_else(|| "{}".to_owned());
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_tenants_own_variables_replace_those_of_its_app() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let sso = &tenant_dirs.master_keys.sso;
        let app = uuid::Uuid::now_v7();
        let of_app = br#"{"A":{"value":"app","secret":true},"B":{"value":"app","secret":false}}"#;
        let own = br#"{"B":{"value":"own","secret":true},"C":{"value":"own","secret":false}}"#;
        let sealed = sealed::seal(&keys::app_env_key(sso, app), of_app).unwrap();
        let with_app = Spec { app_env: Some(SealedAppEnv { app, sealed }), ..spec(id) };
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(received(&tenant_dirs, &with_app), pairs(&[("A", "app"), ("B", "app")]));
        let sealed_env = Some(sealed::seal(&keys::env_key(sso, id), own).unwrap());
        let with_both = Spec { sealed_env, ..with_app.clone() };
        let all = pairs(&[("A", "app"), ("B", "own"), ("C", "own")]);
        assert_eq!(received(&tenant_dirs, &with_both), all);
        let env = with_app.app_env.clone().unwrap();
        let other = SealedAppEnv { app: uuid::Uuid::now_v7(), ..env };
        let of_other_app = Spec { app_env: Some(other), ..with_app };
        assert!(tenant_dirs.create(&of_other_app).is_err(), "sealed for another app");
    }

    #[test]
    fn a_start_without_a_required_secret_is_refused_with_its_name_and_changes_nothing() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let sso = &tenant_dirs.master_keys.sso;
        tenant_dirs.create(&spec(id)).unwrap();
        fs::write(tenant_dirs.ingress_socket(id), "in use").unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let secrets = SecretNames { required: names(&["A", "B"]), optional: names(&["C"]) };
        let app = AppSpec { secrets, ..AppSpec::default() };
        let required = Spec { app: Some(app), ..spec(id) };
        let missing = |spec: &Spec| match tenant_dirs.create(spec) {
            Err(CreateError::SecretMissing(missing)) => missing,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(&required), ["A", "B"]);
        let app = uuid::Uuid::now_v7();
        let seal = |key: [u8; 32], name: &str| {
            let text = format!(r#"{{"{name}":{{"value":"x","secret":true}}}}"#);
            sealed::seal(&key, text.as_bytes()).unwrap()
        };
        let of_app = SealedAppEnv { app, sealed: seal(keys::app_env_key(sso, app), "A") };
        let half = Spec { app_env: Some(of_app), ..required };
        assert_eq!(missing(&half), ["B"]);
        assert!(tenant_dirs.ingress_socket(id).exists(), "a refusal changes nothing");
        let whole = Spec { sealed_env: Some(seal(keys::env_key(sso, id), "B")), ..half };
        assert_eq!(received(&tenant_dirs, &whole).len(), 2);
    }

    #[test]
    fn a_command_receives_the_variables_of_the_last_start() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let plain = spec(id);
        tenant_dirs.create(&plain).unwrap();
        assert_eq!(tenant_dirs.variables(id).unwrap(), None);
        let key = keys::env_key(&tenant_dirs.master_keys.sso, id);
        let own = br#"{"COLOUR":{"value":"blue","secret":false}}"#;
        let spec = Spec {
            sealed_env: Some(sealed::seal(&key, own).unwrap()),
            database_user: Some("t_acme".to_owned()),
            ..plain
        };
        tenant_dirs.create(&spec).unwrap();
        let variables = tenant_dirs.variables(id).unwrap().unwrap();
        let variables: serde_json::Value = serde_json::from_str(&variables).unwrap();
        assert_eq!(variables["COLOUR"], "blue");
        let url = variables["DATABASE_URL"].as_str().unwrap();
        assert!(url.starts_with("postgresql://t_acme:"), "{url}");
    }

    #[test]
    fn the_database_of_an_app_is_a_url_for_its_tenant_and_a_role_for_the_proxy() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let plain = spec(id);
        let spec = Spec { database_user: Some("t_acme".to_owned()), ..plain.clone() };
        tenant_dirs.create(&spec).unwrap();
        let TenantPaths { secrets, database, .. } = tenant_dirs.roots.of(id);
        let url = secrets.join(inside::DATABASE_URL_FILE);
        let password = keys::tenant_database_password(&tenant_dirs.master_keys.sso, id);
        let expected =
            format!("postgresql://t_acme:{}@/t_acme?host=/run/cial/database", password.reveal());
        assert_eq!((fs::read_to_string(&url).unwrap(), mode(&url)), (expected, 0o400));
        assert_eq!(mode(&database), 0o755);
        assert_eq!(fs::read(database.join(inside::DATABASE_ROLE)).unwrap(), b"t_acme");

        fs::write(database.join(inside::DATABASE_SOCKET), "").unwrap();
        // A start that was killed, or that found the disk full, left it.
        fs::write(database.join(format!(".{}", inside::DATABASE_ROLE)), "t_").unwrap();
        tenant_dirs.create(&spec).unwrap();
        assert_eq!(names(&database), [inside::DATABASE_SOCKET, inside::DATABASE_ROLE]);
        assert_eq!(fs::read(database.join(inside::DATABASE_ROLE)).unwrap(), b"t_acme");
        tenant_dirs.create(&plain).unwrap();
        assert!(!database.exists() && !url.exists(), "an app that wants none any more");
    }

    #[test]
    fn only_a_tenant_whose_chat_is_the_models_has_a_token_for_it() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        let chat = |chat: &str| AppSpec { chat: Some(chat.to_owned()), ..AppSpec::default() };
        let with_model = Spec { app: Some(chat(protocol::process::CHAT_MODEL)), ..spec(id) };
        tenant_dirs.create(&with_model).unwrap();
        let path = tenant_dirs.roots.of(id).secrets.join(inside::MODEL_TOKEN);
        let token = keys::model_token(&tenant_dirs.master_keys.sso, id);
        assert_eq!((fs::read_to_string(&path).unwrap(), mode(&path)), (token, 0o400));
        tenant_dirs.create(&Spec { app: Some(chat("/chat")), ..spec(id) }).unwrap();
        assert!(!path.exists(), "nothing of an earlier start stays");
    }

    #[test]
    fn made_anew_means_nothing_old_is_left_and_removing_twice_is_fine() {
        let (tenant_dirs, id, _base) = tenant_dirs(None);
        tenant_dirs.create(&spec(id)).unwrap();
        fs::write(tenant_dirs.ingress_socket(id), "stale").unwrap();
        tenant_dirs.create(&spec(id)).unwrap();
        assert!(!tenant_dirs.ingress_socket(id).exists());
        tenant_dirs.remove(id).unwrap();
        tenant_dirs.remove(id).unwrap();
        assert!(!tenant_dirs.ingress_dir(id).exists());
    }
}

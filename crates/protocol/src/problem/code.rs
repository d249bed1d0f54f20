//! Every problem code: its status, its meaning and its remedy. `docs/reference/problems.md` is made
//! from this table.

use std::fmt;

use crate::text::plain_text;

/// Stands in the reference where nothing can be done.
const NO_REMEDY: &str = "—";

macro_rules! codes {
    ($($name:ident = $text:literal [$($status:literal),+] $title:literal $means:literal $remedy:literal,)+) => {
        /// The code of a [`Problem`](super::Problem): a stable name by which a client decides.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $means] $name,)+
        }

        impl Code {
            /// Every code, in the order of the names.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The statuses that a response with this code may have; the first is the usual one.
            pub const fn statuses(self) -> &'static [u16] {
                match self { $(Self::$name => &[$($status),+],)+ }
            }

            /// The title of every problem with this code, and the heading of its page.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// The meaning, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $means,)+ }
            }

            /// The advice to the caller, for the reference. A dash stands where nothing can be done.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }
        }
    };
}

codes! {
    AddressUnconfirmed = "address_unconfirmed" [409] "Address not confirmed"
        "the account was made by the invitation of somebody who could not give this role, and may be theirs"
        "invite the address instead: whoever holds the link and the account gets the role",
    AlreadyInvited = "already_invited" [409] "Already invited"
        "somebody else invited the same address at the same moment"
        "use that invitation, or try again",
    AlreadyMember = "already_member" [409] "Already a member"
        "the person is a member of the tenant already"
        "change the role instead",
    AmbiguousPath = "ambiguous_path" [400] "Ambiguous path"
        "inside a tenant: the path can be read in more than one way"
        "write it plainly, without encoded slashes and dots",
    AppInUse = "app_in_use" [409] "App in use"
        "tenants follow the app"
        "delete them first",
    AppTaken = "app_taken" [409] "App taken"
        "an app has that slug"
        "choose another",
    ArchiveCorrupt = "archive_corrupt" [422] "Archive damaged"
        "the file is no export of a tenant, is damaged, or was cut off"
        "export the tenant anew, then send the whole file",
    ArchiveFormat = "archive_format" [422] "Unknown format of the archive"
        "a later version of the product made the archive"
        "upgrade this installation",
    ArchiveSchema = "archive_schema" [422] "Schema not restored"
        "Postgres refuses a statement of the schema in the archive, which runs as the role of the new tenant"
        "read the detail; change the schema, then export the tenant anew, or export it without its schema: `--without-database`",
    ArchiveTooLarge = "archive_too_large" [422] "Archive too large"
        "the archive holds more than the disk limit of the tenant, or the schema in it is longer than 4 GiB as text"
        "give the tenant a larger disk limit before it is exported; save a large schema by `pg_dump`, then export with `--without-database`",
    ArchiveUnsafe = "archive_unsafe" [422] "Archive unsafe"
        "an entry of the archive leads out of the tenant's volumes, or is of a kind or an owner that no tenant has"
        "do not use the file, unless you know who made it and why",
    BackupCorrupt = "backup_corrupt" [422] "Backup damaged"
        "the archive in the store is not the one that was written there"
        "restore another backup; look at who writes to the store",
    BackupIncomplete = "backup_incomplete" [409] "Backup not complete"
        "the tenant has not been copied yet"
        "wait until it is complete, or restore an earlier one",
    BackupLimit = "backup_limit" [409] "Too many backups"
        "the tenant has as many requested backups as are kept"
        "ask an administrator of the platform to delete one: `cial backups delete`; the backups of the schedule go on",
    BackupMissing = "backup_missing" [410] "Backup missing"
        "the store no longer holds the archive"
        "restore another backup; bring the object back under its name, if you have it",
    BackupStoreUnavailable = "backup_store_unavailable" [503] "Store unavailable"
        "the store of backups does not respond, or refuses the call"
        "look at app-api's log; check `CIAL_BACKUP_URL` and the access key",
    BackupsOff = "backups_off" [409] "No backups"
        "this installation has no store for backups"
        "set `CIAL_BACKUP_URL`; see [backups](../backups.md)",
    BodyTooLarge = "body_too_large" [413] "Content too large"
        "the body is over the limit"
        "send less",
    Busy = "busy" [503] "Busy"
        "more passwords at once than can be hashed, more uploads of packages than fit into memory, or more streams of events than are served"
        "try again after `Retry-After`",
    BusyEnded = "busy_ended" [404] "Declaration ended"
        "inside a tenant: the declaration ran out, or is another's"
        "declare anew",
    BusyQuota = "busy_quota" [429] "Too many declarations"
        "inside a tenant: 16 declarations of `agent` are alive"
        "withdraw or renew one; `Retry-After` says when the first ends",
    BusyRate = "busy_rate" [429] "Too many requests"
        "inside a tenant: `agent` asks about being busy too often"
        "declare for longer, renew at half time; wait for `Retry-After`",
    ChatBusy = "chat_busy" [503] "Busy"
        "inside a tenant: the app writes as many replies as it may at once"
        "send the message again in a few seconds",
    ChatFailed = "chat_failed" [502] "The app did not reply"
        "inside a tenant: the app's program did not take a message, broke off or fell silent"
        "look at the tenant's log; what arrived of the reply is stored",
    CoreUnreachable = "core_unreachable" [502] "Bad gateway"
        "inside a tenant: its core did not say who is signed in"
        "try again; look at the tenant's log",
    CrossSite = "cross_site" [403] "Forbidden"
        "the request comes from a page elsewhere"
        "act from the admin's own pages",
    DatabaseUnavailable = "database_unavailable" [503] "Service unavailable"
        "Postgres does not answer"
        "wait; `/readyz` of app-api says when",
    DiskFull = "disk_full" [507] "Disk full"
        "the disk of the engine, of the database or of the tenant's history or files has no room, or less than `CIAL_DISK_RESERVE_BYTES` is left for a new tenant or an image, or less than 1 GiB beside an export"
        "make room on its disk",
    DiskLimitReached = "disk_limit_reached" [507] "Disk limit reached"
        "the tenant's volumes hold more than `limits.disk_bytes`; it was stopped and does not start"
        "raise the limit, start it, delete what is not needed",
    EngineRefused = "engine_refused" [502] "Engine refused"
        "the engine said no"
        "read the detail; then the orchestrator's log",
    EngineTimeout = "engine_timeout" [504] "Engine timed out"
        "the engine took too long"
        "try again; look at the machine's load",
    EngineTooOld = "engine_too_old" [503] "Engine too old"
        "the engine's API is older than 1.41"
        "upgrade it",
    EngineUnreachable = "engine_unreachable" [503] "Engine unreachable"
        "the engine does not answer"
        "start it; nothing is forgotten",
    ExpectationFailed = "expectation_failed" [417] "Expectation failed"
        "an `Expect` other than `100-continue`"
        "leave it out",
    FileConflict = "file_conflict" [409] "Conflict"
        "inside a tenant: a file or folder is in the way or is not empty, or a part of an upload does not follow"
        "read the detail; `replace` replaces a file",
    FileDenied = "file_denied" [403] "Forbidden"
        "inside a tenant: the modes that its program gave the files forbid it"
        "let the program change them",
    FilesBusy = "files_busy" [503] "Busy"
        "inside a tenant: as many downloads or uploads are under way as may be at once"
        "try again in a few seconds",
    FilesUnavailable = "files_unavailable" [502] "Bad gateway"
        "inside a tenant: its file server does not respond, or a disk failed"
        "look at the tenant's log; a restart starts the file server again",
    Forbidden = "forbidden" [403] "Forbidden"
        "the key or the person has no right here; the answer is the same whether or not the tenant exists"
        "use a key of that tenant, or ask its admin",
    HeadersTooLarge = "headers_too_large" [431] "Headers too large"
        "the head of the request is over the limit"
        "send fewer or shorter headers",
    HistoryBusy = "history_busy" [503] "Busy"
        "inside a tenant: more requests wait for its history than may"
        "try again after `Retry-After`",
    HostMissing = "host_missing" [400] "Bad request"
        "a request without `Host`"
        "send one",
    IdempotencyMismatch = "idempotency_mismatch" [422] "Idempotency key reused"
        "the `Idempotency-Key` was used with another body"
        "use a new key",
    ImageInvalid = "image_invalid" [422] "Image invalid"
        "the image cannot be started: it has no command, or one that is not there or not for this machine; or a registry sent another image than the digest names"
        "read the detail; of the tenant image: build it anew, `cargo xtask images`; its entry point must be the supervisor",
    ImageMissing = "image_missing" [422] "Image missing"
        "the engine does not have the image, or the registry in its name does not"
        "an app's: build or load it, or correct the name; the tenant image: build it, `cargo xtask images`",
    InsufficientRole = "insufficient_role" [403] "Role too low"
        "the role does not permit this"
        "ask for a higher role",
    Internal = "internal" [500] "Internal server error"
        "a fault of ours"
        "report it with the `request_id`",
    InvalidBody = "invalid_body" [422] "Invalid body"
        "the body does not fit"
        "read the detail",
    InvalidCode = "invalid_code" [401] "Invalid code"
        "the code of the second factor is wrong, too old, or was used already"
        "wait for the next code, or use a recovery code",
    InvalidCredentials = "invalid_credentials" [401] "Invalid credentials"
        "e-mail or password is wrong"
        "try again, or reset the password",
    InvalidFields = "invalid_fields" [422] "Invalid fields"
        "fields are at fault"
        "read `errors`",
    InvalidForm = "invalid_form" [400] "Invalid form"
        "the form cannot be read"
        "send it as a form",
    InvalidHost = "invalid_host" [400] "Bad request"
        "the `Host` is no name of a host"
        "correct it",
    InvalidIdempotencyKey = "invalid_idempotency_key" [400] "Invalid idempotency key"
        "the key is empty or too long"
        "use 1 to 200 characters",
    InvalidIfMatch = "invalid_if_match" [400] "Invalid If-Match"
        "`If-Match` is no entity tag"
        "send the revision in quotes",
    InvalidJson = "invalid_json" [400] "Invalid JSON"
        "the body is no JSON, or has unknown fields"
        "correct it",
    InvalidKey = "invalid_key" [401] "Invalid key"
        "the API key is malformed, expired or revoked; the response is the same for all"
        "use another key",
    InvalidLastEventId = "invalid_last_event_id" [400] "Invalid Last-Event-ID"
        "`Last-Event-ID` is no id of an event"
        "send the `id` of the last event, or no such header",
    InvalidLease = "invalid_lease" [422] "Invalid lease"
        "a router's call about leases breaks a rule"
        "read the detail; router and orchestrator should be of one release",
    InvalidPasskey = "invalid_passkey" [401] "Invalid passkey"
        "the response of a passkey is not accepted, for whatever reason; the log has it"
        "try again within 5 minutes, or sign in with the password",
    InvalidQuery = "invalid_query" [400, 422] "Invalid query"
        "a parameter of the address does not fit"
        "read the detail",
    InvalidSlug = "invalid_slug" [422] "Invalid slug"
        "the slug breaks a rule or is reserved"
        "2 to 40 of a-z, 0-9, hyphen inside",
    InvalidSpec = "invalid_spec" [422] "Invalid spec"
        "the orchestrator was asked for what cannot be"
        "read `errors`",
    InvalidToken = "invalid_token" [401] "Invalid token"
        "a sign-on token is forged, expired, used, for another tenant, or in a browser that did not begin the sign-in"
        "sign in again: `/.cial/sign-in`",
    InvitationEnded = "invitation_ended" [410] "Invitation ended"
        "the invitation was used, withdrawn, or is too old"
        "ask for another",
    InvitationMismatch = "invitation_mismatch" [403] "Wrong account"
        "the invitation is for another e-mail address"
        "sign in with that address",
    KeyNotFound = "key_not_found" [404] "Not found"
        "there is no such key, or it is not yours"
        "list the keys",
    LastOwner = "last_owner" [409] "Last owner"
        "the installation, or the tenant, would have nobody left to administer it"
        "give the role to another person first",
    Leaving = "leaving" [503] "Restarting"
        "the orchestrator is ending"
        "ask again; the next one answers",
    LoginEnded = "login_ended" [410] "Sign-in ended"
        "the sign-in of the command line was confirmed, refused, or is older than 5 minutes"
        "run `cial login` again",
    LoginPending = "login_pending" [409] "Sign-in pending"
        "nobody has confirmed the sign-in of the command line in the browser yet"
        "confirm it there; ask again after `Retry-After`",
    MalformedRequest = "malformed_request" [400] "Bad request"
        "the request breaks HTTP's rules; the connection is closed"
        "correct the client",
    MethodNotAllowed = "method_not_allowed" [405] "Method not allowed"
        "the path has other methods"
        "read `Allow`",
    MethodRefused = "method_refused" [405] "Method not allowed"
        "`CONNECT` and `TRACE` are not served"
        "use another",
    ModelBusy = "model_busy" [503] "Busy"
        "the endpoint of the model takes no more requests at the moment, or as many replies of the model are under way as may be"
        "send the message again after a while; the operator may need a larger contract, or machine",
    ModelFailed = "model_failed" [502] "The model did not reply"
        "the endpoint of the model cannot be reached, refused the request, broke off, or sent what is no reply"
        "send the message again; the log of app-api has the status of the endpoint's response",
    ModelQuota = "model_quota" [429] "Quota used up"
        "the tenant sent as many requests to the model as it may in a minute, or used its tokens of the day"
        "wait for `Retry-After`, or have the operator raise the quota: `cial models set`",
    ModelTimedOut = "model_timed_out" [504] "The model did not reply in time"
        "the endpoint of the model sent nothing for too long, or its reply took too long"
        "send the message again; look at the load of the endpoint",
    ModelUnset = "model_unset" [503] "No model"
        "the app wants the model of the installation to reply, and the operator has set none"
        "set one: `cial models set`",
    NameTaken = "name_taken" [409] "Name taken"
        "the engine has a thing of that name that is not ours"
        "rename or remove it",
    NoSuchTenant = "no_such_tenant" [404] "Not found"
        "the orchestrator does not know the tenant"
        "—",
    NotAVisit = "not_a_visit" [403] "Forbidden"
        "signing in at a tenant by `HEAD` or a prefetch: nobody would go there"
        "go there",
    NotFound = "not_found" [404] "Not found"
        "nothing is at this address"
        "—",
    NotImplemented = "not_implemented" [501] "Not implemented"
        "planned, not built"
        "—",
    NotListed = "not_listed" [503] "Starting"
        "the orchestrator has not looked at the engine yet"
        "try again",
    NotReady = "not_ready" [503] "Starting"
        "the service is starting"
        "try again",
    NotRegistered = "not_registered" [404] "Not registered"
        "inside a tenant: no workspace of that id is registered"
        "register it: `POST /.cial/api/v1/registry/register`",
    NotRunning = "not_running" [503] "Not running"
        "the tenant is not running; the text says when it failed for good"
        "wait, or start it in the admin",
    NotSignedIn = "not_signed_in" [401] "Not signed in"
        "the page needs a session of the tenant"
        "sign in: `/.cial/sign-in`",
    OrchestratorUnavailable = "orchestrator_unavailable" [503] "Service unavailable"
        "app-api cannot reach the orchestrator"
        "look at its log; tenants go on",
    OutOfResources = "out_of_resources" [503] "Busy"
        "the router, the edge or the orchestrator has no free file descriptors, memory or local ports; the tenant is not to blame"
        "try again; raise the limit of open files (`ulimits: nofile` in compose.yml), or free memory",
    PackageCorrupt = "package_corrupt" [400] "Package damaged"
        "the file is empty, no tar that bzip2 or zstd compressed, damaged, or cut off"
        "make the archive anew, then upload the whole file",
    PackageExists = "package_exists" [409] "Package exists"
        "the tenant has a package of that name and version; a package never changes"
        "choose another version, or delete the package first",
    PackageInvalid = "package_invalid" [400] "Package invalid"
        "`package.toml` breaks the rules that `errors` names"
        "correct it; see [packages](../packages.md)",
    PackageKeyExists = "package_key_exists" [409] "Key exists"
        "the installation trusts a key of this name, or this public key under another name"
        "choose another name, or delete the other key first: `cial packages keys list` shows all",
    PackageKeyUnknown = "package_key_unknown" [400] "Unknown key"
        "the installation does not trust the key that signed the package"
        "sign with a trusted key; an administrator of the platform adds one: `cial packages keys add`",
    PackageSignatureInvalid = "package_signature_invalid" [400] "Signature invalid"
        "the signature is not one of this archive by the key that it names, or is none at all"
        "sign exactly the file that you upload: `cial packages sign`; see [signatures](../packages.md#signatures)",
    PackageTooLarge = "package_too_large" [400] "Package too large"
        "the package holds more files or bytes, after decompression, than it may"
        "leave out what the tasks do not need",
    PackageUnsafe = "package_unsafe" [400] "Package unsafe"
        "an entry of the archive is a link or a device, leads out of the package's folder, or is there twice"
        "make the archive of plain files below one folder, `name-version`",
    PackageUnsigned = "package_unsigned" [400] "Signature missing"
        "the installation takes signed packages only"
        "sign the file, then upload it with `--signature`; see [signatures](../packages.md#signatures)",
    PackageUntrusted = "package_untrusted" [409] "Package not trusted"
        "the installation runs workflows of signed packages only, and this one has no signature of a key that is still trusted"
        "delete the package, then upload it with a signature; or have the key added again",
    PasskeyConflict = "passkey_conflict" [409] "Conflict"
        "the passkey is known already, or the person has as many as may"
        "remove one first",
    PgDumpUnusable = "pg_dump_unusable" [503] "Dump program unusable"
        "the program `pg_dump` is missing beside app-api, or is older than the database server"
        "build the image of app-api with the server's image as `POSTGRES`, or name a fitting program by `CIAL_PG_DUMP`; `--without-database` exports without the schema",
    PortConflict = "port_conflict" [409] "Port taken"
        "the tenant's port is taken"
        "start it again",
    ProgramFailed = "program_failed" [422] "Program does not run"
        "the program of an image ended, or was not ready in time, when it was tried in a throw-away tenant"
        "read the log in the detail; let the program listen on `PORT`; where it cannot run without a tenant's variables, skip the trial: `smoke_start: false`",
    RangeNotSatisfiable = "range_not_satisfiable" [416] "Range not satisfiable"
        "inside a tenant: the range begins behind the end of the file"
        "read the size in the detail",
    RateLimited = "rate_limited" [429] "Too many requests"
        "one client sends one tenant more than `CIAL_RATE_LIMIT`, one person or API key sends the admin API more than 3,000 changes within five minutes, or one person or tenant holds 16 streams of events"
        "wait for `Retry-After`",
    RegistryRefused = "registry_refused" [422] "Registry refused"
        "the registry of an image gives it to nobody without credentials, or not for the stored ones"
        "store others: `cial registries set`; the account must be allowed to pull the image",
    RegistryUnreachable = "registry_unreachable" [502] "Registry unreachable"
        "the registry of an image has no known address, does not respond, breaks off, or has no certificate that the engine trusts"
        "read the detail; try again once the registry responds",
    RequestTimedOut = "request_timed_out" [408] "Request timed out"
        "the request took too long to arrive"
        "try again",
    ResetLinkEnded = "reset_link_ended" [410] "Link ended"
        "the link was used or is too old"
        "ask for another at `/admin/forgot`, or print one",
    ResourceNotFound = "resource_not_found" [404] "Not found"
        "there is no such session, person, member, invitation, webhook, delivery, app, rollout, backup, variable or registry"
        "list them",
    RestartNeeded = "restart_needed" [503] "Restart needed"
        "the tenant has run since before an upgrade, and the request needs what its edge cannot do: to require sign-in, or to serve the core's site"
        "restart the tenant; it also helps itself once it has slept",
    RevisionConflict = "revision_conflict" [409] "Conflict"
        "somebody changed the tenant at the same time"
        "read it and try again",
    RevisionMismatch = "revision_mismatch" [412] "Precondition failed"
        "`If-Match`, or the form, is of an older revision; a weak tag (`W/\"3\"`) never matches"
        "read it and try again",
    RolloutActive = "rollout_active" [409] "Rollout under way"
        "another rollout of the app is under way"
        "wait for its end, or abort it",
    RolloutEnded = "rollout_ended" [409] "Rollout ended"
        "the rollout ended, or moves its failed wave back"
        "start another rollout",
    SecondFactorConflict = "second_factor_conflict" [409] "Conflict"
        "the second factor is on already, is off, or waits for its first code"
        "look at its state: `GET /v1/users/me/second-factor`",
    SecondFactorRequired = "second_factor_required" [401] "Second factor required"
        "the password is right, and the account has a second factor"
        "sign in with the code of the app as well",
    SecretMissing = "secret_missing" [422] "Secret missing"
        "the release of a tenant requires a secret for which neither the tenant nor its app has a value; the detail names it"
        "set it for the tenant, or for the app: then the tenant starts",
    SignInEnded = "sign_in_ended" [410] "Sign-in ended"
        "a sign-in waited longer than 5 minutes for the code of the second factor, or the password changed meanwhile"
        "enter e-mail address and password again",
    SignupClosed = "signup_closed" [403] "Sign-up closed"
        "there is an owner already"
        "sign in",
    SlugTaken = "slug_taken" [409] "Slug taken"
        "a tenant has that slug"
        "choose another",
    Starting = "starting" [503] "Starting"
        "the tenant is on its way"
        "try again after `Retry-After`",
    Stopped = "stopped" [503] "Not running"
        "its owner stopped the tenant"
        "start it in the admin",
    SubnetsExhausted = "subnets_exhausted" [507] "Subnets exhausted"
        "every /29 of `CIAL_SUBNET_POOL` is taken"
        "delete tenants or give a larger pool",
    TargetTooLong = "target_too_long" [414] "Address too long"
        "the address is over the limit"
        "shorten it",
    TenantAwake = "tenant_awake" [409] "Tenant awake"
        "the tenant runs, or ran during its export, and only one that is stopped, sleeps or is frozen can be exported"
        "stop it, or wait until it sleeps; `cial tenants export --stop` stops it and starts it again",
    TenantDatabaseFull = "tenant_database_full" [409] "Database full"
        "the tenant's tables hold more than `limits.database_bytes`; nothing connects to its database"
        "raise the limit, then delete what is not needed; see [a tenant's database](../tenant-database.md#the-size)",
    TenantDeleted = "tenant_deleted" [410] "Tenant deleted"
        "the tenant was deleted; also for an `Idempotency-Key` whose tenant was deleted since"
        "create another, with a new key",
    TenantDeleting = "tenant_deleting" [409] "Tenant is being deleted"
        "the tenant is being deleted"
        "create another",
    TenantImporting = "tenant_importing" [409] "Tenant is being imported"
        "the data of the tenant are still being imported"
        "wait for the end of the import",
    TenantNotFound = "tenant_not_found" [404] "Not found"
        "no tenant has that slug"
        "—",
    TenantNotRunning = "tenant_not_running" [409] "Tenant not running"
        "the tenant neither runs nor sleeps, so it cannot be opened, or leased"
        "start it",
    TenantSchemaDamaged = "tenant_schema_damaged" [409] "Schema of the tenant damaged"
        "the tables `cial_…` in the tenant's schema are not as the platform made them"
        "undo what changed them, or restore the schema from a backup",
    TenantSchemaUnreadable = "tenant_schema_unreadable" [409] "Schema not exported"
        "`pg_dump`, which connects as the tenant's role, cannot read the tenant's schema"
        "read the detail; change the schema, or export without it: `--without-database`",
    TenantStopped = "tenant_stopped" [409] "Tenant stopped"
        "its owner stopped the tenant; no request wakes it (orchestrator to router)"
        "start it in the admin",
    TooManyAttempts = "too_many_attempts" [429] "Too many attempts"
        "too many sign-ins, sign-ups or resets within five minutes, by one client or at one account; a device on which the account signed in before has a limit of its own"
        "wait for `Retry-After`",
    TooManyCommands = "too_many_commands" [429] "Too many commands"
        "as many commands run in the tenant, or in all tenants together, as may"
        "end one, or wait for its end",
    TooManyExecutions = "too_many_executions" [409] "Too many executions"
        "100 executions of the tenant have not ended"
        "wait for them, or cancel some",
    TooManyPackages = "too_many_packages" [409] "Too many packages"
        "the tenant has 100 packages, or 1 GiB of them"
        "delete one that is not needed",
    TooManyTriggers = "too_many_triggers" [409] "Too many triggers"
        "the tenant has 100 triggers"
        "delete one that is not needed",
    TooManyWaiting = "too_many_waiting" [503] "Busy"
        "too many requests wait for one tenant to wake"
        "try again after `Retry-After`",
    TooManyWebhooks = "too_many_webhooks" [409] "Too many webhooks"
        "the installation has 100 webhooks"
        "delete one that is not needed",
    TriggerExists = "trigger_exists" [409] "Trigger exists"
        "the tenant has a trigger of that name"
        "choose another name, or delete the trigger first",
    TriggerPaused = "trigger_paused" [409] "Trigger paused"
        "the trigger is paused, and does not fire"
        "resume it",
    Unauthenticated = "unauthenticated" [401] "Unauthorized"
        "no session, or it ended; between services: the bearer token is wrong"
        "sign in; between services: check that both have the same secrets",
    UnsupportedFilter = "unsupported_filter" [422] "Unsupported filter"
        "the filter of a list names no field, or no value, that is known"
        "read the detail",
    UnsupportedMediaType = "unsupported_media_type" [415] "Unsupported media type"
        "the body is of another type"
        "send JSON",
    UpgradeRequired = "upgrade_required" [426] "Upgrade required"
        "the path is a WebSocket"
        "connect as one",
    UpgradeVersion = "upgrade_version" [426] "Upgrade required"
        "WebSockets are served in version 13"
        "—",
    UploadConflict = "upload_conflict" [409] "Conflict"
        "the part of an upload does not begin where the last one ended, another request writes the upload, or it is not whole yet"
        "ask for the upload, and go on at its offset",
    UpstreamCutOff = "upstream_cut_off" [502] "Bad gateway"
        "the tenant broke off"
        "try again",
    UpstreamMalformed = "upstream_malformed" [502] "Bad gateway"
        "the tenant's answer cannot be read"
        "look at the tenant's log",
    UpstreamTimedOut = "upstream_timed_out" [504] "Gateway timed out"
        "the tenant did not answer in time"
        "try again",
    UpstreamUnreachable = "upstream_unreachable" [502] "Bad gateway"
        "the tenant did not take the request"
        "try again",
    VariableTaken = "variable_taken" [409] "Name taken"
        "the tenant or the app has a secret of that name where a variable is to be set, or the reverse"
        "delete it first, or choose another name",
    VersionRefused = "version_refused" [505] "Version not supported"
        "only HTTP/1.1 and HTTP/1.0 are served"
        "—",
    Waiting = "waiting" [503] "Not ready"
        "`/readyz` of app-api or of a router: it cannot do its work; the detail names what is missing, or that it drains"
        "wait; look at what is named",
    WakeFailed = "wake_failed" [502, 503] "It did not wake up"
        "the tenant was woken and did not get ready; the detail says how, the tenant's page in the admin says why"
        "look at its log, then try again",
    WakeQueueFull = "wake_queue_full" [503] "Busy"
        "too many wakes wait already"
        "try again after `Retry-After`",
    WakeRequired = "wake_required" [409, 503] "Asleep"
        "the tenant sleeps, and this request is none that wakes it; `X-Wake-Required: 1`"
        "visit it, send `Authorization`, or change `wake_on`; see [sleep and wake](../sleep-and-wake.md)",
    WakeUnavailable = "wake_unavailable" [503] "Not running"
        "the tenant has no lease, and the orchestrator cannot be reached for one or takes no call of the router"
        "try again after `Retry-After`; look at the router's `/readyz` and at the orchestrator",
    Waking = "waking" [503] "Waking up"
        "the tenant is being woken; this request waited as long as it may"
        "try again after `Retry-After`",
    WarmupFailed = "warmup_failed" [503] "It did not start"
        "a tenant that `POST /warmup` of the development profile started is not ready after 45 seconds, or failed"
        "look at its log, then try again",
    WorkflowInUse = "workflow_in_use" [409] "Workflow in use"
        "a trigger runs a workflow that no other package of the tenant has"
        "upload a package with this workflow, or delete the trigger, first",
    WorkflowPaused = "workflow_paused" [409] "Workflow paused"
        "the workflow is paused, and begins no execution"
        "resume it",
    WrongHost = "wrong_host" [421] "Misdirected request"
        "the admin is reached under another name than `CIAL_ADMIN_URL`"
        "use that, or change the setting",
}

impl Code {
    /// The usual status.
    pub const fn status(self) -> u16 {
        self.statuses()[0]
    }

    /// The code with this name. `None` for a name of another release.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// The meaning as plain text.
    pub fn plain_meaning(self) -> String {
        plain_text(self.meaning())
    }

    /// The advice to the caller as plain text; `None` where nothing can be done.
    pub fn plain_remedy(self) -> Option<String> {
        (self.remedy() != NO_REMEDY).then(|| plain_text(self.remedy()))
    }

    /// The path of the admin's page about the code.
    pub fn page_path(self) -> String {
        format!("/problems/{self}")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason phrase of a status, as the HTTP status code registry names it.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests;

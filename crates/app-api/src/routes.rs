//! The route tables: method, path, access, handler. The servers and the API's description are built from the tables,
//! and a test walks them as every kind of caller.

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use protocol::api_keys::Role::{Admin, Read, Write};
use protocol::problem::Code;
use service::api_error::{ApiError, ErrorCause};
use tower_http::catch_panic::CatchPanicLayer;

use crate::access::Access::{
    Account, Global, Member, Person, PlatformAdmin, PlatformRead, Public, Service, SignedIn,
    Tenant, WholeAccount,
};
use crate::access::layer::deny_unknown_path;
use crate::api::variables::{Env, Secrets};
use crate::app::{App, database_disk_full, database_unavailable};
use crate::db::DatabaseError;
use crate::http::describe::describe_handler;
use crate::http::{self, security};
use crate::openapi::OpenApiDocument;
use crate::route::{Description, Route, Surface, mount};
use crate::settings::DevLogin;
use crate::{api, audit, internal, model, openapi, pages, sessions};

/// `api`: below `/api/admin` and `/v1`. `call`: JSON at one path. `page`: HTML and assets. `internal`: for services.
macro_rules! routes {
    ($($kind:ident $method:ident $path:literal, $access:expr, $summary:literal, $handler:path;)+) => {
        &[$(routes!(@$kind Method::$method, $path, $access, || on(MethodFilter::$method, $handler), $summary, $handler)),+]
    };
    (@api $method:expr, $path:expr, $access:expr, $on:expr, $summary:expr, $handler:path) => {
        routes!(@call $method, $path, $access, $on, $summary, $handler).below_api_prefixes()
    };
    (@call $method:expr, $path:expr, $access:expr, $on:expr, $summary:expr, $handler:path) => {
        Route::call($method, $path, $access, $on, Description { summary: $summary, describe: |call| describe_handler($handler, call) })
    };
    (@page $method:expr, $path:expr, $access:expr, $on:expr, $($rest:tt)+) => {
        Route::new(Surface::Page, $method, $path, $access, $on)
    };
    (@internal $method:expr, $path:expr, $access:expr, $on:expr, $($rest:tt)+) => {
        Route::new(Surface::Internal, $method, $path, $access, $on)
    };
}

/// The routes of the public listener.
pub const ROUTES: &[Route] = routes! {
    page GET    "/healthz",                     Public,        "", api::health::healthz;
    page GET    "/health",                      Public,        "", api::health::healthz;
    page GET    "/readyz",                      Public,        "", api::health::readyz;
    page GET    "/ready",                       Public,        "", api::health::readyz;
    page GET    "/assets/admin.css",            Public,        "", pages::assets::style;
    page GET    "/assets/passkey.js",           Public,        "", pages::assets::passkey_script;
    page GET    "/assets/icon.svg",             Public,        "", pages::assets::icon;
    page GET    "/favicon.ico",                 Public,        "", pages::assets::icon;
    page GET    "/problems/{code}",             Public,        "", pages::problem_code::show_code;
    call GET    "/api/openapi.json",            Public,        "This description", show_description;

    call POST   "/api/auth/sign-up/email",      Public,        "Create the owner's account", api::auth::sign_up;
    call POST   "/api/auth/sign-in/email",      Public,        "Sign in", api::auth::sign_in;
    call POST   "/api/auth/sign-in/passkey/challenge", Public, "Begin a sign-in by a passkey", api::passkeys::challenge_sign_in;
    call POST   "/api/auth/sign-in/passkey",    Public,        "Sign in by a passkey", api::passkeys::sign_in;
    call POST   "/api/auth/sign-out",           Public,        "Sign out", api::auth::sign_out;
    call GET    "/api/auth/session",            Person,        "Who is signed in", api::auth::show_session;

    call POST   "/v1/auth/sign-out",            SignedIn,      "Revoke the calling key, or end the calling session", api::keys::sign_out;
    call POST   "/v1/auth/cli-logins",          Public,        "Begin a sign-in of the command line", api::cli_logins::begin;
    call POST   "/v1/auth/cli-logins/{id}/key", Public,        "Fetch the key of a confirmed sign-in", api::cli_logins::fetch_key;

    api  GET    "/auth/whoami",                 SignedIn,      "Who calls", api::keys::show_caller;
    api  GET    "/auth/keys",                   PlatformAdmin, "List the keys of all tenants", api::keys::list_keys;
    api  POST   "/auth/keys",                   PlatformAdmin, "Create a key of all tenants", api::keys::create_key;
    api  DELETE "/auth/keys/{id}",              PlatformAdmin, "Revoke a key of all tenants", api::keys::revoke_key;

    api  GET    "/tenants",                     Global,        "List tenants", api::tenants::list_tenants;
    api  POST   "/tenants",                     PlatformAdmin, "Create a tenant", api::tenants::create_tenant;
    api  GET    "/tenants/{slug}",              Tenant(Read),  "Show a tenant", api::tenants::show_tenant;
    api  PATCH  "/tenants/{slug}",              PlatformAdmin, "Change a tenant", api::tenants::change_tenant;
    api  DELETE "/tenants/{slug}",              PlatformAdmin, "Delete a tenant", api::tenants::delete_tenant;
    api  POST   "/tenants/{slug}/start",        Tenant(Write), "Start a tenant", api::tenants::start_tenant;
    api  POST   "/tenants/{slug}/stop",         Tenant(Write), "Stop a tenant", api::tenants::stop_tenant;
    api  POST   "/tenants/{slug}/restart",      Tenant(Write), "Restart a tenant", api::tenants::restart_tenant;
    api  PUT    "/tenants/{slug}/release",      PlatformAdmin, "Move a tenant to another release", api::tenants::set_release;
    api  GET    "/tenants/{slug}/env",          Tenant(Admin), "List the variables of a tenant's program", api::variables::list::<Env>;
    api  PUT    "/tenants/{slug}/env/{name}",   Tenant(Admin), "Set a variable, from the next start on", api::variables::set::<Env>;
    api  DELETE "/tenants/{slug}/env/{name}",   Tenant(Admin), "Delete a variable", api::variables::delete::<Env>;
    api  GET    "/tenants/{slug}/secrets",      Tenant(Admin), "List the names of the secrets of a tenant's program", api::variables::list::<Secrets>;
    api  PUT    "/tenants/{slug}/secrets/{name}", Tenant(Admin), "Set a secret, from the next start on", api::variables::set::<Secrets>;
    api  DELETE "/tenants/{slug}/secrets/{name}", Tenant(Admin), "Delete a secret", api::variables::delete::<Secrets>;
    api  GET    "/tenants/{slug}/logs",         Tenant(Read),  "A tenant's log", api::tenant_logs::show_logs;
    api  GET    "/tenants/{slug}/summaries",    Tenant(Read),  "Counts of a tenant's conversations", api::summaries::list_summaries;
    api  POST   "/tenants/{slug}/ingest-summary", Tenant(Write), "Store the counts of a conversation", api::summaries::ingest_summary;
    api  GET    "/tenants/{slug}/exec",         Tenant(Admin), "Run a command in a tenant's platform half, over a WebSocket", api::exec::run_command;
    api  GET    "/tenants/{slug}/export",       Tenant(Admin), "Export a tenant that rests: its volumes as one archive", api::transfers::export_tenant;
    api  POST   "/imports/{as}",                PlatformAdmin, "Create a tenant of this slug from an archive; it stays stopped", api::transfers::import_tenant;
    api  GET    "/tenants/{slug}/backups",      Tenant(Read),  "List a tenant's backups", api::backups::list_tenant_backups;
    api  POST   "/tenants/{slug}/backups",      Tenant(Admin), "Request a backup, which is made once the tenant rests", api::backups::request_backup;
    api  GET    "/tenants/{slug}/keys",         Tenant(Admin), "List a tenant's keys", api::keys::list_tenant_keys;
    api  POST   "/tenants/{slug}/keys",         Tenant(Admin), "Create a key of a tenant", api::keys::create_tenant_key;
    api  DELETE "/tenants/{slug}/keys/{id}",    Tenant(Admin), "Revoke a key of a tenant", api::keys::revoke_tenant_key;
    api  GET    "/tenants/{slug}/packages",     Tenant(Read),  "List a tenant's packages", api::packages::list_packages;
    api  POST   "/tenants/{slug}/packages",     Tenant(Write), "Upload a package", api::packages::upload_package;
    api  DELETE "/tenants/{slug}/packages/{name}/{version}", Tenant(Write), "Delete a package with its workflows", api::packages::delete_package;
    api  GET    "/tenants/{slug}/workflows",    Tenant(Read),  "List a tenant's workflows", api::workflows::list_workflows;
    api  POST   "/tenants/{slug}/workflows/{name}/execute", Tenant(Write), "Run a workflow", api::workflows::run_workflow;
    api  POST   "/tenants/{slug}/workflows/{name}/pause", Tenant(Write), "Pause a workflow", api::workflows::pause_workflow;
    api  POST   "/tenants/{slug}/workflows/{name}/resume", Tenant(Write), "Resume a workflow", api::workflows::resume_workflow;
    api  GET    "/tenants/{slug}/executions",   Tenant(Read),  "List a tenant's executions", api::executions::list_executions;
    api  GET    "/tenants/{slug}/executions/{id}", Tenant(Read), "Show an execution with its tasks", api::executions::show_execution;
    api  GET    "/tenants/{slug}/executions/{id}/logs", Tenant(Read), "The output of an execution", api::executions::show_execution_output;
    api  POST   "/tenants/{slug}/executions/{id}/cancel", Tenant(Write), "End an execution", api::executions::cancel_execution;
    api  GET    "/tenants/{slug}/triggers",     Tenant(Read),  "List a tenant's triggers", api::triggers::list_triggers;
    api  POST   "/tenants/{slug}/triggers",     Tenant(Write), "Create a trigger of a workflow", api::triggers::create_trigger;
    api  GET    "/tenants/{slug}/triggers/{name}", Tenant(Read), "Show a trigger", api::triggers::show_trigger;
    api  DELETE "/tenants/{slug}/triggers/{name}", Tenant(Write), "Delete a trigger", api::triggers::delete_trigger;
    api  POST   "/tenants/{slug}/triggers/{name}/pause", Tenant(Write), "Pause a trigger", api::triggers::pause_trigger;
    api  POST   "/tenants/{slug}/triggers/{name}/resume", Tenant(Write), "Resume a trigger", api::triggers::resume_trigger;
    api  POST   "/tenants/{slug}/triggers/{name}/fire", Tenant(Write), "Fire a trigger now", api::triggers::fire_trigger;
    call POST   "/v1/triggers/{id}/{token}",    Public,        "Call a trigger's webhook", api::triggers::call_trigger;
    api  GET    "/tenants/{slug}/open",         Member(Read),  "Enter a tenant, signed in", api::open::open_tenant;
    api  POST   "/tenants/{slug}/open",         Member(Read),  "Enter a tenant, signed in", api::open::open_tenant;

    api  GET    "/backups",                     PlatformRead,  "List the backups of all tenants, deleted ones included", api::backups::list_backups;
    api  GET    "/backups/status",              PlatformRead,  "Whether all tenants are backed up", api::backups::show_status;
    api  GET    "/backups/{id}",                PlatformRead,  "Show a backup", api::backups::show_backup;
    api  DELETE "/backups/{id}",                PlatformAdmin, "Delete a backup", api::backups::delete_backup;
    api  POST   "/backups/{id}/restore",        PlatformAdmin, "Create a tenant from a backup; it stays stopped", api::backups::restore_backup;

    api  GET    "/apps",                        PlatformRead,  "List apps", api::apps::list_apps;
    api  POST   "/apps",                        PlatformAdmin, "Create an app", api::apps::create_app;
    api  GET    "/apps/{app}",                  PlatformRead,  "Show an app", api::apps::show_app;
    api  DELETE "/apps/{app}",                  PlatformAdmin, "Delete an app with its releases", api::apps::delete_app;
    api  GET    "/apps/{app}/releases",         PlatformRead,  "List an app's releases", api::apps::list_releases;
    api  POST   "/apps/{app}/releases",         PlatformAdmin, "Create a release of an image", api::apps::create_release;
    api  GET    "/image-pulls",                 PlatformAdmin, "What the pull of an image has done", api::apps::show_pull;
    api  POST   "/image-uploads",               PlatformAdmin, "Begin the upload of an image, or go on with it", api::image_uploads::begin_upload;
    api  GET    "/image-uploads/{id}",          PlatformAdmin, "Show an upload: where to go on", api::image_uploads::show_upload;
    api  PUT    "/image-uploads/{id}",          PlatformAdmin, "Send a part of an image", api::image_uploads::write_part;
    api  DELETE "/image-uploads/{id}",          PlatformAdmin, "Give an upload up", api::image_uploads::delete_upload;
    api  GET    "/apps/{app}/env",              PlatformAdmin, "List the variables of an app", api::variables::list_of_app::<Env>;
    api  PUT    "/apps/{app}/env/{name}",       PlatformAdmin, "Set a variable of an app, from the next start of each tenant on", api::variables::set_of_app::<Env>;
    api  DELETE "/apps/{app}/env/{name}",       PlatformAdmin, "Delete a variable of an app", api::variables::delete_of_app::<Env>;
    api  GET    "/apps/{app}/secrets",          PlatformAdmin, "List the names of the secrets of an app", api::variables::list_of_app::<Secrets>;
    api  PUT    "/apps/{app}/secrets/{name}",   PlatformAdmin, "Set a secret of an app, from the next start of each tenant on", api::variables::set_of_app::<Secrets>;
    api  DELETE "/apps/{app}/secrets/{name}",   PlatformAdmin, "Delete a secret of an app", api::variables::delete_of_app::<Secrets>;
    api  GET    "/apps/{app}/rollouts",         PlatformRead,  "List an app's latest rollouts", api::rollouts::list_rollouts;
    api  POST   "/apps/{app}/rollouts",         PlatformAdmin, "Move an app's tenants to another release, wave by wave", api::rollouts::start_rollout;
    api  GET    "/apps/{app}/rollouts/{id}",    PlatformRead,  "Show a rollout", api::rollouts::show_rollout;
    api  POST   "/apps/{app}/rollouts/{id}/pause", PlatformAdmin, "Pause a rollout", api::rollouts::pause_rollout;
    api  POST   "/apps/{app}/rollouts/{id}/resume", PlatformAdmin, "Resume a paused rollout", api::rollouts::resume_rollout;
    api  POST   "/apps/{app}/rollouts/{id}/abort", PlatformAdmin, "End a rollout; tenants that moved stay", api::rollouts::abort_rollout;

    api  GET    "/registries",                  PlatformAdmin, "List registries with credentials", api::registries::list_registries;
    api  PUT    "/registries/{host}",           PlatformAdmin, "Set the credentials of a registry, from the next pull on", api::registries::set_registry;
    api  DELETE "/registries/{host}",           PlatformAdmin, "Delete the credentials of a registry", api::registries::delete_registry;

    api  GET    "/package-keys",                PlatformRead,  "List the keys whose signatures of packages are trusted", api::package_keys::list_package_keys;
    api  POST   "/package-keys",                PlatformAdmin, "Trust the signatures of a key", api::package_keys::add_package_key;
    api  DELETE "/package-keys/{name}",         PlatformAdmin, "Trust the signatures of a key no more", api::package_keys::delete_package_key;

    api  GET    "/sessions",                    WholeAccount(Read), "List one's own sessions", api::sessions::list_sessions;
    api  DELETE "/sessions",                    WholeAccount(Admin), "End one's other sessions", api::sessions::revoke_other_sessions;
    api  DELETE "/sessions/{id}",               WholeAccount(Admin), "End one of one's sessions", api::sessions::revoke_session;

    api  GET    "/events",                      SignedIn,      "What changes, as server-sent events", api::events::stream_events;

    api  GET    "/audit",                       PlatformRead,  "List audit entries", api::audit::list_entries;
    api  GET    "/audit/export",                PlatformRead,  "Export audit entries", api::audit::export_entries;
    api  GET    "/audit/chain",                 PlatformRead,  "Check the hash chain of the audit log", api::audit::verify_chain;

    api  GET    "/users",                       PlatformRead,  "List people", api::users::list_users;
    api  GET    "/users/me",                    Person,        "Show oneself and one's memberships", api::users::show_me;
    api  GET    "/users/me/second-factor",      Person,        "Whether one has a second factor", api::second_factor::show_status;
    api  POST   "/users/me/second-factor",      Person,        "Begin the enrolment of a second factor", api::second_factor::begin;
    api  POST   "/users/me/second-factor/confirm", Person,     "Put a second factor into effect", api::second_factor::confirm;
    api  POST   "/users/me/second-factor/disable", Person,     "End one's second factor", api::second_factor::disable;
    api  GET    "/users/me/passkeys",           Person,        "List one's own passkeys", api::passkeys::list_passkeys;
    api  POST   "/users/me/passkeys/challenge", Person,        "Begin to add a passkey", api::passkeys::challenge_registration;
    api  POST   "/users/me/passkeys",           Person,        "Add a passkey", api::passkeys::add_passkey;
    api  PATCH  "/users/me/passkeys/{id}",      Person,        "Rename one of one's passkeys", api::passkeys::rename_passkey;
    api  DELETE "/users/me/passkeys/{id}",      Person,        "Remove one of one's passkeys", api::passkeys::remove_passkey;
    api  GET    "/users/me/keys",               Account,       "List one's own keys", api::keys::list_own_keys;
    api  DELETE "/users/me/keys/{id}",          Account,       "Revoke one of one's own keys", api::keys::revoke_own_key;
    api  DELETE "/users/me/tenants/{id}",       Person,        "End one's own membership", api::members::leave;
    api  GET    "/users/{id}",                  PlatformRead,  "Show a person", api::users::show_user;
    api  PATCH  "/users/{id}",                  PlatformAdmin, "Change a person's platform role or name", api::users::change_user;
    api  DELETE "/users/{id}",                  PlatformAdmin, "Delete a person", api::users::delete_user;
    api  DELETE "/users/{id}/second-factor",    PlatformAdmin, "End a person's second factor, as an owner", api::second_factor::reset;
    api  GET    "/invitations",                 PlatformRead,  "List open invitations of operators", api::invitations::list_operator_invitations;
    api  POST   "/invitations",                 PlatformAdmin, "Invite an operator", api::invitations::invite_operator;
    api  DELETE "/invitations/{id}",            PlatformAdmin, "Withdraw an invitation", api::invitations::revoke_operator_invitation;
    api  GET    "/tenants/{slug}/members",      Tenant(Read),  "List a tenant's members", api::members::list_members;
    api  PUT    "/tenants/{slug}/members/{id}", Tenant(Admin), "Set a member's role", api::members::set_member;
    api  DELETE "/tenants/{slug}/members/{id}", Tenant(Admin), "Remove a member", api::members::remove_member;
    api  GET    "/tenants/{slug}/invitations",  Tenant(Admin), "List a tenant's open invitations", api::invitations::list_member_invitations;
    api  POST   "/tenants/{slug}/invitations",  Tenant(Admin), "Invite a member", api::invitations::invite_member;
    api  DELETE "/tenants/{slug}/invitations/{id}", Tenant(Admin), "Withdraw an invitation", api::invitations::revoke_member_invitation;

    api  GET    "/mails",                       PlatformRead,  "List mails that wait to be sent", api::mails::list_mails;

    api  GET    "/model",                       PlatformAdmin, "Show the model that replies in the chat", api::model::show_model;
    api  PUT    "/model",                       PlatformAdmin, "Set the model that replies in the chat", api::model::set_model;
    api  DELETE "/model",                       PlatformAdmin, "End the replies of a model", api::model::unset_model;
    api  GET    "/tenants/{slug}/model-usage",  Tenant(Read),  "What a tenant used of the model", api::model::show_usage;

    api  GET    "/webhooks",                    PlatformAdmin, "List webhooks", api::webhooks::list_webhooks;
    api  POST   "/webhooks",                    PlatformAdmin, "Create a webhook", api::webhooks::create_webhook;
    api  DELETE "/webhooks/{id}",               PlatformAdmin, "Delete a webhook", api::webhooks::delete_webhook;
    api  GET    "/webhooks/{id}/deliveries",    PlatformAdmin, "List a webhook's latest deliveries", api::webhooks::list_deliveries;
    api  POST   "/webhooks/{id}/deliveries/{delivery}/replay", PlatformAdmin, "Send a delivery again", api::webhooks::replay_delivery;

    page GET    "/",                            Public,        "", pages::root;
    page GET    "/admin/signup",                Public,        "", pages::accounts::show_signup;
    page POST   "/admin/signup",                Public,        "", pages::accounts::sign_up;
    page GET    "/admin/login",                 Public,        "", pages::accounts::show_login;
    page POST   "/admin/login",                 Public,        "", pages::accounts::sign_in;
    page GET    "/admin/login/code",            Public,        "", pages::second_factor::show_code;
    page POST   "/admin/login/code",            Public,        "", pages::second_factor::enter_code;
    page POST   "/admin/logout",                Public,        "", pages::accounts::sign_out;
    page GET    "/admin/forgot",                Public,        "", pages::accounts::show_forgot;
    page POST   "/admin/forgot",                Public,        "", pages::accounts::request_reset;
    page GET    "/admin/reset",                 Public,        "", pages::accounts::show_reset;
    page POST   "/admin/reset",                 Public,        "", pages::accounts::reset;
    page GET    "/admin/cli-login",             SignedIn,      "", pages::cli_login::show;
    page POST   "/admin/cli-login",             SignedIn,      "", pages::cli_login::enter_code;
    page POST   "/admin/cli-login/{id}",        SignedIn,      "", pages::cli_login::decide;
    page GET    "/admin",                       SignedIn,      "", pages::tenants::list_tenants;
    page GET    "/admin/tenants/new",           PlatformAdmin, "", pages::tenants::show_new_tenant;
    page POST   "/admin/tenants/new",           PlatformAdmin, "", pages::tenants::create_tenant;
    page GET    "/admin/tenants/{slug}",        Tenant(Read),  "", pages::tenants::show_tenant;
    page GET    "/admin/tenants/{slug}/sign-in", Member(Read), "", pages::tenant_sign_in::sign_in;
    page POST   "/admin/tenants/{slug}/start",  Tenant(Write), "", pages::tenants::start_tenant;
    page POST   "/admin/tenants/{slug}/stop",   Tenant(Write), "", pages::tenants::stop_tenant;
    page POST   "/admin/tenants/{slug}/restart", Tenant(Write), "", pages::tenants::restart_tenant;
    page GET    "/admin/tenants/{slug}/edit",   PlatformAdmin, "", pages::edit::show_edit_tenant;
    page POST   "/admin/tenants/{slug}/edit",   PlatformAdmin, "", pages::edit::edit_tenant;
    page GET    "/admin/tenants/{slug}/delete", PlatformAdmin, "", pages::tenants::show_delete_tenant;
    page POST   "/admin/tenants/{slug}/delete", PlatformAdmin, "", pages::tenants::delete_tenant;
    page POST   "/admin/tenants/{slug}/pin",    PlatformAdmin, "", pages::apps::pin_tenant;
    page POST   "/admin/tenants/{slug}/unpin",  PlatformAdmin, "", pages::apps::unpin_tenant;
    page GET    "/admin/tenants/{slug}/variables", Tenant(Admin), "", pages::variables::show_variables;
    page POST   "/admin/tenants/{slug}/variables", Tenant(Admin), "", pages::variables::set_variable;
    page POST   "/admin/tenants/{slug}/variables/{name}/delete", Tenant(Admin), "", pages::variables::delete_variable;
    page GET    "/admin/apps",                  PlatformRead,  "", pages::apps::list_apps;
    page GET    "/admin/apps/{app}",            PlatformRead,  "", pages::apps::show_app;
    page GET    "/admin/apps/{app}/variables",  PlatformAdmin, "", pages::variables::show_app_variables;
    page POST   "/admin/apps/{app}/variables",  PlatformAdmin, "", pages::variables::set_app_variable;
    page POST   "/admin/apps/{app}/variables/{name}/delete", PlatformAdmin, "", pages::variables::delete_app_variable;
    page POST   "/admin/apps/{app}/rollouts",   PlatformAdmin, "", pages::apps::start_rollout;
    page POST   "/admin/apps/{app}/rollouts/{id}/pause", PlatformAdmin, "", pages::apps::pause_rollout;
    page POST   "/admin/apps/{app}/rollouts/{id}/resume", PlatformAdmin, "", pages::apps::resume_rollout;
    page POST   "/admin/apps/{app}/rollouts/{id}/abort", PlatformAdmin, "", pages::apps::abort_rollout;
    page GET    "/admin/registries",            PlatformAdmin, "", pages::registries::show_registries;
    page POST   "/admin/registries",            PlatformAdmin, "", pages::registries::set_registry;
    page POST   "/admin/registries/{host}/delete", PlatformAdmin, "", pages::registries::delete_registry;
    page GET    "/admin/invitations/{token}",   Public,        "", pages::invitation::show_invitation;
    page POST   "/admin/invitations/{token}",   Public,        "", pages::invitation::accept_invitation;
    page GET    "/admin/team",                  PlatformRead,  "", pages::team::show_team;
    page POST   "/admin/team/invitations",      PlatformAdmin, "", pages::team::invite_operator;
    page POST   "/admin/team/invitations/{id}/revoke", PlatformAdmin, "", pages::team::revoke_operator_invitation;
    page POST   "/admin/team/{id}/role",        PlatformAdmin, "", pages::team::set_operator_role;
    page POST   "/admin/team/{id}/remove",      PlatformAdmin, "", pages::team::delete_operator;
    page GET    "/admin/tenants/{slug}/members", Tenant(Read), "", pages::team::show_members;
    page POST   "/admin/tenants/{slug}/members/invitations", Tenant(Admin), "", pages::team::invite_member;
    page POST   "/admin/tenants/{slug}/members/invitations/{id}/revoke", Tenant(Admin), "", pages::team::revoke_member_invitation;
    page POST   "/admin/tenants/{slug}/members/{id}/role", Tenant(Admin), "", pages::team::set_member_role;
    page POST   "/admin/tenants/{slug}/members/{id}/remove", Tenant(Admin), "", pages::team::remove_member;
    page GET    "/admin/keys",                  PlatformAdmin, "", pages::keys::show_keys;
    page POST   "/admin/keys",                  PlatformAdmin, "", pages::keys::create_key;
    page POST   "/admin/keys/{id}/revoke",      PlatformAdmin, "", pages::keys::revoke_key;
    page GET    "/admin/tenants/{slug}/keys",   Tenant(Admin), "", pages::keys::show_tenant_keys;
    page POST   "/admin/tenants/{slug}/keys",   Tenant(Admin), "", pages::keys::create_tenant_key;
    page POST   "/admin/tenants/{slug}/keys/{id}/revoke", Tenant(Admin), "", pages::keys::revoke_tenant_key;
    page GET    "/admin/webhooks",              PlatformAdmin, "", pages::webhooks::show_webhooks;
    page POST   "/admin/webhooks",              PlatformAdmin, "", pages::webhooks::create_webhook;
    page GET    "/admin/webhooks/{id}",         PlatformAdmin, "", pages::webhooks::show_deliveries;
    page POST   "/admin/webhooks/{id}/delete",  PlatformAdmin, "", pages::webhooks::delete_webhook;
    page POST   "/admin/webhooks/{id}/deliveries/{delivery}/replay", PlatformAdmin, "", pages::webhooks::replay_delivery;
    page GET    "/admin/audit",                 PlatformRead,  "", pages::audit::show_audit;
    page GET    "/admin/account",               SignedIn,      "", pages::account::show_account;
    page GET    "/admin/account/second-factor", SignedIn,      "", pages::second_factor::show;
    page POST   "/admin/account/second-factor", SignedIn,      "", pages::second_factor::begin;
    page POST   "/admin/account/second-factor/confirm", SignedIn, "", pages::second_factor::confirm;
    page POST   "/admin/account/second-factor/disable", SignedIn, "", pages::second_factor::disable;
    page POST   "/admin/account/passkeys/{id}", SignedIn,      "", pages::account::rename_passkey;
    page POST   "/admin/account/passkeys/{id}/revoke", SignedIn, "", pages::account::remove_passkey;
    page POST   "/admin/account/keys/{id}/revoke", SignedIn,   "", pages::account::revoke_key;
    page POST   "/admin/account/sessions/revoke", SignedIn,    "", pages::account::revoke_other_sessions;
    page POST   "/admin/account/sessions/{id}/revoke", SignedIn, "", pages::account::revoke_session;
};

/// The routes of the development profile, which the public listener has only with `CIAL_DEV_LOGIN=on`.
pub const DEV_ROUTES: &[Route] = routes! {
    call POST   "/auth/login",                  Public,        "Sign in without a password", api::dev_login::login;
    call POST   "/warmup",                      Person,        "Wake one's own tenant", api::dev_login::warm_up;
};

/// The routes of the internal listener.
pub const INTERNAL_ROUTES: &[Route] = routes! {
    internal GET "/v1/routes/watch",            Service,       "", internal::watch_routes;
    internal POST "/v1/response-counts",        Service,       "", internal::count_responses;
    internal GET "/metrics",                    Public,        "", internal::metrics;
    internal GET "/healthz",                    Public,        "", api::health::healthz;
};

/// The routes of the socket for tenants' cores. Each handler checks the token of the calling tenant.
pub const MODEL_ROUTES: &[Route] = routes! {
    internal POST "/v1/replies",                Public,        "", model::gateway::reply;
};

/// The public service: each route behind its access check, and no route beside the table.
pub fn public_service(app: App) -> Router {
    let description = openapi::describe(ROUTES, sessions::cookie_name(&app.addresses));
    let _ = app.description.set(description.to_json().unwrap_or_default().into());
    let dev_routes = match app.dev_login {
        DevLogin::On => mount(&app, DEV_ROUTES),
        DevLogin::Off => Router::new(),
    };
    mount(&app, ROUTES)
        .merge(dev_routes)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(security::panicked))
        .layer(from_fn_with_state(app.clone(), security::check_request))
        .layer(from_fn(report_database_failure))
        .layer(from_fn_with_state(app.clone(), pages::problem::layer))
        .layer(from_fn_with_state(app.clone(), security::add_security_headers))
        .layer(from_fn(http::release::layer))
        .layer(from_fn(service::unread_body::layer))
        .layer(from_fn_with_state(app.clone(), audit::origin::layer))
        .layer(from_fn(service::request_id::layer))
        .with_state(app)
}

/// The internal service: the route feed for the router, and metrics.
pub fn internal_service(app: App) -> Router {
    mount(&app, INTERNAL_ROUTES)
        .fallback(async || nothing_here())
        .layer(from_fn(service::unread_body::layer))
        .layer(from_fn(service::request_id::layer))
        .with_state(app)
}

/// The service for tenants' cores.
pub fn model_service(app: App) -> Router {
    mount(&app, MODEL_ROUTES)
        .fallback(async || nothing_here())
        .layer(CatchPanicLayer::custom(security::panicked))
        .layer(from_fn(report_database_failure))
        .layer(from_fn(service::unread_body::layer))
        .layer(from_fn(service::request_id::layer))
        .with_state(app)
}

/// Middleware: a failure of Postgres gets a code and a status of its own instead of 500.
async fn report_database_failure(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let cause = response.extensions().get::<ErrorCause>().map(|cause| cause.error.clone());
    let Some(cause) = cause else { return response };
    let error = match DatabaseError::find(&cause) {
        Some(DatabaseError::Unavailable) => database_unavailable(),
        Some(DatabaseError::DiskFull) => database_disk_full(),
        None => return response,
    };
    error.with_shared_cause(cause).into_response()
}

async fn show_description(State(app): State<App>) -> OpenApiDocument {
    OpenApiDocument(app.description.get().cloned().unwrap_or_default())
}

async fn not_found(
    State(app): State<App>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(refusal) = deny_unknown_path(&app, &method, &uri, &headers).await? {
        return Ok(refusal);
    }
    Err(nothing_here())
}

fn nothing_here() -> ApiError {
    ApiError::new(Code::NotFound, "There is nothing here.")
}

async fn method_not_allowed(
    State(app): State<App>,
    path: MatchedPath,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let is_public = ROUTES
        .iter()
        .any(|route| route.access == Public && route.paths().any(|known| known == path.as_str()));
    if !is_public && let Some(refusal) = deny_unknown_path(&app, &method, &uri, &headers).await? {
        return Ok(refusal);
    }
    let detail = format!("{method} is not understood here.");
    Err(ApiError::new(Code::MethodNotAllowed, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(heading: &str, routes: &[Route], surface: Surface) {
        let rows = routes.iter().filter(|route| route.surface == surface).map(|route| {
            let paths: Vec<_> = route.paths().map(|path| format!("`{path}`")).collect();
            format!("| {} | {} | {} |", route.method, paths.join(", "), route.access)
        });
        let head = ["| method | path | access |".to_owned(), "|---|---|---|".to_owned()];
        let table = head.into_iter().chain(rows).collect::<Vec<_>>().join("\n");
        testkit::reference::check_table("docs/reference/access.md", heading, &table);
    }

    #[test]
    fn revocations_are_counted_apart() {
        let revocations: Vec<_> = ROUTES
            .iter()
            .filter(|route| route.is_revocation())
            .map(|route| format!("{} {}", route.method, route.paths().last().unwrap_or_default()))
            .collect();
        insta::assert_snapshot!(revocations.join("\n"), @r"
        POST /api/auth/sign-out
        POST /v1/auth/sign-out
        DELETE /v1/auth/keys/{id}
        DELETE /v1/tenants/{slug}/keys/{id}
        DELETE /v1/sessions
        DELETE /v1/sessions/{id}
        DELETE /v1/users/me/passkeys/{id}
        DELETE /v1/users/me/keys/{id}
        DELETE /v1/invitations/{id}
        DELETE /v1/tenants/{slug}/invitations/{id}
        POST /admin/team/invitations/{id}/revoke
        POST /admin/tenants/{slug}/members/invitations/{id}/revoke
        POST /admin/keys/{id}/revoke
        POST /admin/tenants/{slug}/keys/{id}/revoke
        POST /admin/account/passkeys/{id}/revoke
        POST /admin/account/keys/{id}/revoke
        POST /admin/account/sessions/revoke
        POST /admin/account/sessions/{id}/revoke
        ");
    }

    #[test]
    fn the_access_reference_is_made_from_the_routes() {
        check("## API", ROUTES, Surface::Api);
        check("## Pages", ROUTES, Surface::Page);
        check("## Development profile", DEV_ROUTES, Surface::Api);
        check("## Internal listener", INTERNAL_ROUTES, Surface::Internal);
        check("## Socket of the model", MODEL_ROUTES, Surface::Internal);
    }
}

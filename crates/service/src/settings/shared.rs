//! Settings that more than one service reads.

use super::Setting;

/// The log filter of a service of the control plane.
pub const LOG: Setting = Setting::with_default(
    "CIAL_LOG",
    "info",
    "what the service logs: `off`, `error`, `warn`, `info`, `debug` or `trace`, and the same for single modules, like \
     `info,router=debug`",
)
.for_operators();

/// The installation's name.
pub const INSTALL: Setting = Setting::with_default(
    "CIAL_INSTALL",
    "local",
    "the installation's name: label of all it makes on the engine, part of its volumes' names",
)
.for_operators();

/// The domain of all tenants.
pub const DOMAIN: Setting =
    Setting::with_default("CIAL_DOMAIN", "localhost", "tenants are `{slug}.{domain}`")
        .for_operators();

/// The orchestrator's API.
pub const ORCHESTRATOR_URL: Setting =
    Setting::with_default("CIAL_ORCHESTRATOR_URL", "http://orchestrator:3200", "the orchestrator");

/// The proxies whose `X-Forwarded-For` is believed.
pub const TRUSTED_PROXIES: Setting = Setting::optional(
    "CIAL_TRUSTED_PROXIES",
    "addresses and networks, separated by commas (`10.0.0.0/8, ::1`), whose `X-Forwarded-For` is believed, by the \
     router for rate limits and by app-api for failed sign-ins: the client is the first address outside them. Whoever \
     puts a proxy in front of either names it here, or all clients count as one. With an https `CIAL_ADMIN_URL` app-api \
     refuses to start without a value; `none` says that there is no proxy",
)
.for_operators();

/// Seconds without use until a tenant is frozen.
pub const FREEZE_AFTER: Setting = Setting::with_default(
    "CIAL_FREEZE_AFTER",
    "60",
    "seconds without use after which a tenant is frozen; 0: never. A tenant's own policy goes before it. app-api shows \
     it to owners",
)
.for_operators();

/// Seconds without use until a tenant is put to sleep.
pub const SLEEP_AFTER: Setting = Setting::with_default(
    "CIAL_SLEEP_AFTER",
    "1200",
    "seconds without use after which a tenant is put to sleep; 0: never. [Sleep and wake](../sleep-and-wake.md) \
     explains both",
)
.for_operators();

/// The secret from which each tenant's sign-on key is derived.
pub const SSO_SECRET: Setting = Setting::secret(
    "CIAL_SSO_SECRET_FILE",
    "the secret from which each tenant's sign-on key is derived",
);

/// The keys that encrypt secrets at rest.
pub const SEALING_KEYS: Setting = Setting::optional(
    "CIAL_SEALING_KEYS_FILE",
    "the keys that encrypt secrets at rest, one a line, the one that encrypts first; `app-api rotate-secrets` makes it, and it is read \
     at each use. Without it, keys derive from `CIAL_SSO_SECRET_FILE`; [secrets at rest](../secrets-at-rest.md)",
);

/// The secret from which each tenant's route token and proof are derived.
pub const ROUTE_SECRET: Setting = Setting::secret(
    "CIAL_ROUTE_SECRET_FILE",
    "the secret from which each tenant's route token and proof are derived",
);

/// The token of app-api at the orchestrator.
pub const ORCHESTRATOR_TOKEN: Setting = Setting::secret(
    "CIAL_ORCHESTRATOR_TOKEN_FILE",
    "the token with which app-api calls the orchestrator",
);

/// The token of a router at app-api.
pub const ROUTES_TOKEN: Setting = Setting::secret(
    "CIAL_ROUTES_TOKEN_FILE",
    "the token with which a router reads the routes from app-api",
);

/// The token of a router at the orchestrator.
pub const LEASES_TOKEN: Setting = Setting::secret(
    "CIAL_LEASES_TOKEN_FILE",
    "the token with which a router asks the orchestrator for leases; another than the orchestrator's own",
);

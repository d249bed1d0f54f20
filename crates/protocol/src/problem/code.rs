//! Every problem code: its status, its meaning and its remedy. `docs/reference/problems.md` is made
//! from this table.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $text:literal [$($status:literal),+] $means:literal $remedy:literal,)+) => {
        /// The code of a [`Problem`](super::Problem): a stable word by which a client decides.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $means] $name,)+
        }

        impl Code {
            /// Every code, in the order of the words.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The statuses that a response with this code may have; the first is the usual one.
            pub const fn statuses(self) -> &'static [u16] {
                match self { $(Self::$name => &[$($status),+],)+ }
            }

            /// The meaning, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $means,)+ }
            }

            /// Returns the advice to the caller, for the reference.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }
        }
    };
}

codes! {
    AmbiguousPath = "ambiguous_path" [400]
        "inside a tenant: the path can be read in more than one way"
        "write it plainly, without encoded slashes and dots",
    BodyTooLarge = "body_too_large" [413]
        "the body is over the limit"
        "send less",
    Busy = "busy" [503]
        "more passwords at once than can be hashed; refused at once"
        "try again after `Retry-After`",
    BusyEnded = "busy_ended" [404]
        "inside a tenant: the declaration ran out, or is another's"
        "declare anew",
    BusyQuota = "busy_quota" [429]
        "inside a tenant: 16 declarations of `agent` are alive"
        "withdraw or renew one; `Retry-After` says when the first ends",
    BusyRate = "busy_rate" [429]
        "inside a tenant: `agent` asks about being busy too often"
        "declare for longer, renew at half time; wait for `Retry-After`",
    CoreUnreachable = "core_unreachable" [502]
        "inside a tenant: its core did not say who is signed in"
        "try again; look at the tenant's log",
    CrossSite = "cross_site" [403]
        "the request comes from a page elsewhere"
        "act from the admin's own pages",
    DatabaseUnavailable = "database_unavailable" [503]
        "Postgres does not answer"
        "wait; `/readyz` of app-api says when",
    DiskFull = "disk_full" [507]
        "the engine has no room, or less than `CIAL_DISK_RESERVE_BYTES` left for a new tenant"
        "make room on its disk",
    DiskLimitReached = "disk_limit_reached" [507]
        "the tenant's volumes hold more than `limits.disk_bytes`; it was stopped and does not start"
        "raise the limit, start it, delete what is not needed",
    EngineRefused = "engine_refused" [502]
        "the engine said no"
        "read the detail; then the orchestrator's log",
    EngineTimeout = "engine_timeout" [504]
        "the engine took too long"
        "try again; look at the machine's load",
    EngineTooOld = "engine_too_old" [503]
        "the engine's API is older than 1.41"
        "upgrade it",
    EngineUnreachable = "engine_unreachable" [503]
        "the engine does not answer"
        "start it; nothing is forgotten",
    ExpectationFailed = "expectation_failed" [417]
        "an `Expect` other than `100-continue`"
        "leave it out",
    Forbidden = "forbidden" [403]
        "the key or the person has no right here; the answer is the same whether or not the tenant exists"
        "use a key of that tenant, or ask its admin",
    HeadersTooLarge = "headers_too_large" [431]
        "the head of the request is over the limit"
        "send fewer or shorter headers",
    HostMissing = "host_missing" [400]
        "a request without `Host`"
        "send one",
    IdempotencyMismatch = "idempotency_mismatch" [422]
        "the `Idempotency-Key` was used with another body"
        "use a new key",
    ImageInvalid = "image_invalid" [422]
        "the image cannot be started: it has no command, or one that is not there or not for this machine"
        "build it anew: `cargo xtask images`; its entry point must be the supervisor",
    ImageMissing = "image_missing" [422]
        "the engine does not have the tenant image"
        "build it: `cargo xtask images`",
    InsufficientRole = "insufficient_role" [403]
        "the role does not permit this"
        "ask for a higher role",
    Internal = "internal" [500]
        "a fault of ours"
        "report it with the `request_id`",
    InvalidBody = "invalid_body" [422]
        "the body does not fit"
        "read the detail",
    InvalidCredentials = "invalid_credentials" [401]
        "e-mail or password is wrong"
        "try again, or reset the password",
    InvalidFields = "invalid_fields" [422]
        "fields are at fault"
        "read `errors`",
    InvalidForm = "invalid_form" [400]
        "the form cannot be read"
        "send it as a form",
    InvalidHost = "invalid_host" [400]
        "the `Host` is no name of a host"
        "correct it",
    InvalidIdempotencyKey = "invalid_idempotency_key" [400]
        "the key is empty or too long"
        "use 1 to 200 characters",
    InvalidIfMatch = "invalid_if_match" [400]
        "`If-Match` is no entity tag"
        "send the revision in quotes",
    InvalidJson = "invalid_json" [400]
        "the body is no JSON, or has unknown fields"
        "correct it",
    InvalidKey = "invalid_key" [401]
        "the API key is malformed, expired or revoked; the response is the same for all"
        "use another key",
    InvalidLease = "invalid_lease" [422]
        "a router's call about leases breaks a rule"
        "read the detail; router and orchestrator should be of one release",
    InvalidQuery = "invalid_query" [400, 422]
        "a parameter of the address does not fit"
        "read the detail",
    InvalidSlug = "invalid_slug" [422]
        "the slug breaks a rule or is reserved"
        "2 to 40 of a-z, 0-9, hyphen inside",
    InvalidSpec = "invalid_spec" [422]
        "the orchestrator was asked for what cannot be"
        "read `errors`",
    InvalidToken = "invalid_token" [401]
        "a sign-on token is forged, expired, used, or for another tenant"
        "open the tenant from the admin again",
    Leaving = "leaving" [503]
        "the orchestrator is ending"
        "ask again; the next one answers",
    MalformedRequest = "malformed_request" [400]
        "the request breaks HTTP's rules; the connection is closed"
        "correct the client",
    MethodNotAllowed = "method_not_allowed" [405]
        "the path has other methods"
        "read `Allow`",
    MethodRefused = "method_refused" [405]
        "`CONNECT` and `TRACE` are not served"
        "use another",
    NameTaken = "name_taken" [409]
        "the engine has a thing of that name that is not ours"
        "rename or remove it",
    NoSuchTenant = "no_such_tenant" [404]
        "the orchestrator does not know the tenant"
        "—",
    NotAVisit = "not_a_visit" [403]
        "opening a tenant by `HEAD` or a prefetch: nobody would go there"
        "go there",
    NotFound = "not_found" [404]
        "nothing is at this address"
        "—",
    NotImplemented = "not_implemented" [501]
        "planned, not built"
        "—",
    NotListed = "not_listed" [503]
        "the orchestrator has not looked at the engine yet"
        "try again",
    NotReady = "not_ready" [503]
        "the service is starting"
        "try again",
    NotRunning = "not_running" [503]
        "the tenant is not running; the text says when it failed for good"
        "wait, or start it in the admin",
    NotSignedIn = "not_signed_in" [401]
        "the page needs a session of the tenant"
        "open the tenant from the admin",
    OrchestratorUnavailable = "orchestrator_unavailable" [503]
        "app-api cannot reach the orchestrator"
        "look at its log; tenants go on",
    OutOfResources = "out_of_resources" [503]
        "the router, the edge or the orchestrator has no free file descriptors, memory or local ports; the tenant is not to blame"
        "try again; raise the limit of open files (`ulimits: nofile` in compose.yml), or free memory",
    PortConflict = "port_conflict" [409]
        "the tenant's port is taken"
        "start it again",
    RateLimited = "rate_limited" [429]
        "one client sends one tenant more than `CIAL_RATE_LIMIT`"
        "wait for `Retry-After`",
    RequestTimedOut = "request_timed_out" [408]
        "the request took too long to arrive"
        "try again",
    ResetLinkEnded = "reset_link_ended" [410]
        "the link was used or is too old"
        "print a new one",
    RevisionConflict = "revision_conflict" [409]
        "somebody changed the tenant at the same time"
        "read it and try again",
    RevisionMismatch = "revision_mismatch" [412]
        "`If-Match`, or the form, is of an older revision; a weak tag (`W/\"3\"`) never matches"
        "read it and try again",
    SignupClosed = "signup_closed" [403]
        "there is an owner already"
        "sign in",
    SlugTaken = "slug_taken" [409]
        "a tenant has that slug"
        "choose another",
    Starting = "starting" [503]
        "the tenant is on its way"
        "try again after `Retry-After`",
    Stopped = "stopped" [503]
        "its owner stopped the tenant"
        "start it in the admin",
    SubnetsExhausted = "subnets_exhausted" [507]
        "every /29 of `CIAL_SUBNET_POOL` is taken"
        "delete tenants or give a larger pool",
    TargetTooLong = "target_too_long" [414]
        "the address is over the limit"
        "shorten it",
    TenantDeleted = "tenant_deleted" [410]
        "the tenant was deleted; also for an `Idempotency-Key` whose tenant was deleted since"
        "create another, with a new key",
    TenantDeleting = "tenant_deleting" [409]
        "the tenant is being deleted"
        "create another",
    TenantNotFound = "tenant_not_found" [404]
        "no tenant has that slug"
        "—",
    TenantNotRunning = "tenant_not_running" [409]
        "the tenant neither runs nor sleeps, so it cannot be opened, or leased"
        "start it",
    TenantStopped = "tenant_stopped" [409]
        "its owner stopped the tenant; no request wakes it (orchestrator to router)"
        "start it in the admin",
    TooManyAttempts = "too_many_attempts" [429]
        "too many sign-ins, sign-ups or resets within five minutes, by one client or at one account; a device on which the account signed in before has a limit of its own"
        "wait for `Retry-After`",
    TooManyWaiting = "too_many_waiting" [503]
        "too many requests wait for one tenant to wake"
        "try again after `Retry-After`",
    Unauthenticated = "unauthenticated" [401]
        "no session, or it ended"
        "sign in",
    Unauthorized = "unauthorized" [401]
        "the bearer token between services is wrong"
        "check that both have the same secrets",
    UnsupportedMediaType = "unsupported_media_type" [415]
        "the body is of another type"
        "send JSON",
    UpgradeRequired = "upgrade_required" [426]
        "the path is a WebSocket"
        "connect as one",
    UpgradeVersion = "upgrade_version" [426]
        "WebSockets are served in version 13"
        "—",
    UpstreamCutOff = "upstream_cut_off" [502]
        "the tenant broke off"
        "try again",
    UpstreamMalformed = "upstream_malformed" [502]
        "the tenant's answer cannot be read"
        "look at the tenant's log",
    UpstreamTimedOut = "upstream_timed_out" [504]
        "the tenant did not answer in time"
        "try again",
    UpstreamUnreachable = "upstream_unreachable" [502]
        "the tenant did not take the request"
        "try again",
    VersionRefused = "version_refused" [505]
        "only HTTP/1.1 and HTTP/1.0 are served"
        "—",
    Waiting = "waiting" [503]
        "`/readyz` of app-api or of a router: it cannot do its work; the detail names what is missing, or that it drains"
        "wait; look at what is named",
    WakeFailed = "wake_failed" [502, 503]
        "the tenant was woken and did not get ready; the detail says how, the tenant's page in the admin says why"
        "look at its log, then try again",
    WakeQueueFull = "wake_queue_full" [503]
        "too many wakes wait already"
        "try again after `Retry-After`",
    WakeRequired = "wake_required" [409, 503]
        "the tenant sleeps, and this request is none that wakes it; `X-Wake-Required: 1`"
        "visit it, send `Authorization`, or change `wake_on`; see [sleep and wake](../sleep-and-wake.md)",
    WakeUnavailable = "wake_unavailable" [503]
        "the tenant has no lease, and the orchestrator cannot be reached for one or takes no call of the router"
        "try again after `Retry-After`; look at the router's `/readyz` and at the orchestrator",
    Waking = "waking" [503]
        "the tenant is being woken; this request waited as long as it may"
        "try again after `Retry-After`",
    WrongHost = "wrong_host" [421]
        "the admin is reached under another name than `CIAL_ADMIN_URL`"
        "use that, or change the setting",
}

impl Code {
    /// The usual status.
    pub const fn status(self) -> u16 {
        self.statuses()[0]
    }

    /// The title of a problem with this code: the reason phrase of its usual status.
    pub const fn title(self) -> &'static str {
        reason_phrase(self.status())
    }

    /// The code with this word. `None` for a word of another release.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == word)
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
mod tests {
    use super::*;

    /// The table of the reference is the table of this file. To rewrite the reference:
    /// `UPDATE_REFERENCE=1 cargo test -p protocol the_reference`.
    #[test]
    fn the_reference_is_made_from_the_codes() {
        const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/problems.md");
        const HEAD: &str = "| code | status | means | what to do |\n|---|---|---|---|\n";
        let text = std::fs::read_to_string(PATH).unwrap();
        let (before, rest) = text.split_once(HEAD).expect("the head of the table");
        let (_, after) = rest.split_once("\n\n").expect("the end of the table");
        let rows: Vec<_> = Code::ALL.iter().map(|code| row(*code)).collect();
        let expected = format!("{before}{HEAD}{}\n\n{after}", rows.join("\n"));
        if option_env!("UPDATE_REFERENCE").is_some() {
            std::fs::write(PATH, &expected).unwrap();
        }
        assert!(
            text == expected,
            "the reference is outdated: set UPDATE_REFERENCE=1 and run again"
        );
    }

    fn row(code: Code) -> String {
        let statuses: Vec<_> = code.statuses().iter().map(u16::to_string).collect();
        format!("| `{code}` | {} | {} | {} |", statuses.join(", "), code.meaning(), code.remedy())
    }

    #[test]
    fn codes_are_unique_words_in_order_and_have_titles() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str(), "{} before {}", pair[0], pair[1]);
        }
        for code in Code::ALL {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            assert!(
                code.statuses().iter().all(|status| reason_phrase(*status) != "Error"),
                "{code}"
            );
            assert_eq!(Code::from_word(code.as_str()), Some(*code));
        }
    }
}

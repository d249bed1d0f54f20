//! What can go wrong with a request, and whose fault it is.

/// Who can do something about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Client,
    Upstream,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 400: not one unambiguous request. The text names the rule that it breaks.
    Malformed(&'static str),
    /// 400: an HTTP/1.1 request without `Host`.
    HostMissing,
    /// 405: `CONNECT` and `TRACE` are for proxies of another kind.
    MethodRefused,
    /// 408: the head took too long.
    HeadTimedOut,
    /// 408: nothing of the body arrived for too long.
    BodyTimedOut,
    /// 413: over the limit of the settings.
    BodyTooLarge,
    /// 414 or 431: over the limit of the settings.
    HeadTooLarge { target: bool },
    /// 417: something else than `100-continue` is expected.
    ExpectationFailed,
    /// 426: a WebSocket of another version than 13.
    UpgradeVersion,
    /// 505
    VersionRefused,
    /// 502: refused, gone, no such socket.
    Unreachable(String),
    /// 504
    ConnectTimedOut,
    /// 504: connected, then no answer for too long.
    AnswerTimedOut,
    /// 502: closed before its answer was whole.
    AnswerCutOff,
    /// 502: not one unambiguous answer. The text names the rule that it breaks.
    AnswerMalformed(&'static str),
}

impl Fault {
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::HostMissing => 400,
            Self::MethodRefused => 405,
            Self::HeadTimedOut | Self::BodyTimedOut => 408,
            Self::BodyTooLarge => 413,
            Self::HeadTooLarge { target: true } => 414,
            Self::HeadTooLarge { target: false } => 431,
            Self::ExpectationFailed => 417,
            Self::UpgradeVersion => 426,
            Self::VersionRefused => 505,
            Self::Unreachable(_) | Self::AnswerCutOff | Self::AnswerMalformed(_) => 502,
            Self::ConnectTimedOut | Self::AnswerTimedOut => 504,
        }
    }

    pub const fn whose(&self) -> Whose {
        match self {
            Self::Malformed(_)
            | Self::HostMissing
            | Self::MethodRefused
            | Self::HeadTimedOut
            | Self::BodyTimedOut
            | Self::BodyTooLarge
            | Self::HeadTooLarge { .. }
            | Self::ExpectationFailed
            | Self::UpgradeVersion
            | Self::VersionRefused => Whose::Client,
            Self::Unreachable(_)
            | Self::ConnectTimedOut
            | Self::AnswerTimedOut
            | Self::AnswerCutOff
            | Self::AnswerMalformed(_) => Whose::Upstream,
        }
    }

    /// A stable word for it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_request",
            Self::HostMissing => "host_missing",
            Self::MethodRefused => "method_refused",
            Self::HeadTimedOut | Self::BodyTimedOut => "request_timed_out",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadTooLarge { target: true } => "target_too_long",
            Self::HeadTooLarge { target: false } => "headers_too_large",
            Self::ExpectationFailed => "expectation_failed",
            Self::UpgradeVersion => "upgrade_version",
            Self::VersionRefused => "version_refused",
            Self::Unreachable(_) => "upstream_unreachable",
            Self::ConnectTimedOut | Self::AnswerTimedOut => "upstream_timed_out",
            Self::AnswerCutOff => "upstream_cut_off",
            Self::AnswerMalformed(_) => "upstream_malformed",
        }
    }

    /// What a stranger may read of it: a client's fault names the rule, an upstream's names no cause.
    pub const fn public(&self) -> &'static str {
        match self {
            Self::Malformed(rule) => rule,
            Self::HostMissing => "A request needs a Host header.",
            Self::MethodRefused => "CONNECT and TRACE are not served here.",
            Self::HeadTimedOut => "The head of the request took too long.",
            Self::BodyTimedOut => "The body of the request stopped arriving.",
            Self::BodyTooLarge => "The body of the request is larger than allowed.",
            Self::HeadTooLarge { target: true } => "The address is longer than allowed.",
            Self::HeadTooLarge { target: false } => "The headers are larger than allowed.",
            Self::ExpectationFailed => "The only expectation served is 100-continue.",
            Self::UpgradeVersion => "WebSockets are served in version 13.",
            Self::VersionRefused => "Only HTTP/1.1 and HTTP/1.0 are served here.",
            Self::Unreachable(_) => "The server behind this address did not take the request.",
            Self::ConnectTimedOut | Self::AnswerTimedOut => {
                "The server behind this address did not answer in time."
            }
            Self::AnswerCutOff => "The server behind this address broke off.",
            Self::AnswerMalformed(_) => "The server behind this address gave an unreadable answer.",
        }
    }
}

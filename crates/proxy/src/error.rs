//! What can go wrong with a request, and whose fault it is.

/// Who can do something about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorOrigin {
    Client,
    Upstream,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// 400: not one unambiguous request. The text names the rule that it breaks.
    MalformedRequest(&'static str),
    /// 400: an HTTP/1.1 request without `Host`.
    MissingHost,
    /// 405: `CONNECT` and `TRACE` are for proxies of another kind.
    MethodNotServed,
    /// 408: the head took too long.
    RequestHeadTimeout,
    /// 408: nothing of the body arrived for too long.
    RequestBodyTimeout,
    /// 413: over the limit of the settings.
    RequestBodyTooLarge,
    /// 414 or 431: over the limit of the settings.
    RequestHeadTooLarge { target: bool },
    /// 417: something else than `100-continue` is expected.
    ExpectationFailed,
    /// 426: a WebSocket of another version than 13.
    UnsupportedWebSocketVersion,
    /// 505
    UnsupportedHttpVersion,
    /// 502: refused, gone, no such socket.
    UpstreamUnreachable(String),
    /// 504
    ConnectTimeout,
    /// 504: connected, then no answer for too long.
    ResponseTimeout,
    /// 502: closed before its answer was whole.
    ResponseTruncated,
    /// 502: not one unambiguous answer. The text names the rule that it breaks.
    MalformedResponse(&'static str),
}

impl ProxyError {
    pub const fn status(&self) -> u16 {
        match self {
            Self::MalformedRequest(_) | Self::MissingHost => 400,
            Self::MethodNotServed => 405,
            Self::RequestHeadTimeout | Self::RequestBodyTimeout => 408,
            Self::RequestBodyTooLarge => 413,
            Self::RequestHeadTooLarge { target: true } => 414,
            Self::RequestHeadTooLarge { target: false } => 431,
            Self::ExpectationFailed => 417,
            Self::UnsupportedWebSocketVersion => 426,
            Self::UnsupportedHttpVersion => 505,
            Self::UpstreamUnreachable(_) | Self::ResponseTruncated | Self::MalformedResponse(_) => {
                502
            }
            Self::ConnectTimeout | Self::ResponseTimeout => 504,
        }
    }

    pub const fn origin(&self) -> ErrorOrigin {
        match self {
            Self::MalformedRequest(_)
            | Self::MissingHost
            | Self::MethodNotServed
            | Self::RequestHeadTimeout
            | Self::RequestBodyTimeout
            | Self::RequestBodyTooLarge
            | Self::RequestHeadTooLarge { .. }
            | Self::ExpectationFailed
            | Self::UnsupportedWebSocketVersion
            | Self::UnsupportedHttpVersion => ErrorOrigin::Client,
            Self::UpstreamUnreachable(_)
            | Self::ConnectTimeout
            | Self::ResponseTimeout
            | Self::ResponseTruncated
            | Self::MalformedResponse(_) => ErrorOrigin::Upstream,
        }
    }

    /// A stable word for it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MalformedRequest(_) => "malformed_request",
            Self::MissingHost => "host_missing",
            Self::MethodNotServed => "method_refused",
            Self::RequestHeadTimeout | Self::RequestBodyTimeout => "request_timed_out",
            Self::RequestBodyTooLarge => "body_too_large",
            Self::RequestHeadTooLarge { target: true } => "target_too_long",
            Self::RequestHeadTooLarge { target: false } => "headers_too_large",
            Self::ExpectationFailed => "expectation_failed",
            Self::UnsupportedWebSocketVersion => "upgrade_version",
            Self::UnsupportedHttpVersion => "version_refused",
            Self::UpstreamUnreachable(_) => "upstream_unreachable",
            Self::ConnectTimeout | Self::ResponseTimeout => "upstream_timed_out",
            Self::ResponseTruncated => "upstream_cut_off",
            Self::MalformedResponse(_) => "upstream_malformed",
        }
    }

    /// What a stranger may read of it: a client's fault names the rule, an upstream's names no cause.
    pub const fn public_detail(&self) -> &'static str {
        match self {
            Self::MalformedRequest(rule) => rule,
            Self::MissingHost => "A request needs a Host header.",
            Self::MethodNotServed => "CONNECT and TRACE are not served here.",
            Self::RequestHeadTimeout => "The head of the request took too long.",
            Self::RequestBodyTimeout => "The body of the request stopped arriving.",
            Self::RequestBodyTooLarge => "The body of the request is larger than allowed.",
            Self::RequestHeadTooLarge { target: true } => "The address is longer than allowed.",
            Self::RequestHeadTooLarge { target: false } => "The headers are larger than allowed.",
            Self::ExpectationFailed => "The only expectation served is 100-continue.",
            Self::UnsupportedWebSocketVersion => "WebSockets are served in version 13.",
            Self::UnsupportedHttpVersion => "Only HTTP/1.1 and HTTP/1.0 are served here.",
            Self::UpstreamUnreachable(_) => {
                "The server behind this address did not take the request."
            }
            Self::ConnectTimeout | Self::ResponseTimeout => {
                "The server behind this address did not answer in time."
            }
            Self::ResponseTruncated => "The server behind this address broke off.",
            Self::MalformedResponse(_) => {
                "The server behind this address gave an unreadable answer."
            }
        }
    }
}

//! The errors of a proxied request, and the party that caused each of them.

use std::io;

use connect::is_local_shortage;

/// The party that caused an error, and so the party that can correct the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorOrigin {
    Client,
    Upstream,
    /// This process or its host. The error shows nothing about the upstream.
    Local,
}

/// Why a request gets no response from its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// 400: the request is not exactly one unambiguous request. The text names the violated rule.
    MalformedRequest(&'static str),
    /// 400: an HTTP/1.1 request without `Host`.
    MissingHost,
    /// 405: `CONNECT` and `TRACE` belong to forward proxies.
    MethodNotServed,
    /// 408: the request head was incomplete after [`Settings::head_timeout`](crate::Settings).
    RequestHeadTimeout,
    /// 408: no byte of the request body arrived for [`Settings::body_idle_timeout`](crate::Settings).
    RequestBodyTimeout,
    /// 413: the body exceeds [`Settings::max_body_bytes`](crate::Settings).
    RequestBodyTooLarge,
    /// 414 or 431: the head exceeds [`Settings::request_head`](crate::Settings).
    RequestHeadTooLarge { target: bool },
    /// 417: `Expect` holds another value than `100-continue`.
    ExpectationFailed,
    /// 426: the WebSocket handshake names another version than 13.
    UnsupportedWebSocketVersion,
    /// 505
    UnsupportedHttpVersion,
    /// 502: the connection was refused, or the socket does not exist.
    UpstreamUnreachable(String),
    /// 503: this process or its host has no descriptor, memory or port left, so no upstream was contacted.
    LocalShortage(String),
    /// 504: the connection was not established in time.
    ConnectTimeout,
    /// 504: the connection stands, and no response head arrived in time.
    ResponseTimeout,
    /// 502: the upstream closed before its response was complete.
    ResponseTruncated,
    /// 502: the response is not exactly one unambiguous response. The text names the violated rule.
    MalformedResponse(&'static str),
}

impl ProxyError {
    /// The error of a failed connect.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        match is_local_shortage(error) {
            true => Self::LocalShortage(error.to_string()),
            false => Self::UpstreamUnreachable(error.to_string()),
        }
    }

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
            Self::LocalShortage(_) => 503,
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
            Self::LocalShortage(_) => ErrorOrigin::Local,
        }
    }

    /// A stable code for logs, metrics and problem documents.
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
            Self::LocalShortage(_) => "out_of_resources",
            Self::ConnectTimeout | Self::ResponseTimeout => "upstream_timed_out",
            Self::ResponseTruncated => "upstream_cut_off",
            Self::MalformedResponse(_) => "upstream_malformed",
        }
    }

    /// The text for clients. A client error names the violated rule; an upstream error names no cause.
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
            Self::LocalShortage(_) => {
                "This server is short of resources at the moment. Try again in a few seconds."
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_shortage_is_never_the_upstreams_error() {
        // EMFILE and ECONNREFUSED.
        for (errno, origin) in [(24, ErrorOrigin::Local), (111, ErrorOrigin::Upstream)] {
            let error = ProxyError::of_connect(&io::Error::from_raw_os_error(errno));
            assert_eq!(error.origin(), origin, "{error:?}");
        }
    }
}

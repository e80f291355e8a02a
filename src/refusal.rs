//! Why attache itself answered instead of a service.
//!
//! One closed table: status, metric label, whose fault it was. Says nothing about how the answer is
//! written; clients read only the status and a short phrase, the log carries the label.

/// A status that can only be an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorStatus(u16);

impl ErrorStatus {
    const fn new(code: u16) -> Self {
        assert!(code >= 400 && code <= 599);
        Self(code)
    }

    pub const fn code(self) -> u16 {
        self.0
    }
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Client,
    Endpoint,
    Us,
}

macro_rules! refusals {
    ($( $(#[$meta:meta])* $variant:ident => $status:literal $label:literal $blame:ident $phrase:literal ),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Refusal { $( $(#[$meta])* $variant, )* }

        impl Refusal {
            /// Metric labels in the order of [`Refusal::index`].
            pub const LABELS: &'static [&'static str] = &[$( $label ),*];

            /// Place in [`Refusal::LABELS`].
            pub const fn index(self) -> usize {
                self as usize
            }

            /// `reason` in metrics and `refusal` in the access log.
            pub const fn label(self) -> &'static str {
                Self::LABELS[self.index()]
            }

            pub const fn status(self) -> ErrorStatus {
                match self { $( Self::$variant => const { ErrorStatus::new($status) }, )* }
            }

            pub const fn blame(self) -> Blame {
                match self { $( Self::$variant => Blame::$blame, )* }
            }

            /// What the client reads: nothing private.
            pub const fn phrase(self) -> &'static str {
                match self { $( Self::$variant => $phrase, )* }
            }
        }
    };
}

refusals! {
    /// The head breaks HTTP's grammar.
    BadHead => 400 "bad_head" Client "malformed request",
    /// Content-Length and Transfer-Encoding are ambiguous, wrong or both there.
    BadFraming => 400 "bad_framing" Client "malformed message framing",
    /// No Host, two, or one that is not a host.
    BadHost => 400 "bad_host" Client "missing or malformed host",
    /// Host and an absolute-form target name different hosts.
    HostMismatch => 400 "host_mismatch" Client "host does not match the request target",
    /// Dot segments, encoded slashes and their kin.
    BadPath => 400 "bad_path" Client "ambiguous path",
    /// The chunked coding of the request body is broken.
    BadChunk => 400 "bad_chunk" Client "malformed chunked body",
    /// The client closed before its request was whole.
    Incomplete => 400 "incomplete" Client "incomplete request",
    /// The request has no key, and its shard wants one.
    KeyMissing => 400 "key_missing" Client "no key",
    /// A scatter's request has no items, or too many.
    BadItems => 400 "bad_items" Client "no items, or too many",
    /// No route matches and the listener has no service of its own.
    NoRoute => 404 "no_route" Client "not found",
    /// CONNECT.
    MethodRefused => 405 "method_refused" Client "method not allowed",
    /// The head or the body did not arrive in time.
    HeaderTimeout => 408 "header_timeout" Client "request timeout",
    BodyTimeout => 408 "body_timeout" Client "request timeout",
    BodyTooLarge => 413 "body_too_large" Client "request body too large",
    UriTooLong => 414 "uri_too_long" Client "request target too long",
    /// An expectation other than `100-continue`.
    ExpectationUnknown => 417 "expectation_unknown" Client "unknown expectation",
    /// The TLS server name and the Host belong to different certificates.
    Misdirected => 421 "misdirected" Client "misdirected request",
    /// An HTTP/2 client whose frames keep us busy with nothing; its connection is closed, and nobody reads a status.
    Flood => 429 "flood" Client "too many frames",
    HeadTooLarge => 431 "head_too_large" Client "request header fields too large",
    ConnectFailed => 502 "connect_failed" Endpoint "bad gateway",
    /// The endpoint's certificate comes from no authority that is trusted.
    TlsUnknownIssuer => 502 "tls_unknown_issuer" Endpoint "bad gateway",
    /// It expired, or is not valid yet.
    TlsCertificateExpired => 502 "tls_certificate_expired" Endpoint "bad gateway",
    /// It is somebody else's.
    TlsWrongName => 502 "tls_wrong_name" Endpoint "bad gateway",
    /// It cannot be used for another reason.
    TlsBadCertificate => 502 "tls_bad_certificate" Endpoint "bad gateway",
    /// The endpoint asks for a client certificate, or refuses ours.
    TlsClientCertificate => 502 "tls_client_certificate" Endpoint "bad gateway",
    /// The TLS handshake failed otherwise.
    TlsFailed => 502 "tls_failed" Endpoint "bad gateway",
    /// The endpoint closed or reset before it answered.
    EndpointReset => 502 "endpoint_reset" Endpoint "bad gateway",
    /// The endpoint's answer is not HTTP we can trust.
    BrokenResponse => 502 "broken_response" Endpoint "bad gateway",
    /// Not as many leaves have answered as a scatter requires.
    LeavesFailed => 502 "leaves_failed" Endpoint "bad gateway",
    /// No endpoint may take a request.
    NoEndpoint => 503 "no_endpoint" Endpoint "service unavailable",
    /// The key's own member takes no requests, and nobody may take its place.
    ShardDown => 503 "shard_down" Endpoint "service unavailable",
    /// Too many requests are with the endpoints or wait for them, or one waited too long.
    Overloaded => 503 "overloaded" Endpoint "service unavailable",
    ConnectTimeout => 504 "connect_timeout" Endpoint "gateway timeout",
    ResponseTimeout => 504 "response_timeout" Endpoint "gateway timeout",
    /// The route's own timeout for the whole exchange.
    RouteTimeout => 504 "route_timeout" Endpoint "gateway timeout",
    /// Not as many leaves have answered as a scatter requires, and one of them at least not in time.
    LeavesTimeout => 504 "leaves_timeout" Endpoint "gateway timeout",
    VersionUnsupported => 505 "version_unsupported" Client "HTTP version not supported",
}

/// The reason phrase of a status we write ourselves (RFC 9110 §15).
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn labels_are_unique_and_client_faults_are_4xx_or_505() {
        let mut labels = Refusal::LABELS.to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Refusal::LABELS.len());
        assert_eq!(Refusal::VersionUnsupported.label(), "version_unsupported");
        assert_eq!(Refusal::NoEndpoint.status().code(), 503);
    }
}

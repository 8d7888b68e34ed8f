//! The address of a node's client or admin listener, as a URL.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;

use crate::api::{ErrorCode, Rejection};

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in clear; a node offers it on loopback only.
    Http,
    /// HTTP/1.1 or HTTP/2 over TLS.
    Https,
    /// The QUIC client protocol.
    Quic,
}

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }

    /// The port where a URL names none: the web's own, and for QUIC the one of the contract.
    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Quic => 7602,
        }
    }
}

/// `http://…`, `https://…` or `quic://…`: a scheme, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    scheme: Scheme,
    /// Without the brackets of an IPv6 address.
    host: Box<str>,
    port: u16,
}

impl Endpoint {
    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: a name, or an address without brackets. Also the name its certificate must carry.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether what is sent there stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        &*self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

impl FromStr for Endpoint {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let refuse = |why: &str| {
            // A URL may hold a password; it is not repeated.
            Err(Rejection::new(
                ErrorCode::BadParameter,
                format!("an endpoint is http://HOST:PORT, https://HOST:PORT or quic://HOST:PORT; {why}"),
            ))
        };
        let Ok(uri) = text.parse::<Uri>() else {
            return refuse("this is no URL");
        };
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("quic") => Scheme::Quic,
            Some(_) => return refuse("there are no other schemes"),
            None => return refuse("the scheme is missing"),
        };
        let Some(authority) = uri.authority() else {
            return refuse("the host is missing");
        };
        if authority.as_str().contains('@') {
            return refuse("credentials go into a bearer file");
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return refuse("without a path or a query");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return refuse("the host is missing");
        }
        // `host:` and ports beyond 65535 parse as a URL.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(port) if port != 0 => port,
            None if !has_port => scheme.default_port(),
            _ => return refuse("the port is 1 to 65535"),
        };
        Ok(Self { scheme, host: host.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_endpoints_and_back() {
        for (text, shown) in [
            ("http://127.0.0.1:7601", "http://127.0.0.1:7601"),
            ("https://atoll.example/", "https://atoll.example:443"),
            ("quic://localhost", "quic://localhost:7602"),
            ("quic://[::1]:7602", "quic://[::1]:7602"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(shown.parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_repeating_it() {
        for text in [
            "",
            "localhost:7601",
            "127.0.0.1",
            "ftp://h:1",
            "http://",
            "http://h:0",
            "http://h:99999",
            "http://h:",
            "http://h/path",
            "http://h?q=1",
            "http://user:s3cret@h:1",
        ] {
            let refused = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(refused.code, ErrorCode::BadParameter, "{text}");
            assert!(!refused.detail.contains("s3cret"));
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_by_address() {
        for (text, loopback) in [
            ("http://localhost:1", true),
            ("http://127.8.9.1:1", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.1:1", false),
            ("http://localhost.example:1", false),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().is_loopback(), loopback, "{text}");
        }
    }
}

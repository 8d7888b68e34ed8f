//! The closed list of error codes, and the problem document that carries one (RFC 9457).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Declares [`ErrorCode`] from one table, so that a code, its status and its title cannot part.
macro_rules! error_codes {
    ($($variant:ident $name:literal $status:literal $title:literal;)*) => {
        /// Every code an answer may carry. Closed: clients may match on it exhaustively.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $(#[doc = $title] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the contract.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as the contract spells it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The HTTP status that goes with the code.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }

            /// The code in a few words for people; the problem document's `title`.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(ErrorCode::$variant => $title,)* }
            }
        }
    };
}

error_codes! {
    Malformed "malformed" 400 "The request cannot be read";
    BadKey "bad_key" 400 "The key breaks a rule for keys";
    BadNamespace "bad_namespace" 400 "The namespace breaks a rule for namespaces";
    BadType "bad_type" 400 "There is no such data type";
    BadPath "bad_path" 400 "The map path or member breaks a rule";
    BadParameter "bad_parameter" 400 "A query parameter or header has a value that is not allowed";
    Unauthenticated "unauthenticated" 401 "The request carries no valid bearer token";
    Forbidden "forbidden" 403 "This is not allowed here, or not with this bearer token";
    NotFound "not_found" 404 "There is nothing here";
    MethodNotAllowed "method_not_allowed" 405 "The resource does not take this method";
    OutOfRange "out_of_range" 409 "The counter would leave the range of a signed 64-bit integer";
    SessionWriteLost "session_write_lost" 410 "A write this session has seen is lost in every region";
    TooLarge "too_large" 413 "The request is larger than allowed";
    UnsupportedMediaType "unsupported_media_type" 415 "The body's media type is not taken here";
    RateLimited "rate_limited" 429 "Too many requests";
    Internal "internal" 500 "The server made a mistake";
    NotSupported "not_supported" 501 "This is reserved and not supported yet";
    SessionBehind "session_behind" 503 "This node has not yet seen what the session has seen";
    Draining "draining" 503 "This node is being drained";
    NotReady "not_ready" 503 "This node is not ready to serve";
    ClockSkew "clock_skew" 503 "This node's clock is too far from its peers' to order writes";
    Overloaded "overloaded" 503 "This node has too much to do";
    StoreReadOnly "store_read_only" 503 "This node's store does not take writes";
}

impl ErrorCode {
    /// Whether the same request may succeed later or elsewhere. Exactly these are answered with
    /// `Retry-After`. A refused request changed nothing, so asking again is safe.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self.status(), 429 | 503)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorCode {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| Rejection::new(Self::Malformed, "an unknown error code"))
    }
}

/// Caller's fault: a part of a request breaks a rule of the contract. Nothing was changed.
///
/// `detail` is for people and never repeats bytes of the request that could be long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    /// The code to answer with.
    pub code: ErrorCode,
    /// What is wrong with this request, in one sentence.
    pub detail: String,
}

impl Rejection {
    /// A rejection with `code`, explained by `detail`.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// A problem document: the body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Names the kind of problem: `urn:atoll:problem:` and the code.
    #[serde(rename = "type", default)]
    pub type_uri: String,
    /// The kind of problem in a few words; the same for every problem of one code.
    #[serde(default)]
    pub title: String,
    /// The HTTP status, repeated for those who see only the body.
    pub status: u16,
    /// The code programs match on.
    pub code: ErrorCode,
    /// What happened this time.
    #[serde(default)]
    pub detail: String,
    /// Finds this request in the server's log.
    #[serde(default)]
    pub request_id: String,
    /// Members beyond these, as RFC 9457 allows.
    #[serde(flatten, default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// The problem document for `code`.
    pub fn new(code: ErrorCode, detail: impl Into<String>, request_id: impl Into<String>) -> Self {
        Self {
            type_uri: format!("urn:atoll:problem:{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: detail.into(),
            request_id: request_id.into(),
            extra: serde_json::Map::new(),
        }
    }

    /// The problem an answer with this error status tells of. Never fails: what does not parse (a
    /// proxy's page, a newer server's code) becomes the nearest code of the same class, with the
    /// body's beginning as its detail.
    #[must_use]
    pub fn from_answer(status: u16, body: &[u8]) -> Self {
        if let Ok(problem) = serde_json::from_slice::<Self>(body) {
            return problem;
        }
        let code = ErrorCode::ALL.iter().copied().find(|code| code.status() == status).unwrap_or(if status < 500 {
            ErrorCode::Malformed
        } else {
            ErrorCode::Internal
        });
        let beginning: String = String::from_utf8_lossy(&body[..body.len().min(200)])
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let mut problem = Self::new(code, beginning, String::new());
        problem.status = status;
        problem
    }
}

impl From<Rejection> for Problem {
    /// The document without its request id, which only the server's edge knows.
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.detail, String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips_through_text_and_json() {
        for &code in ErrorCode::ALL {
            assert_eq!(code.as_str().parse::<ErrorCode>(), Ok(code));
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.as_str()));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
        }
        assert_eq!(ErrorCode::ALL.len(), 23);
        assert!("no_such_code".parse::<ErrorCode>().is_err());
    }

    #[test]
    fn exactly_the_503s_and_rate_limited_are_retryable() {
        let retryable: Vec<_> = ErrorCode::ALL.iter().filter(|code| code.is_retryable()).map(|c| c.as_str()).collect();
        assert_eq!(
            retryable,
            ["rate_limited", "session_behind", "draining", "not_ready", "clock_skew", "overloaded", "store_read_only"]
        );
    }

    #[test]
    fn problem_document_has_the_members_of_the_contract() {
        let problem = Problem::new(ErrorCode::BadKey, "the key is empty", "r-7");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:atoll:problem:bad_key",
                "title": "The key breaks a rule for keys",
                "status": 400,
                "code": "bad_key",
                "detail": "the key is empty",
                "request_id": "r-7",
            })
        );
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    #[test]
    fn answer_that_is_no_problem_document_becomes_the_nearest_code() {
        let proxy = Problem::from_answer(502, b"<html>bad\ngateway</html>");
        assert_eq!((proxy.code, proxy.status), (ErrorCode::Internal, 502));
        assert_eq!(proxy.detail, "<html>bad gateway</html>");
        let newer = Problem::from_answer(409, br#"{"status":409,"code":"from_the_future"}"#);
        assert_eq!(newer.code, ErrorCode::OutOfRange);
        assert_eq!(Problem::from_answer(418, &[0xff; 4096]).code, ErrorCode::Malformed);
    }
}

//! How a command ends: the exit statuses of the contract, and what the errors of the libraries
//! mean in their terms.

use std::process::ExitCode;

use atoll_client::Error;
use atoll_client::api::{ErrorCode, Rejection};

/// An exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: it is done.
    Done,
    /// 1: the answer is no, or there is nothing.
    No,
    /// 2: what was typed cannot be done.
    Usage,
    /// 3: no node took the request, or none told what became of it.
    Unreachable,
    /// 4: a node, or a file's owner, refused.
    Refused,
    /// 5: the environment did not let it start, or finish.
    CannotStart,
}

impl Exit {
    /// The number that the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::CannotStart => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what was asked: a status, and one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The status to end with.
    pub exit: Exit,
    /// What, why, what to do.
    pub message: String,
}

impl Failure {
    /// A failure that ends with `exit` after saying `message`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// What was typed cannot be done.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// There is no such thing.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Exit::No, format!("not found: {what}"))
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::usage(rejection.detail)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::BadInput(_) => Exit::Usage,
            Error::Refused { problem, .. } if problem.code == ErrorCode::NotFound => Exit::No,
            Error::Refused { .. } => Exit::Refused,
            // Whatever else there is: nobody answered as a node does.
            _ => Exit::Unreachable,
        };
        Self { exit, message: format!("{error}{}", what_to_do(&error)) }
    }
}

/// The end of an error's line.
fn what_to_do(error: &Error) -> String {
    match error {
        Error::Unreachable { .. } => {
            "; check that the node runs and that --endpoint names its client listener".to_owned()
        }
        Error::FateUnknown { .. } => "; read it again before repeating it".to_owned(),
        Error::Timeout { .. } => "; ask again, or ask another node with --endpoint".to_owned(),
        Error::Protocol { .. } => "; check that --endpoint names an Atoll node's listener".to_owned(),
        Error::Refused { problem, retry_after, lag, .. } => {
            let again = retry_after.map(|after| format!("; ask again in {} s", after.as_secs())).unwrap_or_default();
            match problem.code {
                ErrorCode::Unauthenticated => "; give a token with --bearer-file".to_owned(),
                ErrorCode::SessionBehind => format!(
                    "; behind by {}{again}, or wait longer with --wait",
                    lag.as_deref().unwrap_or("an unknown time")
                ),
                ErrorCode::Internal => {
                    format!("; the node's log tells more of request {}", problem.request_id)
                }
                _ => again,
            }
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use atoll_client::api::Problem;

    use super::*;

    fn refused(code: ErrorCode) -> Failure {
        Failure::from(Error::Refused {
            endpoint: "http://127.0.0.1:7601".parse().unwrap(),
            problem: Box::new(Problem::new(code, "because", "r1")),
            retry_after: code.is_retryable().then(|| Duration::from_secs(2)),
            lag: None,
        })
    }

    #[test]
    fn every_refusal_ends_with_4_but_what_is_not_found() {
        for &code in ErrorCode::ALL {
            let failure = refused(code);
            let expected = if code == ErrorCode::NotFound { 1 } else { 4 };
            assert_eq!(failure.exit.code(), expected, "{code}");
            assert!(failure.message.contains(code.as_str()), "{}", failure.message);
            assert_eq!(failure.message.contains("2 s"), code.is_retryable());
        }
    }

    #[test]
    fn whoever_gets_no_answer_ends_with_3() {
        let endpoint: atoll_client::Endpoint = "quic://127.0.0.1:1".parse().unwrap();
        let cause = "cable".to_owned();
        for error in [
            Error::Unreachable { attempts: Vec::new() },
            Error::FateUnknown { endpoint: endpoint.clone(), cause: cause.clone() },
            Error::Timeout { endpoint: endpoint.clone(), after: Duration::from_secs(1) },
            Error::Protocol { endpoint, cause },
        ] {
            assert_eq!(Failure::from(error).exit.code(), 3);
        }
    }
}

//! What a run asked of the cluster and what it was told: the evidence that verification judges.
//!
//! Compact: a write is a few dozen bytes, its key and its value are derived from numbers. Values
//! are unique over the run, so that a value which is read names the write that wrote it.

use atoll_client::Error;
use atoll_client::api::ErrorCode;

use crate::clock::Moment;
use crate::workload::{Cell, Change, SessionId, WriteNumber};

/// One write: what was asked, when, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its number, from which its value derives.
    pub number: WriteNumber,
    /// Who asked. A session asks one thing after the other and carries its token along.
    pub session: SessionId,
    /// The region whose client it is, by its place in the run's list.
    pub home: usize,
    /// The region that was asked, by its place in the run's list.
    pub region: usize,
    /// What it wrote to.
    pub cell: Cell,
    /// What it did there.
    pub change: Change,
    /// What came of it.
    pub outcome: Outcome,
    /// When it should have been asked: latency counts from here.
    pub intended: Moment,
    /// When it was asked.
    pub started: Moment,
    /// When its outcome was known.
    pub answered: Moment,
    /// The session's token after it, if it was acknowledged.
    pub token: Option<Box<str>>,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The region holds it durably.
    Acknowledged,
    /// It changed nothing, and the server said why.
    Refused(ErrorCode),
    /// It changed nothing: nobody took it.
    NotSent,
    /// It may have been applied or not.
    Unknown,
}

impl Outcome {
    /// What an error of the client means for a write.
    #[must_use]
    pub fn of_error(error: &Error) -> Self {
        match error {
            Error::BadInput(rejection) => Self::Refused(rejection.code),
            // Our bug at the other end: whatever it did before it noticed may stand.
            Error::Refused { problem, .. } if problem.code == ErrorCode::Internal => Self::Unknown,
            Error::Refused { problem, .. } => Self::Refused(problem.code),
            Error::Unreachable { .. } => Self::NotSent,
            // A lost answer, an answer that makes no sense, and whatever a later client adds.
            _ => Self::Unknown,
        }
    }

    /// Its name in a report's list of errors; `None` for what is no error.
    #[must_use]
    pub fn error_name(self) -> Option<&'static str> {
        match self {
            Self::Acknowledged => None,
            Self::Refused(code) => Some(code.as_str()),
            Self::NotSent => Some("unreachable"),
            Self::Unknown => Some("fate_unknown"),
        }
    }
}

impl Write {
    /// Whether it is known to have happened.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.outcome == Outcome::Acknowledged
    }

    /// Whether it may have happened: its effect may be seen.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self.outcome, Outcome::Acknowledged | Outcome::Unknown)
    }

    /// Whether it certainly happened after `other` had: its region had seen `other`, because the
    /// same session asked it with a token that covers `other`.
    #[must_use]
    pub fn surely_saw(&self, other: &Self) -> bool {
        self.is_acknowledged()
            && other.is_acknowledged()
            && self.session == other.session
            && self.started >= other.answered
    }

    /// Whether its region may have held `other` when it took this: not if this was over before
    /// `other` began.
    #[must_use]
    pub fn may_have_seen(&self, other: &Self) -> bool {
        match self.outcome {
            Outcome::Acknowledged => self.answered >= other.started,
            Outcome::Unknown => true,
            Outcome::Refused(_) | Outcome::NotSent => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_client::api::Problem;

    use super::*;

    #[test]
    fn only_what_certainly_changed_nothing_is_a_refusal() {
        let endpoint: atoll_client::Endpoint = "quic://127.0.0.1:1".parse().unwrap();
        let refused = |code| Error::Refused {
            endpoint: endpoint.clone(),
            problem: Box::new(Problem::new(code, "", "")),
            retry_after: None,
            lag: None,
        };
        assert_eq!(Outcome::of_error(&refused(ErrorCode::Overloaded)), Outcome::Refused(ErrorCode::Overloaded));
        assert_eq!(Outcome::of_error(&refused(ErrorCode::Internal)), Outcome::Unknown);
        let nobody = Error::Unreachable { attempts: Vec::new() };
        assert_eq!(Outcome::of_error(&nobody), Outcome::NotSent);
        let lost = Error::FateUnknown { endpoint: endpoint.clone(), cause: String::new() };
        assert_eq!(Outcome::of_error(&lost), Outcome::Unknown);
        let odd = Error::Protocol { endpoint, cause: String::new() };
        assert_eq!(Outcome::of_error(&odd), Outcome::Unknown);
    }
}

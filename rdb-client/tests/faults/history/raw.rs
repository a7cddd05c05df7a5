//! A key of the raw keyspace: the last write wins.

use std::fmt;

use super::{Parse, ParseError, fate};
use crate::linearizability::Model;

/// A call on a key. Each value is put once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawCall {
    Put { value: u64, is_known: bool },
    Delete { is_known: bool },
    Get { found: Option<u64> },
}

/// The value of a key.
pub(crate) struct Raw;

impl Model for Raw {
    type State = Option<u64>;
    type Call = RawCall;

    /// A write whose fate is not known may happen at the very end, where nobody sees it.
    fn step(state: &Option<u64>, call: &RawCall) -> Option<Option<u64>> {
        match *call {
            RawCall::Put { value, .. } => Some(Some(value)),
            RawCall::Delete { .. } => Some(None),
            RawCall::Get { found } => (found == *state).then_some(found),
        }
    }
}

impl RawCall {
    pub(crate) fn is_known(&self) -> bool {
        match *self {
            Self::Put { is_known, .. } | Self::Delete { is_known } => is_known,
            Self::Get { .. } => true,
        }
    }

    /// The value that the call put, if nobody was told whether it did.
    pub(crate) fn unknown_value(&self) -> Option<u64> {
        match *self {
            Self::Put {
                value,
                is_known: false,
            } => Some(value),
            _ => None,
        }
    }

    /// The value that it saw.
    pub(crate) fn seen(&self) -> Option<u64> {
        match *self {
            Self::Get { found } => found,
            Self::Put { .. } | Self::Delete { .. } => None,
        }
    }
}

impl fmt::Display for RawCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Put { value, is_known } => write!(formatter, "put {value} {}", fate(is_known)),
            Self::Delete { is_known } => write!(formatter, "delete {}", fate(is_known)),
            Self::Get { found: Some(value) } => write!(formatter, "get {value}"),
            Self::Get { found: None } => write!(formatter, "get none"),
        }
    }
}

impl Parse for RawCall {
    fn parse(words: &[&str]) -> Result<Self, ParseError> {
        Ok(match words {
            ["put", value, fate] => Self::Put {
                value: value.parse()?,
                is_known: *fate == "done",
            },
            ["delete", fate] => Self::Delete {
                is_known: *fate == "done",
            },
            ["get", "none"] => Self::Get { found: None },
            ["get", value] => Self::Get {
                found: Some(value.parse()?),
            },
            _ => return Err(ParseError),
        })
    }
}

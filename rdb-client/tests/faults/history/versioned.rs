//! A key of the versioned keyspace: it is written by compare-and-swap, and never shows a version again.

use std::collections::HashMap;
use std::fmt;

use super::{Call, Parse, ParseError};
use crate::linearizability::Model;

/// A call on a key. Each value is written once. An expected version of 0 stands for a key that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VersionedCall {
    Swap {
        expected: u64,
        value: u64,
        outcome: Outcome,
    },
    Delete {
        expected: u64,
        outcome: Outcome,
    },
    Get {
        found: Option<Entry>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The new version, 0 of a key that was deleted.
    Done(u64),
    /// The version that the key has instead, and its value if the store told.
    Conflict { version: u64, value: Option<u64> },
    /// The fate is not known. With the version that the key has got if somebody has seen the value.
    Unknown { seen_as: Option<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) version: u64,
    pub(crate) value: u64,
}

/// A key, and the highest version that it has had. Versions of new keys depend on other keys of the region, too, which are not
/// looked at here: they only have to be higher.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    entry: Option<Entry>,
    highest_version: u64,
}

pub(crate) struct Versioned;

impl Model for Versioned {
    type State = Key;
    type Call = VersionedCall;

    fn step(key: &Key, call: &VersionedCall) -> Option<Key> {
        let version = key.entry.map_or(0, |entry| entry.version);
        match *call {
            VersionedCall::Get { found } => (found == key.entry).then(|| key.clone()),
            VersionedCall::Swap {
                expected,
                value,
                outcome,
            } => match outcome {
                Outcome::Done(new) if expected == version => key.swapped(new, value),
                Outcome::Done(_) => None,
                Outcome::Conflict { .. } => key.conflicts(expected, outcome),
                Outcome::Unknown {
                    seen_as: Some(seen),
                } if expected == version => key.swapped(seen, value),
                Outcome::Unknown { .. } => Some(key.clone()),
            },
            VersionedCall::Delete { expected, outcome } => match outcome {
                Outcome::Done(_) | Outcome::Unknown { .. } if expected == version => {
                    Some(key.deleted())
                }
                Outcome::Done(_) => None,
                Outcome::Conflict { .. } => key.conflicts(expected, outcome),
                Outcome::Unknown { .. } => Some(key.clone()),
            },
        }
    }
}

impl Key {
    fn swapped(&self, version: u64, value: u64) -> Option<Self> {
        let is_next = match self.entry {
            Some(entry) => version == entry.version + 1,
            None => version > self.highest_version,
        };
        is_next.then_some(Self {
            entry: Some(Entry { version, value }),
            highest_version: version,
        })
    }

    fn deleted(&self) -> Self {
        Self {
            entry: None,
            highest_version: self.highest_version,
        }
    }

    fn conflicts(&self, expected: u64, outcome: Outcome) -> Option<Self> {
        let Outcome::Conflict { version, value } = outcome else {
            return None;
        };
        let fits = match self.entry {
            None => version == 0,
            Some(entry) => {
                entry.version == version && value.is_none_or(|value| value == entry.value)
            }
        };
        (fits && version != expected).then(|| self.clone())
    }
}

impl VersionedCall {
    pub(crate) fn is_known(&self) -> bool {
        !matches!(
            self,
            Self::Swap {
                outcome: Outcome::Unknown { .. },
                ..
            } | Self::Delete {
                outcome: Outcome::Unknown { .. },
                ..
            }
        )
    }

    /// The value that the call wrote, if nobody was told whether it did.
    pub(crate) fn unknown_value(&self) -> Option<u64> {
        match *self {
            Self::Swap {
                value,
                outcome: Outcome::Unknown { .. },
                ..
            } => Some(value),
            _ => None,
        }
    }

    /// The entry that it saw.
    pub(crate) fn seen(&self) -> Option<Entry> {
        match *self {
            Self::Get { found } => found,
            Self::Swap { outcome, .. } | Self::Delete { outcome, .. } => match outcome {
                Outcome::Conflict {
                    version,
                    value: Some(value),
                } => Some(Entry { version, value }),
                _ => None,
            },
        }
    }
}

/// Adds to swaps whose fate is not known the version that others have seen of them. That of a new key cannot be told otherwise.
pub(crate) fn note_what_was_seen(calls: &mut [Call<VersionedCall>]) {
    let seen = calls.iter().filter_map(|call| call.did.seen());
    let seen: HashMap<u64, u64> = seen.map(|entry| (entry.value, entry.version)).collect();
    for call in calls {
        if let VersionedCall::Swap {
            value,
            outcome: Outcome::Unknown { seen_as },
            ..
        } = &mut call.did
        {
            *seen_as = seen.get(value).copied();
        }
    }
}

impl fmt::Display for VersionedCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swap {
                expected,
                value,
                outcome,
            } => write!(formatter, "swap {expected} {value} {outcome}"),
            Self::Delete { expected, outcome } => write!(formatter, "remove {expected} {outcome}"),
            Self::Get { found: None } => write!(formatter, "read none"),
            Self::Get {
                found: Some(Entry { version, value }),
            } => write!(formatter, "read {version} {value}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(version) => write!(formatter, "done {version}"),
            Self::Conflict {
                version,
                value: Some(value),
            } => write!(formatter, "conflict {version} {value}"),
            Self::Conflict {
                version,
                value: None,
            } => write!(formatter, "conflict {version} -"),
            Self::Unknown { .. } => write!(formatter, "unknown"),
        }
    }
}

impl Parse for VersionedCall {
    fn parse(words: &[&str]) -> Result<Self, ParseError> {
        Ok(match words {
            ["swap", expected, value, outcome @ ..] => Self::Swap {
                expected: expected.parse()?,
                value: value.parse()?,
                outcome: Outcome::parse(outcome)?,
            },
            ["remove", expected, outcome @ ..] => Self::Delete {
                expected: expected.parse()?,
                outcome: Outcome::parse(outcome)?,
            },
            ["read", "none"] => Self::Get { found: None },
            ["read", version, value] => Self::Get {
                found: Some(Entry {
                    version: version.parse()?,
                    value: value.parse()?,
                }),
            },
            _ => return Err(ParseError),
        })
    }
}

impl Outcome {
    fn parse(words: &[&str]) -> Result<Self, ParseError> {
        Ok(match words {
            ["done", version] => Self::Done(version.parse()?),
            ["conflict", version, value] => Self::Conflict {
                version: version.parse()?,
                value: match *value {
                    "-" => None,
                    value => Some(value.parse()?),
                },
            },
            ["unknown"] => Self::Unknown { seen_as: None },
            _ => return Err(ParseError),
        })
    }
}

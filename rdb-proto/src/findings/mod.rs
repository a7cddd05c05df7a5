//! What is wrong with a cluster, and what to do about it, in words.
//!
//! `rdbctl status` and the pages of the servers say the same; the words are here. `store` is about stores, `region` about regions,
//! `placement_driver` about what no other process knows, and `about` says what to do for the cause that a process reports.
//!
//! The functions here are pure and ask nobody. Their caller has asked the processes, or knows their heartbeats, and passes that
//! in ([`Answer`]).

mod about;
mod placement_driver;
mod region;
mod store;

pub use about::{About, of_warning, tls_advice};
pub use placement_driver::{
    Stranger, first_region_waits, of_foreign_stores, of_missing_stores, of_older_directory,
    of_unknown_stores, placement_driver_advice,
};
pub use region::{Lead, RegionTrouble, of_regions};
pub use store::{
    Answer, Heartbeats, SILENT_AFTER_MS, StoreView, not_serving_advice, of_space, of_store,
};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something has to be done.
    Alarm,
    /// Something to know.
    Notice,
}

/// Something that is wrong, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The store that it is about, if it is one.
    pub store_id: Option<u64>,
    /// The regions that it is about.
    pub region_ids: Vec<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub to_do: String,
}

impl Finding {
    /// Something has to be done.
    pub fn alarm(what: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self {
            severity: Severity::Alarm,
            store_id: None,
            region_ids: Vec::new(),
            what: what.into(),
            to_do: to_do.into(),
        }
    }

    /// There is something to know.
    pub fn notice(what: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self {
            severity: Severity::Notice,
            ..Self::alarm(what, to_do)
        }
    }

    /// The same, about a store.
    #[must_use]
    pub fn of_store(self, id: u64) -> Self {
        Self {
            store_id: Some(id),
            ..self
        }
    }

    /// The same, about regions.
    #[must_use]
    pub fn of_regions(self, region_ids: Vec<u64>) -> Self {
        Self { region_ids, ..self }
    }
}

/// The finding of a cluster without stores.
pub fn no_stores() -> Finding {
    Finding::alarm(
        "no store has registered with the placement driver yet",
        "start one: rdb-server --pd ADDR --data-dir DIR",
    )
}

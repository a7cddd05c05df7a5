//! The record of a store: which starts it knows, and which may follow.

use super::refusal::RegisteredStore;
use super::stores::{Registration, Start};
use crate::keys::StoreRecord;

/// Most unkept incarnations of one store. When there are more, the oldest is forgotten. A crash loop that never keeps one
/// adds one every [`DISCONNECTED_AFTER`](super::DISCONNECTED_AFTER).
pub(super) const UNKEPT_INCARNATIONS_MAX: usize = 16;

/// What the numbers of a record mean. 0 stands for "none" in both.
impl StoreRecord {
    /// A store whose first start was given this id.
    pub(super) fn unconfirmed(id: u64, start: &Start) -> Self {
        Self {
            id,
            address: start.address.clone(),
            incarnation: start.incarnation,
            ..Self::default()
        }
    }

    /// The start that was accepted last. `None` after a restore: any may have been, and any may be the next.
    pub(super) fn present(&self) -> Option<u64> {
        Some(self.incarnation).filter(|&incarnation| incarnation != 0)
    }

    /// The last incarnation that the store's data directory is known to hold.
    pub(super) fn kept(&self) -> Option<u64> {
        Some(self.kept_incarnation).filter(|&incarnation| incarnation != 0)
    }

    pub(super) fn registered(&self) -> RegisteredStore {
        RegisteredStore {
            id: self.id,
            address: self.address.clone(),
        }
    }

    /// Whether the start may be the present one.
    pub(super) fn matches(&self, start: &Start) -> bool {
        let is_present = |present| present == start.incarnation;
        self.address == start.address && self.present().is_none_or(is_present)
    }

    /// A store whose starts were forgotten has kept its id before.
    pub(super) fn has_kept_its_id(&self) -> bool {
        self.present().is_none() || self.kept().is_some()
    }

    /// Whether `kept` is what the store's data directory may hold.
    pub(super) fn may_be_kept(&self, kept: Option<u64>) -> bool {
        let Some(present) = self.present() else {
            return true;
        };
        let is_later = |kept| kept == present || self.unkept_incarnations.contains(&kept);
        kept == self.kept() || kept.is_some_and(is_later)
    }

    /// The record once the present incarnation is known to be kept.
    pub(super) fn with_present_kept(&self) -> Self {
        Self {
            kept_incarnation: self.incarnation,
            unkept_incarnations: Vec::new(),
            ..self.clone()
        }
    }

    /// The record once the start that registers is accepted. The incarnation that it names is known to be kept.
    pub(super) fn followed_by(&self, registration: &Registration) -> Self {
        let kept = registration.kept_incarnation;
        let mut unkept_incarnations = Vec::new();
        if let Some(present) = self.present()
            && kept == self.kept()
            && kept != Some(present)
        {
            unkept_incarnations.clone_from(&self.unkept_incarnations);
            unkept_incarnations.push(present);
            let surplus = unkept_incarnations
                .len()
                .saturating_sub(UNKEPT_INCARNATIONS_MAX);
            unkept_incarnations.drain(..surplus);
        }
        Self {
            id: self.id,
            address: registration.start.address.clone(),
            incarnation: registration.start.incarnation,
            kept_incarnation: kept.unwrap_or_default(),
            unkept_incarnations,
            is_leaving: self.is_leaving,
            has_left: self.has_left,
        }
    }
}

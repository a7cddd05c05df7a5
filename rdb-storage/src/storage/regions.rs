//! Regions that are added and removed as a whole. See [`crate::snapshot`].

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::Storage;
use crate::applied::{AppliedState, described};
use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::read::Tier;
use crate::region::{RegionDescriptor, destroyed};
use crate::snapshot::{
    IncomingRegion, Installing, RegionSnapshot, find_bytes, remove_leftovers, remove_staged,
};
use crate::writer::{WriteHealth, Writer};

/// A snapshot that was to replace a region, and that could not be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedInstall {
    /// The region as of the snapshot.
    pub region: RegionDescriptor,
    /// What is in the way.
    pub cause: String,
}

impl Storage {
    /// Takes a snapshot of a region that has a state: as of its applied position, for another replica. While it exists, RocksDB keeps
    /// what is overwritten. Blocks.
    ///
    /// # Errors
    ///
    /// As a read; [`Error::DataLoss`] when the region has no state.
    pub fn region_snapshot(&self, region_id: u64) -> Result<RegionSnapshot, Error> {
        RegionSnapshot::take(Arc::clone(&self.inner.engine), region_id)
    }

    /// Begins to receive a region from another replica. One that overlaps another region of this storage is refused when its first
    /// chunk comes. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], also when the disk is almost full.
    pub fn receive_region(&self, region_id: u64) -> Result<IncomingRegion, Error> {
        let (engine, options) = (&self.inner.engine, &self.inner.options);
        IncomingRegion::begin(self.clone(), engine, region_id, options.write_buffer_bytes)
    }

    /// A region, and how far its log was applied, both as of the same moment. `None`: it is not stored, or has no first state.
    ///
    /// # Errors
    ///
    /// As a read.
    pub fn described(
        &self,
        region_id: u64,
    ) -> Result<Option<(RegionDescriptor, AppliedState)>, Error> {
        described(&self.inner.engine, region_id)
    }

    /// Removes the records and keys of a region, and notes that this peer of it was destroyed. Both are durable when this returns.
    /// Keys that cannot be removed stay, and belong to no region. Nobody may apply to the region or read it any more. Blocks.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply), and [`Error::Io`] when the flush failed. The region may be destroyed then.
    pub fn destroy_region(&self, region_id: u64, peer_id: u64) -> Result<(), Error> {
        let earlier = self.tombstone(region_id)?.unwrap_or(0);
        self.inner.engine.begin_replacement();
        let last = peer_id.max(earlier);
        let given_up = self.inner.engine.installing(region_id)?;
        self.inner.writer.destroy_region(region_id, last)?;
        self.unfinished().remove(&region_id);
        self.remove_staged(&given_up);
        Ok(())
    }

    /// The installs that could not be finished, by this process or, at the open, for the one before, by region. The regions are not stored,
    /// and must not get groups with the logs that they have; the module `snapshot` says why. The next open tries again, and another
    /// snapshot takes the place.
    pub fn unfinished_installs(&self) -> BTreeMap<u64, UnfinishedInstall> {
        self.unfinished().clone()
    }

    /// The last peer of a region that was destroyed here. It must not come back, and neither must one with a lower id.
    pub fn tombstone(&self, region_id: u64) -> Result<Option<u64>, Error> {
        let key = keys::tombstone::key(region_id);
        let record = self.inner.engine.state(&key, Tier::Disk)?;
        let peer_id = record.map(|record| keys::tombstone::decode(&record));
        Ok(peer_id.transpose()?)
    }

    /// The regions with a destroyed peer here, each with the last such peer, that are neither stored nor about to be replaced by a
    /// snapshot.
    ///
    /// # Errors
    ///
    /// As a read.
    pub fn destroyed_regions(&self) -> Result<Vec<(u64, u64)>, Error> {
        let engine = &self.inner.engine;
        let mut destroyed = destroyed(&engine.database, engine.family(Family::RaftState))?;
        let present = engine.present_regions()?.into_iter();
        let present: BTreeSet<_> = present.map(|region| region.id).collect();
        destroyed.retain(|(region_id, _)| !present.contains(region_id));
        Ok(destroyed)
    }

    /// Grows before and after a region is taken away, to be replaced by a snapshot or for good. A region that is being replaced
    /// looks empty, so a reader compares the number from before the read was permitted with the one after the read.
    pub fn replacements(&self) -> u64 {
        self.inner.engine.replacements()
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn install(&self, installing: &Installing) -> Result<(), Error> {
        let directory = self.inner.engine.directory().path();
        self.install_if(installing, |bytes| find_bytes(directory, bytes))
    }

    pub(crate) fn install_if(
        &self,
        installing: &Installing,
        find_space: impl FnOnce(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.inner.engine.begin_replacement();
        let region_id = installing.state.region.id;
        let given_up = self.inner.engine.installing(region_id)?;
        let given_up = given_up.filter(|given_up| given_up.folder != installing.folder);
        let is_marked = Cell::new(false);
        let marked = || {
            is_marked.set(true);
            // An open needs only the files of the new mark.
            self.remove_staged(&given_up);
        };
        let installed = self.inner.writer.install(installing, marked, find_space);
        match &installed {
            Ok(()) => {
                self.unfinished().remove(&region_id);
                self.remove_staged([installing]);
            }
            // A mark that is not durable yet may become so.
            Err(error) if is_marked.get() || self.has_mark(installing) != Ok(false) => {
                tracing::error!(region_id, %error, "the install of a snapshot has failed: the region is left out");
                let (region, cause) = (installing.state.region.clone(), error.to_string());
                let unfinished = UnfinishedInstall { region, cause };
                self.unfinished().insert(region_id, unfinished);
            }
            // What the disk has is not known.
            Err(_) if self.is_stopped() => {}
            Err(_) => self.remove_staged([installing]),
        }
        installed
    }

    fn has_mark(&self, installing: &Installing) -> Result<bool, Error> {
        let mark = self.inner.engine.installing(installing.state.region.id)?;
        Ok(mark.as_ref() == Some(installing))
    }

    fn is_stopped(&self) -> bool {
        let health = self.write_health();
        matches!(*health.borrow(), WriteHealth::Stopped { .. })
    }

    /// Removes the files of installs that have no marks any more.
    fn remove_staged<'a>(&self, installs: impl IntoIterator<Item = &'a Installing>) {
        for installing in installs {
            remove_staged(self.inner.engine.directory().path(), installing);
        }
    }

    fn unfinished(&self) -> MutexGuard<'_, BTreeMap<u64, UnfinishedInstall>> {
        let unfinished = self.inner.unfinished.lock();
        unfinished.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Repeats the installs that a crash has interrupted, and removes the files that no install needs. Returns those that failed.
pub(super) fn finish_installs(
    engine: &Engine,
    writer: &Writer,
) -> io::Result<BTreeMap<u64, UnfinishedInstall>> {
    let directory = engine.directory().path();
    let (mut unfinished, mut kept) = (BTreeMap::new(), BTreeSet::new());
    for installing in engine.installs().map_err(io::Error::other)? {
        let region_id = installing.state.region.id;
        tracing::info!(
            region_id,
            "a crash has interrupted the install of a snapshot: it is repeated"
        );
        let finished = writer.install(&installing, || (), |bytes| find_bytes(directory, bytes));
        if let Err(error) = finished {
            tracing::error!(region_id, %error, "the install of a snapshot cannot be finished: the region is left out");
            kept.insert(installing.folder);
            let (region, cause) = (installing.state.region, error.to_string());
            unfinished.insert(region_id, UnfinishedInstall { region, cause });
        }
    }
    remove_leftovers(directory, &kept)?;
    Ok(unfinished)
}

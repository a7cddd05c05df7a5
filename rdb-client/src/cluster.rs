//! Questions to the placement driver: stores, and which of them serves which keys.

use bytes::Bytes;
use rdb_proto::metapb;
use rdb_proto::pdpb::{
    GetClusterInfoRequest, GetRegionRequest, GetStoresRequest, ScanRegionsRequest,
};

use crate::{Client, Error, Finding, Key, RegionRoute, Store};

/// Calls to the placement driver. Each can end in [`Error::Unavailable`], [`Error::DeadlineExceeded`],
/// [`Error::ClusterMismatch`] or [`Error::Internal`].
impl Client {
    /// All stores that registered, kept their id and have not left, in order of their ids.
    ///
    /// # Errors
    ///
    /// When the placement driver does not answer in time.
    pub async fn stores(&self) -> Result<Vec<Store>, Error> {
        let asked = self
            .router()
            .placement_driver()
            .ask(self.deadline(), |mut client| async move {
                client.get_stores(GetStoresRequest {}).await
            });
        Ok(asked.await?.stores.into_iter().map(Store::from).collect())
    }

    /// Findings that only the placement driver knows: about itself, the start of the cluster, and stores that it refuses. Also empty if
    /// it is of an earlier release.
    ///
    /// # Errors
    ///
    /// When the placement driver does not answer in time.
    pub async fn findings(&self) -> Result<Vec<Finding>, Error> {
        let asked =
            self.router()
                .placement_driver()
                .ask(self.deadline(), |mut client| async move {
                    let request = GetClusterInfoRequest::default();
                    client.get_cluster_info(request).await
                });
        let findings = asked.await?.findings.into_iter();
        Ok(findings.map(Finding::from).collect())
    }

    /// All regions, in key order. They are read page by page, so those of several pages are not as of one moment.
    ///
    /// # Errors
    ///
    /// When the placement driver does not answer in time.
    pub async fn regions(&self) -> Result<Vec<RegionRoute>, Error> {
        let deadline = self.deadline();
        let mut regions: Vec<RegionRoute> = Vec::new();
        let mut start_key = Bytes::new();
        loop {
            let request = ScanRegionsRequest {
                start_key: start_key.clone(),
                end_key: Bytes::new(),
                limit: None,
            };
            let asked = self
                .router()
                .placement_driver()
                .ask(deadline, |mut client| {
                    let request = request.clone();
                    async move { client.scan_regions(request).await }
                });
            for route in asked.await?.routes {
                regions.push(plain(route)?);
            }
            match regions.last().map(|last| &last.region.end_key) {
                // The last region has no upper bound. A bound that is not above its start would make this loop endless.
                Some(end_key) if *end_key > start_key => start_key = end_key.clone(),
                _ => return Ok(regions),
            }
        }
    }

    /// The region that holds `key`, which need not exist; `None`: too few stores have registered yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is too long; else when the placement driver does not answer in time.
    pub async fn region(&self, key: impl Key) -> Result<Option<RegionRoute>, Error> {
        let key = key.into_key();
        self.limits().check_bound("key", &key)?;
        let request = GetRegionRequest { key };
        let asked = self
            .router()
            .placement_driver()
            .ask(self.deadline(), |mut client| {
                let request = request.clone();
                async move { client.get_region(request).await }
            });
        asked.await?.route.map(plain).transpose()
    }
}

fn plain(route: metapb::RegionRoute) -> Result<RegionRoute, Error> {
    let region = route
        .region
        .ok_or_else(|| Error::internal("the placement driver named a route without its region"))?;
    Ok(RegionRoute {
        region: region.into(),
        leader: route.leader.map(Store::from),
        term: Some(route.term).filter(|term| *term > 0),
        peers: route.peers.into_iter().map(Store::from).collect(),
        absent_peers: route.absent_peers,
        bytes: route.bytes,
    })
}

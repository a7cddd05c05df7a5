//! The health of each process of the cluster.

use std::sync::Arc;

use futures::future::join_all;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::RawGetRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::metapb::{Context, Store};
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{GetClusterInfoRequest, GetStoresRequest};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::connection::{Channel, ConnectionPool};
use crate::counters::Counters;
use crate::retry::Deadline;
use crate::routing::PlacementDriver;
use crate::{Client, Config, Error, fate};

/// The role of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// The placement driver.
    PlacementDriver,
    /// A store.
    Store {
        /// Its id.
        store_id: u64,
    },
}

/// The health of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It serves.
    Serving,
    /// It answers that it does not serve.
    NotServing {
        /// What the client knows about the cause.
        cause: String,
    },
    /// It does not answer.
    Unreachable {
        /// What the client knows about the cause.
        cause: String,
    },
    /// Another process answers at its address: of another role, cluster or store id.
    WrongProcess {
        /// What the client knows about that process.
        cause: String,
    },
}

/// A process and its health.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessHealth {
    /// The process's role.
    pub role: Role,
    /// The address that was asked, as `host:port`.
    pub address: String,
    /// The answer.
    pub health: Health,
}

impl Client {
    /// Asks all placement driver addresses of this client and all registered stores, each once and all at the same time.
    /// When no placement driver answers, the stores are unknown and not listed.
    pub async fn health(&self) -> Vec<ProcessHealth> {
        let asking = Asking {
            placement_driver: self.router().placement_driver(),
            connections: self.router().connections(),
            deadline: self.deadline(),
        };
        asking.health().await
    }

    /// [`health`](Self::health) without a client, which there is only once a placement driver has answered.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the config is invalid, there is no address, or one is not `host:port`.
    pub async fn health_at<A: Into<String>>(
        pd_addresses: impl IntoIterator<Item = A>,
        config: Config,
    ) -> Result<Vec<ProcessHealth>, Error> {
        config.validate()?;
        let connections = Arc::new(ConnectionPool::new(config.connect_timeout));
        let placement_driver = PlacementDriver::new(
            pd_addresses.into_iter().map(Into::into),
            Arc::clone(&connections),
            Arc::<Counters>::default(),
            config.connect_timeout,
        )?;
        let asking = Asking {
            placement_driver: &placement_driver,
            connections: &connections,
            deadline: Deadline::after(config.timeout),
        };
        Ok(asking.health().await)
    }
}

/// What the questions after a cluster's health share.
struct Asking<'a> {
    placement_driver: &'a PlacementDriver,
    connections: &'a ConnectionPool,
    deadline: Deadline,
}

impl Asking<'_> {
    async fn health(&self) -> Vec<ProcessHealth> {
        let stores = self
            .placement_driver
            .ask_once(self.deadline, |mut client| async move {
                client.get_stores(GetStoresRequest {}).await
            });
        let stores = stores.await.map_or_else(
            |failure| {
                tracing::debug!(?failure, "the stores are not known");
                Vec::new()
            },
            |answer| answer.stores,
        );
        let placement_drivers = join_all(self.placement_driver.addresses().map(async |address| {
            let asked = self.ask(address, async |channel| {
                self.placement_driver_at(channel).await
            });
            ProcessHealth {
                role: Role::PlacementDriver,
                address: address.to_owned(),
                health: asked.await,
            }
        }));
        let stores = join_all(stores.iter().map(async |store| {
            let asked = self.ask(&store.address, async |channel| {
                self.store_at(store, channel).await
            });
            ProcessHealth {
                role: Role::Store { store_id: store.id },
                address: store.address.clone(),
                health: asked.await,
            }
        }));
        let (mut processes, stores) = futures::join!(placement_drivers, stores);
        processes.extend(stores);
        processes
    }

    async fn ask(
        &self,
        address: &str,
        question: impl AsyncFnOnce(Channel) -> Result<Health, Status>,
    ) -> Health {
        let asked = async {
            let connection = self.connections.connection(address).await?;
            let answer = question(connection.channel).await;
            answer.map_err(|status| {
                if fate::is_local(&status) {
                    self.connections.forget(address, connection.id);
                }
                fate::cause(&status, address)
            })
        };
        match self.deadline.limit(asked).await {
            Some(Ok(health)) => health,
            Some(Err(cause)) => Health::Unreachable { cause },
            None => Health::Unreachable {
                cause: format!("{address} gave no answer in time"),
            },
        }
    }

    /// A process that answers health checks need not be the one that is looked for.
    async fn placement_driver_at(&self, channel: Channel) -> Result<Health, Status> {
        let is_serving = is_serving(channel.clone()).await?;
        let mut client = PdClient::new(channel);
        let wrong_process = match client.get_cluster_info(GetClusterInfoRequest {}).await {
            Ok(answer) => {
                let checked = self
                    .placement_driver
                    .check_cluster(answer.get_ref().cluster_id);
                checked.err().map(|error| match error {
                    Error::ClusterMismatch { expected, found } => format!(
                        "it belongs to cluster {found}, not to {expected} as the first that answered"
                    ),
                    other => other.to_string(),
                })
            }
            Err(status) if status.code() == Code::Unimplemented => {
                Some("it is no placement driver".to_owned())
            }
            Err(status) => return Err(status),
        };
        Ok(match wrong_process {
            Some(cause) => Health::WrongProcess { cause },
            None if is_serving => Health::Serving,
            None => Health::NotServing {
                cause: "it is stopping or takes no writes; its log says why".to_owned(),
            },
        })
    }

    /// Asks for a region that no store has: the answer says who answers, and whether it takes requests.
    async fn store_at(&self, store: &Store, channel: Channel) -> Result<Health, Status> {
        let is_serving = is_serving(channel.clone()).await?;
        let context = Context {
            cluster_id: self.placement_driver.cluster_id().unwrap_or_default(),
            store_id: store.id,
            region_id: u64::MAX,
            region_epoch: None,
        };
        let request = RawGetRequest {
            context: Some(context),
            key: "health".into(),
        };
        let answer = match KvRawClient::new(channel).raw_get(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                let cause = "it is no store".to_owned();
                return Ok(Health::WrongProcess { cause });
            }
            Err(status) => return Err(status),
        };
        Ok(match answer.region_error.and_then(|error| error.kind) {
            Some(Kind::ClusterMismatch(found)) => Health::WrongProcess {
                cause: format!("it is a store of cluster {}", found.cluster_id),
            },
            Some(Kind::StoreMismatch(found)) => Health::WrongProcess {
                cause: format!("it is store {}", found.store_id),
            },
            Some(Kind::NotReady(not_ready)) => Health::NotServing {
                cause: not_ready.reason,
            },
            _ if is_serving => Health::Serving,
            _ => Health::NotServing {
                cause: takes_no_writes(store),
            },
        })
    }
}

async fn is_serving(channel: Channel) -> Result<bool, Status> {
    let mut client = HealthClient::new(channel);
    let answer = client.check(HealthCheckRequest::default()).await?;
    Ok(answer.get_ref().status() == ServingStatus::Serving)
}

fn takes_no_writes(store: &Store) -> String {
    let room = store.stats.map_or_else(String::new, |stats| {
        let bytes = stats.available_bytes;
        format!(" (its last heartbeat: {bytes} bytes of its disk are free)")
    });
    format!("it takes no writes{room}; its log says why")
}

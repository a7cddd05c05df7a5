//! The health of each process of the cluster, and whether the right process answers at its address.

use std::sync::{Arc, OnceLock};

use futures::TryFutureExt;
use futures::future::join_all;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{RawGetRequest, RawGetResponse};
use rdb_proto::metapb::{Context, Store};
use rdb_proto::pdpb::GetStoresRequest;
use rdb_proto::transport::{NOT_SERVING_CAUSE, WARNING};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::connection::{Channel, Connection};
use crate::retry::{Deadline, Failure};
use crate::routing::{Member, PlacementDriver, wrong_address};
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
    /// What it says that an operator has to look at, though it may serve: e.g. that its certificate has expired.
    pub warnings: Vec<String>,
}

impl Client {
    /// Asks all placement driver addresses of this client and all registered stores, each once and all at the same time.
    /// When no placement driver answers, or none to this client, the stores are unknown and not listed.
    pub async fn health(&self) -> Vec<ProcessHealth> {
        self.asking(self.deadline()).health().await
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
        let placement_driver = PlacementDriver::of(&config, pd_addresses, Arc::default())?;
        let asking = Asking {
            placement_driver: &placement_driver,
            deadline: Deadline::after(config.timeout),
        };
        Ok(asking.health().await)
    }

    /// Asks all placement driver addresses of this client, each once and all at the same time, whether they belong to its
    /// cluster. One that gives no answer within the connect timeout is left out.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names an address of another cluster, or one where no placement driver answers.
    pub async fn check_placement_drivers(&self) -> Result<(), Error> {
        let patience = self.router().placement_driver().silence_max();
        let asking = self.asking(self.deadline().sooner(patience));
        for process in asking.placement_drivers().await {
            if let Health::WrongProcess { cause } = process.health {
                return Err(wrong_address(cause));
            }
        }
        Ok(())
    }

    fn asking(&self, deadline: Deadline) -> Asking<'_> {
        Asking {
            placement_driver: self.router().placement_driver(),
            deadline,
        }
    }
}

/// What the questions after a cluster's health share.
struct Asking<'a> {
    placement_driver: &'a PlacementDriver,
    deadline: Deadline,
}

impl Asking<'_> {
    async fn health(&self) -> Vec<ProcessHealth> {
        // It leaves half of the time for the processes themselves.
        let patience = self.deadline.sooner(self.deadline.remaining() / 2);
        let stores = self
            .placement_driver
            .ask_once(patience, |mut client| async move {
                client.get_stores(GetStoresRequest {}).await
            });
        let stores = stores.await.map_or_else(
            |failure| {
                tracing::debug!(?failure, "the stores are not known");
                Vec::new()
            },
            |answer| answer.stores,
        );
        let stores = join_all(stores.iter().map(|store| self.store(store)));
        let (mut processes, stores) = futures::join!(self.placement_drivers(), stores);
        processes.extend(stores);
        processes
    }

    async fn placement_drivers(&self) -> Vec<ProcessHealth> {
        let members = self.placement_driver.members().iter();
        join_all(members.map(|member| self.member(member))).await
    }

    async fn member(&self, member: &Member) -> ProcessHealth {
        let connections = &self.placement_driver.connections;
        // Why it does not tell this client what its cluster is. It tells everybody whether it serves.
        let refusal = &OnceLock::new();
        let connecting = async {
            let connecting = self.placement_driver.connection(connections, member);
            let error = match connecting.await {
                Ok(connection) => return Ok(connection),
                Err(Failure::Final(error) | Failure::Again { error, .. }) => error,
            };
            if error.is_refusal_of_client() {
                let _ = refusal.set(format!("it tells no more than this: {error}"));
                let connecting = connections.connection(&member.address);
                return connecting
                    .await
                    .map_err(|cause| Health::Unreachable { cause });
            }
            Err(match member.unfit(&error) {
                Some(cause) => Health::WrongProcess { cause },
                None => Health::Unreachable {
                    cause: error.reason(),
                },
            })
        };
        let question = async |channel| {
            let Said { serving, warnings } = said(channel).await?;
            let health = match serving {
                Serving::Yes => Health::Serving,
                Serving::No { told } => {
                    let untold = "it is stopping or takes no writes; its log says why";
                    let cause = told.unwrap_or_else(|| untold.to_owned());
                    Health::NotServing { cause }
                }
            };
            Ok((health, warnings))
        };
        let (health, warnings) = self.ask(&member.address, connecting, question).await;
        ProcessHealth {
            role: Role::PlacementDriver,
            address: member.address.clone(),
            health,
            warnings: match refusal.get() {
                Some(refusal) => vec![refusal.clone()],
                None => warnings,
            },
        }
    }

    async fn store(&self, store: &Store) -> ProcessHealth {
        let connecting = self.placement_driver.connections.connection(&store.address);
        let connecting = connecting.map_err(|cause| Health::Unreachable { cause });
        let question = async |channel| self.store_at(store, channel).await;
        let (health, warnings) = self.ask(&store.address, connecting, question).await;
        ProcessHealth {
            role: Role::Store { store_id: store.id },
            address: store.address.clone(),
            health,
            warnings,
        }
    }

    async fn ask(
        &self,
        address: &str,
        connecting: impl Future<Output = Result<Connection, Health>>,
        question: impl AsyncFnOnce(Channel) -> Result<(Health, Vec<String>), Status>,
    ) -> (Health, Vec<String>) {
        let asked = async {
            let connection = connecting.await?;
            question(connection.channel).await.map_err(|status| {
                let connections = &self.placement_driver.connections;
                connections.forget_broken(address, connection.id, &status);
                let cause = fate::cause(&status, address);
                Health::Unreachable { cause }
            })
        };
        match self.deadline.limit(asked).await {
            Some(Ok(answer)) => answer,
            Some(Err(health)) => (health, Vec::new()),
            None => {
                let cause = format!("{address} gave no answer in time");
                (Health::Unreachable { cause }, Vec::new())
            }
        }
    }

    /// Asks for a region that no store has: the answer says who answers, and whether it takes requests.
    async fn store_at(
        &self,
        store: &Store,
        channel: Channel,
    ) -> Result<(Health, Vec<String>), Status> {
        let Said { serving, warnings } = said(channel.clone()).await?;
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
                return Ok((Health::WrongProcess { cause }, Vec::new()));
            }
            // It answers, though not this client: which store it is stays open.
            Err(status) if fate::refusal(&status).is_some() => RawGetResponse::default(),
            Err(status) => match serving {
                Serving::No { told: Some(cause) } if !fate::is_local(&status) => {
                    return Ok((Health::NotServing { cause }, warnings));
                }
                _ => return Err(status),
            },
        };
        let health = match answer.region_error.and_then(|error| error.kind) {
            Some(Kind::ClusterMismatch(found)) => Health::WrongProcess {
                cause: format!("it is a store of cluster {}", found.cluster_id),
            },
            Some(Kind::StoreMismatch(found)) => Health::WrongProcess {
                cause: format!("it is store {}", found.store_id),
            },
            Some(Kind::NotReady(not_ready)) => Health::NotServing {
                cause: not_ready.reason,
            },
            _ => match serving {
                Serving::Yes => Health::Serving,
                Serving::No { told } => Health::NotServing {
                    cause: told.unwrap_or_else(|| takes_no_writes(store)),
                },
            },
        };
        Ok((health, warnings))
    }
}

/// What a process says of itself.
struct Said {
    serving: Serving,
    warnings: Vec<String>,
}

enum Serving {
    Yes,
    /// Processes of early releases do not tell why.
    No {
        told: Option<String>,
    },
}

async fn said(channel: Channel) -> Result<Said, Status> {
    let mut client = HealthClient::new(channel);
    let answer = client.check(HealthCheckRequest::default()).await?;
    let told = |name| {
        let told = answer.metadata().get_all(name).iter();
        let told = told.filter_map(|told| told.to_str().ok());
        told.filter(|told| !told.is_empty()).map(str::to_owned)
    };
    let serving = if answer.get_ref().status() == ServingStatus::Serving {
        Serving::Yes
    } else {
        let told = told(NOT_SERVING_CAUSE).next();
        Serving::No { told }
    };
    let warnings = told(WARNING).collect();
    Ok(Said { serving, warnings })
}

/// The guess at a store that does not tell.
fn takes_no_writes(store: &Store) -> String {
    let room = store.stats.map_or_else(String::new, |stats| {
        let bytes = stats.available_bytes;
        format!(" (its last heartbeat: {bytes} bytes of its disk are free)")
    });
    format!("it takes no writes{room}; its log says why")
}

//! The health of each process of the cluster.

use futures::future::join_all;
use rdb_proto::pdpb::GetStoresRequest;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::retry::Deadline;
use crate::{Client, fate};

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
    NotServing,
    /// It does not answer.
    Unreachable {
        /// What the client knows about the cause.
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
        let deadline = self.deadline();
        let placement_driver = self.router().placement_driver();
        let mut processes: Vec<(Role, String)> = placement_driver
            .addresses()
            .map(|address| (Role::PlacementDriver, address.to_owned()))
            .collect();
        let stores = placement_driver.ask_once(deadline, |mut client| async move {
            client.get_stores(GetStoresRequest {}).await
        });
        match stores.await {
            Ok(answer) => processes.extend(answer.stores.into_iter().map(|store| {
                let role = Role::Store { store_id: store.id };
                (role, store.address)
            })),
            Err(failure) => tracing::debug!(?failure, "the stores are not known"),
        }
        join_all(processes.into_iter().map(|(role, address)| async move {
            let health = self.health_of(&address, deadline).await;
            ProcessHealth {
                role,
                address,
                health,
            }
        }))
        .await
    }

    async fn health_of(&self, address: &str, deadline: Deadline) -> Health {
        let asked = async {
            let connections = self.router().connections();
            let connection = connections.connection(address).await?;
            HealthClient::new(connection.channel)
                .check(HealthCheckRequest::default())
                .await
                .map_err(|status| {
                    connections.forget_broken(address, connection.id, &status);
                    fate::cause(&status, address)
                })
        };
        match deadline.limit(asked).await {
            Some(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => {
                Health::Serving
            }
            Some(Ok(_)) => Health::NotServing,
            Some(Err(cause)) => Health::Unreachable { cause },
            None => Health::Unreachable {
                cause: format!("{address} gave no answer in time"),
            },
        }
    }
}

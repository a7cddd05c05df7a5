//! The first administrator, who is made before anybody can sign in.

use std::sync::Arc;

use rdb_proto::auth::Token;
use rdb_proto::authpb::{EnableRequest, EnableResponse};

use super::made;
use crate::retry::Deadline;
use crate::routing::PlacementDriver;
use crate::{Client, Config, Error};

/// The first administrator is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enabled {
    /// Its token, which is not told again.
    pub token: Token,
    /// Whether rights are enforced: the placement driver runs with `--auth`. Otherwise they are from its next start with that on.
    pub enforced: bool,
}

impl Client {
    /// Makes the first administrator of a cluster. It needs no client, since a client has to be signed in. It works while there is no
    /// administrator, for a caller on the placement driver's machine or with a client certificate.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the config, an address or the name is invalid, or no placement driver answers there;
    /// [`Error::Refused`] when there is an administrator, or a user of that name;
    /// [`Error::PermissionDenied`] or [`Error::Unauthenticated`] when the caller is on another machine and has no certificate;
    /// [`Error::Undetermined`] when the answer got lost;
    /// [`Error::Unavailable`] or [`Error::DeadlineExceeded`] when nobody answers in time.
    pub async fn enable_auth_at<A: Into<String>>(
        pd_addresses: impl IntoIterator<Item = A>,
        config: Config,
        name: &str,
    ) -> Result<Enabled, Error> {
        let placement_driver = PlacementDriver::of(&config, pd_addresses, Arc::default())?;
        let request = EnableRequest {
            name: name.to_owned(),
        };
        let enabled =
            placement_driver.ask_as_nobody(Deadline::after(config.timeout), |mut client| {
                let request = request.clone();
                async move { client.enable(request).await }
            });
        let EnableResponse { token, enforced } = enabled.await?;
        Ok(Enabled {
            token: made(&token)?,
            enforced,
        })
    }
}

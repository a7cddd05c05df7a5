//! Who may do what, as this store knows it.
//!
//! The placement driver keeps users and their rights, and says whether they are enforced. A store holds a copy in memory:
//!
//! - The [`RightsKeeper`] asks for it every two seconds, for as long as the store runs. So what is revoked is refused soon after, on open
//!   streams, too: handlers and the transport look at the copy of the moment for each call and each message.
//! - The [`RightsCopy`] is what the keeper has got. Calls are checked against its [`Guard`](rdb_proto::auth::Guard).
//! - The [`Mark`] in the data directory is there once the store was told that rights are enforced. A store that starts with it refuses
//!   calls until it has a copy. Without it a restart while no placement driver answers would serve everybody.
//!
//! | the store | has | serves |
//! | --- | --- | --- |
//! | has just registered for the first time | no mark | nobody, until it was told whether rights are enforced |
//! | was never told that rights are enforced | no mark | everybody |
//! | was told so, and has a copy | the mark | whom the copy allows, until it is older than `--auth-stale-max-s` |
//! | was told so, and has no copy | the mark | nobody |
//!
//! A placement driver that refuses to hand out the rights to this store, since it does not know it, enforces them: that counts as being
//! told. That rights are *not* enforced is believed only of a placement driver that has taken this store in since its start, see
//! [`PlacementDrivers`](crate::placement_drivers::PlacementDrivers). Not being reached, and a release that knows no rights, change nothing.

mod copy;
mod keeper;
mod mark;

pub(crate) use copy::RightsCopy;
pub(crate) use keeper::RightsKeeper;
pub(crate) use mark::Mark;

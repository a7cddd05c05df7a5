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
//! The keeper also tries a token that is new in the file of `--auth-token-file`. Until a placement driver that enforces rights has taken it,
//! this store is who it was: to placement drivers, and to other stores.
//!
//! | the store | has | serves |
//! | --- | --- | --- |
//! | has no regions or has a token file, and was told nothing since its start | no mark | nobody; it takes no new regions either |
//! | was never told that rights are enforced, and is not in the row above | no mark | everybody |
//! | was told so, and has a copy | the mark | whom the copy allows, until it is older than `--auth-stale-max-s` |
//! | was told so, and has no copy | the mark | nobody |
//!
//! A placement driver that refuses to hand out the rights to this store, since it does not know it, enforces them: that counts as being
//! told. So does one that says that it enforces them, and sends none that can be used. That rights are *not* enforced is believed only of a
//! placement driver that has taken this store in since its start, see [`PlacementDrivers`](crate::placement_drivers::PlacementDrivers).
//! Not being reached changes nothing. A release that knows no rights has a store of the first row serve, once it has taken it in, and
//! changes nothing otherwise.
//!
//! The first row is for rights that were switched on while the store was down. A store with regions and without a token file is not in it:
//! nothing of its own shows that its cluster has users, and it would serve nobody for as long as no placement driver answers.
//!
//! The mark is made before the first call is refused, and removed after calls are served to everybody: a crash in between leaves a store that
//! refuses more than it has to.

mod copy;
mod keeper;
mod mark;

pub(crate) use copy::RightsCopy;
pub(crate) use keeper::RightsKeeper;
pub(crate) use mark::Mark;

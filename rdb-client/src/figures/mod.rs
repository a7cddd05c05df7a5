//! What a client counts for the facade `metrics`, if its feature of that name is on.
//!
//! - [`Figures`]: the handles of one client. They are registered when it connects, at the recorder that is installed then.
//! - [`BegunCall`]: counts one call by what it does and how it ends, and measures it.
//!
//! Without the feature both are empty, and so is all that they do.
//!
//! Invariants:
//! - Noting looks nothing up, takes no lock and allocates nothing, except for an outcome that a kind is not expected to have and for
//!   a connection that is made. What a recorder does behind a handle is its own affair.
//! - A call is counted once, before its caller has the result. One whose future is dropped is counted as given up.
//! - No label takes a value from a key, a value or an address.

#[cfg(feature = "metrics")]
mod recorded;
#[cfg(not(feature = "metrics"))]
mod unrecorded;

#[cfg(feature = "metrics")]
use rdb_proto::auth::{Keyspace, Permission};

#[cfg(feature = "metrics")]
pub(crate) use recorded::{BegunCall, Figures, OpenConnection};
#[cfg(not(feature = "metrics"))]
pub(crate) use unrecorded::{BegunCall, Figures, OpenConnection};

macro_rules! call_kinds {
    ($($command:ident $messages:tt { $access:ident $keyspace:ident, $client:ident::$method:ident })*) => {
        rdb_proto::labelled! {
            /// What a call does. Calls on data have the names that stores give them. A scan counts each page.
            CallKind {
                $($command = stringify!($method),)*
                Tso = "tso",
                /// A question about the cluster, or what an operator asks for.
                Control = "control",
            }
        }

        #[cfg(feature = "metrics")]
        impl CallKind {
            /// The right that its caller needs, if it is a call on data.
            fn needs(self) -> Option<(Permission, Keyspace)> {
                match self {
                    $(Self::$command => Some((Permission::$access, Keyspace::$keyspace)),)*
                    Self::Tso | Self::Control => None,
                }
            }
        }
    };
}

rdb_proto::data_commands!(call_kinds);

//! Where stores are.

use futures::future::BoxFuture;

/// Knows the addresses of stores.
pub trait AddressBook: Send + Sync + 'static {
    /// The address of a store now, `host:port`. `None`: it is not known. Asked before each attempt to connect, within the
    /// time of the attempt.
    fn address(&self, store_id: u64) -> BoxFuture<'_, Option<String>>;
}

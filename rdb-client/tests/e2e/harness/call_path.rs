//! The two ways in which a client's calls get to a store, and tests that are run over both.

use rdb_client::Config;

/// How calls on single keys are sent. Everything else (batches, scans, range deletes) is always a unary call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallPath {
    /// Each is a unary gRPC call.
    Unary,
    /// They share streams, which is the default.
    Batched,
}

impl CallPath {
    /// A client's settings for this path.
    pub(crate) fn config(self) -> Config {
        Config::default().with_unary(self == Self::Unary)
    }
}

/// Makes two tests, `NAME::unary` and `NAME::batched`, of each `async fn NAME(path: CallPath)`. The attribute that makes
/// them tests can be given first.
macro_rules! over_both_paths {
    (#[$test:meta] $($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::harness::CallPath;

            #[$test]
            async fn unary() {
                super::$name(CallPath::Unary).await;
            }

            #[$test]
            async fn batched() {
                super::$name(CallPath::Batched).await;
            }
        }
    )+};
    ($($name:ident),+ $(,)?) => {
        over_both_paths! { #[tokio::test] $($name),+ }
    };
}

pub(crate) use over_both_paths;

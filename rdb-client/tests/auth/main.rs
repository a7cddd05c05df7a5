//! Who may do what, tried from outside: real processes, the bare wire, and every credential that is not good enough.
//!
//! - [`table`] goes through every method of every service as everybody there is. A method without a row fails it.
//! - [`grants`] is about what one grant is over, and who has it.
//! - [`revoked`] takes rights away while calls are going on.
//! - [`away`] is about copies of the rights that cannot be renewed, [`enabling`] about clusters that begin to ask who calls, and stop.
//! - [`fuzz`] guesses tokens, forges certificates, and sends nonsense.
//!
//! All processes keep an audit log meanwhile, which has each refusal, and nothing that is a secret.
//!
//! What a test expects is written here from what is promised, not from the tables of the servers.
//!
//! - `RDB_AUTH_FUZZ_SECONDS=N` is the long form of each kind of [`fuzz`].
//! - `RDB_AUTH_FUZZ_SEED=N` makes the choices of a run again.
//! - The test that measures how long a revocation takes is ignored unless it is asked for: it wants an idle machine.

#![forbid(unsafe_code)]

mod administrator;
mod audit;
mod away;
mod bare;
#[path = "../../../rdb-proto/tests/transport/certificates.rs"]
#[allow(dead_code, reason = "the tests of the transport use all of it")]
mod certificates;
mod cluster;
mod enabling;
mod fuzz;
mod grants;
#[path = "../e2e/harness/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the end-to-end tests use more of it"
)]
mod harness;
mod identities;
mod requests;
mod revoked;
mod table;
mod wire;

//! Checks each call against its caller's rights: the part of [`auth`](crate::auth) that is in the transport.

use std::sync::Arc;

use hyper::Request;
use hyper::header::AUTHORIZATION;
use tonic::Code;

use super::access::Access;
use super::audited::note_denied;
use super::connection::Connection;
use super::methods::Method;
use super::serve::ServeOptions;
pub(super) use crate::auth::Caller;
use crate::auth::{Credentials, Guard};
use crate::error::Fault;
use crate::errorpb::Fate;

/// Finds out who calls. `None`: it does not matter.
#[derive(Debug, Clone)]
pub(super) struct Guarded(Option<Arc<Guard>>);

impl Guarded {
    pub(super) fn new(options: &ServeOptions) -> Self {
        Self(options.guard.clone())
    }

    /// The caller of a call to `method`. Removes the shown credentials from the request, since no later step needs them.
    ///
    /// # Errors
    ///
    /// When the caller may not call it. Once rights are enforced, nobody may call what has no row in the table of methods.
    pub(super) fn let_in<B>(
        &self,
        request: &mut Request<B>,
        method: &Method,
        connection: &Connection,
    ) -> Result<Caller, Fault> {
        let Some(guard) = &self.0 else {
            request.headers_mut().remove(AUTHORIZATION);
            connection.note_let_in(true);
            return Ok(Caller::anyone());
        };
        // Also while rights are not enforced: the call may last until they are.
        let certificate = connection.peer_identity.get().cloned();
        let credentials = Credentials::of(request.headers(), certificate);
        request.headers_mut().remove(AUTHORIZATION);
        let caller = Caller::new(Arc::clone(guard), credentials);
        if method.access == Access::ByHandler {
            // The audit log names the caller even if the handler refuses it.
            caller.look_up();
        }
        match check(&caller, method) {
            Ok(()) => {
                let is_for_anybody = matches!(method.access, Access::Open | Access::ByHandler);
                if !is_for_anybody || !guard.is_enforced() {
                    connection.note_let_in(true);
                }
                if method.is_other() && guard.is_enforced() {
                    return Err(no_such_method());
                }
                Ok(caller)
            }
            Err(refusal) => {
                if refusal.code == Code::Unauthenticated {
                    connection.note_let_in(false);
                }
                if method.access == Access::Store
                    && let Some(peer) = connection.peer
                {
                    let address = peer.ip().to_canonical();
                    guard.note_refused_store(address, &refusal);
                }
                note_denied(connection, &caller, method, &refusal);
                Err(refusal)
            }
        }
    }
}

/// Nobody may call it, so the caller lacks no right, and the audit log has no refusal.
fn no_such_method() -> Fault {
    let fault = Fault::new(Code::Unimplemented, "this server has no such method");
    fault.with_fate(Fate::NotApplied)
}

/// Checks that a caller may, at this moment, call `method`.
///
/// # Errors
///
/// When it may not.
pub(super) fn check(caller: &Caller, method: &Method) -> Result<(), Fault> {
    match method.access {
        Access::Open | Access::ByHandler => Ok(()),
        Access::SignedIn | Access::Keys(..) | Access::Commands => caller.pass()?.check_signed_in(),
        Access::Store => caller.pass()?.check_store(),
        Access::Admin => caller.pass()?.check_admin(),
    }
}

//! Stands in for `guarded.rs` in programs that are not our servers: everybody may call.

use hyper::Request;

use super::connection::Connection;
use super::methods::Method;
use super::serve::ServeOptions;
use crate::error::Fault;

#[derive(Debug)]
pub(super) struct Caller;

#[derive(Debug, Clone)]
pub(super) struct Guarded;

impl Caller {
    pub(super) fn anyone() -> Self {
        Self
    }

    pub(super) fn nobody() -> Self {
        Self
    }

    pub(super) fn has_other_rights(&self) -> bool {
        false
    }

    pub(super) fn is_signed_in(&self) -> bool {
        true
    }
}

impl Guarded {
    pub(super) fn new(_: &ServeOptions) -> Self {
        Self
    }

    pub(super) fn let_in<B>(
        &self,
        _: &mut Request<B>,
        _: &Method,
        connection: &Connection,
    ) -> Result<Caller, Fault> {
        connection.note_let_in(true);
        Ok(Caller)
    }
}

pub(super) fn check(_: &Caller, _: &Method) -> Result<(), Fault> {
    Ok(())
}

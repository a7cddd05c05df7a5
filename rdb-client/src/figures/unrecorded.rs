//! What is left without the feature: nothing.

use std::marker::PhantomData;

use super::CallKind;
use crate::Error;

/// Nothing.
#[derive(Debug, Default)]
pub(crate) struct Figures;

/// Nothing.
#[derive(Debug)]
pub(crate) struct BegunCall<'a>(PhantomData<&'a Figures>);

/// Nothing.
#[derive(Debug)]
pub(crate) struct ConnectionAttempt<'a>(PhantomData<&'a Figures>);

/// Nothing.
#[derive(Debug, Clone)]
pub(crate) struct OpenConnection;

impl Figures {
    pub(crate) fn begin(&self, _: CallKind) -> BegunCall<'_> {
        BegunCall(PhantomData)
    }

    pub(crate) fn note_retry(&self, _: &Error) {}

    pub(crate) fn note_message(&self, _: usize) {}

    pub(crate) fn note_timestamp_request(&self, _: u32) {}

    pub(crate) fn note_region_lookup(&self, _: bool) {}

    pub(crate) fn note_leader_search(&self) {}

    pub(crate) fn begin_connecting(&self) -> ConnectionAttempt<'_> {
        ConnectionAttempt(PhantomData)
    }
}

impl BegunCall<'_> {
    pub(crate) fn end<T>(&mut self, _: &Result<T, Error>) {}
}

impl ConnectionAttempt<'_> {
    pub(crate) fn connected(self) -> OpenConnection {
        OpenConnection
    }
}

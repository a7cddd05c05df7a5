//! FlareDB's wire.
//!
//! The modules [`metapb`], [`errorpb`], [`pdpb`], [`kvrpc`], [`raftpb`], [`adminpb`] and [`authpb`] are generated from the files under
//! `proto/`, which are the reference for every message and field; all `bytes` fields decode to [`bytes::Bytes`] that share the
//! message's buffer. Beside them are:
//!
//! - small pure helpers on the generated types: [`region`], [`error`], [`response`], [`point`], [`batch`];
//! - the tables of commands: [`point_commands`], [`data_commands`];
//! - what processes count ([`figures`], [`labelled`]), which traces calls are parts of ([`trace`]), and what is wrong with a cluster in
//!   words ([`findings`], [`shown`]);
//! - who may do what: [`auth`];
//! - the transport that servers and clients share: [`transport`];
//! - what both servers share beside it, with the feature `process`: the shell of a process and its status pages (in [`transport`]),
//!   the audit log of calls (`audit`), and what is sent to a collector (`spans`).
//!
//! This crate knows nothing of storage and routing, and only the vocabulary of the cluster.

#![forbid(unsafe_code)]

#[cfg(feature = "process")]
pub mod audit;
pub mod auth;
pub mod batch;
mod data;
pub mod error;
pub mod figures;
pub mod findings;
mod hex;
mod message_header;
pub mod point;
pub mod rare_line;
pub mod region;
mod regular_file;
pub mod response;
pub mod shown;
pub mod slow_log;
#[cfg(feature = "process")]
pub mod spans;
pub mod trace;
pub mod transport;

/// Shared types: stores, regions, request contexts, limits.
#[allow(missing_docs, clippy::all)]
pub mod metapb {
    tonic::include_proto!("metapb");
}

/// Routing answers and the details of faults.
#[allow(missing_docs, clippy::all)]
pub mod errorpb {
    tonic::include_proto!("errorpb");
}

/// The placement driver's service.
#[allow(missing_docs, clippy::all)]
pub mod pdpb {
    tonic::include_proto!("pdpb");
}

/// The data services.
#[allow(missing_docs, clippy::all)]
pub mod kvrpc {
    tonic::include_proto!("kvrpc");
    include!(concat!(env!("OUT_DIR"), "/kvrpc.KvBatch.rs"));
}

/// What stores say to each other about their groups.
#[allow(missing_docs, clippy::all)]
pub mod raftpb {
    tonic::include_proto!("raftpb");
    include!(concat!(env!("OUT_DIR"), "/raftpb.RaftPeer.rs"));
}

/// What an operator asks of the regions of a store.
#[allow(missing_docs, clippy::all)]
pub mod adminpb {
    tonic::include_proto!("adminpb");
}

/// Users, and what they may do.
#[allow(missing_docs, clippy::all)]
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The compiled protos, as gRPC reflection serves them.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

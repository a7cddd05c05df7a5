//! Compiles the protos without `protoc`, and keeps the descriptor set that gRPC reflection serves.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;
use tonic_prost_build::{FileDescriptorSet, manual};

const PROTOS: [&str; 7] = [
    "metapb.proto",
    "errorpb.proto",
    "pdpb.proto",
    "kvrpc.proto",
    "raftpb.proto",
    "adminpb.proto",
    "authpb.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut descriptors = protox::compile(PROTOS, ["proto"])?;

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;

    // Their servers are written by hand.
    remove_service(&mut descriptors, "KvBatch");
    remove_service(&mut descriptors, "RaftPeer");
    tonic_prost_build::configure()
        .bytes(".")
        // Rare and large: without the boxes every answer would carry room for one.
        .boxed("region_error")
        .boxed("kvrpc.BatchAnswer.response.fault")
        .boxed("errorpb.NotLeader.leader")
        .compile_fds(descriptors)?;
    manual::Builder::new()
        .build_server(false)
        .compile(&[kv_batch(), raft_peer()]);
    Ok(())
}

fn remove_service(descriptors: &mut FileDescriptorSet, name: &str) {
    for file in &mut descriptors.file {
        file.service.retain(|service| service.name() != name);
    }
}

/// The service as it stands in the proto, with a codec of its own that tells the size of each message.
fn kv_batch() -> manual::Service {
    let batch = manual::Method::builder()
        .name("batch")
        .route_name("Batch")
        .input_type("crate::batch::Request")
        .output_type("crate::batch::Response")
        .codec_path("crate::batch::BatchCodec")
        .client_streaming()
        .server_streaming()
        .build();
    manual::Service::builder()
        .name("KvBatch")
        .package("kvrpc")
        .comment("Both keyspaces over one stream: many commands in one message.")
        .method(batch)
        .build()
}

/// The service as it stands in the proto.
fn raft_peer() -> manual::Service {
    let stream = |name, route_name, [input, output]: [&str; 2]| {
        manual::Method::builder()
            .name(name)
            .route_name(route_name)
            .input_type(format!("crate::raftpb::{input}"))
            .output_type(format!("crate::raftpb::{output}"))
            .codec_path("tonic_prost::ProstCodec")
            .client_streaming()
            .server_streaming()
            .build()
    };
    manual::Service::builder()
        .name("RaftPeer")
        .package("raftpb")
        .comment("What stores say to each other about their groups.")
        .method(stream("bulk", "Bulk", ["Envelope", "Reply"]))
        .method(stream("urgent", "Urgent", ["Envelope", "Reply"]))
        .method(stream(
            "snapshot",
            "Snapshot",
            ["SnapshotPart", "SnapshotReply"],
        ))
        .build()
}

//! What each measurement is, in words. In the order of the page; its names are those of `scripts/bench.sh`.

/// A measurement as people are told of it.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Its throughput belongs into the plot.
    pub(super) plotted: bool,
}

const fn entry(name: &'static str, what: &'static str, plotted: bool) -> Entry {
    Entry {
        name,
        what,
        plotted,
    }
}

pub(super) const CATALOG: &[Entry] = &[
    entry(
        "fdatasync",
        "limit: append 160 bytes to a growing file, fdatasync",
        true,
    ),
    entry(
        "storage-1",
        "limit: engine and its writer, no network, synced, 1 writer",
        false,
    ),
    entry("storage-64", "limit: engine, 64 writers waiting", true),
    entry("storage-256", "limit: engine, 256 writers waiting", true),
    entry("empty-1", "limit: empty unary call, 1 in flight", false),
    entry("empty-64", "limit: empty unary call, 64 in flight", true),
    entry("empty-256", "limit: empty unary call, 256 in flight", true),
    entry(
        "echo-stream",
        "limit: echo stream, 1,000 messages outstanding",
        true,
    ),
    entry(
        "tso-stream",
        "bare timestamp stream, 1,000 messages outstanding",
        true,
    ),
    entry("tso-1000", "tso(), 1,000 callers", true),
    entry("put-1", "raw_put, 1 caller", false),
    entry("put-64", "raw_put, 64 callers", true),
    entry("put-256", "raw_put, 256 callers", true),
    entry("put-unary-1", "raw_put, unary, 1 caller", false),
    entry("put-unary-64", "raw_put, unary, 64 callers", true),
    entry("put-unary-256", "raw_put, unary, 256 callers", true),
    entry(
        "put-256-idle",
        "raw_put, 256 callers, 1,000 idle connections open",
        false,
    ),
    entry("get-1", "raw_get, 1 caller", false),
    entry("get-unary-1", "raw_get, unary, 1 caller", false),
    entry("get-64", "raw_get, 64 callers", true),
    entry("get-unary-64", "raw_get, unary, 64 callers", true),
    entry("get-256", "raw_get, 256 callers", true),
    entry("get-unary-256", "raw_get, unary, 256 callers", true),
    entry(
        "get-256-idle",
        "raw_get, 256 callers, 1,000 idle connections open",
        false,
    ),
    entry("cas-1", "cas on distinct keys, 1 caller", false),
    entry("cas-256", "cas on distinct keys, 256 callers", true),
    entry(
        "cas-cold-256",
        "cas on distinct keys that are not in the block cache, 256 callers",
        true,
    ),
    entry("cas-hot-64", "cas, 64 callers on one key", true),
    entry("cas-hot-64-30s", "the same over 30 s", false),
    entry("scan-64", "scans of 100 entries, 64 callers", true),
    entry(
        "ycsb-a-256",
        "YCSB A (half reads, half updates, zipfian), 256 callers",
        true,
    ),
    entry("ycsb-b-256", "YCSB B (95 % reads), 256 callers", true),
    entry("ycsb-c-256", "YCSB C (reads only), 256 callers", true),
    entry("put-1-three", "raw_put, three stores, 1 caller", false),
    entry("put-256-three", "raw_put, three stores, 256 callers", true),
    entry("get-256-three", "raw_get, three stores, 256 callers", true),
    entry(
        "put-256-away",
        "raw_put, three stores of which one is away, 256 callers",
        false,
    ),
    entry(
        "put-256-behind",
        "raw_put while that one gets a snapshot, 256 callers",
        false,
    ),
    entry("put-1-before", "raw_put, earlier build, 1 caller", false),
    entry("put-1-now", "raw_put, this build, 1 caller", false),
    entry(
        "put-256-before",
        "raw_put, earlier build, 256 callers",
        false,
    ),
    entry("put-256-now", "raw_put, this build, 256 callers", false),
    entry("get-1-before", "raw_get, earlier build, 1 caller", false),
    entry("get-1-now", "raw_get, this build, 1 caller", false),
    entry(
        "get-256-before",
        "raw_get, earlier build, 256 callers",
        false,
    ),
    entry("get-256-now", "raw_get, this build, 256 callers", false),
    entry("cas-1-before", "cas, earlier build, 1 caller", false),
    entry("cas-1-now", "cas, this build, 1 caller", false),
    entry("cas-256-before", "cas, earlier build, 256 callers", false),
    entry("cas-256-now", "cas, this build, 256 callers", false),
    entry("etcd-put-1", "etcd put, 1 in flight", false),
    entry("etcd-put-64", "etcd put, 64 in flight", true),
    entry("etcd-put-256", "etcd put, 256 in flight", true),
    entry("etcd-get-64", "etcd linearizable get, 64 in flight", true),
    entry("etcd-get-256", "etcd linearizable get, 256 in flight", true),
    entry(
        "etcd-put-1-three",
        "etcd put, three nodes, 1 in flight",
        false,
    ),
    entry(
        "etcd-put-256-three",
        "etcd put, three nodes, 256 in flight",
        true,
    ),
    entry(
        "etcd-get-256-three",
        "etcd linearizable get, three nodes, 256 in flight",
        true,
    ),
    entry(
        "redis-set-64",
        "Redis SET, appendfsync always, 64 connections",
        true,
    ),
    entry(
        "redis-set-64-pipelined",
        "Redis SET, appendfsync always, 64 connections, pipelines of 16",
        true,
    ),
    entry(
        "put-half",
        "raw_put, open loop at half of etcd's peak",
        false,
    ),
    entry(
        "etcd-put-half",
        "etcd put, open loop at half of its peak",
        false,
    ),
];

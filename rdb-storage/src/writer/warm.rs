//! Warming: reading the versioned keys of cold submissions into memory, so that the writer need not wait for the disk.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::queue::Queue;
use super::worker::Worker;
use crate::command::Command;
use crate::engine::Engine;
use crate::read::{Keyspace, Tier};

/// How many threads read, each one submission at a time.
const WARMERS: usize = 8;

/// Starts the threads. They end with the queue.
pub(super) fn start(worker: &Arc<Worker>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let threads = (0..WARMERS).map(|_| {
        let worker = Arc::clone(worker);
        let builder = thread::Builder::new().name("rdb-warmer".to_owned());
        builder.spawn(move || warm(&worker.engine, &worker.queue))
    });
    threads.collect()
}

fn warm(engine: &Engine, queue: &Queue) {
    while let Some(mut cold) = queue.take_cold() {
        let mut keys = cold.commands().iter().filter_map(Command::expected_version);
        let read = keys.try_for_each(|(key, _)| {
            if cold.is_too_late() {
                return Ok(());
            }
            engine
                .record(Keyspace::Versioned, key, Tier::Disk)
                .map(drop)
        });
        if read.is_err() {
            cold.give_up();
        }
    }
}

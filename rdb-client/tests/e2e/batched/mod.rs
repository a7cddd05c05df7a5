//! The batched path against real processes: what streams of many commands promise beyond what single calls do.
//!
//! [`raw_stream`] is the wire itself, for what the client library would never do; the other modules are one subject each.

mod abandoned;
mod coalescing;
mod cold_reads;
mod ends;
mod messages;
mod no_room;
mod overload;
mod raw_stream;
mod unread;

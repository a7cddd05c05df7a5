//! Timestamps: a `u64` of 46 bits of Unix milliseconds and 18 bits of counter.
//!
//! Every timestamp is greater than all that were handed out before, by this process or any earlier one on the same data
//! directory, even if the wall clock jumps.
//!
//! - [`oracle`](Oracle): arithmetic on one atomic. It uses neither clock nor disk.
//! - [`clock`](PhysicalClock): the effective time, from a wall clock that may jump.
//! - [`bound`](BoundStore): an upper bound that is durable *before* any timestamp below it is handed out, so that the
//!   next process can begin above it.
//! - [`allocator`](Allocator): combines the three, and waits for the bound or the clock.

mod allocator;
mod bound;
mod clock;
mod figures;
mod oracle;

pub use allocator::{Allocator, AllocatorError};
pub use bound::{BoundStore, StorageBound};
pub use clock::{Clock, ClockError, ClockSettings, PhysicalClock, SystemClock};
pub use figures::{TsoFigures, TsoPosition};
pub use oracle::{LOGICAL_BITS, Oracle, WaitFor, compose};

/// Most timestamps of one request.
pub const COUNT_MAX: u32 = 65_536;

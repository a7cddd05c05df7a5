//! Random bytes of the system, which follow from the seed.
//!
//! tokio draws which of its waiters it wakes first, and which branch of a `select!` it polls first, from generators that it seeds
//! by the hasher of `std`. So do maps their order, and openraft the length of its election timeouts from a generator that is seeded
//! by the system. All of that asks the function below, since the linker takes it for that of the C library.

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

static SEED: AtomicU64 = AtomicU64::new(0);

/// What threads are given that start from now on.
pub(crate) fn seed(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// Always the same bytes for a seed, whoever asks first.
///
/// # Safety
///
/// `buffer` has `length` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: as the caller promises.
    let buffer = unsafe { slice::from_raw_parts_mut(buffer, length) };
    let bytes = SEED.load(Ordering::Relaxed).to_le_bytes();
    for (to, from) in buffer.iter_mut().zip(bytes.into_iter().cycle()) {
        *to = from;
    }
    length as isize
}

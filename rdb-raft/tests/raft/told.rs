//! What the crate logs on the thread of a test.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Metadata, Subscriber, callsite};

use crate::voters::wait_until;

thread_local! {
    /// What was logged on this thread, if somebody listens.
    static EVENTS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Listens for as long as it is there. All tasks of a test have its thread.
pub(crate) struct Told(());

impl Told {
    pub(crate) fn listen() -> Self {
        // One for all threads: an event that comes on a thread without any would be off on all.
        static BEGIN: Once = Once::new();
        BEGIN.call_once(|| {
            set_global_default(Listener).unwrap();
            callsite::rebuild_interest_cache();
        });
        EVENTS.set(Some(String::new()));
        Self(())
    }

    pub(crate) async fn wait_for(&self, text: &str) {
        let is_told = || {
            EVENTS.with_borrow(|events| events.as_ref().is_some_and(|events| events.contains(text)))
        };
        wait_until(&format!("{text:?} is told"), is_told).await;
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        EVENTS.set(None);
    }
}

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("rdb_raft")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // A thread that ends may have none any more.
        let _ = EVENTS.try_with(|events| {
            if let Some(events) = &mut *events.borrow_mut() {
                event.record(&mut Fields(events));
                events.push('\n');
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

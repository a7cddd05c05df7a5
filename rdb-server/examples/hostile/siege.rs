//! Many calls on many connections that nobody lets end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::wire::{Ending, Line};

/// How long a call that has ended waits until it is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls under way, until this is dropped.
pub(crate) struct Siege {
    /// They end with it.
    _connections: JoinSet<()>,
    endings: Endings,
}

/// How many calls ended how.
#[derive(Clone, Default)]
struct Endings(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// Whether a call that has ended is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insistence {
    Once,
    AgainAndAgain,
}

impl Siege {
    /// On each of so many connections, `calls` at a time; `call` gets the connection and the number of the call on it.
    pub(crate) fn lay<F>(
        address: &str,
        connections: usize,
        calls: usize,
        insistence: Insistence,
        call: impl Fn(Line, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Ending> + Send + 'static,
    {
        let endings = Endings::default();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (address, call, endings) = (address.to_owned(), call.clone(), endings.clone());
            tasks.spawn(async move {
                loop {
                    match Line::open(&address).await {
                        Ok(line) => {
                            let calls = (0..calls)
                                .map(|number| keep(&line, number, insistence, &call, &endings));
                            join_all(calls).await;
                        }
                        Err(_) => endings.note("connections refused"),
                    }
                    if insistence == Insistence::Once {
                        return;
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        Self {
            _connections: tasks,
            endings,
        }
    }

    /// How calls ended, for the reader of the table.
    pub(crate) fn endings(&self) -> String {
        let endings = self
            .endings
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let each: Vec<String> = endings
            .iter()
            .map(|(ending, count)| format!("{count} {ending}"))
            .collect();
        if each.is_empty() {
            return "no call ended".to_owned();
        }
        format!("calls: {}", each.join(", "))
    }
}

async fn keep<F: Future<Output = Ending>>(
    line: &Line,
    number: usize,
    insistence: Insistence,
    call: &impl Fn(Line, usize) -> F,
    endings: &Endings,
) {
    while !line.is_lost() {
        endings.note(match call(line.clone(), number).await {
            Ending::Refused => "refused",
            Ending::Answered => "answered",
            Ending::Reset => "reset",
            Ending::ConnectionLost => "lost with their connection",
        });
        if insistence == Insistence::Once {
            return;
        }
        sleep(PAUSE).await;
    }
}

impl Endings {
    fn note(&self, ending: &'static str) {
        let mut endings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *endings.entry(ending).or_default() += 1;
    }
}

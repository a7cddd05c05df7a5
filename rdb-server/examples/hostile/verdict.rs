//! The table: what each peer cost and what it may cost.

use std::time::Duration;

use crate::bystander::{Calls, Experience};

/// What a peer may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Resident memory at the worst moment, over what was resident before, in MiB.
    pub(crate) peak_mib: u64,
    /// The same some time after it has gone.
    pub(crate) after_mib: u64,
    /// The bystander's worst call; a put may take the slowest sync beside it, too. `None` where there is none, since the
    /// process ends.
    pub(crate) others: Option<Duration>,
}

/// What it did cost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Costs {
    pub(crate) idle_bytes: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) after_bytes: u64,
    pub(crate) experience: Option<Experience>,
    /// What else there is to tell.
    pub(crate) notes: Vec<String>,
    /// Promises of this peer alone that were not kept.
    pub(crate) misses: Vec<String>,
}

/// The judged costs of one peer.
#[derive(Debug)]
pub(crate) struct Verdict {
    limits: Limits,
    costs: Costs,
}

pub(crate) fn print_header() {
    println!(
        "{:20} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}  {:26} verdict",
        "peer", "idle MiB", "peak +MiB", "10 s +MiB", "put ms", "sync ms", "get ms", "must"
    );
}

impl Verdict {
    pub(crate) fn of(limits: Limits, costs: Costs) -> Self {
        Self { limits, costs }
    }

    /// Prints a row and returns whether the peer stayed within its limits.
    pub(crate) fn print(&self, name: &str) -> bool {
        let misses = self.misses();
        let costs = &self.costs;
        let experience = costs.experience.as_ref();
        let worst = |of: fn(&Experience) -> Duration| {
            experience.map_or("-".to_owned(), |experience| milliseconds(of(experience)))
        };
        let put = worst(|experience| experience.put.worst);
        let sync = worst(|experience| experience.sync);
        let get = worst(|experience| experience.get.worst);
        println!(
            "{name:20} {:>8} {:>9} {:>9} {put:>9} {sync:>9} {get:>9}  {:26} {}",
            costs.idle_bytes >> 20,
            costs.peak_mib(),
            costs.after_mib(),
            self.limits.to_string(),
            if misses.is_empty() {
                "pass".to_owned()
            } else {
                format!("MISS: {}", misses.join("; "))
            },
        );
        for note in &costs.notes {
            println!("{:20} {note}", "");
        }
        misses.is_empty()
    }

    fn misses(&self) -> Vec<String> {
        let (limits, costs) = (&self.limits, &self.costs);
        let mut misses = Vec::new();
        if costs.peak_mib() > limits.peak_mib {
            misses.push("peak".to_owned());
        }
        if costs.after_mib() > limits.after_mib {
            misses.push("after".to_owned());
        }
        if let (Some(experience), Some(most)) = (&costs.experience, limits.others) {
            misses.extend(experience.put.miss("puts", most + experience.sync));
            misses.extend(experience.get.miss("gets", most));
        }
        misses.extend(costs.misses.iter().cloned());
        misses
    }
}

impl Costs {
    fn peak_mib(&self) -> u64 {
        self.peak_bytes.saturating_sub(self.idle_bytes) >> 20
    }

    fn after_mib(&self) -> u64 {
        self.after_bytes.saturating_sub(self.idle_bytes) >> 20
    }
}

impl Calls {
    fn miss(&self, kind: &str, most: Duration) -> Option<String> {
        if let Some(failure) = &self.first_failure {
            let (failed, count) = (self.failed, self.count);
            return Some(format!("{failed} of {count} {kind} failed, e.g. {failure}"));
        }
        (self.worst > most).then(|| kind.to_owned())
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB, {} after", self.peak_mib, self.after_mib)?;
        match self.others {
            Some(others) => write!(f, ", {others:?}"),
            None => Ok(()),
        }
    }
}

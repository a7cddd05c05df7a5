//! What is wrong with a store.

use super::Finding;
use super::about::{self, About, tls_advice};
use crate::metapb::StoreState;
use crate::shown::{size, time};

/// A disk with a smaller free fraction is reported.
const FREE_MIN: f64 = 0.1;

/// A store without a heartbeat for this long is disconnected, in milliseconds.
pub const SILENT_AFTER_MS: u64 = 20_000;

/// A store, as far as it is known.
#[derive(Debug, Clone)]
pub struct StoreView<'a> {
    /// Its id.
    pub id: u64,
    /// Where clients reach it.
    pub address: &'a str,
    /// What the placement driver thinks of it.
    pub state: StoreState,
    /// Milliseconds since its last heartbeat. `None`: none since the placement driver started.
    pub heartbeat_age_ms: Option<u64>,
    /// Bytes of its disk that are free, and all of them. `None`: not known.
    pub space: Option<(u64, u64)>,
    /// How many regions have a replica on it.
    pub region_count: usize,
    /// Whether it does not answer for a voter of a region that lacks a majority.
    pub is_missed: bool,
    /// What it answers.
    pub answer: Answer<'a>,
}

/// What a store answered who asked it. A cause names its address, and is fit to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It does its work, and says that this has to be looked at, if anything has.
    Serving(Option<&'a str>),
    /// It says that it does not, for this cause.
    NotServing(&'a str),
    /// Another process answered at its address.
    WrongProcess(&'a str),
    /// Nothing came, for this cause.
    Nothing(&'a str),
    /// It was not asked. Its heartbeats are all that is known.
    NotAsked(Heartbeats),
}

/// What the placement driver knows from the heartbeats of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeats {
    /// They arrive.
    Arrive,
    /// There was none lately, and the placement driver has not listened for long enough to tell what that means.
    NotYet,
    /// There was none for as long as makes a store disconnected, while the placement driver listened.
    Silent,
    /// There was none for so long that the store's replicas are replaced.
    Down,
}

impl StoreView<'_> {
    /// Whether there was a heartbeat, and none since for as long as makes a store disconnected.
    fn is_silent(&self) -> bool {
        let age = self.heartbeat_age_ms;
        age.is_some_and(|age| age >= SILENT_AFTER_MS)
    }

    /// Whether its last heartbeat is younger than what makes a store disconnected.
    fn was_heard(&self) -> bool {
        self.heartbeat_age_ms.is_some() && !self.is_silent()
    }

    fn heard(&self) -> String {
        match self.heartbeat_age_ms {
            Some(age) => format!("its last heartbeat came {} ago", time(age)),
            None => "the placement driver has not heard of it since it started".to_owned(),
        }
    }
}

/// What is wrong with a store, the worst only.
pub fn of_store(store: &StoreView<'_>) -> Option<Finding> {
    let StoreView { id, address, .. } = *store;
    let heard = store.heard();
    let finding = match store.answer {
        Answer::Serving(warning) => return of_serving_store(store, warning),
        Answer::NotAsked(heartbeats) => return of_heartbeats(store, heartbeats),
        Answer::NotServing(cause) => Finding::alarm(
            format!("store {id} does not serve: {cause}"),
            not_serving_advice(&format!("the store at {address}"), cause),
        ),
        Answer::WrongProcess(cause) => Finding::alarm(
            format!("store {id} is not at its address: {cause}"),
            format!(
                "start store {id} again with its --data-dir; an address that has changed is told by --advertise-addr. \
                 {}",
                if_gone(store)
            ),
        ),
        Answer::Nothing(cause) if About::of(cause) == About::Tls => {
            let mut to_do = tls_advice(&format!("the store at {address}"));
            if !store.was_heard() {
                // Something else may have taken its port.
                to_do.push_str(". If the store does not run: ");
                to_do.push_str(&start_again(store));
            }
            let what = format!("store {id} cannot be asked: {cause}; {heard}");
            Finding::alarm(what, to_do)
        }
        // Where nothing listens, it has died since.
        Answer::Nothing(cause) if store.was_heard() && !cause.contains("refused") => {
            Finding::alarm(
                format!(
                    "store {id} does not answer here, and is slow or cannot be reached from here: {cause}; {heard}"
                ),
                format!(
                    "look again, with more patience: rdbctl status --wait 10s. See the load and the log of the store at {address}, \
                     and whether this machine reaches it"
                ),
            )
        }
        Answer::Nothing(cause) => Finding::alarm(
            format!("store {id} does not answer: {cause}; {heard}"),
            start_again(store),
        ),
    };
    Some(finding.of_store(id))
}

/// What to do about a store that says that it does not serve, or about a process that says what to look at though it does, for this cause.
/// The causes are those of its health, with what RocksDB and the operating system say.
pub fn not_serving_advice(process: &str, cause: &str) -> String {
    let tells = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if let Some(advice) = about::advice(process, cause) {
        advice
    } else if tells(&["has no leader"]) {
        format!(
            "look again in ten seconds: regions elect their leaders. If they do not, see which stores do not answer, and the log of \
             {process}"
        )
    } else if is_damage(cause) {
        "a restart does not mend damaged data. A store whose regions other stores hold, too, is replaced: start another store with an \
         empty directory, then `rdbctl store remove` with the id of this one. Otherwise stop it, keep a copy of its directory, and \
         restore a copy from before"
            .to_owned()
    } else if tells(&["No space left", "quota exceeded"]) {
        format!("free space on the disk of {process}, then start it again")
    } else {
        format!("see the log of {process}")
    }
}

/// Whether a cause says that data is damaged.
pub(super) fn is_damage(cause: &str) -> bool {
    cause.contains("Corruption") || cause.contains("damaged")
}

/// A disk with little space left. `whose` names the process that has it.
pub fn of_space(whose: &str, available_bytes: u64, capacity_bytes: u64) -> Option<Finding> {
    if available_bytes as f64 >= FREE_MIN * capacity_bytes as f64 {
        return None;
    }
    let (available, capacity) = (size(available_bytes), size(capacity_bytes));
    Some(Finding::notice(
        format!("the disk of {whose} has {available} left of {capacity}"),
        "free space: a full disk stops the store's writes. A deleted range gives its space back when tables are \
         compacted",
    ))
}

/// A store that was not asked, judged by its heartbeats.
fn of_heartbeats(store: &StoreView<'_>, heartbeats: Heartbeats) -> Option<Finding> {
    let (id, heard) = (store.id, store.heard());
    let alarm =
        |is: &str| Finding::alarm(format!("store {id} is {is}: {heard}"), start_again(store));
    let finding = match heartbeats {
        Heartbeats::Arrive => return of_serving_store(store, None),
        Heartbeats::Silent => alarm("disconnected"),
        Heartbeats::Down => alarm("down"),
        Heartbeats::NotYet => Finding::notice(
            format!(
                "store {id} was not heard of yet, since the placement driver has only just started or was stopped for a while: \
                 {heard}"
            ),
            format!(
                "look again in twenty seconds. If it stays so: {}",
                start_again(store)
            ),
        ),
    };
    Some(finding.of_store(id))
}

fn of_serving_store(store: &StoreView<'_>, warning: Option<&str>) -> Option<Finding> {
    let StoreView {
        id, address, state, ..
    } = *store;
    // A placement driver that answers it, but does not know it, takes no heartbeat either.
    let refused = warning.filter(|warning| About::of(warning) == About::Identity);
    let refused =
        refused.and_then(|warning| about::advice(&format!("the store at {address}"), warning));
    if store.is_silent() {
        let heard = store.heartbeat_age_ms.unwrap_or_default();
        let what = format!(
            "store {id} answers, but its last heartbeat to the placement driver came {} ago",
            time(heard)
        );
        let to_do = refused.unwrap_or_else(|| {
            format!(
                "see whether {address} reaches the placement driver that its --pd names, and the store's log"
            )
        });
        return Some(Finding::alarm(what, to_do).of_store(id));
    }
    if store.heartbeat_age_ms.is_none() && state != StoreState::Leaving {
        let what = format!(
            "store {id} answers, but the placement driver has not heard of it since it started"
        );
        let to_do = refused.unwrap_or_else(|| {
            format!(
                "look again in ten seconds. If it stays so, see whether {address} reaches the placement driver that its --pd \
                 names, and the store's log"
            )
        });
        let finding = if state == StoreState::Down {
            Finding::alarm(what, to_do)
        } else {
            Finding::notice(what, to_do)
        };
        return Some(finding.of_store(id));
    }
    if state == StoreState::Leaving {
        let count = store.region_count;
        let what = format!("store {id} is leaving; regions with a replica on it: {count}");
        let to_do = format!(
            "`rdbctl operator list` shows what is done; `rdbctl store remove {id} --cancel` takes it back"
        );
        return Some(Finding::notice(what, to_do).of_store(id));
    }
    let (available_bytes, capacity_bytes) = store.space?;
    let finding = of_space(&format!("store {id}"), available_bytes, capacity_bytes)?;
    Some(finding.of_store(id))
}

/// What to do about a store that may have died or stalled.
fn start_again(store: &StoreView<'_>) -> String {
    let (address, if_gone) = (store.address, if_gone(store));
    // Where nothing listens, it has ended.
    let old_process = match store.answer {
        Answer::Nothing(cause) if cause.contains("refused (os error") => "",
        _ => "; end its old process first, if that is there yet",
    };
    format!("start rdb-server at {address} again with its --data-dir{old_process}. {if_gone}")
}

/// What to do about a store that does not come back.
fn if_gone(store: &StoreView<'_>) -> String {
    let id = store.id;
    if store.state == StoreState::Leaving {
        return "If it is gone for good: it is leaving already, and `rdbctl operator list` shows what is left to do"
            .to_owned();
    }
    if store.is_missed {
        return "If it is gone for good: regions have no majority without it, and to add or remove stores does not help those. See the \
                alarm about them"
            .to_owned();
    }
    let soon = if store.state == StoreState::Down {
        "It is down for so long that its replicas are being replaced where another store can take them"
    } else {
        "Else its replicas are replaced where another store can take them, 30 minutes after its last heartbeat \
         (rdb-pd --store-down-after-s)"
    };
    format!(
        "If it is gone for good: start another store with an empty directory, then `rdbctl store remove {id}`. {soon}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn store(
        state: StoreState,
        heartbeat_age_ms: Option<u64>,
        heartbeats: Heartbeats,
    ) -> StoreView<'static> {
        StoreView {
            id: 3,
            address: "host3:1",
            state,
            heartbeat_age_ms,
            space: Some((500, 1000)),
            region_count: 1,
            is_missed: false,
            answer: Answer::NotAsked(heartbeats),
        }
    }

    #[test]
    fn a_store_that_was_not_asked_is_judged_by_its_heartbeats() {
        let up = store(StoreState::Up, Some(1000), Heartbeats::Arrive);
        assert_eq!(of_store(&up), None);
        let never = "the placement driver has not heard of it since it started";
        for (state, age_ms, heartbeats, severity, what) in [
            (
                StoreState::Disconnected,
                Some(25_000),
                Heartbeats::Silent,
                Severity::Alarm,
                "store 3 is disconnected: its last heartbeat came 25s ago",
            ),
            (
                StoreState::Down,
                Some(1_900_000),
                Heartbeats::Down,
                Severity::Alarm,
                "store 3 is down: its last heartbeat came 31m40s ago",
            ),
            (
                StoreState::Down,
                None,
                Heartbeats::Down,
                Severity::Alarm,
                &format!("store 3 is down: {never}"),
            ),
            // Its silence is as long as the placement driver listens, and that is long enough.
            (
                StoreState::Disconnected,
                None,
                Heartbeats::Silent,
                Severity::Alarm,
                &format!("store 3 is disconnected: {never}"),
            ),
            (
                StoreState::Leaving,
                None,
                Heartbeats::Silent,
                Severity::Alarm,
                &format!("store 3 is disconnected: {never}"),
            ),
            (
                StoreState::Disconnected,
                None,
                Heartbeats::NotYet,
                Severity::Notice,
                &format!("started or was stopped for a while: {never}"),
            ),
            // The placement driver was stopped for a minute.
            (
                StoreState::Disconnected,
                Some(60_000),
                Heartbeats::NotYet,
                Severity::Notice,
                "started or was stopped for a while: its last heartbeat came 1m0s ago",
            ),
        ] {
            let finding = of_store(&store(state, age_ms, heartbeats)).expect(what);
            assert!(finding.what.ends_with(what), "{finding:?}");
            assert_eq!(finding.severity, severity, "{what}");
            assert_eq!(finding.store_id, Some(3));
            let start_again = "start rdb-server at host3:1 again";
            assert!(finding.to_do.contains(start_again), "{finding:?}");
            let if_gone = if state == StoreState::Leaving {
                "it is leaving already"
            } else {
                "rdbctl store remove 3"
            };
            assert!(finding.to_do.contains(if_gone), "{finding:?}");
        }
    }

    #[test]
    fn a_store_that_a_region_lacks_for_its_majority_is_not_to_be_removed() {
        let lost = StoreView {
            is_missed: true,
            ..store(StoreState::Down, Some(1_900_000), Heartbeats::Down)
        };
        let to_do = of_store(&lost).expect("it is told of").to_do;
        assert!(
            to_do.contains("start rdb-server at host3:1 again"),
            "{to_do}"
        );
        assert!(to_do.contains("does not help"), "{to_do}");
        assert!(!to_do.contains("store remove"), "{to_do}");
    }

    #[test]
    fn a_process_that_may_stand_still_is_to_be_ended_before_it_is_started_again() {
        for (cause, is_dead) in [
            ("host3:1: Connection refused (os error 111)", true),
            ("host3:1 gave no answer in time", false),
            ("host3:1: the certificate of this client is refused", false),
        ] {
            let silent = StoreView {
                answer: Answer::Nothing(cause),
                ..store(StoreState::Disconnected, Some(25_000), Heartbeats::Silent)
            };
            let to_do = of_store(&silent).expect("it is told of").to_do;
            assert_eq!(to_do.contains("end its old process"), !is_dead, "{to_do}");
        }
    }

    #[test]
    fn a_silent_store_may_be_gone_though_something_at_its_address_does_not_speak_tls() {
        for (heartbeat_age_ms, may_be_gone) in [(25_000, true), (1000, false)] {
            let answers = StoreView {
                answer: Answer::Nothing("host3:1: the server does not speak TLS as it should"),
                ..store(
                    StoreState::Disconnected,
                    Some(heartbeat_age_ms),
                    Heartbeats::Silent,
                )
            };
            let to_do = of_store(&answers).expect("it is told of").to_do;
            assert!(to_do.contains("see to TLS"), "{to_do}");
            let told = to_do.contains("start rdb-server at host3:1 again");
            assert_eq!(told, may_be_gone, "{to_do}");
        }
    }

    #[test]
    fn what_to_do_about_a_store_that_does_not_serve_depends_on_the_cause() {
        let full = "free space on the disk of the store at host3:1";
        for (cause, part) in [
            ("region 1 has no leader: for 12 s this store", "look again"),
            ("IO error: No space left on device: While", full),
            ("Corruption: block checksum mismatch", "rdbctl store remove"),
            ("it has not registered", "see the log of the store at"),
        ] {
            let failing = StoreView {
                answer: Answer::NotServing(cause),
                ..store(StoreState::Up, Some(1000), Heartbeats::Arrive)
            };
            let to_do = of_store(&failing).expect("it is told of").to_do;
            assert!(to_do.contains(part), "{cause}: {to_do}");
            assert_eq!(to_do.contains("free space"), part == full, "{to_do}");
        }
    }

    #[test]
    fn a_store_that_leaves_or_has_little_space_is_a_notice() {
        let leaving = store(StoreState::Leaving, Some(1000), Heartbeats::Arrive);
        let leaving = of_store(&leaving);
        let leaving = leaving.expect("it is told of");
        assert_eq!(leaving.severity, Severity::Notice);
        let full = StoreView {
            space: Some((99, 1000)),
            ..store(StoreState::Up, Some(1000), Heartbeats::Arrive)
        };
        let full = of_store(&full).expect("it is told of");
        assert_eq!(full.what, "the disk of store 3 has 99 B left of 1000 B");
    }

    #[test]
    fn what_to_do_about_a_store_goes_by_why_it_is_not_well() {
        const NO_TOKEN: &str = "it has no copy of the rights yet: pd:1: the token is no user's; give it the token of a user with the role \
                                `store` in --auth-token-file, or that role to the user of its certificate";
        for (answer, age_ms, told) in [
            (Answer::NotServing(NO_TOKEN), 1000, "--auth-token-file of"),
            (
                Answer::NotServing("IO error: No space left on device"),
                1000,
                "free space",
            ),
            (
                Answer::NotServing("it has not registered"),
                1000,
                "see the log of",
            ),
            (
                Answer::Nothing("the certificate of the server is refused: it has expired"),
                1000,
                "see to TLS",
            ),
            (
                Answer::Serving(Some(NO_TOKEN)),
                25_000,
                "--auth-token-file of",
            ),
            (
                Answer::Serving(None),
                25_000,
                "reaches the placement driver",
            ),
        ] {
            let store = StoreView {
                answer,
                ..store(StoreState::Up, Some(age_ms), Heartbeats::Arrive)
            };
            let finding = of_store(&store).expect("it is not well");
            assert_eq!(finding.severity, Severity::Alarm);
            assert!(finding.to_do.contains(told), "{finding:?}");
            let names_disk = finding.to_do.contains("free space");
            assert_eq!(names_disk, told == "free space", "{finding:?}");
        }
    }
}

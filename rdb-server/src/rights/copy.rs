//! The copy of the rights, and what is wrong with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdb_proto::auth::{Guard, GuardState};
use tokio::sync::watch;

/// From this age on the copy is told of. It is renewed every two seconds, and a placement driver may be restarted meanwhile.
const OLD_AFTER: Duration = Duration::from_secs(30);

/// What a store knows of the rights. The keeper writes it; health, status and metrics read it.
pub(crate) struct RightsCopy {
    guard: Arc<Guard>,
    /// The guard's bound, for what is said of it.
    stale_max: Duration,
    /// Whether it is known whether rights are enforced. Only a store that asks first does not know.
    told: watch::Sender<bool>,
    troubles: Mutex<Troubles>,
}

/// What is wrong at the moment.
#[derive(Debug, Default, Clone)]
struct Troubles {
    /// Why a try since the last success has failed. It does not change with each way to get no answer, nor while several are asked by turns:
    /// whoever watches the health would hear of each.
    renewal: Option<Trouble>,
    /// Why the mark does not say what holds.
    mark: Option<String>,
    /// Why this store's token is not the one in its file.
    token: Option<String>,
}

/// Why a copy is not renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// A line that names the placement driver.
    pub(crate) cause: String,
    /// The position of the placement driver in `--pd`.
    pub(crate) asked: usize,
    /// Whether that one has taken this store in. From then on it alone is asked.
    pub(crate) has_taken_in: bool,
    pub(crate) kind: TroubleKind,
}

/// What a placement driver has said. The greater one says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TroubleKind {
    /// Nothing of the rights.
    NoAnswer,
    /// What this store cannot use yet.
    Answer,
    /// That it does not let this store in. That does not pass by itself.
    Refusal,
}

impl Trouble {
    /// Whether it is told in place of an earlier one. The placement driver of that one has the last word, but a refusal outlasts its silence:
    /// somebody has to act. Another placement driver counts only if it has taken this store in, or says more, and what one says that has taken
    /// it in counts more than what it has said before.
    fn replaces(&self, earlier: &Self) -> bool {
        if (self.asked, self.has_taken_in) == (earlier.asked, earlier.has_taken_in) {
            self.kind > TroubleKind::NoAnswer || earlier.kind == TroubleKind::Answer
        } else {
            self.has_taken_in || self.kind > earlier.kind
        }
    }
}

impl RightsCopy {
    /// What there is when a store starts: nothing. With the mark it refuses calls until that is otherwise. So does a store that
    /// `asks_first` whether rights are enforced.
    pub(crate) fn new(is_marked: bool, asks_first: bool, stale_max: Duration) -> Self {
        let guard = if is_marked || asks_first {
            Guard::refusing()
        } else {
            Guard::off()
        };
        Self {
            guard: Arc::new(guard.with_stale_max(stale_max)),
            stale_max,
            told: watch::Sender::new(is_marked || !asks_first),
            troubles: Mutex::default(),
        }
    }

    /// What calls are checked against.
    pub(crate) fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Whether it is known whether rights are enforced. A store that does not know takes no regions: when it is started again with some, and
    /// without the mark, it serves everybody.
    pub(crate) fn is_told(&self) -> bool {
        *self.told.borrow()
    }

    /// Waits until it is known whether rights are enforced.
    pub(crate) async fn told(&self) {
        // The sender is in `self`.
        let _ = self.told.subscribe().wait_for(|told| *told).await;
    }

    /// A placement driver has told whether rights are enforced, and guard and mark are as it has said.
    pub(super) fn note_told(&self) {
        self.told.send_replace(true);
    }

    /// The keeper has tried to renew it.
    pub(super) fn note_renewal(&self, trouble: Option<Trouble>) {
        let known = &mut self.troubles().renewal;
        let stays = match (&*known, &trouble) {
            (Some(earlier), Some(next)) => !next.replaces(earlier),
            (None, _) | (_, None) => false,
        };
        if !stays {
            *known = trouble;
        }
    }

    /// The keeper has tried to have the mark say what holds.
    pub(super) fn note_mark(&self, trouble: Option<String>) {
        self.troubles().mark = trouble;
    }

    /// The keeper has asked with this store's token.
    pub(super) fn note_token(&self, trouble: Option<String>) {
        self.troubles().token = trouble;
    }

    /// Whether every call for keys is refused.
    pub(crate) fn refuses(&self) -> bool {
        matches!(self.guard.state(), GuardState::Missing | GuardState::Stale)
    }

    /// Why every call for keys is refused, if it is.
    pub(crate) fn refusal(&self) -> Option<String> {
        let trouble = self.troubles().renewal.clone();
        refusal(self.guard.state(), self.stale_max, trouble.as_ref())
    }

    /// What an operator has to look at though calls are served.
    pub(crate) fn warning(&self) -> Option<String> {
        let Troubles {
            renewal,
            mark,
            token,
        } = self.troubles().clone();
        let of_copy = warning(self.guard.state(), self.stale_max, renewal.as_ref());
        let of_mark = mark.map(|cause| {
            format!(
                "the next start of this store may not know whether rights are enforced: {cause}"
            )
        });
        let warnings: Vec<_> = [of_copy, of_mark, token].into_iter().flatten().collect();
        (!warnings.is_empty()).then(|| warnings.join("; "))
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has no figures that change by themselves: whoever watches the health would hear of each.
fn refusal(state: GuardState, stale_max: Duration, trouble: Option<&Trouble>) -> Option<String> {
    let cause = trouble.map(|trouble| trouble.cause.as_str());
    let cause = cause.unwrap_or("no placement driver has been asked yet");
    match state {
        GuardState::Off | GuardState::Good(_) => None,
        GuardState::Missing => Some(format!(
            "it has no copy of the rights yet, and refuses all calls until it has one or is told that it needs none: {cause}"
        )),
        GuardState::Stale => Some(format!(
            "its copy of the rights is older than --auth-stale-max-s, {} s, and it refuses all calls until that is renewed: {cause}",
            stale_max.as_secs()
        )),
    }
}

fn warning(state: GuardState, stale_max: Duration, trouble: Option<&Trouble>) -> Option<String> {
    let GuardState::Good(age) = state else {
        // There is no copy, or the refusal says it.
        return None;
    };
    let is_told = |trouble: &&Trouble| trouble.kind == TroubleKind::Refusal || age > OLD_AFTER;
    let trouble = trouble.filter(is_told)?;
    Some(format!(
        "the copy of the rights is {} s old, and all calls are refused once it is older than --auth-stale-max-s, {} s: {}",
        age.as_secs(),
        stale_max.as_secs(),
        trouble.cause
    ))
}

#[cfg(test)]
mod tests {
    use super::TroubleKind::{Answer, NoAnswer, Refusal};
    use super::*;

    const STALE_MAX: Duration = Duration::from_secs(3600);

    fn trouble(kind: TroubleKind) -> Trouble {
        Trouble {
            cause: "pd:1: because".to_owned(),
            asked: 0,
            has_taken_in: false,
            kind,
        }
    }

    #[test]
    fn a_store_with_the_mark_refuses_until_it_has_a_copy_and_one_without_does_not() {
        let unmarked = RightsCopy::new(false, false, STALE_MAX);
        assert_eq!((unmarked.refusal(), unmarked.warning()), (None, None));
        assert!(unmarked.is_told() && !unmarked.refuses());
        let asking = RightsCopy::new(false, true, STALE_MAX);
        assert!(!asking.is_told() && asking.refuses());
        let marked = RightsCopy::new(true, false, STALE_MAX);
        assert!(marked.is_told() && marked.refuses());
        marked.note_renewal(Some(trouble(NoAnswer)));
        let refusal = marked.refusal().expect("it refuses");
        assert!(refusal.contains("no copy of the rights"), "{refusal}");
        assert!(refusal.ends_with("pd:1: because"), "{refusal}");
        assert_eq!(marked.warning(), None, "the refusal says it");
        marked.guard().set(None);
        assert_eq!(marked.refusal(), None);
    }

    #[test]
    fn a_copy_that_is_old_is_told_of_and_one_that_cannot_be_renewed_at_once() {
        let told = |age_s, kind| {
            let state = GuardState::Good(Duration::from_secs(age_s));
            warning(state, STALE_MAX, Some(&trouble(kind)))
        };
        assert_eq!(told(30, NoAnswer), None, "a placement driver restarts");
        let old = told(31, NoAnswer).expect("it is old");
        assert!(old.contains("31 s old"), "{old}");
        assert!(old.contains("3600 s: pd:1: because"), "{old}");
        assert!(told(1, Refusal).is_some());
        let fresh = GuardState::Good(Duration::ZERO);
        assert_eq!(warning(fresh, STALE_MAX, None), None);
        assert_eq!(refusal(fresh, STALE_MAX, None), None);
        let stale = refusal(GuardState::Stale, STALE_MAX, Some(&trouble(NoAnswer)));
        let stale = stale.expect("it refuses");
        assert!(stale.contains("--auth-stale-max-s, 3600 s"), "{stale}");
        assert_eq!(warning(GuardState::Stale, STALE_MAX, None), None);
    }

    #[test]
    fn the_cause_that_is_told_is_what_is_the_case_and_does_not_change_with_each_try() {
        let copy = RightsCopy::new(true, false, STALE_MAX);
        // The placement driver that was asked and what came of it, and whose trouble is told then.
        for (asked, kind, cause, told) in [
            (0, NoAnswer, "a: away", "a: away"),
            (0, NoAnswer, "a: slow", "a: away"),
            (1, NoAnswer, "b: away", "a: away"),
            (0, Answer, "a: not yet", "a: not yet"),
            (1, NoAnswer, "b: away", "a: not yet"),
            (1, Answer, "b: not yet", "a: not yet"),
            (0, NoAnswer, "a: away again", "a: away again"),
            (1, Answer, "b: not yet", "b: not yet"),
            (1, Refusal, "b: no token", "b: no token"),
            (1, Refusal, "b: a wrong token", "b: a wrong token"),
            (0, Answer, "a: not yet", "b: a wrong token"),
            (1, NoAnswer, "b: away", "b: a wrong token"),
            (1, Answer, "b: not yet", "b: not yet"),
        ] {
            copy.note_renewal(Some(Trouble {
                cause: cause.to_owned(),
                asked,
                ..trouble(kind)
            }));
            let refusal = copy.refusal().expect("it refuses");
            assert!(refusal.ends_with(told), "{told}: {refusal}");
        }
        copy.note_renewal(None);
        copy.note_renewal(Some(trouble(NoAnswer)));
        let refusal = copy.refusal().expect("it refuses");
        assert!(refusal.ends_with("pd:1: because"), "{refusal}");
    }

    #[test]
    fn whoever_has_taken_the_store_in_is_told_of_whatever_was_said_before() {
        for asked in [0, 1] {
            let copy = RightsCopy::new(true, false, STALE_MAX);
            copy.note_renewal(Some(Trouble {
                cause: "before".to_owned(),
                asked,
                ..trouble(Refusal)
            }));
            copy.note_renewal(Some(Trouble {
                has_taken_in: true,
                ..trouble(NoAnswer)
            }));
            let refusal = copy.refusal().expect("it refuses");
            assert!(refusal.ends_with("pd:1: because"), "{asked}: {refusal}");
        }
    }

    #[test]
    fn a_mark_that_does_not_say_what_holds_and_a_token_that_is_not_in_use_are_told_of() {
        let copy = RightsCopy::new(false, false, STALE_MAX);
        copy.note_mark(Some("no space".to_owned()));
        let told = copy.warning().expect("it is wrong");
        assert!(told.ends_with("no space"), "{told}");
        copy.note_mark(None);
        assert_eq!(copy.warning(), None);
        copy.note_token(Some("it is ada's".to_owned()));
        assert_eq!(copy.warning().as_deref(), Some("it is ada's"));
    }

    #[test]
    fn whoever_shows_what_is_wrong_knows_that_it_is_about_rights() {
        use rdb_proto::findings::About;

        let copy = RightsCopy::new(true, false, STALE_MAX);
        copy.note_renewal(Some(trouble(Refusal)));
        copy.note_mark(Some("no space".to_owned()));
        for told in [copy.refusal(), copy.warning()] {
            let told = told.expect("both are wrong");
            assert_eq!(About::of(&told), About::Rights, "{told}");
        }
    }
}

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn join(rounds: &mut Rounds, count: u32) -> Seat {
    rounds
        .join(count, Waker::noop().clone())
        .expect("there is room")
}

fn send(rounds: &mut Rounds) -> Option<u32> {
    rounds.send(Instant::now())
}

fn answer(rounds: &mut Rounds, first: u64, count: u32) {
    assert_eq!(rounds.asked(), Some(count));
    rounds.answer(first).wake();
}

fn first_of(seat: &Seat) -> Option<u64> {
    let outcome = seat.round.outcome()?.as_ref().expect("answered");
    Some(outcome + u64::from(seat.offset))
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn callers_that_wait_together_share_one_request_and_each_gets_its_own_part() {
    let mut rounds = Rounds::new(100);
    let seats: Vec<_> = [1, 5, 2].map(|count| join(&mut rounds, count)).into();
    assert_eq!(send(&mut rounds), Some(8));
    assert_eq!(send(&mut rounds), None);
    assert!(seats.iter().all(|seat| first_of(seat).is_none()));
    answer(&mut rounds, 100, 8);
    let firsts: Vec<_> = seats.iter().filter_map(first_of).collect();
    assert_eq!(firsts, [100, 101, 106]);
    assert!(rounds.is_empty());
}

#[test]
fn a_request_that_was_sent_is_not_joined() {
    let mut rounds = Rounds::new(100);
    let early = join(&mut rounds, 1);
    assert_eq!(send(&mut rounds), Some(1));
    let late = join(&mut rounds, 1);
    answer(&mut rounds, 7, 1);
    assert_eq!((first_of(&early), first_of(&late)), (Some(7), None));
    assert_eq!(send(&mut rounds), Some(1));
    answer(&mut rounds, 9, 1);
    assert_eq!(first_of(&late), Some(9));
}

#[test]
fn a_full_request_is_followed_by_another_and_no_caller_is_split() {
    let mut rounds = Rounds::new(10);
    let seats: Vec<_> = [6, 6, 4, 10].map(|count| join(&mut rounds, count)).into();
    assert_eq!(
        (send(&mut rounds), send(&mut rounds)),
        (Some(6), Some(10)),
        "consecutive timestamps come from one request"
    );
    assert_eq!(seats[2].offset, 6);
    answer(&mut rounds, 0, 6);
    assert_eq!(send(&mut rounds), Some(10));
}

#[test]
fn only_a_few_requests_are_in_flight() {
    let mut rounds = Rounds::new(1);
    let seats: Vec<_> = (0..2 * IN_FLIGHT_MAX)
        .map(|_| join(&mut rounds, 1))
        .collect();
    for _ in 0..IN_FLIGHT_MAX {
        assert_eq!(send(&mut rounds), Some(1));
    }
    assert!(!rounds.is_sendable());
    assert_eq!(send(&mut rounds), None);
    answer(&mut rounds, 1, 1);
    assert!(rounds.is_sendable());
    assert_eq!(first_of(&seats[0]), Some(1));
}

#[test]
fn a_round_that_everybody_left_is_not_sent() {
    let mut rounds = Rounds::new(2);
    let seats: Vec<_> = (0..5).map(|_| join(&mut rounds, 1)).collect();
    for seat in &seats[2..4] {
        drop(rounds.leave(seat));
    }
    assert_eq!((send(&mut rounds), send(&mut rounds)), (Some(2), Some(1)));
    answer(&mut rounds, 1, 2);
    answer(&mut rounds, 3, 1);
    assert_eq!((first_of(&seats[4]), rounds.seats), (Some(3), 0));
}

#[test]
fn who_leaves_takes_nothing_from_the_others() {
    let mut rounds = Rounds::new(10);
    let seats: Vec<_> = (0..3).map(|_| join(&mut rounds, 1)).collect();
    drop(rounds.leave(&seats[0]));
    assert_eq!(send(&mut rounds), Some(3));
    drop(rounds.leave(&seats[1]));
    answer(&mut rounds, 50, 3);
    assert_eq!(first_of(&seats[2]), Some(52));
}

#[test]
fn lost_requests_are_sent_again_unless_everybody_left() {
    let mut rounds = Rounds::new(1);
    let (left, stays) = (join(&mut rounds, 1), join(&mut rounds, 1));
    assert_eq!((send(&mut rounds), send(&mut rounds)), (Some(1), Some(1)));
    drop(rounds.leave(&left));
    assert_eq!(rounds.lose_requests(), 1);
    assert_eq!(rounds.seats, 1);
    assert_eq!((send(&mut rounds), send(&mut rounds)), (Some(1), None));
    answer(&mut rounds, 9, 1);
    assert_eq!((first_of(&left), first_of(&stays)), (None, Some(9)));
}

#[test]
fn only_what_was_sent_is_asked_for() {
    let mut rounds = Rounds::new(10);
    assert_eq!(rounds.asked(), None);
    let _seat = join(&mut rounds, 2);
    assert_eq!(rounds.asked(), None);
    assert_eq!(send(&mut rounds), Some(2));
    assert_eq!(rounds.asked(), Some(2));
}

#[test]
fn a_failure_ends_everybodys_waiting() {
    let mut rounds = Rounds::new(1);
    let bell = Arc::new(Bell::default());
    let seats: Vec<_> = (0..3)
        .map(|_| {
            let waker = Waker::from(Arc::clone(&bell));
            rounds.join(1, waker).expect("there is room")
        })
        .collect();
    let error = Error::unavailable("gone");
    for callers in rounds.fail(&error) {
        callers.wake();
    }
    assert!(
        seats
            .iter()
            .all(|seat| seat.round.outcome() == Some(&Err(error.clone())))
    );
    assert_eq!(bell.0.load(Ordering::Relaxed), 3);
    assert!(rounds.is_empty() && rounds.seats == 0);
}

#[test]
fn a_waker_that_panics_keeps_nobody_asleep() {
    struct Broken;
    impl Wake for Broken {
        fn wake(self: Arc<Self>) {
            panic!("the runtime of a caller is broken");
        }
    }
    let mut rounds = Rounds::new(10);
    let bell = Arc::new(Bell::default());
    let wakers = [
        Waker::from(Arc::clone(&bell)),
        Waker::from(Arc::new(Broken)),
        Waker::from(Arc::clone(&bell)),
    ];
    let _seats = wakers.map(|waker| rounds.join(1, waker).expect("there is room"));
    assert_eq!(send(&mut rounds), Some(3));
    answer(&mut rounds, 1, 3);
    assert_eq!(bell.0.load(Ordering::Relaxed), 2);
}

#[test]
fn wakers_are_taken_without_a_copy_and_kept_again_of_callers_that_register_again() {
    const ROUNDS: usize = 16;
    const CALLERS: usize = 64;
    let mut rounds = Rounds::new(CALLERS as u32);
    let bell = Arc::new(Bell::default());
    let waker = || Waker::from(Arc::clone(&bell));
    let mut seats: Vec<_> = (0..ROUNDS * CALLERS)
        .map(|_| rounds.join(1, waker()).expect("there is room"))
        .collect();
    let one_of_each = seats.iter().step_by(CALLERS);
    let taken: Vec<_> = one_of_each
        .map(|seat| rounds.take_wakers_of(seat.round_number))
        .collect();
    assert_eq!(Arc::strong_count(&bell), 1 + ROUNDS * CALLERS);
    // Half of them are polled before they are woken, the last one first.
    for seat in seats.iter_mut().step_by(2).rev() {
        assert!(rounds.register(seat, waker()).is_none());
    }
    for callers in taken {
        callers.wake();
    }
    assert_eq!(bell.0.load(Ordering::Relaxed), ROUNDS * CALLERS);
    assert_eq!(Arc::strong_count(&bell), 1 + ROUNDS * CALLERS / 2);
    assert!(
        rounds.register(&mut seats[0], waker()).is_some(),
        "two wakers are kept of one caller"
    );
    for callers in rounds.fail(&Error::unavailable("gone")) {
        callers.wake();
    }
    assert_eq!(bell.0.load(Ordering::Relaxed), ROUNDS * CALLERS * 3 / 2);
    assert_eq!(Arc::strong_count(&bell), 1);
}

#[test]
fn an_answer_is_owed_since_the_oldest_request_that_has_none() {
    let mut rounds = Rounds::new(1);
    let now = Instant::now();
    let _seats = [join(&mut rounds, 1), join(&mut rounds, 1)];
    assert_eq!(rounds.owed_since(), None);
    let later = now + Duration::from_secs(3);
    assert_eq!((rounds.send(now), rounds.send(later)), (Some(1), Some(1)));
    assert_eq!(rounds.owed_since(), Some(now));
    answer(&mut rounds, 1, 1);
    assert_eq!(rounds.owed_since(), Some(later));
    rounds.lose_requests();
    assert_eq!(rounds.owed_since(), None);
}

#[test]
fn nobody_is_seated_above_the_limit_and_a_seat_that_is_left_is_free_again() {
    let mut rounds = Rounds::new(u32::MAX);
    let first = join(&mut rounds, u32::MAX);
    for _ in 1..SEATS_MAX {
        join(&mut rounds, 1);
    }
    let refused = rounds.join(1, Waker::noop().clone());
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    drop(rounds.leave(&first));
    join(&mut rounds, 1);
}

/// A step of everything that can happen to rounds.
#[derive(Debug, Clone)]
enum Step {
    Join(u32),
    Leave(usize),
    Send,
    Answer,
    LoseRequests,
    /// A round's wakers are taken, and woken later.
    Take(usize),
    Wake,
    /// A caller is polled, woken or not.
    Poll(usize),
}

/// A caller that stayed.
struct Caller {
    seat: Seat,
    count: u32,
    /// The oracle's next timestamp when it came.
    began: u64,
    bell: Arc<Bell>,
    /// How often it had been woken when it was polled last and had to wait.
    rings_seen: usize,
}

impl Caller {
    fn rings(&self) -> usize {
        self.bell.0.load(Ordering::Relaxed)
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u32..=8).prop_map(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => Just(Step::Send),
        3 => Just(Step::Answer),
        1 => Just(Step::LoseRequests),
        1 => any::<usize>().prop_map(Step::Take),
        1 => Just(Step::Wake),
        2 => any::<usize>().prop_map(Step::Poll),
    ]
}

proptest! {
    /// Against an oracle that counts on: whatever happens, a caller's timestamps come from a request that was sent after
    /// the caller came, are nobody else's, and everybody who stays gets some and is told.
    #[test]
    fn timestamps_are_of_requests_that_were_sent_after_the_call_began(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut rounds = Rounds::new(12);
        let mut next_timestamp = 0_u64;
        // The counts of the requests in flight, and the oracle's next timestamp when each was sent.
        let mut in_flight: VecDeque<(u32, u64)> = VecDeque::new();
        let mut callers: Vec<Caller> = Vec::new();
        let mut taken: VecDeque<Woken> = VecDeque::new();
        let mut answers: Vec<std::ops::Range<u64>> = Vec::new();
        // In the end everything is answered.
        let finish = [Step::LoseRequests].into_iter().chain(
            std::iter::repeat_n([Step::Send, Step::Answer], steps.len()).flatten(),
        );
        for step in steps.iter().cloned().chain(finish) {
            // Others take timestamps all the time: so what was sent when can be told from the timestamps.
            next_timestamp += 100;
            match step {
                Step::Join(count) => {
                    let bell = Arc::new(Bell::default());
                    let joined = rounds.join(count, Waker::from(Arc::clone(&bell)));
                    callers.push(Caller {
                        seat: joined.expect("there is room"),
                        count,
                        began: next_timestamp,
                        bell,
                        rings_seen: 0,
                    });
                }
                Step::Leave(index) if !callers.is_empty() => {
                    let left = callers.swap_remove(index % callers.len());
                    drop(rounds.leave(&left.seat));
                }
                Step::Take(index) if !callers.is_empty() => {
                    let caller = &callers[index % callers.len()];
                    taken.push_back(rounds.take_wakers_of(caller.seat.round_number));
                }
                Step::Wake => {
                    if let Some(callers) = taken.pop_front() {
                        callers.wake();
                    }
                }
                Step::Poll(index) if !callers.is_empty() => {
                    let index = index % callers.len();
                    let caller = &mut callers[index];
                    if caller.seat.round.outcome().is_none() {
                        caller.rings_seen = caller.rings();
                        let waker = Waker::from(Arc::clone(&caller.bell));
                        drop(rounds.register(&mut caller.seat, waker));
                    }
                }
                Step::Send => {
                    if let Some(count) = send(&mut rounds) {
                        prop_assert!((1..=12).contains(&count));
                        // The earliest that an oracle could answer it is now.
                        in_flight.push_back((count, next_timestamp));
                        prop_assert!(in_flight.len() <= IN_FLIGHT_MAX);
                    }
                }
                Step::Answer => {
                    if let Some((count, first)) = in_flight.pop_front() {
                        answer(&mut rounds, first, count);
                        answers.push(first..first + u64::from(count));
                    }
                }
                Step::LoseRequests => {
                    in_flight.clear();
                    rounds.lose_requests();
                }
                Step::Leave(_) | Step::Take(_) | Step::Poll(_) => {}
            }
            let mut queue = rounds.queue.iter();
            prop_assert!(queue.all(|round| round.waiters.len() <= round.seats));
        }
        for callers in taken {
            callers.wake();
        }
        prop_assert!(rounds.is_empty() && rounds.seats == 0);
        let mut given = BTreeSet::new();
        for caller in &callers {
            prop_assert!(caller.rings() > caller.rings_seen, "it is not polled again");
            let first = first_of(&caller.seat).expect("everybody who stays is answered");
            let began = caller.began;
            prop_assert!(first >= began, "{} is older than the call, {}", first, began);
            for timestamp in first..first + u64::from(caller.count) {
                prop_assert!(given.insert(timestamp), "{} twice", timestamp);
                let handed_out = answers.iter().any(|answer| answer.contains(&timestamp));
                prop_assert!(handed_out, "{} was never handed out", timestamp);
            }
        }
    }
}

//! How many regions have learners at the same time.

use super::*;

/// More regions than may have learners at a time.
const MANY_REGIONS: u64 = LEARNING_REGIONS_MAX as u64 + 4;

impl Play {
    /// More regions like the first one. Returns the reports of their leaders, all on the first store.
    fn with_many_regions(&mut self) -> Vec<Report> {
        for id in 2..=MANY_REGIONS {
            self.scene.state.apply(Change::Region(Region {
                id,
                start_key: id.to_be_bytes().to_vec().into(),
                ..self.region.clone()
            }));
        }
        let reports = (1..=MANY_REGIONS).map(|region_id| Report {
            region_id,
            ..self.report()
        });
        reports.collect()
    }

    /// The first store leads these, and others are up. Returns the regions that are told a step.
    fn lead_many(&mut self, reports: &[Report]) -> Vec<u64> {
        for store_id in [2, 3] {
            self.scene.report(store_id, &[]);
        }
        let steps = self.scene.lead_on(1, reports);
        steps.iter().map(|step| step.region_id).collect()
    }
}

#[test]
fn few_regions_have_learners_at_a_time() {
    let mut play = Play::with_stores(3);
    let mut reports = play.with_many_regions();
    let first: Vec<_> = (1..=LEARNING_REGIONS_MAX as u64).collect();
    assert_eq!(play.lead_many(&reports), first);
    assert_eq!(play.lead_many(&reports), first, "the same again");
    // Each on the store that has the fewest then.
    let state = &play.scene.state;
    let counts = [2, 3].map(|store_id| state.surroundings(play.scene.now).places[&store_id]);
    assert_eq!(counts.map(|place| place.peer_count), [4, 4]);

    // The first has got all that it needs.
    reports[0].peers = [1, 2, 3]
        .map(|id| Peer {
            id,
            store_id: id,
            learner: false,
        })
        .to_vec();
    reports[0].epoch.conf_version = 5;
    play.lead_many(&reports);
    play.scene.now += DISCONNECTED_AFTER - HEARTBEAT_INTERVAL;
    play.scene.state.listening.note_awake(play.scene.now);
    let next: Vec<_> = (2..=LEARNING_REGIONS_MAX as u64 + 1).collect();
    play.lead_many(&[]);
    play.scene.pass(HEARTBEAT_INTERVAL);
    assert_eq!(play.lead_many(&reports), next);
}

#[test]
fn a_region_keeps_its_place_to_learn_while_its_new_peer_waits_for_an_id() {
    let mut play = Play::with_stores(3);
    let reports = play.with_many_regions();
    play.lead_many(&[]);
    let (first, others) = reports.split_at(LEARNING_REGIONS_MAX);
    let mut nameless = |reports: &[Report]| {
        let Scene { state, now, .. } = &mut play.scene;
        assert!(state.note_reports(1, reports, *now).is_empty());
        let led: Vec<_> = reports.iter().map(Led::from).collect();
        state.take_steps(&led, *now).1.len()
    };
    assert_eq!(nameless(first), LEARNING_REGIONS_MAX);
    assert_eq!(nameless(others), 0);
}

#[test]
fn a_region_without_a_leader_has_no_place_to_learn() {
    let mut play = Play::with_stores(3);
    let mut reports = play.with_many_regions();
    play.scene.state.counters.peer_id += 1;
    let learner = Peer {
        id: play.scene.state.counters.peer_id,
        store_id: 2,
        learner: true,
    };
    let (learning, others) = reports.split_at_mut(LEARNING_REGIONS_MAX);
    for report in &mut *learning {
        report.peers.push(learner);
        report.epoch.conf_version += 1;
        report.live = Some(vec![report.peer_id]);
    }
    play.lead_many(learning);
    assert!(play.lead_many(others).is_empty(), "there are enough");
    // Their leaders have no majority any more. The store is up.
    play.scene.pass(DISCONNECTED_AFTER - HEARTBEAT_INTERVAL);
    assert!(play.lead_many(others).is_empty(), "another may be elected");
    play.scene.pass(HEARTBEAT_INTERVAL);
    let told = others.iter().map(|report| report.region_id);
    assert_eq!(play.lead_many(others), told.collect::<Vec<_>>());
}

//! Replicas that are no longer members.

use super::*;

impl Play {
    fn held(&self, peer_id: u64, conf_version: u64) -> HeldPeer {
        HeldPeer {
            region_id: self.region.id,
            peer_id,
            conf_version,
        }
    }

    fn is_removed(&self, store_id: u64, peer_id: u64, conf_version: u64) -> bool {
        let held = [self.held(peer_id, conf_version)];
        let removed = self.scene.state.removed_of(store_id, &held);
        assert!(removed.is_empty() || removed == held);
        !removed.is_empty()
    }
}

#[test]
fn what_is_held_and_is_no_member_any_more_is_removed() {
    let mut play = Play::with_stores(4);
    play.settle();
    let at = play.conf_version();
    let third = *play
        .region
        .peers
        .iter()
        .find(|peer| peer.store_id == 3)
        .unwrap();
    assert!(!play.is_removed(3, third.id, at));
    assert!(!play.is_removed(3, third.id, at - 1), "it is behind");
    let down_after = play.scene.state.settings.store_down_after;
    play.alive.remove(&3);
    play.pass(down_after);
    let learner = added(play.beat());
    // It may be a member already that the placement driver has not heard of.
    assert!(!play.is_removed(4, learner.id, at));
    assert!(!play.is_removed(4, learner.id, at - 1));
    play.scene.restart();
    assert!(!play.is_removed(4, learner.id, at - 1));
    play.pass(down_after);
    play.settle();
    assert_eq!(play.stores(), [1, 2, 4]);

    let now_at = play.conf_version();
    assert!(play.is_removed(3, third.id, at));
    assert!(play.is_removed(3, third.id, now_at - 1));
    assert!(
        !play.is_removed(3, third.id, now_at),
        "a member added since, as far as can be told"
    );
    assert!(!play.is_removed(3, third.id, now_at + 1));
    assert!(!play.is_removed(3, third.id, 0), "it waits for data");
    let unknown_region = HeldPeer {
        region_id: 9,
        ..play.held(third.id, at)
    };
    assert!(play.scene.state.removed_of(3, &[unknown_region]).is_empty());
    play.scene.restart();
    assert!(
        !play.is_removed(3, third.id, at),
        "the members may be those of an older copy"
    );
    play.beat();
    assert!(play.is_removed(3, third.id, at));
}

#[test]
fn data_without_a_peer_is_removed_unless_the_store_may_be_about_to_get_one() {
    let mut play = Play::with_stores(4);
    play.settle();
    let at = play.conf_version();
    assert!(play.is_removed(4, 0, at));
    assert!(play.is_removed(4, 0, at - 1));
    assert!(!play.is_removed(4, 0, at + 1));
    assert!(!play.is_removed(4, 0, 0));
    assert!(!play.is_removed(2, 0, at), "it has one");
    play.alive.remove(&3);
    let down_after = play.scene.state.settings.store_down_after;
    play.pass(down_after);
    assert_eq!(added(play.beat()).store_id, 4);
    for _ in 0..2 {
        assert!(!play.is_removed(4, 0, at) && !play.is_removed(4, 0, at - 1));
        play.scene.restart();
    }
}

//! Faults of several kinds at once, chosen by the seed: the leader is hit, and another store, too.

use crate::run::Run;
use crate::stores::{LinkKind, Setup, Stores};

#[derive(Debug, Clone, Copy)]
enum Fault {
    LosesPower,
    /// It is started again at once.
    LosesPowerBriefly,
    StandsStill,
    IsNotHeard,
    IsCutOff,
}

const FAULTS: [Fault; 5] = [
    Fault::LosesPower,
    Fault::StandsStill,
    Fault::IsNotHeard,
    Fault::IsCutOff,
    Fault::LosesPowerBriefly,
];

impl Fault {
    fn loses_power(self) -> bool {
        matches!(self, Self::LosesPower | Self::LosesPowerBriefly)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_and_others_are_hit_at_once() {
    let setup = Setup {
        links: Some(LinkKind::Any),
        shim: true,
        loses_majority: true,
        ..Setup::default()
    };
    let name = "leaders_and_others_are_hit_at_once";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    while run.leaders_hit() < 3 * Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let others = Stores::others(leader.store);
        let other = others[run.random.usize(0..others.len())];
        // A leader that is back at once may go on to lead.
        let of_leader = FAULTS[run.random.usize(0..FAULTS.len() - 1)];
        let of_other = FAULTS[run.random.usize(0..FAULTS.len())];
        println!("{leader:?} {of_leader:?}; {other} {of_other:?}");
        let both = [(leader.store, of_leader), (other, of_other)];
        let losing = both.iter().filter(|(_, fault)| fault.loses_power());
        let losing: Vec<_> = losing.map(|&(store, _)| store).collect();
        // So that each has something to lose.
        run.stores.hold_syncs(&losing, &run.load).await;
        begin(&mut run, leader.store, of_leader);
        run.note_hit(leader);
        begin(&mut run, other, of_other);
        run.faults_last().await;
        // The others are a majority, and the network is whole but for the leader.
        end(&mut run, other, of_other);
        begin_again(&mut run, leader.store, of_leader);
        run.stores.another_leads(leader).await;
        run.load.goes_on().await;
        end(&mut run, leader.store, of_leader);
        run.load.goes_on().await;
        run.stores.all_serve().await;
    }
    run.end().await;
}

fn begin(run: &mut Run, store: usize, fault: Fault) {
    match fault {
        Fault::LosesPower | Fault::LosesPowerBriefly => {
            run.stores.nodes[store].kill();
            let lost = run.stores.shims[store].cut_power();
            assert!(lost.synced_files > 0, "the shim saw no sync");
            assert!(lost.log_bytes > 0, "there was nothing to lose");
            if matches!(fault, Fault::LosesPowerBriefly) {
                run.stores.nodes[store].start();
            }
        }
        Fault::StandsStill => run.stores.nodes[store].pause(),
        Fault::IsNotHeard | Fault::IsCutOff => cut(run, store, fault),
    }
}

fn cut(run: &mut Run, store: usize, fault: Fault) {
    for other in Stores::others(store) {
        match fault {
            Fault::IsCutOff => run.stores.links().cut_both(store, other),
            _ => run.stores.links().cut(store, other),
        }
    }
}

/// The end of a cut mends the whole network.
fn begin_again(run: &mut Run, store: usize, fault: Fault) {
    run.stores.links().mend();
    if matches!(fault, Fault::IsNotHeard | Fault::IsCutOff) {
        cut(run, store, fault);
    }
}

fn end(run: &mut Run, store: usize, fault: Fault) {
    match fault {
        Fault::LosesPower => run.stores.nodes[store].start(),
        Fault::LosesPowerBriefly => {}
        Fault::StandsStill => run.stores.nodes[store].resume(),
        Fault::IsNotHeard | Fault::IsCutOff => run.stores.links().mend(),
    }
}

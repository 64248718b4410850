//! Which seeds are run, on all processors, and how each run is judged by its end.

use super::End;
use super::link::mix;
use super::world::{Happened, World};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One transfer from one seed: how both sides ended, and what befell them.
fn check(seed: u64, faults: bool) -> ([End; 2], Happened) {
    let mut world = World::new(seed, faults);
    world.run();
    let ends = world.ends();
    if !faults {
        assert_eq!(ends, [End::Complete, End::Complete], "without faults every transfer completes");
    }
    // One side may complete where the other could not hear of it any more; but then the other knows that it has all.
    match &ends {
        [End::Complete, End::Complete | End::Unconfirmed] | [End::Unconfirmed, End::Complete] => {}
        [End::Complete, other] | [other, End::Complete] => panic!("one side completed, the other ended with {other:?}"),
        [a, b] => assert!(!matches!((a, b), (End::PeerMisbehaved(_), _) | (_, End::PeerMisbehaved(_))), "{a:?}, {b:?}"),
    }
    (ends, world.happened)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs many seeds on all processors and names one that fails. Answers what every run has added, and how many there
/// were.
pub(crate) fn run_seeds<T: Default + Send>(
    name: &str,
    runs: u64,
    run: impl Fn(u64, &mut T) + Sync,
    add: impl Fn(&mut T, &T) + Sync,
) -> (T, u64) {
    let (only, base) = (setting("MPNC_SIM_SEED"), setting("MPNC_SIM_BASE").unwrap_or(0));
    let runs = if only.is_some() { 1 } else { setting("MPNC_SIM_RUNS").unwrap_or(runs) };
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let all = Mutex::new(T::default());
    let work = || {
        let mut mine = T::default();
        while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < runs) {
            let seed = only.unwrap_or_else(|| mix(base.wrapping_add(i)));
            if catch_unwind(AssertUnwindSafe(|| run(seed, &mut mine))).is_err() {
                eprintln!("{name}: seed {seed} failed; `cargo xtask soak --seed {seed}` replays it");
                failed.store(true, Ordering::Relaxed);
                return;
            }
        }
        add(&mut all.lock().unwrap(), &mine);
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..processors).for_each(|_| drop(scope.spawn(work))));
    assert!(!failed.into_inner(), "{name}: a seed failed, see above");
    (all.into_inner().unwrap(), runs)
}

/// Answers how many completed on both sides, of how many, and what happened.
fn check_seeds(name: &str, runs: u64, faults: bool) -> (u64, u64, Happened) {
    let run = |seed, sums: &mut (u64, Happened)| {
        let (ends, happened) = check(seed, faults);
        sums.0 += u64::from(ends == [End::Complete, End::Complete]);
        sums.1.add(&happened);
    };
    let add = |all: &mut (u64, Happened), mine: &(u64, Happened)| {
        all.0 += mine.0;
        all.1.add(&mine.1);
    };
    let ((complete, happened), runs) = run_seeds(name, runs, run, add);
    (complete, runs, happened)
}

#[test]
fn healthy_streams_of_any_speed_deliver_everything() {
    check_seeds("healthy", 10_000, false);
}

#[test]
fn streams_that_die_stall_and_damage_data_lose_nothing() {
    let (complete, runs, happened) = check_seeds("faults", 90_000, true);
    if runs < 1000 {
        return;
    }
    // The faults must be survivable as a rule, or the test would only show that sessions can fail; and each must have
    // happened.
    assert!(complete * 10 > runs * 7, "only {complete} of {runs} completed");
    assert!(happened.everything(), "some kind of fault never came up: {happened:?}");
}

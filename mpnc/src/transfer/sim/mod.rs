//! Whole transfers in simulated time: two sessions joined by streams that are slow, stall, vanish, die on one side
//! before the other, damage data and come back, all from one seed.
//!
//! Every run must deliver exactly the input, or the sides must say that they failed; no side may hold more than its
//! window, give a buffer back that the other has not got, or hang. A failure prints its seed; `cargo xtask soak --seed
//! SEED` replays it. In the environment: `MPNC_SIM_SEED` (replay), `MPNC_SIM_RUNS` (how many), `MPNC_SIM_BASE` (other
//! seeds than the usual ones).

pub(crate) mod link;
mod petabyte;
pub(crate) mod seeds;
pub(crate) mod side;
mod world;

use super::{Arrival, Awake, Config, End, Event, Extent, Output, REMEMBERED, Session, StreamId, Terms, Time, Transmit};
use std::collections::BTreeMap;
use world::World;

/// The oldest block may not wait for a dead stream for longer than a second while others live: `transfer::sender`'s
/// LATE_MAX and `transfer::session::patience`'s STALL are below it, and this shows that together they keep to it.
#[test]
fn a_vanished_stream_holds_the_window_for_a_second_at_most() {
    let pause = |seed| World::with_equal_streams(seed).longest_pause_after_a_stream_vanished();
    let worst = (0..100).map(|seed| (pause(seed), seed)).max().unwrap();
    assert!(
        worst.0 <= std::time::Duration::from_secs(1),
        "nothing arrived in order for {:?} (seed {})",
        worst.0,
        worst.1
    );
}

#[test]
fn what_both_sides_sleep_through_is_nobodys_silence() {
    for seed in 0..500 {
        let mut world = World::new(seed, false);
        world.run_with_sleeps_of_both(std::time::Duration::from_hours(1));
        assert_eq!(world.ends(), [End::Complete, End::Complete], "seed {seed}");
    }
}

#[test]
fn what_one_side_sleeps_through_is_its_silence() {
    for seed in 0..100 {
        let waited = World::with_equal_streams(seed).wait_for_a_sleeper();
        assert!(waited < world::TIMEOUT + std::time::Duration::from_secs(1), "{waited:?} (seed {seed})");
    }
}

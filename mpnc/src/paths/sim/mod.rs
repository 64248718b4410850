//! Whole sessions from a seed, path manager and transfer together: two hosts with bonds, a switch that hashes by
//! itself, links that fail and return, a NAT, a peer that is late or lies. See [`crate::transfer::sim`] for seeds and
//! settings.
//!
//! At rest everything is judged by where packets really go (`judge`), and the session must then deliver all of its
//! input.

mod host;
mod judge;
mod net;
mod plans;
mod script;
mod world;

use super::budget::A_MINUTE;
use crate::transfer::sim::link::Rng;
use crate::transfer::sim::seeds::run_seeds;
use crate::transfer::{End, Time};
use judge::{Found, REST};
use script::{Lie, Script};
use std::time::Duration;
use world::World;

/// After the last change a world comes to rest within this.
const RESTLESS: Duration = Duration::from_secs(90);

/// The longest pause before what is lost is opened again.
const AGAIN: Duration = Duration::from_secs(3);
/// Links whose loss is timed, at each end.
const SEEDS: u64 = 300;
/// What the budget has at once and what it gets in a minute, a first plan, and one word that it does not cover to the
/// end.
const MOST_A_MINUTE: usize = 2 * A_MINUTE as usize + 2 * super::MAX_STREAMS as usize;

/// One world from one seed, to its end.
fn check(seed: u64, found: &mut Found) {
    let mut world = World::new(seed);
    let mut steps = 0;
    let mut last = world.now;
    loop {
        world.advance();
        steps += 1;
        if world.has_more_to_come() {
            last = world.now;
        }
        if world.books.gave_up.is_some() {
            assert!(world.may_give_up(), "gave up: {:?}", world.books.gave_up);
            return;
        }
        let rest = if world.knows_its_bond() { REST } else { REST + Duration::from_secs(10) };
        if world.is_at_rest(rest) {
            break;
        }
        assert!(
            world.now.since(last) < RESTLESS,
            "no rest: {:?}, {:?}, {:?}",
            world.paths.slots().iter().collect::<Vec<_>>(),
            world.paths.search(),
            world.books.all_said
        );
    }
    world.judge(found);
    found.steps += steps;
    found.millis += u64::try_from(world.now.0.as_millis()).unwrap();
    world.finish();
    let ends = world.ends();
    assert!(
        matches!(&ends, [Some(End::Complete), Some(End::Complete | End::Unconfirmed)])
            || matches!(&ends, [Some(End::Unconfirmed), Some(End::Complete)]),
        "{ends:?}"
    );
    let [a, b] = &world.sides;
    a.check_complete(b);
    b.check_complete(a);
}

#[test]
fn whole_sessions_come_to_rest_even_and_deliver() {
    let (found, runs) = run_seeds("paths", 20_000, check, Found::add);
    println!("{runs} sessions: {found:?}");
    if runs < 1000 {
        return;
    }
    // What may be excused must be rare, or the test would only show that everything can be.
    assert!(found.worlds * 100 > runs * 97, "{found:?}");
    assert!(found.leaving_excused * 50 < found.leaving && found.arriving_excused * 6 < found.arriving, "{found:?}");
    assert!(found.back * 10 > runs && found.measured * 50 > runs, "{found:?}");
}

/// Whatever a peer says, for however long: no more connections in any minute than these.
#[test]
fn a_lying_peer_is_worth_a_bounded_number_of_connections() {
    for lie in [Lie::Huge, Lie::AllOnOne, Lie::Flapping, Lie::Bonds, Lie::Everything] {
        for seed in 0..6 {
            let mut rng = Rng::new(seed);
            let script = Script::new(&mut rng).with_liar(lie);
            let mut world = World::of(script, rng);
            while world.now < Time(Duration::from_mins(3)) {
                world.advance();
            }
            // What is lost late in the minute before is opened in this one.
            let within = |times: &[Time], from: Time, span| {
                times.iter().filter(|at| from <= **at && at.since(from) < span).count()
            };
            let minute = |from: &Time| {
                let lost =
                    within(&world.books.losses, Time(from.0.saturating_sub(AGAIN)), Duration::from_mins(1) + AGAIN);
                within(&world.books.opens, *from, Duration::from_mins(1)).saturating_sub(lost)
            };
            let most = world.books.opens.iter().map(minute).max().unwrap();
            world.opens_are_bounded();
            assert!(most <= MOST_A_MINUTE, "{lie:?}, seed {seed}: {most} connections in a minute");
        }
    }
}

/// How long after the loss of a link the way back is even again, over the sender's slaves and over the receiver's.
fn until_even(seed: u64, end: usize) -> (Duration, Option<Duration>) {
    let mut rng = Rng::new(seed);
    let script = Script::new(&mut rng).with_lost_link(&mut rng, end);
    let lost = script.changes[0].0;
    let mut world = World::of(script, rng);
    let (mut leaving, mut arriving) = (None, None);
    while world.now < lost + Duration::from_secs(12) {
        world.advance();
        if world.now > lost {
            let now = world.now.since(lost);
            // What is even stays even, or it was not.
            leaving = leaving.filter(|_| world.is_carried(1)).or_else(|| world.is_carried(1).then_some(now));
            arriving = arriving.filter(|_| world.is_carried(0)).or_else(|| world.is_carried(0).then_some(now));
        }
    }
    (leaving.unwrap_or_else(|| panic!("never even again, seed {seed}: {:?}", world.counts(1, 0))), arriving)
}

#[test]
fn the_way_back_is_even_again_within_two_seconds_of_a_loss() {
    for (end, whose) in ["the receiver", "the sender"].into_iter().enumerate() {
        let times: Vec<_> = (0..SEEDS).map(|seed| until_even(seed, end)).collect();
        let sorted = |mut times: Vec<Duration>| {
            times.sort();
            (times[times.len() / 2], times[times.len() - 1], times.len())
        };
        let leaving = sorted(times.iter().map(|(leaving, _)| *leaving).collect());
        let arriving = sorted(times.iter().filter_map(|(_, arriving)| *arriving).collect());
        println!("a link of {whose} is lost: (median, worst, of) leaving {leaving:?}, arriving {arriving:?}");
        assert!(leaving.1 <= Duration::from_secs(2), "{leaving:?}");
        // Where the switch sends a stream can only be tried; eight tries for each slave do as a rule.
        assert!(arriving.1 <= Duration::from_secs(2) && arriving.2 * 10 >= times.len() * 9, "{arriving:?}");
    }
}

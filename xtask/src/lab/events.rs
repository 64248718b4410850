//! Turns the events of a scenario into a timetable: repetition, random times, slaves and rates are drawn from the
//! event's seed, so that every run of a scenario does the same. Runs nothing.

use std::time::Duration;

use fastrand::Rng;

use super::scenario::{Event, Side};
use super::topology::Place;
use super::units::BitRate;

/// One thing to do at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// On the scenario's clock.
    pub at: Duration,
    /// What.
    pub action: Action,
}

/// What an event does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs a line of shell in a place.
    Run(Place, String),
    /// Sets the rate of a slave, counted from 0.
    Rate(usize, BitRate),
    /// Kills a side.
    Kill(Side),
}

/// All that happens, in order of time.
pub fn timetable(events: &[Event], slaves: usize) -> Vec<Due> {
    let mut timetable: Vec<Due> = events.iter().flat_map(|event| expand(event, slaves)).collect();
    timetable.sort_by_key(|due| due.at);
    timetable
}

fn expand(event: &Event, slaves: usize) -> Vec<Due> {
    let start = event.at.map_or(Duration::ZERO, |at| at.0);
    let end = event.until.map_or(start, |until| until.0);
    // The same in every run.
    let mut draw = Rng::with_seed(event.seed);
    let times: Vec<Duration> = match (event.every, event.times) {
        (Some(every), _) => {
            std::iter::successors(Some(start), |at| Some(*at + every.0)).take_while(|at| *at < end).collect()
        }
        (None, Some(times)) => {
            (0..times).map(|_| Duration::from_millis(draw.u64(millis(start)..=millis(end)))).collect()
        }
        (None, None) => vec![start],
    };
    times.into_iter().map(|at| Due { at, action: action(event, slaves, &mut draw) }).collect()
}

fn action(event: &Event, slaves: usize, draw: &mut Rng) -> Action {
    let number = event.slave.unwrap_or_else(|| draw.usize(1..=slaves));
    match (&event.run, event.rate.as_slice(), event.kill) {
        (Some(line), ..) => Action::Run(event.place, line.replace("{slave}", &number.to_string())),
        (None, [low, .., high], _) => Action::Rate(number - 1, BitRate(draw.u64(low.0..=high.0))),
        (None, [rate], _) => Action::Rate(number - 1, *rate),
        (None, [], side) => Action::Kill(side.expect("an event has one of run, rate, kill: checked when it was read")),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("a short time")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str) -> Vec<Due> {
        #[derive(serde::Deserialize)]
        struct File {
            event: Vec<Event>,
        }
        timetable(&toml::from_str::<File>(text).unwrap().event, 4)
    }

    #[test]
    fn events_repeat_and_stay_the_same() {
        let text = "[[event]]\nevery = '1s'\nuntil = '3s'\nrate = ['1mbit', '9mbit']\n\
            [[event]]\ntimes = 20\nat = '1s'\nuntil = '40s'\nrun = 'ip link set a{slave} down'\n\
            [[event]]\nat = '2s'\nkill = 'listener'";
        let due = events(text);
        assert_eq!(due.len(), 3 + 20 + 1);
        assert_eq!(due, events(text));
        assert!(due.is_sorted_by_key(|due| due.at));
        let flaps = due.iter().filter(|due| matches!(&due.action, Action::Run(Place::A, line) if !line.contains('{')));
        assert_eq!(flaps.count(), 20);
        assert!(due.contains(&Due { at: Duration::from_secs(2), action: Action::Kill(Side::Listener) }));
    }
}

//! Another way: when links come or go, or the other side tells of its own, the streams are made to fit, without stopping the flow.
//!
//! Must not know how streams are opened or kept up: that is `connect`'s.

use super::arrivals::Search;
use super::check::Check;
use super::connect::{Connector, Lane};
use super::conns::Conns;
use super::hub::Bell;
use super::survey::Gauge;
use crate::bond::Outlook;
use crate::error::Error;
use crate::transfer::StreamId;
use std::net::IpAddr;
use std::sync::{Weak, mpsc};

/// The way out, as far as the plan depends on it.
#[derive(Debug, Clone)]
pub struct Way {
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// What the planner goes by.
    pub outlook: Outlook,
    /// Names of its classes (slaves), by index.
    pub slaves: Vec<String>,
    /// Streams to open.
    pub streams: u16,
    /// How to see by which slave each stream leaves, if there is a way.
    pub gauge: Option<Gauge>,
}

/// Tells the connector that the way out is another now, from any thread.
pub struct Teller {
    pub(super) ways: mpsc::Sender<Way>,
    pub(super) bell: Weak<Bell>,
}

impl Teller {
    /// Whether there is still a connector.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.bell.strong_count() > 0
    }

    /// The way is that now.
    pub fn tell(&self, way: Way) {
        // That nobody takes it any more is no loss.
        let _ = self.ways.send(way);
        self.bell.upgrade().into_iter().for_each(|bell| bell.ring());
    }
}

impl Connector {
    /// Takes in what the links have become: of several changes only the last matters.
    pub(super) fn follow(&mut self, conns: &mut Conns) -> Result<(), Error> {
        match self.ways.try_iter().last() {
            Some(way) if !self.is_done() => {
                log::info!("the way has changed: {} usable slaves, {} streams", way.slaves.len(), way.streams);
                self.take_source(way.source);
                self.way_back.own = way;
                self.replan(conns)
            }
            _ => Ok(()),
        }
    }

    /// From another address no stream lies right: whatever is sent from the old one is no longer answered, or soon will not be.
    fn take_source(&mut self, source: Option<IpAddr>) {
        let Some(source) = source.filter(|source| self.source != Some(*source)) else { return };
        log::warn!("this host's address towards {} is {source} now: going on from there", self.target);
        self.source = Some(source);
        self.planner.set_source(source);
        self.lanes.iter_mut().for_each(|lane| lane.planned.port = None);
    }

    /// Makes the streams fit a new way out or back: those that still lie right stay, the others get successors and then retire.
    pub(super) fn replan(&mut self, conns: &mut Conns) -> Result<(), Error> {
        let (way, second) = self.way_back.both(self.options().directions);
        self.planner.set_outlook(way.outlook);
        self.planner.set_second(second);
        self.gauge = way.gauge;
        (self.check, self.search) = (Check::default(), Search::default());
        self.measure_anew();
        let plan = match self.planner.plan(way.streams.max(self.least_streams), &[]) {
            Ok(plan) => plan,
            Err(error) => {
                log::warn!("cannot plan anew, so the streams stay as they are: {error}");
                return Ok(());
            }
        };
        self.slaves = way.slaves;
        let mut old = std::mem::take(&mut self.lanes);
        let mut wanted = Vec::new();
        for planned in plan {
            match old.iter().position(|lane| self.lies_right(lane, &planned)) {
                Some(found) => {
                    let mut lane = old.swap_remove(found);
                    lane.planned.slave = planned.slave;
                    if let Some(id) = lane.stream {
                        self.name_slave(id, planned.slave);
                    }
                    self.lanes.push(lane);
                }
                None => wanted.push(planned),
            }
        }
        for planned in wanted {
            let mut lane = old.pop().unwrap_or_else(|| Lane::new(planned));
            lane.give_up_attempt(conns);
            (lane.planned, lane.probe) = (planned, None);
            self.lanes.push(lane);
            self.open(self.lanes.len() - 1, conns)?;
        }
        for lane in old {
            self.close_lane(lane, conns);
        }
        Ok(())
    }

    /// The stream leaves by this slave of the current plan: for the summary.
    pub(super) fn name_slave(&mut self, id: StreamId, slave: Option<u16>) {
        let name = slave.and_then(|slave| self.slaves.get(usize::from(slave))).cloned();
        if let Some(hub) = &self.hub {
            hub.plan(id, name.clone());
        }
        if let Some(opened) = self.opened.iter_mut().find(|opened| opened.id == id) {
            opened.slave = name;
        }
    }

    /// Ends a lane whose stream is no longer wanted, without losing anything.
    pub(super) fn close_lane(&self, mut lane: Lane, conns: &mut Conns) {
        lane.give_up_attempt(conns);
        if let (Some(id), Some(hub)) = (lane.stream, &self.hub) {
            hub.retire(id);
        }
    }
}

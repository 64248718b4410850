//! The planner: source ports whose streams are even over the slaves, and that carry their stream's lane.
//!
//! Order of wishes, each kept before the next: even over our slaves; even over a second axis (the peer's slaves); the
//! lane code. A lane gives way only in pools too narrow to hold a port for both (`-p` with a few ports).
//!
//! Two ways lead to a set of ports:
//! - **Era-proof** (`Planner::era_proof`), for a power of two of equal slaves and for bonds out of sight: a form of
//!   port that is even under every formula, byte order and address.
//! - **Table** (`Planner::by_table`): compute every candidate's slave, then choose. For all other cases.
//!
//! A later plan is told which ports are in use: what lies right of them stays, with its lane, and new streams take the
//! lanes that are free. Ports that are given back are handed out again, after all that never were.
//!
//! Must not know sockets: whether a port is free shows at bind, and [`Planner::replace`] gives the next one.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use thiserror::Error;

use super::outlook::{Axis, FlowBase, Outlook};
use super::pool::PortPool;
use super::quota::{self, Table};

/// Lanes that a source port can name: bits 1 to 5.
pub const LANES: u16 = 32;
/// How many candidates an axis that asks the kernel is asked about at most: each answer costs microseconds, and this
/// many leave 8 ports for each of 8 classes in each of 32 lanes.
const ASKED_CANDIDATES: usize = 2048;
/// The bits of the low byte that the era-proof form fixes: lane and parity.
const FORM_LOW: u16 = 0x3f;

/// The lane that a source port names: the receiver's steering takes its worker from it.
pub const fn lane_of(port: u16) -> u16 {
    (port >> 1) % LANES
}

/// One stream of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Index of the stream, from 0; its lane is this modulo [`LANES`].
    pub lane: u16,
    /// The source port to bind to; `None`: let the kernel choose.
    pub port: Option<u16>,
    /// The slave (class of the [`Outlook`]) that the port leads to; `None` where that is not known.
    pub slave: Option<u16>,
}

fn left(pool: &str, free: usize) -> String {
    match free {
        0 => "none is left".to_owned(),
        _ => format!("{pool} has only {free} left"),
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Fewer ports than streams.
    #[error(
        "{streams} streams need as many source ports, but {}: widen -p LO-HI or lower --streams", left(.pool, *.free)
    )]
    TooFew {
        /// The pool.
        pool: String,
        /// Ports that nobody has.
        free: usize,
        /// Streams asked for.
        streams: u16,
    },
    /// Enough ports, but not enough of them lead to some slave.
    #[error(
        "source ports {pool} cannot spread {streams} streams over {slaves} slaves evenly: too few of them lead to \
         slave \
         {slave}; widen -p LO-HI or lower --streams"
    )]
    MissesSlave {
        /// The pool.
        pool: String,
        /// Streams asked for.
        streams: u16,
        /// Slaves to spread over.
        slaves: usize,
        /// The first slave that falls short, by index.
        slave: usize,
    },
}

/// Plans the source ports of one run. No port is in two hands at once.
#[derive(Debug)]
pub struct Planner {
    base: FlowBase,
    outlook: Outlook,
    columns: Option<Axis>,
    pool: PortPool,
    /// The pool's ports in the order they are tried, from this run's random base.
    candidates: Vec<u16>,
    /// Ports that somebody has.
    taken: BTreeSet<u16>,
    /// Ports that somebody had, longest ago first: the kernel, or a device on the way, may remember them for a while.
    returned: VecDeque<u16>,
    /// This run's random choice of the era-proof form's high byte.
    high: u16,
    seed: u64,
}

impl Planner {
    /// A planner for one receiver. `seed` should be random: two runs then try different ports first.
    pub fn new(base: FlowBase, outlook: Outlook, pool: PortPool, seed: u64) -> Self {
        let mut planner = Self {
            base,
            outlook,
            columns: None,
            pool: pool.clone(),
            candidates: Vec::new(),
            taken: BTreeSet::new(),
            returned: VecDeque::new(),
            high: 0,
            seed,
        };
        planner.set_pool(pool);
        planner
    }

    /// From now on these are the ports to choose from.
    pub fn set_pool(&mut self, pool: PortPool) {
        self.candidates = pool.ports().collect();
        if !self.candidates.is_empty() {
            let len = self.candidates.len();
            self.candidates.rotate_left(usize::try_from(self.seed % len as u64).unwrap_or(0));
        }
        self.high = self.candidates.first().map_or(0, |port| port >> 8);
        self.pool = pool;
    }

    /// The ports to choose from.
    pub fn pool(&self) -> &PortPool {
        &self.pool
    }

    /// This host sends from another address: where ports lead is another matter then.
    pub fn set_source(&mut self, source: IpAddr) {
        self.base.src = source;
    }

    /// The usable slaves changed: the next [`plan`](Self::plan) goes by this.
    pub fn set_outlook(&mut self, outlook: Outlook) {
        self.outlook = outlook;
    }

    /// Be even over this as well, as far as our own slaves allow.
    pub fn set_second(&mut self, columns: Option<Axis>) {
        self.columns = columns;
    }

    /// What the planner goes by now.
    pub fn outlook(&self) -> &Outlook {
        &self.outlook
    }

    /// The slave that a source port leads to.
    pub fn slave_of(&self, port: u16) -> Option<u16> {
        self.outlook.class_of(&self.base, port)
    }

    /// The class of the second axis that a source port leads to.
    pub fn second_of(&self, port: u16) -> Option<u16> {
        self.axis()?.class_of.of(port)
    }

    /// What ports are to be even over beside our own slaves: the second axis, or else our slaves by the formula in
    /// doubt.
    fn axis(&self) -> Option<Axis> {
        self.columns.clone().or_else(|| match &self.outlook {
            Outlook::Hashed(h) => h.doubt(self.base),
            _ => None,
        })
    }

    /// Source ports for `streams` streams. Those in `keep` are in use: what lies right of them is in the plan, as it
    /// is; whoever has another is to [give it back](Self::give_back).
    ///
    /// With nothing to be even over and too small a pool (not one that a person stated), the kernel chooses.
    pub fn plan(&mut self, streams: u16, keep: &[Planned]) -> Result<Vec<Planned>, PlanError> {
        let planned = match &self.outlook {
            Outlook::Unknown if self.columns.is_none() => self.unbound(streams, keep)?,
            Outlook::Hashed(h) if self.columns.is_none() && h.is_plain_power() && keep.is_empty() => {
                let form = 2 * h.slaves() - 1;
                match self.era_proof(&(0..streams).collect::<Vec<_>>(), form) {
                    Some(planned) => planned,
                    None => self.by_table(streams, keep)?,
                }
            }
            _ => self.by_table(streams, keep)?,
        };
        planned.iter().filter_map(|planned| planned.port).for_each(|port| self.take(port));
        Ok(planned)
    }

    fn take(&mut self, port: u16) {
        if self.taken.insert(port) {
            self.returned.retain(|returned| *returned != port);
        }
    }

    /// Nobody has this port any more.
    pub fn give_back(&mut self, port: u16) {
        if self.taken.remove(&port) {
            self.returned.push_back(port);
        }
    }

    /// Another port for a stream whose port is taken (EADDRINUSE at bind, EADDRNOTAVAIL at connect) or whose connection
    /// died: same slave, same lane while there is one. `None`: no port of that slave is left.
    pub fn replace(&mut self, old: &Planned) -> Option<Planned> {
        let Some(old_port) = old.port else {
            return Some(*old);
        };
        let axis = self.axis();
        let second = |port| axis.as_ref().and_then(|axis| axis.class_of.of(port));
        let old_second = second(old_port);
        // Where no port's slave is known, any port will do.
        let known = !self.outlook.weights().is_empty();
        let same_slave = |port| !known || old.slave.is_none() || self.slave_of(port) == old.slave;
        // Cheap tests first: class functions may ask the kernel.
        let steps: [&dyn Fn(u16) -> bool; 4] = [
            &|port| same_form(port, old_port) && second(port) == old_second,
            &|port| lane_of(port) == old.lane % LANES && second(port) == old_second,
            &|port| second(port) == old_second,
            &|_| true,
        ];
        let port = steps.iter().find_map(|fits| self.free().find(|&port| fits(port) && same_slave(port)))?;
        self.take(port);
        Some(Planned { port: Some(port), ..*old })
    }

    /// The ports that nobody has, in the order they are tried: those that nobody ever had first.
    fn free(&self) -> impl Iterator<Item = u16> + '_ {
        let known: BTreeSet<u16> = self.returned.iter().copied().collect();
        let fresh =
            self.candidates.iter().copied().filter(move |port| !self.taken.contains(port) && !known.contains(port));
        fresh.chain(self.returned.iter().copied().filter(|port| self.pool.contains(*port)))
    }

    /// No bond to be even over: the era-proof form does no harm and helps a bond that we cannot see, and the receiver
    /// gets its lanes. A single stream is left to the kernel, as netcat does.
    fn unbound(&self, streams: u16, keep: &[Planned]) -> Result<Vec<Planned>, PlanError> {
        let kept: Vec<Planned> = keep.iter().take(streams.into()).map(|old| Planned { slave: None, ..*old }).collect();
        let lanes = free_lanes(&kept, streams);
        let stated = self.pool.is_stated();
        let fresh = if streams <= 1 && !stated { None } else { self.era_proof(&lanes, FORM_LOW) };
        let fresh = match fresh {
            Some(fresh) => fresh,
            None if stated => return self.by_table(streams, keep),
            None => kernel_chooses(&lanes),
        };
        Ok(kept.into_iter().chain(fresh).collect())
    }

    /// Ports of the era-proof form: low byte `(i << 1) | parity(i)` in its lower six bits, high byte alike in the bits
    /// `mask`.
    ///
    /// For every count N of slaves that divides `(mask + 1) / 2`, any N consecutive streams from a multiple of N fall
    /// on N slaves: under the shifted formula by i itself, under the unshifted one by (i << 1 | parity) mod N, up to
    /// 3.12 by the low byte alone; addresses, destination port and byte order only permute the slaves. `None` when the
    /// pool lacks them.
    fn era_proof(&self, lanes: &[u16], mask: u16) -> Option<Vec<Planned>> {
        let free: Vec<u16> = self.free().collect();
        (0..=mask).find_map(|turn| {
            let high = (self.high ^ turn) & mask;
            let mut used = BTreeSet::new();
            let port_of = |lane: u16| {
                let fits = |p: &u16| (p >> 8) & mask == high && p & FORM_LOW == form_low(lane);
                let port = free.iter().copied().filter(fits).find(|p| !used.contains(p))?;
                used.insert(port);
                Some(Planned { lane, port: Some(port), slave: self.slave_of(port) })
            };
            lanes.iter().copied().map(port_of).collect()
        })
    }

    /// Computes what every candidate leads to, and takes an even set.
    fn by_table(&self, streams: u16, keep: &[Planned]) -> Result<Vec<Planned>, PlanError> {
        let mut cells = self.sort_candidates(keep);
        let free = self.free().count() + cells.kept.iter().map(Vec::len).sum::<usize>();
        if free < usize::from(streams) {
            return Err(PlanError::TooFew { pool: self.pool.to_string(), free, streams });
        }
        let table = self.even_table(streams, &cells.available(streams), &cells.in_use(streams))?;
        Ok(cells.deal(streams, table))
    }

    fn sort_candidates(&self, keep: &[Planned]) -> Cells {
        let rows = self.outlook.weights().len().max(1);
        let asked = matches!(&self.outlook, Outlook::Asked { class_of, .. } if class_of.asks())
            || self.columns.as_ref().is_some_and(|axis| axis.class_of.asks());
        let columns = self.axis();
        let mut cells = Cells::new(rows, columns.as_ref().map_or(1, |axis| usize::from(axis.classes)));
        for old in keep {
            if let Some((port, place)) = old.port.and_then(|port| Some((port, self.place(port, columns.as_ref())?))) {
                cells.keep(place, Planned { port: Some(port), ..*old });
            }
        }
        let most = if asked { ASKED_CANDIDATES } else { usize::MAX };
        for port in self.free().take(most) {
            if let Some(place) = self.place(port, columns.as_ref()) {
                cells.add(place, port);
            }
        }
        cells
    }

    /// Where a port leads to; `None` where that cannot be said.
    fn place(&self, port: u16, columns: Option<&Axis>) -> Option<Spot> {
        let slave = self.slave_of(port);
        let row = if self.outlook.weights().is_empty() { 0 } else { slave?.into() };
        let column = columns.map_or(Some(0), |axis| axis.class_of.of(port).map(usize::from))?;
        Some(Spot { row, column, slave })
    }

    /// How many ports to take of each cell.
    fn even_table(&self, streams: u16, available: &Table, kept: &Table) -> Result<Table, PlanError> {
        let weights = self.outlook.weights();
        let rows = quota::Rows::new(streams, if weights.is_empty() { &[1] } else { weights });
        quota::spread(&rows, available, kept).ok_or_else(|| PlanError::MissesSlave {
            pool: self.pool.to_string(),
            streams,
            slaves: available.len(),
            slave: rows.short(available).unwrap_or(0),
        })
    }
}

/// The lower six bits of stream `i`'s port in the era-proof form.
fn form_low(i: u16) -> u16 {
    let parity = u16::from(i.count_ones() % 2 == 1);
    ((i % LANES) << 1) | parity
}

/// Whether two ports of the era-proof form can stand for each other under every formula for up to 32 slaves.
fn same_form(a: u16, b: u16) -> bool {
    let fixed = (FORM_LOW << 8) | FORM_LOW;
    a & fixed == b & fixed
}

fn kernel_chooses(lanes: &[u16]) -> Vec<Planned> {
    lanes.iter().map(|&lane| Planned { lane, port: None, slave: None }).collect()
}

/// The lowest lanes that none of these has, for those of `streams` streams that they are not.
fn free_lanes(kept: &[Planned], streams: u16) -> Vec<u16> {
    let used: BTreeSet<u16> = kept.iter().map(|planned| planned.lane).collect();
    let missing = usize::from(streams).saturating_sub(kept.len());
    (0..).filter(|lane| !used.contains(lane)).take(missing).collect()
}

/// Where a port leads to.
#[derive(Clone, Copy)]
struct Spot {
    row: usize,
    column: usize,
    /// What the row is called in the plan; `None` where there are no slaves to name.
    slave: Option<u16>,
}

/// Candidate ports by row, column and lane.
struct Cells {
    columns: usize,
    /// `lanes[row * columns + column][lane]`: ports in the order they are tried.
    lanes: Vec<Vec<Vec<u16>>>,
    /// `kept[row * columns + column]`: what is in use there.
    kept: Vec<Vec<Planned>>,
    /// What each row is called in the plan.
    slaves: Vec<Option<u16>>,
}

impl Cells {
    fn new(rows: usize, columns: usize) -> Self {
        let lanes = vec![vec![Vec::new(); usize::from(LANES)]; rows * columns];
        Self { columns, lanes, kept: vec![Vec::new(); rows * columns], slaves: vec![None; rows] }
    }

    fn cell(&self, place: Spot) -> Option<usize> {
        let fits = place.column < self.columns && place.row < self.slaves.len();
        fits.then_some(place.row * self.columns + place.column)
    }

    fn add(&mut self, place: Spot, port: u16) {
        if let Some(cell) = self.cell(place) {
            self.lanes[cell][usize::from(lane_of(port))].push(port);
            self.slaves[place.row] = place.slave;
        }
    }

    fn keep(&mut self, place: Spot, planned: Planned) {
        if let Some(cell) = self.cell(place) {
            self.kept[cell].push(Planned { slave: place.slave, ..planned });
            self.slaves[place.row] = place.slave;
        }
    }

    /// Ports in each cell, up to `most` (more than that never matter).
    fn available(&self, most: u16) -> Table {
        let free = |cell: usize| self.lanes[cell].iter().map(Vec::len).sum::<usize>();
        self.table(|cell| u16::try_from(free(cell) + self.kept[cell].len()).unwrap_or(u16::MAX).min(most))
    }

    /// Of these, those in use.
    fn in_use(&self, most: u16) -> Table {
        self.table(|cell| u16::try_from(self.kept[cell].len()).unwrap_or(u16::MAX).min(most))
    }

    fn table(&self, count: impl Fn(usize) -> u16) -> Table {
        let row = |row: usize| (row * self.columns..(row + 1) * self.columns).map(&count).collect();
        (0..self.slaves.len()).map(row).collect()
    }

    /// Gives each stream a port out of the cells of `table`. Those in use come first; the others get the lanes that are
    /// left, in turn over the rows.
    fn deal(&mut self, streams: u16, table: Table) -> Vec<Planned> {
        let whole: Vec<u16> = table.iter().map(|row| row.iter().sum()).collect();
        let mut left = table;
        let mut planned = Vec::with_capacity(usize::from(streams));
        for (cell, kept) in self.kept.iter().enumerate() {
            let count = &mut left[cell / self.columns][cell % self.columns];
            planned.extend(kept.iter().take((*count).into()).copied());
            *count -= u16::try_from(kept.len()).unwrap_or(u16::MAX).min(*count);
        }
        for lane in free_lanes(&planned, streams) {
            let best = (0..self.lanes.len())
                .filter(|&cell| left[cell / self.columns][cell % self.columns] > 0)
                .min_by_key(|&cell| {
                    let row = cell / self.columns;
                    let filled = whole[row] - left[row].iter().sum::<u16>();
                    let missing = self.lanes[cell][usize::from(lane % LANES)].is_empty();
                    // How full the row is, in parts of a million.
                    (u64::from(filled) * 1_000_000 / u64::from(whole[row]), missing)
                });
            let Some(cell) = best else { break };
            let row = cell / self.columns;
            left[row][cell % self.columns] -= 1;
            planned.push(Planned { lane, port: self.take(cell, lane), slave: self.slaves[row] });
        }
        planned
    }

    /// A port of the cell: of this lane, else of the lane with most to spare.
    fn take(&mut self, cell: usize, lane: u16) -> Option<u16> {
        let lanes = &mut self.lanes[cell];
        let wanted = usize::from(lane % LANES);
        let from = if lanes[wanted].is_empty() { (0..lanes.len()).max_by_key(|&l| lanes[l].len())? } else { wanted };
        (!lanes[from].is_empty()).then(|| lanes[from].remove(0))
    }
}

#[cfg(test)]
mod tests;

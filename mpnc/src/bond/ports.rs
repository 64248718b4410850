//! The planner: source ports whose streams are even over the slaves, and that carry their stream's lane.
//!
//! Order of wishes, each kept before the next: even over our slaves; even over a second axis (the peer's slaves); the lane
//! code. A lane gives way only in pools too narrow to hold a port for both (`-p` with a few ports).
//!
//! Two ways lead to a set of ports:
//! - **Era-proof** (`Planner::era_proof`), for a power of two of equal slaves and for bonds out of sight: a form of port
//!   that is even under every formula, byte order and address.
//! - **Table** (`Planner::by_table`): compute every candidate's slave, then choose. For all other cases.
//!
//! Must not know sockets: whether a port is free shows at bind, and [`Planner::replace`] gives the next one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use thiserror::Error;

use super::outlook::{Axis, FlowBase, Outlook};
use super::pool::{LANES, PortPool, lane_of};
use super::quota::{self, Table};

/// How many candidates an axis that asks the kernel is asked about at most: each answer costs microseconds, and this many
/// leave 8 ports for each of 8 classes in each of 32 lanes.
const ASKED_CANDIDATES: usize = 2048;
/// The bits of the low byte that the era-proof form fixes: lane and parity.
const FORM_LOW: u16 = 0x3f;

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
        /// Ports never handed out.
        free: usize,
        /// Streams asked for.
        streams: u16,
    },
    /// Enough ports, but not enough of them lead to some slave.
    #[error(
        "source ports {pool} cannot spread {streams} streams over {slaves} slaves evenly: too few of them lead to slave \
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

/// Plans the source ports of one run. Remembers every port it handed out and never hands it out again.
#[derive(Debug)]
pub struct Planner {
    base: FlowBase,
    outlook: Outlook,
    columns: Option<Axis>,
    pool: PortPool,
    /// The pool's ports in the order they are tried, from this run's random base.
    candidates: Vec<u16>,
    handed_out: BTreeSet<u16>,
    /// This run's random choice of the era-proof form's high byte.
    high: u16,
    seed: u64,
}

impl Planner {
    /// A planner for one receiver. `seed` should be random: two runs then try different ports first.
    pub fn new(base: FlowBase, outlook: Outlook, pool: PortPool, seed: u64) -> Self {
        let (candidates, handed_out) = (Vec::new(), BTreeSet::new());
        let mut planner =
            Self { base, outlook, columns: None, pool: pool.clone(), candidates, handed_out, high: 0, seed };
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

    /// The usable slaves changed: the next [`plan`](Self::plan) goes by this. Ports handed out stay used.
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
        self.columns.as_ref()?.class_of.of(port)
    }

    /// Source ports for `streams` streams, none of them handed out before.
    ///
    /// With nothing to be even over and too small a pool (not one that a person stated), the kernel chooses.
    pub fn plan(&mut self, streams: u16) -> Result<Vec<Planned>, PlanError> {
        let planned = match &self.outlook {
            Outlook::Unknown if self.columns.is_none() => self.unbound(streams)?,
            Outlook::Hashed(h) if self.columns.is_none() && h.is_plain_power() => {
                match self.era_proof(streams, 2 * h.slaves() - 1) {
                    Some(ports) => self.named(&ports),
                    None => self.by_table(streams)?,
                }
            }
            _ => self.by_table(streams)?,
        };
        self.handed_out.extend(planned.iter().filter_map(|p| p.port));
        Ok(planned)
    }

    /// Another port for a stream whose port is taken (EADDRINUSE at bind, EADDRNOTAVAIL at connect) or whose connection died:
    /// same slave, same lane while there is one. `None`: no port of that slave is left.
    pub fn replace(&mut self, old: &Planned) -> Option<Planned> {
        let Some(old_port) = old.port else {
            return Some(*old);
        };
        let second = |port| self.second_of(port);
        let old_second = second(old_port);
        // Where no port's slave is known, any port will do.
        let known = !self.outlook.weights().is_empty();
        let same_slave = |port| !known || old.slave.is_none() || self.slave_of(port) == old.slave;
        // Cheap tests first: class functions may ask the kernel.
        let steps: [&dyn Fn(u16) -> bool; 3] = [
            &|port| same_form(port, old_port) && second(port) == old_second,
            &|port| lane_of(port) == old.lane % LANES && second(port) == old_second,
            &|_| true,
        ];
        let port = steps.iter().find_map(|fits| self.free().find(|&port| fits(port) && same_slave(port)))?;
        self.handed_out.insert(port);
        Some(Planned { port: Some(port), ..*old })
    }

    fn free(&self) -> impl Iterator<Item = u16> + '_ {
        self.candidates.iter().copied().filter(|port| !self.handed_out.contains(port))
    }

    /// No bond to be even over: the era-proof form does no harm and helps a bond that we cannot see, and the receiver gets
    /// its lanes. A single stream is left to the kernel, as netcat does.
    fn unbound(&self, streams: u16) -> Result<Vec<Planned>, PlanError> {
        if streams <= 1 && !self.pool.is_stated() {
            return Ok(kernel_chooses(streams));
        }
        if let Some(ports) = self.era_proof(streams, FORM_LOW) {
            return Ok(self.named(&ports));
        }
        if self.pool.is_stated() { self.by_table(streams) } else { Ok(kernel_chooses(streams)) }
    }

    /// Ports of the era-proof form: low byte `(i << 1) | parity(i)` in its lower six bits, high byte alike in the bits `mask`.
    ///
    /// For every count N of slaves that divides `(mask + 1) / 2`, any N consecutive streams from a multiple of N fall on N
    /// slaves: under the shifted formula by i itself, under the unshifted one by (i << 1 | parity) mod N, up to 3.12 by the
    /// low byte alone; addresses, destination port and byte order only permute the slaves. `None` when the pool lacks them.
    fn era_proof(&self, streams: u16, mask: u16) -> Option<Vec<u16>> {
        (0..=mask).find_map(|turn| {
            let high = (self.high ^ turn) & mask;
            let mut taken = BTreeSet::new();
            (0..streams)
                .map(|i| {
                    let fits = |p: &u16| (p >> 8) & mask == high && p & FORM_LOW == form_low(i);
                    let mut fitting = self.candidates.iter().copied().filter(fits);
                    let port = fitting.find(|p| !self.handed_out.contains(p) && !taken.contains(p))?;
                    taken.insert(port);
                    Some(port)
                })
                .collect()
        })
    }

    fn named(&self, ports: &[u16]) -> Vec<Planned> {
        (0..).zip(ports).map(|(lane, &port)| Planned { lane, port: Some(port), slave: self.slave_of(port) }).collect()
    }

    /// Computes what every candidate leads to, and takes an even set.
    fn by_table(&self, streams: u16) -> Result<Vec<Planned>, PlanError> {
        let free = self.free().count();
        if free < usize::from(streams) {
            return Err(PlanError::TooFew { pool: self.pool.to_string(), free, streams });
        }
        let mut cells = self.sort_candidates();
        let available = cells.available(streams);
        let table = self.even_table(streams, &available)?;
        Ok(cells.deal(streams, table))
    }

    fn sort_candidates(&self) -> Cells {
        let rows = self.outlook.weights().len().max(1);
        let asked = matches!(&self.outlook, Outlook::Asked { class_of, .. } if class_of.asks())
            || self.columns.as_ref().is_some_and(|axis| axis.class_of.asks());
        let columns = self.columns.clone().or_else(|| match &self.outlook {
            Outlook::Hashed(h) => h.doubt(self.base),
            _ => None,
        });
        let mut cells = Cells::new(rows, columns.as_ref().map_or(1, |axis| usize::from(axis.classes)));
        let most = if asked { ASKED_CANDIDATES } else { usize::MAX };
        for port in self.free().take(most) {
            let slave = self.slave_of(port);
            let row = if self.outlook.weights().is_empty() { Some(0) } else { slave.map(usize::from) };
            let column = match &columns {
                Some(axis) => axis.class_of.of(port).map(usize::from),
                None => Some(0),
            };
            if let (Some(r), Some(c)) = (row, column) {
                cells.add(r, c, port, slave);
            }
        }
        cells
    }

    /// How many ports to take of each cell.
    fn even_table(&self, streams: u16, available: &Table) -> Result<Table, PlanError> {
        let weights = self.outlook.weights();
        let rows = quota::Rows::new(streams, if weights.is_empty() { &[1] } else { weights });
        quota::spread(&rows, available).ok_or_else(|| PlanError::MissesSlave {
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

fn kernel_chooses(streams: u16) -> Vec<Planned> {
    (0..streams).map(|lane| Planned { lane, port: None, slave: None }).collect()
}

/// Candidate ports by row, column and lane.
struct Cells {
    columns: usize,
    /// `lanes[row * columns + column][lane]`: ports in the order they are tried.
    lanes: Vec<Vec<Vec<u16>>>,
    /// What the row is called in the plan; `None` where there are no slaves to name.
    slaves: Vec<Option<u16>>,
}

impl Cells {
    fn new(rows: usize, columns: usize) -> Self {
        let lanes = vec![vec![Vec::new(); usize::from(LANES)]; rows * columns];
        Self { columns, lanes, slaves: vec![None; rows] }
    }

    fn add(&mut self, row: usize, column: usize, port: u16, slave: Option<u16>) {
        let Some(cell) = self.lanes.get_mut(row * self.columns + column) else {
            return;
        };
        cell[usize::from(lane_of(port))].push(port);
        self.slaves[row] = slave;
    }

    /// Ports in each cell, up to `most` (more than that never matter).
    fn available(&self, most: u16) -> Table {
        let count = |cell: &Vec<Vec<u16>>| {
            u16::try_from(cell.iter().map(Vec::len).sum::<usize>()).unwrap_or(u16::MAX).min(most)
        };
        self.lanes.chunks(self.columns).map(|row| row.iter().map(count).collect()).collect()
    }

    /// Gives each stream a port out of the cells of `table`: streams in turn over the rows, in their own lane if any is left.
    fn deal(&mut self, streams: u16, table: Table) -> Vec<Planned> {
        let whole: Vec<u16> = table.iter().map(|row| row.iter().sum()).collect();
        let mut left = table;
        let mut planned = Vec::with_capacity(usize::from(streams));
        for lane in 0..streams {
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

//! `--plan`: the path, the bond, the streams' source ports and slaves, and what is uncertain; as text and as JSON.
//!
//! Renders what [`crate::discover`] and [`crate::bond`] found; must not find or decide anything itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::units::show_bytes;
use crate::bond::{Bond, LANES, Note, Outlook, Planned, Severity, Slave, Stacking};
use crate::discover::{End, Leg, PathView};
use crate::engine::Tuning;

/// Version of the JSON form. It grows when a field changes its meaning or goes; new fields may come without notice.
const VERSION: u32 = 1;

/// The plan for people.
pub(super) fn render_text(view: &PathView, planned: &[Planned], tuning: Tuning, workers: usize) -> String {
    let mut out = String::new();
    line(&mut out, "to", &format!("{} port {}, from {}", view.destination.ip(), view.destination.port(), view.source));
    for leg in &view.legs {
        line(&mut out, "way", &way(leg));
        if let Some(bond) = &leg.bond {
            line(&mut out, "bond", &bond_line(bond, &view.kernel));
            table(&mut out, &slave_rows(bond));
        }
    }
    line(&mut out, "streams", &stream_line(view, planned));
    table(&mut out, &stream_rows(view, planned));
    line(&mut out, "sockets", &socket_line(tuning));
    line(&mut out, "workers", &workers.to_string());
    for note in &view.notes {
        line(&mut out, severity(note.severity), &note.what);
        if !note.remedy.is_empty() {
            line(&mut out, "", &format!("-> {}", note.remedy));
        }
    }
    out
}

/// The plan for machines: one JSON object of the form of `Plan`, with a newline at its end.
pub(super) fn render_json(view: &PathView, planned: &[Planned], tuning: Tuning, workers: usize) -> String {
    let plan = Plan::new(view, planned, tuning, workers);
    let mut text = serde_json::to_string_pretty(&plan).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"));
    text.push('\n');
    text
}

/// Width of the words at the lines' beginnings.
const LABEL: usize = 12;

fn line(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, "{label:LABEL$}{text}");
}

/// Columns padded to their widest cell, indented to the label's width.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}")).collect();
        line(out, "", cells.join("  ").trim_end());
    }
}

fn way(leg: &Leg) -> String {
    let devices: Vec<String> =
        leg.layers.iter().map(|layer| format!("{} ({})", layer.name, layer.kind.name())).collect();
    let router = leg.gateway.map(|ip| format!(", router {ip}")).unwrap_or_default();
    format!("{}{router}", devices.join(" > "))
}

fn bond_line(bond: &Bond, kernel: &str) -> String {
    format!(
        "{}: mode {}, policy {}, {} of {} slaves usable, kernel {kernel}",
        bond.name,
        bond.mode.name(),
        bond.policy_name(),
        bond.usable().len(),
        bond.slaves.len()
    )
}

fn slave_rows(bond: &Bond) -> Vec<Vec<String>> {
    let mut rows = vec![["index", "slave", "state", "link", "speed"].map(String::from).to_vec()];
    for slave in &bond.slaves {
        rows.push(vec![
            index_of(bond, slave).map_or_else(|| "-".to_owned(), |i| i.to_string()),
            slave.name.clone(),
            slave.state.name().to_owned(),
            slave.mii.name().to_owned(),
            slave.speed.map_or_else(|| "unknown".to_owned(), speed),
        ]);
    }
    rows
}

/// The slave's index in the hash; `None` when it is not usable, or the order is unknown.
fn index_of(bond: &Bond, slave: &Slave) -> Option<usize> {
    bond.usable().iter().position(|usable| usable.name == slave.name).filter(|_| bond.ordered)
}

fn speed(mbit: u32) -> String {
    if mbit.is_multiple_of(1000) { format!("{} Gbit/s", mbit / 1000) } else { format!("{mbit} Mbit/s") }
}

/// How many streams, and how they fall.
fn stream_line(view: &PathView, planned: &[Planned]) -> String {
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for slave in planned.iter().filter_map(|p| p.slave) {
        *counts.entry(slave).or_insert(0) += 1;
    }
    let shares: Vec<String> =
        counts.iter().map(|(slave, count)| format!("{count} on {}", view.class_name(*slave))).collect();
    let fall = if shares.is_empty() { "slaves not predicted".to_owned() } else { shares.join(", ") };
    format!("{} ({fall})", planned.len())
}

/// How each stream's socket is set.
fn socket_line(tuning: Tuning) -> String {
    let unsent = format!("at most {} unsent in each (TCP_NOTSENT_LOWAT)", show_bytes(tuning.unsent.into()));
    let paced = |pace| format!(", paced at {}/s (SO_MAX_PACING_RATE)", show_bytes(pace));
    unsent + &tuning.pace.map_or_else(String::new, paced)
}

fn stream_rows(view: &PathView, planned: &[Planned]) -> Vec<Vec<String>> {
    let mut rows = vec![["stream", "source port", "slave"].map(String::from).to_vec()];
    for p in planned {
        rows.push(vec![
            p.lane.to_string(),
            p.port.map_or_else(|| "the kernel's choice".to_owned(), |port| port.to_string()),
            p.slave.map_or_else(|| "unknown".to_owned(), |slave| view.class_name(slave)),
        ]);
    }
    rows
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "note",
        Severity::Uncertain => "uncertain",
        Severity::InTheWay => "in the way",
    }
}

/// The JSON form, version 1. Speeds are in Mbit/s; `null` stands for unknown.
#[derive(Serialize)]
struct Plan<'a> {
    version: u32,
    destination: Endpoint,
    /// The address that streams bind to.
    source: String,
    kernel: &'a str,
    /// `hashed`: by the bond's hash. `asked`: the kernel was asked per port. `unknown`: ports choose nothing we know
    /// of.
    outlook: &'static str,
    /// Ways out, one per egress device.
    legs: Vec<LegJson<'a>>,
    streams: Vec<StreamJson>,
    /// Of each: bytes that may lie unsent in its socket; bytes a second that it sends at most, if that is limited.
    sockets: Tuning,
    /// Event loops that share the streams.
    workers: usize,
    notes: Vec<NoteJson<'a>>,
}

#[derive(Serialize)]
struct Endpoint {
    address: String,
    port: u16,
}

#[derive(Serialize)]
struct LegJson<'a> {
    /// The router's address.
    gateway: Option<String>,
    /// From the route's device down.
    devices: Vec<DeviceJson<'a>>,
    /// `plain`, `double-vlan`, `udp-tunnel`, `plain-tunnel`, `one-flow`: what the devices above do to the bond's hash.
    stacking: &'static str,
    /// `bond`, `no-bond`, `loopback`, `elsewhere`, `team`, `openvswitch`, `tunnel`, `unclear`: where the way down
    /// ended.
    end: &'static str,
    bond: Option<BondJson<'a>>,
}

#[derive(Serialize)]
struct DeviceJson<'a> {
    name: &'a str,
    ifindex: u32,
    kind: &'a str,
}

#[derive(Serialize)]
struct BondJson<'a> {
    name: &'a str,
    mode: &'static str,
    policy: &'static str,
    /// The active aggregator (802.3ad).
    aggregator: Option<u16>,
    usable: usize,
    /// In the kernel's order.
    slaves: Vec<SlaveJson<'a>>,
}

#[derive(Serialize)]
struct SlaveJson<'a> {
    name: &'a str,
    ifindex: u32,
    /// Index in the hash; `null` when not usable.
    index: Option<usize>,
    state: &'static str,
    link: &'static str,
    aggregator: Option<u16>,
    speed_mbit: Option<u32>,
}

#[derive(Serialize)]
struct StreamJson {
    index: u16,
    lane: u16,
    /// `null`: the kernel's choice.
    source_port: Option<u16>,
    /// Index of the slave (or next hop) that the port leads to.
    slave_index: Option<u16>,
    slave: Option<String>,
}

#[derive(Serialize)]
struct NoteJson<'a> {
    /// `info`, `uncertain`, `in-the-way`.
    severity: &'static str,
    what: &'a str,
    remedy: &'a str,
}

impl<'a> Plan<'a> {
    fn new(view: &'a PathView, planned: &[Planned], tuning: Tuning, workers: usize) -> Self {
        Self {
            version: VERSION,
            destination: Endpoint { address: view.destination.ip().to_string(), port: view.destination.port() },
            source: view.source.to_string(),
            kernel: &view.kernel,
            outlook: match view.outlook {
                Outlook::Hashed(_) => "hashed",
                Outlook::Asked { .. } => "asked",
                Outlook::Unknown => "unknown",
            },
            legs: view.legs.iter().map(LegJson::new).collect(),
            streams: planned.iter().map(|p| StreamJson::new(view, p)).collect(),
            sockets: tuning,
            workers,
            notes: view.notes.iter().map(NoteJson::new).collect(),
        }
    }
}

impl<'a> LegJson<'a> {
    fn new(leg: &'a Leg) -> Self {
        let device = |layer: &'a crate::discover::Layer| DeviceJson {
            name: &layer.name,
            ifindex: layer.ifindex,
            kind: layer.kind.name(),
        };
        Self {
            gateway: leg.gateway.map(|ip| ip.to_string()),
            devices: leg.layers.iter().map(device).collect(),
            stacking: match leg.stacking {
                Stacking::Plain => "plain",
                Stacking::DoubleVlan => "double-vlan",
                Stacking::UdpTunnel => "udp-tunnel",
                Stacking::PlainTunnel => "plain-tunnel",
                Stacking::OneFlow => "one-flow",
            },
            end: match leg.end {
                End::Bond => "bond",
                End::NoBond => "no-bond",
                End::Guest => "guest",
                End::Loopback => "loopback",
                End::Elsewhere => "elsewhere",
                End::Team => "team",
                End::Openvswitch => "openvswitch",
                End::Tunnel => "tunnel",
                End::Unclear => "unclear",
            },
            bond: leg.bond.as_ref().map(BondJson::new),
        }
    }
}

impl<'a> BondJson<'a> {
    fn new(bond: &'a Bond) -> Self {
        let slave = |slave: &'a Slave| SlaveJson {
            name: &slave.name,
            ifindex: slave.ifindex,
            index: index_of(bond, slave),
            state: slave.state.name(),
            link: slave.mii.name(),
            aggregator: slave.aggregator,
            speed_mbit: slave.speed,
        };
        Self {
            name: &bond.name,
            mode: bond.mode.name(),
            policy: bond.policy_name(),
            aggregator: bond.aggregator,
            usable: bond.usable().len(),
            slaves: bond.slaves.iter().map(slave).collect(),
        }
    }
}

impl StreamJson {
    fn new(view: &PathView, planned: &Planned) -> Self {
        Self {
            index: planned.lane,
            lane: planned.lane % LANES,
            source_port: planned.port,
            slave_index: planned.slave,
            slave: planned.slave.map(|slave| view.class_name(slave)),
        }
    }
}

impl<'a> NoteJson<'a> {
    fn new(note: &'a Note) -> Self {
        Self {
            severity: match note.severity {
                Severity::Info => "info",
                Severity::Uncertain => "uncertain",
                Severity::InTheWay => "in-the-way",
            },
            what: &note.what,
            remedy: &note.remedy,
        }
    }
}

#[cfg(test)]
mod tests;

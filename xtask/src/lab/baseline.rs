//! The yardstick: one stream of iperf3 over the same network, shortly before the transfer.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::command;
use super::network::Network;
use super::record::deltas;
use super::scenario::Baseline;
use super::topology::{Place, Topology};
use super::units::float;

const PORT: u16 = 5201;

/// The part of a link's rate that one stream of iperf3 gets as payload: about 0.95.
///
/// # Errors
/// When iperf3 fails.
pub fn efficiency(network: &Network, topology: &Topology, baseline: &Baseline) -> Result<f64> {
    let (a, b) = (network.namespace(Place::A), network.namespace(Place::B));
    let port = PORT.to_string();
    let mut server =
        b.command("iperf3").args(["-s", "-1", "-p", &port]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let measured = super::wait_for("iperf3's server", Duration::from_secs(20), || b.listens(PORT)).and_then(|()| {
        let before = network.counters(Place::A)?;
        let seconds = baseline.seconds.to_string();
        let host = topology.address(Place::B);
        let report =
            command::capture(a.command("iperf3").args(["-c", host, "-p", &port, "-t", &seconds, "-O", "1", "-J"]))?;
        // Which link carried it decides what it could have reached.
        let carried = deltas(&before, &network.counters(Place::A)?);
        let slave = (0..carried.len()).max_by_key(|slave| carried[*slave].0).context("a network has links")?;
        Ok(rate(&report)? / float(topology.link_rates()[slave].0))
    });
    // Ends by itself after one client; after a failure there may have been none.
    if measured.is_err() {
        let _ = server.kill();
    }
    server.wait().context("wait for iperf3's server")?;
    let efficiency = measured.context("measure one stream of iperf3")?;
    ensure!(efficiency > 0.0, "iperf3 moved nothing");
    Ok(efficiency)
}

/// Bits per second at the receiver, from iperf3's JSON.
fn rate(report: &str) -> Result<f64> {
    let report: serde_json::Value = serde_json::from_str(report).context("read iperf3's report")?;
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 failed: {}", report["error"]))
}

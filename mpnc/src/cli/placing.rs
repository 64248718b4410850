//! The program on the bond's egress, from the command line's side: whether streams may be placed, and the program begun
//! in time: before the first packet where it places, beside the transfer where it only counts.
//!
//! Must not know how it is told of streams.

use super::args::Placing;
use super::job::Transfer;
use super::observed::beside;
use super::prepare::HostBonds;
use crate::bond::{Bond, Stacking, placing};
use crate::bpf::{BpfError, EbpfMode, privilege};
use crate::discover::PathView;
use crate::error::Error;
use crate::observe::Role;
use crate::place::{self, Placer, PlanOf};
use std::sync::Arc;

/// For a connector on this way. `None`: there is no bond, or no right to look at it.
///
/// # Errors
/// Streams were to be placed, and cannot be.
pub(super) fn of_path(transfer: &Transfer, view: &PathView) -> Result<Option<Arc<Placer>>, Error> {
    let port = view.destination.port();
    let leg = if let [leg] = view.legs.as_slice() { Some(leg) } else { None };
    let bond = leg.and_then(|leg| Some((leg.bond.as_ref()?, leg.stacking)));
    match (transfer.place, bond) {
        (None, None) => Ok(None),
        (None, Some((bond, _))) => Ok(counting(transfer, port, bond)),
        (Some(_), None) => Err(refused("there is no bond in sight on the way, or more than one")),
        (Some(wanted), Some((bond, stacking))) => {
            if let Some(reason) = placing::refusal_for_good(bond, stacking) {
                return Err(refused(&format!("{}: {reason}", bond.name)));
            }
            let placer = Arc::new(Placer::new(port, Role::Connector, true));
            place_on(&placer, bond, wanted)?;
            Ok(Some(placer))
        }
    }
}

/// For a listener on this port, over whichever bonds its peers are reached.
///
/// # Errors
/// As [`of_path`].
pub(super) fn of_host(transfer: &Transfer, port: u16, bonds: &HostBonds) -> Result<Option<Arc<Placer>>, Error> {
    let Some(wanted) = transfer.place else { return Ok(None) };
    // What lies above a bond towards a peer is not known yet.
    let refusals = bonds.iter().map(|bond| (bond, placing::refusal_for_good(bond, Stacking::Plain)));
    let (fit, unfit): (Vec<_>, Vec<_>) = refusals.partition(|(_, refusal)| refusal.is_none());
    let reasons: Vec<String> =
        unfit.iter().filter_map(|(bond, why)| Some(format!("{}: {}", bond.name, why.as_ref()?))).collect();
    if fit.is_empty() {
        let none = "this host has no bond in sight".to_owned();
        return Err(refused(&if reasons.is_empty() { none } else { reasons.join("; ") }));
    }
    for reason in &reasons {
        log::info!("not placed: {reason}");
    }
    let placer = Arc::new(Placer::new(port, Role::Listener, true));
    fit.into_iter().try_for_each(|(bond, _)| place_on(&placer, bond, wanted))?;
    Ok(Some(placer))
}

fn place_on(placer: &Placer, bond: &Bond, wanted: Placing) -> Result<(), Error> {
    // Without the right to it, what is on the bond cannot be seen either.
    privilege::require("placing streams", privilege::FOR_CLASSIFIERS).map_err(|error| refused(&error.to_string()))?;
    let bypassed = place::bypassed(bond);
    if wanted == Placing::On && !bypassed.is_empty() {
        let what = bypassed.join(", ");
        return Err(refused(&format!("{} has {what}, which would not see this transfer (--place=force)", bond.name)));
    }
    placer.attach(bond).map_err(|error| match &error {
        BpfError::Attach { source, .. } if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            refused("this kernel has no tcx (Linux 6.6, CONFIG_NET_XGRESS)")
        }
        _ => refused(&error.to_string()),
    })?;
    log::info!("placing streams on the slaves of {}", bond.name);
    Ok(())
}

fn refused(reason: &str) -> Error {
    Error::Usage(format!("--place cannot be done: {reason}"))
}

/// Counts whether the bond's hash agrees with the plan, where that is allowed. The first byte does not wait for it.
fn counting(transfer: &Transfer, port: u16, bond: &Bond) -> Option<Arc<Placer>> {
    let wanted = transfer.moves.sends && transfer.ebpf != EbpfMode::Off && privilege::kernel_at_least(6, 6);
    if !wanted || !privilege::missing(privilege::FOR_CLASSIFIERS).is_empty() {
        return None;
    }
    let placer = Arc::new(Placer::new(port, Role::Connector, false));
    let (counting, bond) = (Arc::clone(&placer), bond.clone());
    beside("attach", move || {
        if let Err(error) = counting.attach(&bond) {
            log::info!("the hash of {} is not followed: {error}", bond.name);
        }
    });
    Some(placer)
}

/// Which slave a stream is planned for, on this way.
pub(super) fn plan_of(view: &PathView) -> PlanOf {
    let (base, outlook) = (view.flow_base(), view.outlook.clone());
    let slaves: Vec<u32> = view.classes.iter().map(|class| class.ifindex).collect();
    Arc::new(move |port| slaves.get(usize::from(outlook.class_of(&base, port)?)).copied())
}

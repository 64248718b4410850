//! What a plan means for the slots that are there: which are kept, which get another port, what is new, what is no
//! longer needed. A plain function of slots and plan.

use super::SlotId;
use crate::bond::Planned;

/// A slot, as far as a plan is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) slot: SlotId,
    /// With the port that its stream really has.
    pub(super) planned: Planned,
    /// It has a stream, or a connection on its way.
    pub(super) alive: bool,
}

/// What becomes of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It lies right.
    Keep(SlotId, Planned),
    /// It gets a stream from another port; the one that it has carries on until then.
    Reassign(SlotId, Planned),
    /// A new one.
    Open(Planned),
    /// It is one too many.
    Drop(SlotId),
}

/// See the module documentation. Every entry of `plan` gets exactly one slot, and every slot at most one.
pub(super) fn reconcile(held: &[Held], plan: &[Planned]) -> Vec<Change> {
    let mut rest = held.to_vec();
    let (mut changes, mut wanted) = (Vec::new(), Vec::new());
    for planned in plan {
        let lies_right =
            |held: &Held| held.alive && held.planned.port == planned.port && held.planned.lane == planned.lane;
        match rest.iter().position(lies_right) {
            Some(found) => changes.push(Change::Keep(rest.remove(found).slot, *planned)),
            None => wanted.push(*planned),
        }
    }
    // Those with a stream first: it carries on until its successor is there.
    rest.sort_by_key(|held| !held.alive);
    let mut rest = rest.into_iter();
    for planned in wanted {
        changes.push(rest.next().map_or(Change::Open(planned), |held| Change::Reassign(held.slot, planned)));
    }
    changes.extend(rest.map(|held| Change::Drop(held.slot)));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn planned(lane: u16, port: u16) -> Planned {
        Planned { lane, port: Some(port), slave: None }
    }

    fn held(slot: u64, lane: u16, port: u16) -> Held {
        Held { slot: SlotId(slot), planned: planned(lane, port), alive: true }
    }

    #[test]
    fn what_lies_right_stays_and_what_does_not_gets_a_successor() {
        let there = [held(1, 0, 100), held(2, 1, 101), held(3, 2, 102)];
        let changes = reconcile(&there, &[planned(0, 100), planned(1, 201)]);
        assert_eq!(
            changes,
            [
                Change::Keep(SlotId(1), planned(0, 100)),
                Change::Reassign(SlotId(2), planned(1, 201)),
                Change::Drop(SlotId(3))
            ]
        );
    }

    #[test]
    fn what_was_never_had_is_opened_again() {
        let dead = Held { alive: false, ..held(1, 0, 100) };
        assert_eq!(reconcile(&[dead], &[planned(0, 100)]), [Change::Reassign(SlotId(1), planned(0, 100))]);
    }

    proptest! {
        #[test]
        fn plan_and_slots_are_matched_one_to_one(
            ports in proptest::collection::btree_set(0u16..40, 0..20),
            there in proptest::collection::btree_map(0u16..40, any::<bool>(), 0..20),
        ) {
            let plan: Vec<Planned> = ports.iter().map(|port| planned(port % 32, *port)).collect();
            let slot = |(port, alive): (&u16, &bool)| Held { alive: *alive, ..held((*port).into(), port % 32, *port) };
            let slots: Vec<Held> = there.iter().map(slot).collect();
            let changes = reconcile(&slots, &plan);
            let (mut served, mut used) = (Vec::new(), Vec::new());
            for change in changes {
                match change {
                    Change::Keep(slot, planned) => {
                        let port = u16::try_from(slot.0).unwrap();
                        prop_assert!(there[&port] && planned.port == Some(port));
                        served.push(planned);
                        used.push(slot);
                    }
                    Change::Reassign(slot, planned) => {
                        served.push(planned);
                        used.push(slot);
                    }
                    Change::Open(planned) => served.push(planned),
                    Change::Drop(slot) => used.push(slot),
                }
            }
            served.sort_by_key(|planned| planned.port);
            used.sort();
            prop_assert_eq!(served, plan);
            prop_assert_eq!(used, slots.iter().map(|held| held.slot).collect::<Vec<_>>());
        }
    }
}

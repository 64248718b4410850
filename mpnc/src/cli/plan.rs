//! The plan, for people and machines.

use crate::bond::Planned;
use crate::discover::PathView;

pub(super) fn render_text(view: &PathView, plan: &[Planned]) -> String {
    plan.iter()
        .map(|p| {
            format!(
                "stream {} port {:?} {}\n",
                p.lane,
                p.port,
                p.slave.map_or_else(String::new, |s| view.class_name(s))
            )
        })
        .collect()
}

pub(super) fn render_json(view: &PathView, plan: &[Planned]) -> String {
    render_text(view, plan)
}

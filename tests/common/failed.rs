//! What a listener with `-k --json` tells machines of a session that failed.

use super::common::process::Side;
use serde_json::Value;

/// Waits until it has told of this session, which must have failed, and answers the object.
#[track_caller]
pub(crate) fn failure_of(listener: &Side, session: u64) -> Value {
    let line = listener.wait_for_words(&format!("\"session\":{session},"));
    let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&told["session"], &told["confirmed"]), (&session.into(), &false.into()), "{line}");
    told
}

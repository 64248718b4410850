//! What came of one session of the table, held against what must always be so and against what its row says.

use super::cell::{Code, End, Way};

/// What was seen of a session after it was over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Exit codes; none for a signal. Of a listener that goes on: 0 or 1 by what it said of the session.
    pub(crate) sender: Option<i32>,
    pub(crate) receiver: Option<i32>,
    pub(crate) output: Vec<u8>,
    /// The command has made its file.
    pub(crate) whole: bool,
    /// What came back with --duplex.
    pub(crate) back: Vec<u8>,
    /// Processes, threads, descriptors and files that are left, hangs, refused successors.
    pub(crate) left: Vec<String>,
}

fn is(seen: Option<i32>, expected: Code) -> bool {
    match expected {
        Code::Is(code) => seen == Some(code),
        Code::Signal => matches!(seen, None | Some(129..=143)),
    }
}

/// All that is wrong with it.
pub(crate) fn problems(way: Way, end: End, input: &[u8], back: &[u8], seen: &Seen) -> Vec<String> {
    let mut found = seen.left.clone();
    let whole = seen.output == input;
    if !input.starts_with(&seen.output) {
        found.push(format!("foreign data: {} bytes that are no beginning of the input", seen.output.len()));
    }
    for (side, code) in [("sender", seen.sender), ("receiver", seen.receiver)] {
        if code == Some(0) && !whole {
            found.push(format!("the {side} says 0 with {} of {} bytes", seen.output.len(), input.len()));
        }
        if code == Some(0) && end == End::Duplex && seen.back != back {
            found.push(format!("the {side} says 0 with {} of {} bytes sent back", seen.back.len(), back.len()));
        }
    }
    if !back.starts_with(&seen.back) {
        found.push("foreign data came back".into());
    }
    // The kernel closes the pipe of a killed mpnc a moment before it kills the command: what is not the direct child
    // can be quicker.
    let helpless = way == Way::ReceiverKilled;
    if seen.whole && !whole && !helpless {
        found.push("the command took a broken stream for a whole one".into());
    }
    if seen.whole && seen.receiver != Some(0) && way.is_midway() && !helpless {
        found.push("the command saw an end of a stream that had none".into());
    }
    let (sender, receiver) = way.codes();
    if !is(seen.sender, sender) {
        found.push(format!("the sender ended with {:?}, not {sender:?}", seen.sender));
    }
    // A listener that goes on has no exit code for one session.
    let goes_on = end.keeps() && !way.ends_listener();
    let receiver = if goes_on && receiver != Code::Is(0) { Code::Is(1) } else { receiver };
    if !is(seen.receiver, receiver) {
        found.push(format!("the receiver ended with {:?}, not {receiver:?}", seen.receiver));
    }
    found
}

/// In a few words, for the table.
pub(crate) fn words(end: End, way: Way, input: &[u8], seen: &Seen) -> String {
    let code = |code: Option<i32>| match code {
        None | Some(129..=143) => "signal".to_owned(),
        Some(1) if end.keeps() && !way.ends_listener() => "reported".to_owned(),
        Some(code) => code.to_string(),
    };
    let sender = match seen.sender {
        Some(code) if code < 128 => code.to_string(),
        _ => "signal".into(),
    };
    let output = match seen.output.len() {
        _ if seen.output == input => "all",
        0 => "none",
        _ => "a part",
    };
    format!("{sender} / {}, {output}", code(seen.receiver))
}

#[test]
fn what_must_never_be_is_found() {
    let input = b"0123456789";
    let good = Seen { sender: Some(0), receiver: Some(0), output: input.to_vec(), ..Seen::default() };
    let judged = |change: fn(&mut Seen)| {
        let mut seen = good.clone();
        change(&mut seen);
        problems(Way::Delivered, End::File, input, b"", &seen).len()
    };
    assert_eq!(judged(|_| ()), 0);
    assert_eq!(judged(|seen| seen.output.truncate(9)), 2, "both sides lie");
    assert_eq!(judged(|seen| seen.output.push(0)), 3, "and the data is foreign");
    assert_eq!(judged(|seen| seen.sender = Some(4)), 1);
    assert_eq!(judged(|seen| seen.receiver = None), 1);
    assert_eq!(judged(|seen| seen.left.push("a process".into())), 1);
    let cut = Seen { sender: None, receiver: Some(4), output: b"0".to_vec(), whole: true, ..Seen::default() };
    assert_eq!(problems(Way::SenderKilled, End::Command, input, b"", &cut).len(), 2);
}

//! The thread of one session of a listener, from the first greeting to the report: everything that takes time.

use super::caller::Caller;
use super::deadline::LINGER;
use super::ends::attend;
use super::hub::Hub;
use super::lookout::Lookout;
use super::report::conclude;
use super::sessions::Sessions;
use super::start::Begun;
use crate::wire::SessionId;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::RecvError;
use std::thread;
use std::time::{Duration, Instant};

/// The first stream to ask again begins the session; if none is there any more, its place is free after this long.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// Starts the thread of a session that has just asked to be let in.
///
/// # Errors
/// The system has no thread to spare; the session is forgotten then.
pub(super) fn start(sessions: &Arc<Sessions>, id: SessionId, peer: SocketAddr) -> io::Result<()> {
    let own = Arc::clone(sessions);
    let thread = thread::Builder::new().name("session".into()).spawn(move || serve(&own, id, peer));
    thread.map(drop).inspect_err(|_| sessions.over(id, false))
}

/// Looks up the bond towards `peer`, sees the session through, and reports it.
fn serve(sessions: &Arc<Sessions>, id: SessionId, peer: SocketAddr) {
    let introduction = (sessions.options.introduce)(peer.ip());
    let begins = sessions.prepared(id, introduction);
    let begun = match begins.recv_timeout(ASKED_AGAIN) {
        // It may have begun just now.
        Err(_) if !sessions.withdraw(id) => begins.recv(),
        in_time => in_time.map_err(|_| RecvError),
    };
    let had_begun = begun.is_ok();
    if let Ok((caller, begun)) = begun {
        see_through(sessions, caller, begun);
    } else {
        log::info!("{peer} is gone: it begins no session");
    }
    sessions.over(id, had_begun);
}

fn see_through(sessions: &Sessions, caller: Caller, Begun { hub, queue, mut lookout }: Begun) {
    let begun = || (sessions.options.on_session)(&hub, &caller);
    attend(&sessions.service.open, &caller, &hub, queue, &mut lookout, begun);
    flush(&hub, &mut lookout);
    let outcome = conclude(&hub, caller.peer, Vec::new());
    (sessions.service.on_end)(&caller, outcome);
}

/// Waits for the session's end, and then for its streams to have said their last words.
fn flush(hub: &Hub, lookout: &mut Lookout) {
    while !hub.is_ended() {
        lookout.wait(hub, None);
    }
    let until = Instant::now() + LINGER.saturating_sub(hub.since_end().unwrap_or_default());
    while hub.members() > 0 && Instant::now() < until {
        lookout.wait(hub, Some(until));
    }
}

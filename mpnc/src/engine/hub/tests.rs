//! How often a session is locked: once for a step of a loop, however many streams, frames and blocks the step is about.
//! And what each of several loops hears of it.

use super::*;
use crate::wire::{Ack, Means};

const STREAMS: u32 = 8;

fn hub(sends: bool) -> Arc<Hub> {
    hub_of(sends, Vec::new())
}

/// One whose path manager is in the first of the loops with these bells.
fn hub_of(sends: bool, bells: Vec<Arc<Bell>>) -> Arc<Hub> {
    let config = Config {
        sends,
        receives: !sends,
        any_order: false,
        window: 1 << 20,
        timeout: Duration::from_secs(30),
        rate: None,
    };
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let setup =
        Setup { peer, config, block: 4096, peer_block: 4096, writer: None, digest: false, plans: !bells.is_empty() };
    let hub = Hub::new(setup, bells).0;
    for id in 0..STREAMS {
        assert!(hub.stream_up(StreamId(id), &Terms { window: 1 << 20, block: 4096, bond: None }));
    }
    hub
}

/// Locks that `what` takes.
fn locks(hub: &Hub, what: impl FnOnce()) -> u64 {
    let before = hub.locked.load(Ordering::Relaxed);
    what();
    hub.locked.load(Ordering::Relaxed) - before
}

#[test]
fn all_streams_are_filled_in_one_lock_and_a_turn_is_another() {
    let hub = hub(true);
    for _ in 0..STREAMS {
        let block = hub.input_pool().take().unwrap();
        assert!(hub.input(block, 0));
    }
    let mut encoders: Vec<Encoder<Payload>> = (0..STREAMS).map(|_| Encoder::default()).collect();
    assert_eq!(locks(&hub, || hub.fill((0..).map(StreamId).zip(&mut encoders))), 1);
    assert!(encoders.iter().all(|encoder| encoder.rest()[1].len() == 4096), "a block for each");
    assert_eq!(locks(&hub, || drop(hub.turn(0))), 1);
}

#[test]
fn what_was_read_is_taken_in_with_the_next_block_in_one_lock() {
    let hub = hub(false);
    let extent = |n: u64| Extent { offset: n * 4096, len: 4096 };
    let mut bytes = None;
    for n in 0..3 {
        let frames = [
            Frame::Ping { token: n },
            Frame::Observation(Observation { ifindex: None, place: None, by: Means::Other }),
        ];
        let mut read: Vec<Read> = frames.into_iter().map(Read::Frame).collect();
        read.extend(bytes.take().map(|bytes| Read::Data { extent: extent(n - 1), bytes: Some(bytes), crc: 0 }));
        let taken = locks(&hub, || bytes = hub.take_in(StreamId(0), &mut read, Some(extent(n))).unwrap());
        assert_eq!((taken, read.len(), bytes.is_some()), (1, 0, true), "{n}");
    }
    let mut again = Vec::new();
    assert!(hub.take_in(StreamId(1), &mut again, Some(extent(0))).unwrap().is_none(), "it is here already");
    let mut lie = vec![Read::Frame(Frame::Ack(Ack::default()))];
    assert!(hub.take_in(StreamId(1), &mut lie, Some(extent(9))).is_err(), "who only receives is owed no Ack");
    assert!(hub.is_ended());
}

#[test]
fn every_loop_has_the_errands_and_the_first_alone_the_news() {
    let polls: Vec<mio::Poll> = (0..3).map(|_| mio::Poll::new().unwrap()).collect();
    let bell = |poll: &mio::Poll| Bell::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
    let hub = hub_of(true, polls.iter().map(bell).collect());
    hub.close(StreamId(3));
    hub.pin(StreamId(4));
    hub.stream_down(StreamId(5), true);
    assert_eq!(hub.stream_count(), STREAMS as usize - 2);
    for index in [2, 0, 1] {
        let Turn { mut orders, news, .. } = hub.turn(index);
        let orders = orders.make_contiguous();
        assert!(matches!(orders, [Errand::Close(StreamId(3)), Errand::Pin(StreamId(4))]), "{index} {orders:?}");
        let events = news.map(|news| Vec::from(news.events));
        let gone = [3, 5].map(|id| Event::Drop(StreamId(id))).to_vec();
        assert_eq!(events, (index == 0).then_some(gone), "{index}");
    }
    assert!(hub.turn(1).orders.is_empty(), "once is enough");
}

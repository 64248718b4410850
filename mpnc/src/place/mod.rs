//! The program on the bond's egress, kept informed: which slaves the bond has, what it hashes by, which streams there
//! are and which slave each is planned for. It counts whether bond and plan agree, and, where streams are placed, sends
//! what the bond would send elsewhere by the planned slave.
//!
//! Where streams are placed, that is good for a second from the last look at the bond: a process that is stopped, or
//! killed, leaves its streams to the bond. A slave that can carry nothing is taken out of its slot at once, and its
//! streams go as the bond sends them. Must not know which port is chosen for which slave, nor sessions.

#[cfg(feature = "ebpf")]
mod kernel;
#[cfg(not(feature = "ebpf"))]
#[path = "without.rs"]
mod kernel;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mpnc_ebpf::contract::{Agreement, BondNow, StreamKey};
use mpnc_ebpf::{Flow, Policy};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use crate::bond::{Bond, Era, KernelHash, Mode, placing};
use crate::bpf::loss::Loss;
use crate::bpf::{BpfError, privilege};
use crate::discover::{self, LinkWatch, Tree};
use crate::error::words;
use crate::observe::Role;
use kernel::{Key, NO_SLOT, Program};

/// How long streams are placed without another look at the bond.
const LEASE: Duration = Duration::from_secs(1);
/// The bond is looked at this often, and whenever the kernel tells of a change: not all that LACP does is told.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// So often in a row a bond is looked for in vain before it counts as gone: a reading may come to nothing.
const GONE: u8 = 2;
/// A stream has sent something by then: its handshake at least.
const SEEN_BY: Duration = Duration::from_secs(1);

/// The slave (interface index) that a stream from this host's port is planned for.
pub type PlanOf = Arc<dyn Fn(u16) -> Option<u32> + Send + Sync>;

/// See the module documentation. The program is gone when this value goes.
#[derive(Debug)]
pub struct Placer {
    inner: Arc<Inner>,
}

/// What the program has seen of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// What it counted.
    pub agreement: Agreement,
    /// Name of the slave that the bond's hash led its last frame to, if a hash decides.
    pub would: Option<String>,
    /// Whether the stream was planned for a slave of the bond, so that there was something to agree with.
    pub planned: bool,
}

/// A stream that the program knows, as long as this value lives.
#[derive(Debug)]
pub struct Held {
    inner: Weak<Inner>,
    key: Key,
    id: u64,
}

#[derive(Debug)]
struct Inner {
    port: u16,
    role: Role,
    places: bool,
    era: Era,
    state: Mutex<State>,
    /// That nothing can be placed any longer.
    loss: Loss,
}

#[derive(Default)]
struct State {
    bonds: Vec<OnBond>,
    streams: BTreeMap<Key, Stream>,
    /// Of a connector: the last stream from each port, and whether it was ever planned for a slave.
    ports: BTreeMap<u16, (Key, bool)>,
    plan: Option<PlanOf>,
    next: u64,
    /// The bond was last looked at, by whoever began last.
    looked: Duration,
    /// That nothing is seen of a stream has been said.
    said_unseen: bool,
}

/// The program on one bond.
#[derive(Debug)]
struct OnBond {
    program: Program,
    bond: Bond,
    /// What the program was told: where each stream is planned to leave, by the slave's place among all of the bond's;
    /// and the interfaces of these, and of what the hash chooses among.
    slots: BTreeMap<Key, Option<usize>>,
    slaves: (Vec<u32>, Vec<u32>),
    /// How often in a row it was not there when looked for.
    missed: u8,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    local_port: u16,
    peer: SocketAddr,
    since: Instant,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("bonds", &self.bonds).field("streams", &self.streams).finish_non_exhaustive()
    }
}

/// What on a bond's egress would not see a stream that is placed, in words.
#[must_use]
pub fn bypassed(bond: &Bond) -> Vec<String> {
    let unseen = |error: &dyn ToString| format!("something on its egress, perhaps: {}", error.to_string());
    let mut found = discover::on_egress(bond.ifindex).unwrap_or_else(|error| vec![unseen(&words(&error))]);
    match kernel::others(&bond.name) {
        Ok(Some(0)) => {}
        Ok(Some(1)) => found.push("another program on its egress (tcx)".to_owned()),
        Ok(Some(more)) => found.push(format!("{more} other programs on its egress (tcx)")),
        Ok(None) => found.push("a program on its egress (tcx; perhaps another mpnc's)".to_owned()),
        Err(error) => found.push(unseen(&error)),
    }
    found
}

impl Placer {
    /// For the sessions of this port over these bonds. Nothing is done before [`Placer::attach`].
    #[must_use]
    pub fn new(port: u16, role: Role, places: bool) -> Self {
        let era = KernelHash::of_release(&Tree::default().kernel_release()).era;
        Self { inner: Arc::new(Inner { port, role, places, era, state: Mutex::default(), loss: Loss::default() }) }
    }

    /// Puts the program on a bond's egress, and follows the bond from then on. Needs `CAP_BPF` and `CAP_NET_ADMIN` in
    /// the calling thread, Linux 6.6 (tcx), a bond of this network namespace.
    ///
    /// # Errors
    /// What is missing; `EINVAL` from attaching where the kernel has no tcx.
    pub fn attach(&self, bond: &Bond) -> Result<(), BpfError> {
        let watch = LinkWatch::new().map_err(|source| BpfError::Watch { source })?;
        let what = if self.inner.places { "placing streams" } else { "following the bond's hash" };
        let began = now();
        let program = Program::attach(what, &bond.name, (self.inner.port, self.inner.role))?;
        let mut state = self.inner.lock();
        let mut on_bond =
            OnBond { program, bond: bond.clone(), slots: BTreeMap::new(), slaves: Default::default(), missed: 0 };
        on_bond.write(&self.inner, began)?;
        state.bonds.push(on_bond);
        state.replan(&self.inner);
        drop(state);
        // What the caller knows of the bond is older than the watch.
        self.inner.look();
        let (inner, ifindex) = (Arc::downgrade(&self.inner), bond.ifindex);
        let follow = move || {
            // Rights are a thread's own, and the maps take none.
            if let Err(error) = privilege::keep_only(&[]) {
                log::debug!("cannot give up privileges: {}", words(&error));
            }
            follow(&inner, ifindex, watch);
        };
        let thread = thread::Builder::new().name("placer".into()).spawn(follow);
        thread.map(drop).map_err(|source| BpfError::Watch { source })
    }

    /// Which slave each stream is planned for, from now on. Without that they are shared out evenly, if they are
    /// placed.
    pub fn plan_by(&self, plan: PlanOf) {
        let mut state = self.inner.lock();
        state.plan = Some(plan);
        state.replan(&self.inner);
    }

    /// Tells the program of a stream, before its first packet if that can be.
    #[must_use]
    pub fn hold(&self, local_port: u16, peer: SocketAddr) -> Option<Held> {
        let key = key(local_port, peer)?;
        let mut state = self.inner.lock();
        let id = state.next;
        state.next += 1;
        state.streams.insert(key, Stream { id, local_port, peer, since: Instant::now() });
        if self.inner.role == Role::Connector {
            state.ports.insert(local_port, (key, false));
        }
        // An earlier stream of these ports and this peer is another one.
        state.bonds.iter_mut().for_each(|on| on.program.begin(&key));
        state.replan(&self.inner);
        Some(Held { inner: Arc::downgrade(&self.inner), key, id })
    }

    /// Looks at the bonds now.
    pub fn look(&self) {
        self.inner.look();
    }

    /// Whether streams are placed on this bond (its interface index), as it was when last looked at.
    #[must_use]
    pub fn is_placing_on(&self, bond: u32) -> bool {
        let on_it = |on: &OnBond| on.bond.ifindex == bond && may_place(on.bond.mode);
        self.inner.places && self.inner.lock().bonds.iter().any(on_it)
    }

    /// A connection from here has been answered, so its packets have left. Where the program has seen none of them,
    /// another takes them before it, or they have other ports by then: it is taken off, and `lost` is called.
    pub fn answered(&self, held: &Held) {
        let mut state = self.inner.lock();
        if !self.inner.places || state.bonds.is_empty() || state.is_seen(&held.key) {
            return;
        }
        let bonds = std::mem::take(&mut state.bonds);
        let names: Vec<&str> = bonds.iter().map(|on| on.bond.name.as_str()).collect();
        log::warn!(
            "nothing is placed: the program on {} does not see this session's packets (another program before it \
             takes them, something of this host rewrites or wraps them (NAT, IPsec, a connect hook), or the route \
             leads elsewhere); they go as they would without it",
            names.join(", ")
        );
        drop(state);
        // Taking it off may wait for the kernel, and this is an event loop.
        let off = thread::Builder::new().name("unplace".into()).spawn(move || drop(bonds));
        if let Err(error) = off {
            log::debug!("cannot start a thread: {error}");
        }
        self.inner.loss.come();
    }

    /// That nothing can be placed any longer.
    #[must_use]
    pub fn loss(&self) -> &Loss {
        &self.inner.loss
    }

    /// What was counted of a stream, living or over, by the bond that saw most of it. `connector_port` is the
    /// connector's end of it, whichever side this is; `peer` is the other host, of which a connector has one, by
    /// whichever of its addresses.
    #[must_use]
    pub fn followed(&self, connector_port: u16, peer: IpAddr) -> Option<Followed> {
        let state = self.inner.lock();
        let (key, planned) = match self.inner.role {
            Role::Connector => *state.ports.get(&connector_port)?,
            Role::Listener => (key(self.inner.port, SocketAddr::new(peer, connector_port))?, self.inner.places),
        };
        let counted = state.bonds.iter().filter_map(|on| Some((on, on.program.agreement(&key)?)));
        let (on, agreement) = counted.max_by_key(|(_, agreement)| agreement.frames)?;
        let would = on.bond.slaves.iter().find(|slave| u64::from(slave.ifindex) == agreement.would);
        Some(Followed { agreement, would: would.map(|slave| slave.name.clone()), planned })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut state = inner.lock();
        // Its port may have another stream by now.
        if state.streams.get(&self.key).is_some_and(|stream| stream.id == self.id) {
            state.streams.remove(&self.key);
            for on in &mut state.bonds {
                on.slots.remove(&self.key);
                on.program.forget(&self.key);
            }
            // Those that are left may be uneven without it.
            state.replan(&inner);
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        // The reading takes its time, and the loops may want to tell of a stream meanwhile. So may somebody look who
        // began later: what is older than that is no news.
        let began = now();
        let bonds = discover::bonds(&Tree::default());
        let mut state = self.lock();
        if began < state.looked {
            return;
        }
        state.looked = began;
        let mut changed = false;
        for on in &mut state.bonds {
            match bonds.iter().find(|bond| bond.ifindex == on.bond.ifindex) {
                Some(bond) if *bond == on.bond => on.missed = 0,
                Some(bond) => {
                    on.missed = 0;
                    on.bond.clone_from(bond);
                    changed = true;
                }
                None => {
                    on.bond.slaves.clear();
                    on.missed += 1;
                }
            }
            if let Err(error) = on.write(self, began) {
                log::warn!("{error}; streams go as the bond sends them");
            }
        }
        let lost = state.take_gone(self.places);
        if changed {
            state.replan(self);
        }
        state.say_unseen(self.places);
        drop(state);
        if lost {
            self.loss.come();
        }
    }
}

impl State {
    /// Takes out bonds that are not there any more, and their programs went with them. Answers whether that was the
    /// last one.
    fn take_gone(&mut self, places: bool) -> bool {
        let gone: Vec<OnBond> = self.bonds.extract_if(.., |on| on.missed >= GONE).collect();
        for on in gone.iter().filter(|_| places) {
            log::warn!("{} is gone: nothing is placed there any more, nor on one that is made anew", on.bond.name);
        }
        !gone.is_empty() && self.bonds.is_empty()
    }

    /// Whether a packet of the stream has been seen on any bond.
    fn is_seen(&self, key: &Key) -> bool {
        self.bonds.iter().any(|on| on.program.agreement(key).is_some())
    }

    /// Plans every stream, and tells the program what is new.
    fn replan(&mut self, inner: &Inner) {
        let Self { bonds, streams, plan, ports, .. } = self;
        for on in bonds {
            let slots = match plan {
                Some(plan) => on.by_plan(streams, plan),
                None if inner.places => on.shared_out(streams),
                None => streams.keys().map(|key| (*key, None)).collect(),
            };
            let mut failed = Vec::new();
            for (key, slot) in slots.iter().filter(|(key, slot)| on.slots.get(*key) != Some(slot)) {
                if let Some((_, planned)) = ports.values_mut().find(|(of, _)| of == key).filter(|_| slot.is_some()) {
                    *planned = true;
                }
                let number = slot.and_then(|slot| u32::try_from(slot).ok()).unwrap_or(NO_SLOT);
                if let Err(error) = on.program.plan(key, number) {
                    log::warn!("{error}; a stream goes as the bond sends it");
                    failed.push(*key);
                }
            }
            on.slots = slots;
            // To be tried again with the next plan.
            on.slots.retain(|key, _| !failed.contains(key));
        }
    }

    /// Says once that streams are not seen that have sent something for certain.
    fn say_unseen(&mut self, places: bool) {
        let unseen = |(key, stream): (&Key, &Stream)| stream.since.elapsed() >= SEEN_BY && !self.is_seen(key);
        let seen = self.streams.keys().any(|key| self.is_seen(key));
        if !self.said_unseen && !self.bonds.is_empty() && !seen && self.streams.iter().any(unseen) {
            self.said_unseen = true;
            let names: Vec<&str> = self.bonds.iter().map(|on| on.bond.name.as_str()).collect();
            // Whoever asked for placing is to know that it is not done.
            let level = if places { log::Level::Warn } else { log::Level::Info };
            log::log!(
                level,
                "the program on {} sees nothing of the streams: they leave elsewhere, or another program is before it",
                names.join(", ")
            );
        }
    }
}

impl OnBond {
    /// Tells the program what the bond was when somebody began to look at it, and that the lease begins then.
    fn write(&mut self, inner: &Inner, began: Duration) -> Result<(), BpfError> {
        let may_place = may_place(self.bond.mode);
        let usable: Vec<u32> = self.bond.usable().iter().map(|slave| slave.ifindex).collect();
        let fits = |ifindex: &u32| usable.contains(ifindex) && (may_place || !inner.places);
        let fit = |ifindex: u32| Some(ifindex).filter(fits).unwrap_or(0);
        let slots: Vec<u32> = self.bond.slaves.iter().map(|slave| fit(slave.ifindex)).collect();
        let count = usable.len();
        let slaves = (slots, usable);
        if self.slaves != slaves {
            self.program.set_slaves(&slaves.0, &slaves.1)?;
            self.slaves = slaves;
        }
        let lease = if inner.places && may_place { began.saturating_add(LEASE) } else { Duration::ZERO };
        let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        self.program.set_bond(now_of(&self.bond, inner.era, count, lease))
    }

    fn by_plan(&self, streams: &BTreeMap<Key, Stream>, plan: &PlanOf) -> BTreeMap<Key, Option<usize>> {
        let slot = |port| {
            let ifindex = plan(port)?;
            self.bond.slaves.iter().position(|slave| slave.ifindex == ifindex)
        };
        streams.iter().map(|(key, stream)| (*key, slot(stream.local_port))).collect()
    }

    /// The streams of each peer evenly over what can carry them.
    fn shared_out(&self, streams: &BTreeMap<Key, Stream>) -> BTreeMap<Key, Option<usize>> {
        let mut weights: Vec<u32> = vec![0; self.bond.slaves.len()];
        for (slave, weight) in self.bond.usable().iter().zip(self.bond.weights()) {
            let place = self.bond.slaves.iter().position(|other| other.ifindex == slave.ifindex);
            place.and_then(|place| weights.get_mut(place)).into_iter().for_each(|to| *to = weight.max(1));
        }
        let mut peers: BTreeMap<IpAddr, Vec<(u64, Key)>> = BTreeMap::new();
        for (key, stream) in streams {
            peers.entry(stream.peer.ip()).or_default().push((stream.id, *key));
        }
        let (mut all, mut load) = (BTreeMap::new(), vec![0; weights.len()]);
        for mut keys in peers.into_values() {
            keys.sort_unstable();
            let now: Vec<Option<usize>> = keys.iter().map(|(_, key)| self.slots.get(key).copied().flatten()).collect();
            let shared = placing::share_out(&now, &weights, &load);
            shared.iter().flatten().for_each(|slot| load[*slot] += 1);
            all.extend(keys.iter().zip(shared).map(|((_, key), slot)| (*key, slot)));
        }
        all
    }
}

/// Whether a frame may leave by any slave that can carry it.
fn may_place(mode: Mode) -> bool {
    matches!(mode, Mode::RoundRobin | Mode::Xor | Mode::Ieee8023ad)
}

/// What the program is told of a bond.
fn now_of(bond: &Bond, era: Era, usable: usize, lease: u64) -> BondNow {
    let by_hash = match bond.mode {
        Mode::Xor | Mode::Ieee8023ad => true,
        Mode::Tlb | Mode::Alb => !bond.dynamic_lb,
        Mode::RoundRobin | Mode::ActiveBackup | Mode::Broadcast => false,
    };
    let slaves = if by_hash && bond.ordered && bond.policy.is_some() { usable as u64 } else { 0 };
    let policy = bond.policy.unwrap_or(Policy::Layer2);
    BondNow { slaves, policy: policy as u64, era: era as u64, lease, by_socket: u64::from(policy == Policy::Encap34) }
}

/// `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` shows.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

fn key(local_port: u16, peer: SocketAddr) -> Option<Key> {
    let ip = peer.ip().to_canonical();
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Flow::new(any, ip, local_port, peer.port()).map(|flow| StreamKey::leaving(&flow).to_bytes())
}

/// Looks at the bond again and again, for as long as there is a placer.
fn follow(inner: &Weak<Inner>, ifindex: u32, mut watch: LinkWatch) {
    let mut looked = Instant::now();
    loop {
        let left = LOOK_EVERY.saturating_sub(looked.elapsed());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let changed = match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => false,
            // A slave's message names the bond as its controller.
            Ok(_) => watch.drain(&[ifindex]).unwrap_or_else(|error| {
                log::debug!("watching the bond: {}", words(&error));
                true
            }),
            Err(error) => {
                log::warn!("cannot watch the bond any longer, its streams are no longer placed: {error}");
                return;
            }
        };
        let Some(inner) = inner.upgrade() else { return };
        if inner.lock().bonds.is_empty() {
            return;
        }
        // Others' links change as well, on a host with containers all the time.
        if changed || looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            inner.look();
        }
    }
}

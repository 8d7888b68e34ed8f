//! The WAN emulator: UDP relays between pairs of regions that delay, drop and limit as an ocean would.
//!
//! How it goes: [`Wan::link`] opens a relay on loopback that a node in one region dials and that forwards to a
//! node in another. A *relay thread* reads all sockets and offers each packet to its path, which decides when
//! it is due, or that it is lost. A *delivery thread* sends each packet at its due time. [`Wan::cut`],
//! [`Wan::heal`] and [`Wan::reshape`] change the network while it runs, from any thread; [`Wan::report`] says
//! what happened and how late the emulator itself was.
//!
//! What always holds:
//!
//! 1. **W1** No packet is early: it leaves at its due time or later, and how much later is recorded.
//! 2. **W2** When [`Wan::cut`] has returned, nothing passes until the heal; what was under way is lost.
//! 3. **W3** One seed gives one sequence of losses, duplicates and jitters per path, by order of packets.
//! 4. **W4** Flows, packets under way and queues are bounded; at a bound packets are dropped and counted.
//!
//! What is not here: which links there are and what happens to them when (a scenario's business); TCP; any
//! address beyond this machine; faults of processes and disks.
//!
//! Why not timers of the asynchronous runtime: their grain is a millisecond, as coarse as the convergence
//! that is measured through these links. Why not the kernel's own emulator (netem): it needs privileges and
//! is not built into every kernel; this needs neither.
//!
//! What it costs (example `wan_cost`, 1,200-byte packets at random moments, two virtual cores shared with
//! other work, medians of five runs): nothing without traffic; 31, 20, 17 and 7 µs of processor per packet at
//! 2,000, 5,000, 10,000 and 50,000 packets a second, that is 6, 10, 17 and 36 % of a core. Half of the packets
//! leave within 45 µs of their due time up to 10,000 a second, and within 80 µs at 50,000. The tail, one
//! packet in a hundred later than 1 to 3 ms, is the machine's: there a thread that does nothing but look at
//! the clock finds gaps of up to 25 ms.

mod cuts;
mod delivery;
mod exchange;
mod flows;
mod path;
mod relay;
mod report;
mod shape;
mod switch;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use atoll_geo::RegionName;

use cuts::Place;
use exchange::Exchange;
use relay::{Limits, Opening, Relay};
use switch::Switch;

pub use report::{DelayError, DirectionReport, FlowCounters, PathCounters, WanReport};
pub use shape::{
    BANDWIDTH_BPS_MAX, BANDWIDTH_BPS_MIN, DELAY_MS_MAX, JITTER_MS_MAX, JitterKind, LinkShape, QUEUE_BYTES_DEFAULT,
    Shape, ShapeError, ShapeSpec,
};

/// How many links may be waiting for the relay thread to take them up.
const OPENINGS_MAX: usize = 16;

/// How the emulator runs. [`WanConfig::default`] suits a handful of nodes on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WanConfig {
    /// Where all randomness comes from (W3).
    pub seed: u64,
    /// How many client addresses one link serves at once; at the bound the longest idle gives way. Each takes
    /// a file descriptor.
    pub flows_per_link_max: usize,
    /// How long a client may be silent before it is forgotten. Longer than the keep-alive of what runs over
    /// the link, or its replies go nowhere.
    pub flow_idle_max: Duration,
    /// How much may be under way over all links, in bytes: rate times delay, with 128 bytes on top of each
    /// packet. Beyond it packets are dropped, which is not part of the model and counted as `emulator_full`.
    pub in_flight_bytes_max: usize,
    /// How long the delivery thread sleeps at least, once it has sent all that was due. A packet may be late by
    /// this much; in return the thread wakes at most `1 / grain` times a second, and a wake is what costs
    /// (about 20 µs of a virtual machine's processor). It is not felt while packets are further apart.
    pub delivery_grain: Duration,
    /// The buffers asked of the system for each socket, in bytes: what may wait while this process waits for
    /// a processor. The system may grant less (Linux: `net.core.rmem_max`).
    pub socket_buffer_bytes: usize,
}

impl Default for WanConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            flows_per_link_max: 64,
            flow_idle_max: Duration::from_secs(60),
            in_flight_bytes_max: 64 << 20,
            delivery_grain: Duration::from_micros(100),
            socket_buffer_bytes: 4 << 20,
        }
    }
}

/// Why the emulator did not start, or did not open a link. What was open before stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// The system refused a thread or a poll: the environment's fault.
    #[error("the WAN emulator cannot start")]
    Start(#[source] io::Error),
    /// The system refused a socket, most likely for want of file descriptors: the environment's fault.
    #[error("cannot open a link from {from} to {to}")]
    Link {
        /// The region that was to dial.
        from: RegionName,
        /// The region of the target.
        to: RegionName,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The target is not on this machine: the caller's fault. An emulator that forwards anywhere would be an
    /// open relay.
    #[error("a link leads to this machine only, and {target} is not a loopback address")]
    NotLoopback {
        /// What was given.
        target: SocketAddr,
    },
    /// The relay thread has ended: our bug, or the system took its poll away.
    #[error("the WAN emulator has stopped; start a new one")]
    Stopped,
}

/// The emulator. Dropping it closes every link, drops what is under way, and ends its threads.
#[derive(Debug)]
pub struct Wan {
    exchange: Arc<Exchange>,
    config: WanConfig,
    openings: SyncSender<Opening>,
    waker: mio::Waker,
    threads: Vec<JoinHandle<()>>,
}

impl Wan {
    /// Starts the emulator's two threads, without any link.
    ///
    /// # Errors
    ///
    /// [`WanError::Start`] if the system refuses.
    pub fn start(config: WanConfig) -> Result<Self, WanError> {
        let switch = Switch::new(config.seed, config.in_flight_bytes_max);
        let exchange = Arc::new(Exchange::new(switch, config.delivery_grain));
        let limits = Limits {
            flows_per_link_max: config.flows_per_link_max,
            flow_idle_max: config.flow_idle_max,
            socket_buffer_bytes: config.socket_buffer_bytes,
        };
        let (openings, receiver) = sync_channel(OPENINGS_MAX);
        let (relay, waker) = Relay::new(Arc::clone(&exchange), limits, receiver).map_err(WanError::Start)?;
        let mut wan = Self { exchange, config, openings, waker, threads: Vec::new() };
        wan.spawn("wan-relay", move || relay.run())?;
        let exchange = Arc::clone(&wan.exchange);
        wan.spawn("wan-delivery", move || delivery::run(&exchange))?;
        Ok(wan)
    }

    /// If it fails, dropping `self` ends the threads that did start.
    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), WanError> {
        let builder = std::thread::Builder::new().name(name.to_owned());
        self.threads.push(builder.spawn(run).map_err(WanError::Start)?);
        Ok(())
    }

    /// Opens a link: whoever in `from` sends to the address this returns reaches `target` in `to`, and gets its
    /// replies, both shaped. Any number of links may join the same two regions, each with its own wire.
    ///
    /// # Errors
    ///
    /// [`WanError`]; nothing is left open.
    pub fn link(
        &self,
        from: &RegionName,
        to: &RegionName,
        target: SocketAddr,
        shape: impl Into<LinkShape>,
    ) -> Result<SocketAddr, WanError> {
        if !target.ip().is_loopback() {
            return Err(WanError::NotLoopback { target });
        }
        let refused = |source| WanError::Link { from: from.clone(), to: to.clone(), source };
        let listener = relay::listener_socket(self.config.socket_buffer_bytes).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let shape = shape.into();
        let (there, back) = self
            .exchange
            .change(|switch| (switch.add_path(from, to, shape.there), switch.add_path(to, from, shape.back)));
        let (taken, answer) = sync_channel(1);
        let opening = Opening { listener, target, there, back, taken };
        self.openings.send(opening).map_err(|_| WanError::Stopped)?;
        self.waker.wake().map_err(refused)?;
        answer.recv().map_err(|_| WanError::Stopped)?.map_err(refused)?;
        Ok(address)
    }

    /// Gives everything that travels from `from` to `to` a new shape, from the next packet on. A shorter delay
    /// does not overtake what is under way, unless the shape reorders. Returns how many links it concerns: 0
    /// most likely means a misspelt name.
    pub fn reshape(&self, from: &RegionName, to: &RegionName, shape: Shape) -> usize {
        self.exchange.change(|switch| switch.reshape(from, to, shape))
    }

    /// Cuts everything that travels from `from` to `to`, and nothing the other way, until it is healed: links
    /// that are open and links yet to open. When it returns, nothing passes any more (W2). Returns how many
    /// open links it concerns: 0 most likely means a misspelt name.
    pub fn cut(&self, from: &RegionName, to: &RegionName) -> usize {
        self.exchange.change(|switch| switch.cut(Place::Direction(from.clone(), to.clone())))
    }

    /// Undoes [`Wan::cut`] of the same direction. A direction stays down while one of its regions is cut.
    ///
    /// A packet is judged when the relay reads it, tens of microseconds after it was sent: what was sent just
    /// before the heal may pass.
    pub fn heal(&self, from: &RegionName, to: &RegionName) -> usize {
        self.exchange.change(|switch| switch.heal(Place::Direction(from.clone(), to.clone())))
    }

    /// Cuts every direction from and to `region`, until it is healed; otherwise as [`Wan::cut`]. Returns how
    /// many directions it concerns.
    pub fn cut_region(&self, region: &RegionName) -> usize {
        self.exchange.change(|switch| switch.cut(Place::Region(region.clone())))
    }

    /// Undoes [`Wan::cut_region`]. Directions that were cut for themselves, or whose other region is cut, stay
    /// down.
    pub fn heal_region(&self, region: &RegionName) -> usize {
        self.exchange.change(|switch| switch.heal(Place::Region(region.clone())))
    }

    /// Undoes every cut.
    pub fn heal_all(&self) {
        self.exchange.change(Switch::heal_all);
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> WanReport {
        self.exchange.report()
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.exchange.stop();
        // Without a wake the relay thread would not see the stop; it fails only if its poll is gone, and then
        // the thread is gone as well.
        let _ = self.waker.wake();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing left to do about it here.
            let _ = thread.join();
        }
    }
}

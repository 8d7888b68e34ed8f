//! The delivery thread: sends every packet when it is due.
//!
//! Why a plain sleep until the due time, and no spinning: on a virtual machine of two cores, shared with the
//! nodes that are measured, a sleeping thread wakes 30 to 50 µs after its time, once the kernel's timer slack
//! is out of the way. A spin of 60 µs before each packet would spare most of that and cost a third of a core
//! at 5,000 packets a second, which those who are measured would miss. The error is counted, not hidden.
//!
//! Why it rests for a grain of 100 µs between two rounds (`WanConfig::delivery_grain`): a timed wake costs
//! about 20 µs of such a machine's processor, several times as much as sending, and the grain bounds how often
//! that is paid. Measured with `wan_cost`, medians of five runs: against no grain it saves 18 % of the
//! processor at 5,000 packets a second and 6 % at 10,000, for 2 and 16 µs of median error; a grain of 200 µs
//! saves another 13 % at 10,000, but then half of the packets are more than 110 µs late.

use std::io;

use super::exchange::{Exchange, Next, Packet, Sent};
use super::switch::Departure;

/// How many packets are sent between two looks at the switch: few enough that a cut takes effect within a
/// fraction of a millisecond (about 5 µs each), enough that the lock is no cost.
const BATCH_PACKETS_MAX: usize = 64;

/// Delivers until the exchange stops. What is still under way then is dropped.
pub(super) fn run(exchange: &Exchange) {
    sleep_precisely();
    let mut batch = Vec::with_capacity(BATCH_PACKETS_MAX);
    let mut sent = Vec::with_capacity(BATCH_PACKETS_MAX);
    while exchange.turn_over(&mut sent, &mut batch, BATCH_PACKETS_MAX) == Next::Send {
        sent.extend(batch.drain(..).map(|departure| send(exchange, &departure)));
    }
}

fn send(exchange: &Exchange, departure: &Departure<Packet>) -> Sent {
    let late = exchange.now().saturating_sub(departure.due);
    let packet = &departure.packet;
    let was_sent = match send_once(packet) {
        // A connected socket reports here that an *earlier* packet found nobody listening; this one has not
        // been tried yet.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => send_once(packet).is_ok(),
        result => result.is_ok(),
    };
    Sent { path: departure.path, bytes: departure.bytes, late, was_sent }
}

fn send_once(packet: &Packet) -> io::Result<usize> {
    match packet.to {
        Some(to) => packet.via.send_to(&packet.payload, to),
        None => packet.via.send(&packet.payload),
    }
}

/// Asks the kernel not to round this thread's sleeps up to save power: its default slack of 50 µs would more
/// than double the delay error. Where that cannot be asked, the error is larger, and counted.
fn sleep_precisely() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)) {
        tracing::debug!(%error, "the WAN emulator's delays keep the kernel's timer slack");
    }
}

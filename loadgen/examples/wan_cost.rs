//! What the WAN emulator costs and how exact it is, on this machine.
//!
//! `cargo run --release -p atoll-loadgen --example wan_cost -- [seconds per rate] [grain in us]`
//!
//! One sender pays out 1,200-byte packets at random moments through a link of 40 ms, one receiver takes the
//! time of each. Two errors are printed. *Delivery* is the emulator's own: due time to send. *Whole way* is
//! what a node would see: send to receive, less the 40 ms; it contains the emulator's, two passages through
//! the loopback, and the wake-ups of the relay and of the receiver. CPU is the time the emulator's two
//! threads were on a processor (Linux only).

use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use atoll_geo::RegionName;
use atoll_loadgen::wan::{ShapeSpec, Wan, WanConfig};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A failure is printed and ends the program; nobody tells them apart here.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const DELAY: Duration = Duration::from_millis(40);
const PACKET_BYTES: usize = 1_200;
const RATES_PER_S: [u32; 4] = [2_000, 5_000, 10_000, 50_000];

/// The receiver gives up when nothing has come for this long: the rest is lost.
const SILENCE: Duration = Duration::from_millis(500);

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let mut config = WanConfig::default();
    if let Some(text) = arguments.next() {
        config.delivery_grain = Duration::from_micros(text.parse()?);
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:>9} {:>9}  {:^31}  {:^31}  {:>10} {:>9}\n{:>9} {:>9}  {}  {}  {:>10} {:>9}",
        "packets/s",
        "received",
        "delivery late, us",
        "whole way late, us",
        "CPU/packet",
        "of a core",
        "",
        "",
        header(),
        header(),
        "us",
        "%"
    )?;
    idle(config, seconds, &mut out)?;
    for rate in RATES_PER_S {
        run(config, rate, seconds, &mut out)?;
    }
    Ok(())
}

fn header() -> String {
    format!("{:>7} {:>7} {:>7} {:>7}", "p50", "p99", "p99.9", "max")
}

fn row(histogram: &Histogram<u64>) -> String {
    let at = |quantile| histogram.value_at_quantile(quantile);
    format!("{:>7} {:>7} {:>7} {:>7}", at(0.5), at(0.99), at(0.999), histogram.max())
}

/// An emulator with a link and nothing to do.
fn idle(config: WanConfig, seconds: u32, out: &mut impl Write) -> Result<(), Failure> {
    let (_wan, sender, receiver) = open(config)?;
    sender.send(&[0; PACKET_BYTES])?;
    receiver.recv(&mut [0; PACKET_BYTES])?;
    let before = emulator_cpu();
    let started = Instant::now();
    let length = Duration::from_secs(seconds.into());
    while started.elapsed() < length {
        thread::park_timeout(length.saturating_sub(started.elapsed()));
    }
    let cpu = share(emulator_cpu().zip(before), started.elapsed());
    writeln!(out, "{:>9} {:>9}  {:31}  {:31}  {:>10} {cpu:>9}", 0, 0, "", "", "")?;
    Ok(())
}

fn run(config: WanConfig, rate: u32, seconds: u32, out: &mut impl Write) -> Result<(), Failure> {
    let (wan, sender, receiver) = open(config)?;
    let count = u64::from(rate) * u64::from(seconds);
    let started = Instant::now();
    let before = emulator_cpu();
    let whole_way = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, count, started));
        pay_out(&sender, rate, count, started)?;
        receiving.join().map_err(|_| "the receiver panicked")?
    })?;
    let taken = started.elapsed();
    let after = emulator_cpu();
    let report = wan.report();
    let per_packet = match after.zip(before) {
        Some((after, before)) => {
            format!("{:.1}", (after - before).as_secs_f64() * 1e6 / count as f64)
        }
        None => "?".to_owned(),
    };
    writeln!(
        out,
        "{rate:>9} {:>8.2}%  {}  {}  {per_packet:>10} {:>9}",
        whole_way.len() as f64 * 100.0 / count as f64,
        row(report.delay_error.histogram_us()),
        row(&whole_way),
        share(after.zip(before), taken),
    )?;
    Ok(())
}

/// An emulator with one link, a socket that sends into it and one that it leads to.
fn open(config: WanConfig) -> Result<(Wan, UdpSocket, UdpSocket), Failure> {
    let wan = Wan::start(config)?;
    let delay_ms = DELAY.as_secs_f64() * 1e3;
    let shape = ShapeSpec { delay_ms, ..ShapeSpec::default() }.check()?;
    let receiver = socket()?;
    receiver.set_read_timeout(Some(SILENCE))?;
    let (from, to) = (RegionName::new("us-east-1")?, RegionName::new("eu-west-1")?);
    let relay = wan.link(&from, &to, receiver.local_addr()?, shape)?;
    let sender = socket()?;
    sender.connect(relay)?;
    Ok((wan, sender, receiver))
}

fn socket() -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
    Ok(socket)
}

/// Sends `count` packets at random moments (a Poisson process), each stamped with its sending time.
fn pay_out(sender: &UdpSocket, rate: u32, count: u64, started: Instant) -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(count);
    let mut packet = [0; PACKET_BYTES];
    let mut at = Duration::ZERO;
    for _ in 0..count {
        let draw: f64 = rng.random();
        at += Duration::from_secs_f64(-(1.0 - draw).ln() / f64::from(rate));
        while let Some(ahead) = at.checked_sub(started.elapsed()).filter(|ahead| !ahead.is_zero()) {
            thread::park_timeout(ahead);
        }
        let stamp_ns = u64::try_from(started.elapsed().as_nanos())?;
        packet[..8].copy_from_slice(&stamp_ns.to_be_bytes());
        sender.send(&packet)?;
    }
    Ok(())
}

/// Receives up to `count` packets, and records how much longer than the delay each was on its way, in us.
fn receive(receiver: &UdpSocket, count: u64, started: Instant) -> Result<Histogram<u64>, Failure> {
    let mut late = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let mut packet = [0; PACKET_BYTES];
    while late.len() < count {
        match receiver.recv(&mut packet) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
        let stamp: [u8; 8] = packet[..8].try_into()?;
        let sent = Duration::from_nanos(u64::from_be_bytes(stamp));
        let taken = started.elapsed().saturating_sub(sent);
        late.saturating_record(u64::try_from(taken.saturating_sub(DELAY).as_micros())?);
    }
    Ok(late)
}

fn share(after_before: Option<(Duration, Duration)>, taken: Duration) -> String {
    let Some((after, before)) = after_before else {
        return "?".to_owned();
    };
    format!("{:.2}", (after - before).as_secs_f64() * 100.0 / taken.as_secs_f64())
}

/// How long the emulator's threads have been on a processor, as the kernel counts it, to the nanosecond.
fn emulator_cpu() -> Option<Duration> {
    let mut on_cpu = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let task = task.ok()?.path();
        if std::fs::read_to_string(task.join("comm")).ok()?.starts_with("wan-") {
            let schedstat = std::fs::read_to_string(task.join("schedstat")).ok()?;
            on_cpu += Duration::from_nanos(schedstat.split(' ').next()?.parse().ok()?);
        }
    }
    Some(on_cpu)
}

//! The WAN emulator over real loopback sockets: what a node behind it would see.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use atoll_geo::RegionName;
use atoll_loadgen::wan::{LinkShape, Shape, ShapeSpec, Wan, WanConfig, WanError, WanReport};

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn shape(spec: ShapeSpec) -> Shape {
    spec.check().unwrap()
}

fn delayed(delay_ms: f64) -> Shape {
    shape(ShapeSpec { delay_ms, ..ShapeSpec::default() })
}

fn start() -> Wan {
    Wan::start(WanConfig::default()).unwrap()
}

/// A socket on loopback whose reads give up after `PATIENCE`.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn dial(relay: SocketAddr) -> UdpSocket {
    let socket = socket();
    socket.connect(relay).unwrap();
    socket
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// The next datagram, as a number, and who sent it.
fn receive(socket: &UdpSocket) -> (u32, SocketAddr) {
    let mut buffer = [0; 2_000];
    let (bytes, from) = socket.recv_from(&mut buffer).expect("a datagram");
    assert!(bytes >= 4);
    (u32::from_be_bytes(buffer[..4].try_into().unwrap()), from)
}

/// A datagram of `bytes` that begins with `number`.
fn datagram(number: u32, bytes: usize) -> Vec<u8> {
    let mut datagram = vec![0xa5; bytes];
    datagram[..4].copy_from_slice(&number.to_be_bytes());
    datagram
}

/// Asserts that nothing is waiting at the socket now.
fn assert_silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let error = socket.recv(&mut [0; 2_000]).expect_err("silence");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
}

/// Waits until the report says so.
fn wait_for(wan: &Wan, what: &str, holds: impl Fn(&WanReport) -> bool) -> WanReport {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = wan.report();
        if holds(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "still waiting until {what}: {report:?}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn packets_take_the_delay_of_their_direction_and_keep_their_order() {
    let wan = start();
    let target = socket();
    let both = LinkShape { there: delayed(30.0), back: delayed(10.0) };
    let relay = wan.link(&name("a"), &name("b"), address(&target), both).unwrap();
    let client = dial(relay);

    let mut there_ms = Vec::new();
    let mut back_ms = Vec::new();
    for number in 0..50 {
        let sent = Instant::now();
        client.send(&datagram(number, 1_200)).unwrap();
        let (received, from) = receive(&target);
        there_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        assert_eq!(received, number);
        let replied = Instant::now();
        target.send_to(&datagram(number, 100), from).unwrap();
        assert_eq!(receive(&client).0, number);
        back_ms.push(replied.elapsed().as_secs_f64() * 1e3);
    }
    for (mut taken_ms, delay_ms) in [(there_ms, 30.0), (back_ms, 10.0)] {
        taken_ms.sort_by(f64::total_cmp);
        // Never early. Late is the machine's business; half of them within 5 ms is not much to ask.
        assert!(taken_ms[0] >= delay_ms, "{} ms is too early for {delay_ms}", taken_ms[0]);
        assert!(taken_ms[25] < delay_ms + 5.0, "median {} ms for {delay_ms}", taken_ms[25]);
    }
    let report = wait_for(&wan, "all is counted", |report| report.delay_error.histogram_us().len() == 100);
    assert_eq!(report.direction("a", "b").unwrap().forwarded_bytes, 50 * 1_200);
    assert_eq!(report.direction("b", "a").unwrap().forwarded_bytes, 50 * 100);
}

#[test]
fn a_burst_with_jitter_arrives_whole_and_in_order() {
    let wan = start();
    let target = socket();
    let jittery = shape(ShapeSpec { delay_ms: 5.0, jitter_ms: 3.0, ..ShapeSpec::default() });
    let relay = wan.link(&name("a"), &name("b"), address(&target), jittery).unwrap();
    let client = dial(relay);
    // Few enough for the default socket buffers of the test's own target.
    for number in 0..100 {
        client.send(&datagram(number, 200)).unwrap();
    }
    let received: Vec<_> = (0..100).map(|_| receive(&target).0).collect();
    assert_eq!(received, (0..100).collect::<Vec<_>>());
}

#[test]
fn every_client_gets_its_own_replies_from_its_own_peer_address() {
    let wan = start();
    let target = socket();
    let relay = wan.link(&name("a"), &name("b"), address(&target), delayed(1.0)).unwrap();
    let clients: Vec<_> = (0..5).map(|_| dial(relay)).collect();
    for (number, client) in (0..).zip(&clients) {
        client.send(&datagram(number, 100)).unwrap();
    }
    let mut peers = BTreeSet::new();
    for _ in &clients {
        let (number, from) = receive(&target);
        peers.insert(from);
        target.send_to(&datagram(number + 1_000, 100), from).unwrap();
    }
    assert_eq!(peers.len(), clients.len(), "the target sees each client as a peer of its own");
    for (number, client) in (0..).zip(&clients) {
        assert_eq!(receive(client), (number + 1_000, relay));
    }
    clients.iter().for_each(assert_silent);
}

#[test]
fn only_the_target_can_reply() {
    let wan = start();
    let (target, stranger) = (socket(), socket());
    let relay = wan.link(&name("a"), &name("b"), address(&target), delayed(1.0)).unwrap();
    let client = dial(relay);
    client.send(&datagram(1, 100)).unwrap();
    let (_, upstream) = receive(&target);
    stranger.send_to(&datagram(666, 100), upstream).unwrap();
    target.send_to(&datagram(2, 100), upstream).unwrap();
    assert_eq!(receive(&client).0, 2);
    assert_silent(&client);
}

#[test]
fn a_cut_silences_one_direction_and_a_heal_restores_it() {
    let wan = start();
    let target = socket();
    let (a, b) = (name("a"), name("b"));
    let relay = wan.link(&a, &b, address(&target), delayed(20.0)).unwrap();
    let client = dial(relay);
    client.send(&datagram(0, 100)).unwrap();
    let (_, upstream) = receive(&target);

    // One packet is under way when the cut falls (or about to be), and three more run into it.
    client.send(&datagram(1, 100)).unwrap();
    assert_eq!(wan.cut(&a, &b), 1);
    for number in 2..5 {
        client.send(&datagram(number, 100)).unwrap();
    }
    // The other direction goes on.
    target.send_to(&datagram(10, 100), upstream).unwrap();
    assert_eq!(receive(&client).0, 10);
    wait_for(&wan, "all four are lost", |report| report.direction("a", "b").unwrap().cut == 4);
    assert_silent(&target);

    assert_eq!(wan.heal(&a, &b), 1);
    client.send(&datagram(5, 100)).unwrap();
    assert_eq!(receive(&target).0, 5);
    assert_eq!(wan.report().direction("b", "a").unwrap().cut, 0);
}

#[test]
fn a_cut_region_is_cut_from_all_and_the_others_go_on() {
    let wan = start();
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let (at_b, at_c) = (socket(), socket());
    let a_to_b = dial(wan.link(&a, &b, address(&at_b), delayed(1.0)).unwrap());
    let c_to_b = dial(wan.link(&c, &b, address(&at_b), delayed(1.0)).unwrap());
    let a_to_c = dial(wan.link(&a, &c, address(&at_c), delayed(1.0)).unwrap());

    assert_eq!(wan.cut_region(&b), 4, "two links, both ways");
    a_to_b.send(&datagram(1, 100)).unwrap();
    c_to_b.send(&datagram(2, 100)).unwrap();
    a_to_c.send(&datagram(3, 100)).unwrap();
    assert_eq!(receive(&at_c).0, 3);
    wait_for(&wan, "both are lost", |report| {
        report.direction("a", "b").unwrap().cut == 1 && report.direction("c", "b").unwrap().cut == 1
    });
    assert_silent(&at_b);

    assert_eq!(wan.heal_region(&b), 4);
    c_to_b.send(&datagram(4, 100)).unwrap();
    assert_eq!(receive(&at_b).0, 4);
    assert_eq!(wan.cut(&a, &name("misspelt")), 0);
}

#[test]
fn a_cut_at_full_traffic_lets_nothing_slip_through() {
    let wan = start();
    let (a, b) = (name("a"), name("b"));
    let target = socket();
    let relay = wan.link(&a, &b, address(&target), delayed(2.0)).unwrap();
    let client = dial(relay);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for number in 0..20_000 {
                // The system may push back at full speed; one packet less is no matter here.
                let _ = client.send(&datagram(number, 100));
            }
        });
        for _ in 0..50 {
            wan.cut(&a, &b);
            // W2: whatever has passed the cut is at the target by now, so once it is empty it stays empty.
            target.set_nonblocking(true).unwrap();
            while target.recv(&mut [0; 2_000]).is_ok() {}
            let passed = wan.report().direction("a", "b").unwrap().forwarded;
            thread::park_timeout(Duration::from_millis(3));
            assert_silent(&target);
            target.set_nonblocking(true).unwrap();
            assert_eq!(wan.report().direction("a", "b").unwrap().forwarded, passed);
            wan.heal(&a, &b);
            thread::park_timeout(Duration::from_millis(3));
        }
        sender.join().unwrap();
    });
    let counters = *wan.report().direction("a", "b").unwrap();
    assert!(counters.cut > 0 && counters.forwarded > 0, "{counters:?}");
}

#[test]
fn loss_has_its_rate_and_what_is_not_lost_arrives() {
    let wan = Wan::start(WanConfig { seed: 42, ..WanConfig::default() }).unwrap();
    let target = socket();
    let lossy = shape(ShapeSpec { delay_ms: 1.0, loss: 0.2, ..ShapeSpec::default() });
    let relay = wan.link(&name("a"), &name("b"), address(&target), lossy).unwrap();
    let client = dial(relay);
    let n = 3_000;
    let mut arrived = 0;
    for batch in 0..n / 100 {
        for number in 0..100 {
            client.send(&datagram(batch * 100 + number, 100)).unwrap();
        }
        let sent = u64::from(batch + 1) * 100;
        let report = wait_for(&wan, "the batch is through", |report| {
            let counters = report.direction("a", "b").unwrap();
            counters.forwarded + counters.lost == sent
        });
        while arrived < report.direction("a", "b").unwrap().forwarded {
            receive(&target);
            arrived += 1;
        }
    }
    let lost = wan.report().direction("a", "b").unwrap().lost;
    // Five standard deviations of a binomial are 110.
    assert!(lost.abs_diff(600) < 110, "{lost} of {n} lost");
    assert_silent(&target);
}

#[test]
fn duplicates_arrive_as_packets_of_their_own() {
    let wan = start();
    let target = socket();
    let doubling = shape(ShapeSpec { duplicate: 1.0, ..ShapeSpec::default() });
    let relay = wan.link(&name("a"), &name("b"), address(&target), doubling).unwrap();
    let client = dial(relay);
    for number in 0..20 {
        client.send(&datagram(number, 100)).unwrap();
    }
    let received: Vec<_> = (0..40).map(|_| receive(&target).0).collect();
    assert_eq!(received, (0..20).flat_map(|number| [number, number]).collect::<Vec<_>>());
}

#[test]
fn bandwidth_limits_throughput_and_a_full_queue_drops() {
    let wan = start();
    let target = socket();
    // 972 B and 28 B of headers are 4 ms on a wire of 2 Mbit/s; 20 of them wait at most.
    let narrow =
        shape(ShapeSpec { delay_ms: 5.0, bandwidth_bps: Some(2_000_000), queue_bytes: 20_000, ..ShapeSpec::default() });
    let relay = wan.link(&name("a"), &name("b"), address(&target), narrow).unwrap();
    let client = dial(relay);
    let started = Instant::now();
    for number in 0..60 {
        client.send(&datagram(number, 972)).unwrap();
    }
    let burst = started.elapsed();
    let report = wait_for(&wan, "the queue is empty", |report| {
        let counters = report.direction("a", "b").unwrap();
        counters.forwarded + counters.queue_full == 60
    });
    let taken = started.elapsed();
    let counters = report.direction("a", "b").unwrap();
    // The burst itself may have been slow, and the wire carries one packet each 4 ms of it.
    let room = 20 + burst.as_millis() as u64 / 4 + 1;
    assert!((20..=room).contains(&counters.forwarded), "{counters:?} after a burst of {burst:?}");
    assert!(counters.queue_full > 0, "{counters:?} after a burst of {burst:?}");
    let on_wire = Duration::from_millis(4) * u32::try_from(counters.forwarded).unwrap();
    assert!(taken >= on_wire + Duration::from_millis(5), "{taken:?} for {on_wire:?} on the wire");
    let received: Vec<_> = (0..counters.forwarded).map(|_| receive(&target).0).collect();
    assert!(received.is_sorted());
}

#[test]
fn a_long_delay_does_not_hold_up_a_short_one() {
    let wan = start();
    let target = socket();
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let long = dial(wan.link(&a, &b, address(&target), delayed(60_000.0)).unwrap());
    let short = dial(wan.link(&a, &c, address(&target), delayed(1.0)).unwrap());
    // So long that the emulator sleeps by the time the other packet comes.
    long.send(&datagram(1, 100)).unwrap();
    wait_for(&wan, "the packet is under way", |report| report.flows.open == 1);
    for number in 2..20 {
        short.send(&datagram(number, 100)).unwrap();
        assert_eq!(receive(&target).0, number);
    }
}

#[test]
fn a_burst_is_read_to_its_end() {
    let wan = start();
    let target = socket();
    let relay = wan.link(&name("a"), &name("b"), address(&target), delayed(1.0)).unwrap();
    let client = dial(relay);
    // As many as fit into a socket's buffer where the system grants no more than its default.
    for burst in 1..=20 {
        for number in 0..200 {
            client.send(&datagram(number, 100)).unwrap();
        }
        wait_for(&wan, "the whole burst has been sent", |report| {
            report.direction("a", "b").unwrap().forwarded == burst * 200
        });
    }
}

#[test]
fn a_shape_can_change_while_packets_flow() {
    let wan = start();
    let target = socket();
    let (a, b) = (name("a"), name("b"));
    let relay = wan.link(&a, &b, address(&target), delayed(1.0)).unwrap();
    let client = dial(relay);
    client.send(&datagram(1, 100)).unwrap();
    receive(&target);
    assert_eq!(wan.reshape(&a, &b, delayed(50.0)), 1);
    let sent = Instant::now();
    client.send(&datagram(2, 100)).unwrap();
    assert_eq!(receive(&target).0, 2);
    assert!(sent.elapsed() >= Duration::from_millis(50));
}

#[test]
fn flows_stay_within_their_bound_and_the_newest_client_is_served() {
    let config = WanConfig { flows_per_link_max: 4, ..WanConfig::default() };
    let wan = Wan::start(config).unwrap();
    let target = socket();
    let relay = wan.link(&name("a"), &name("b"), address(&target), delayed(1.0)).unwrap();
    let clients: Vec<_> = (0..20).map(|_| dial(relay)).collect();
    for (number, client) in (0..).zip(&clients) {
        client.send(&datagram(number, 100)).unwrap();
        let (received, from) = receive(&target);
        assert_eq!(received, number);
        target.send_to(&datagram(number, 100), from).unwrap();
        assert_eq!(receive(client).0, number);
        assert!(wan.report().flows.open <= 4);
    }
    let flows = wan.report().flows;
    assert_eq!((flows.open, flows.evicted, flows.expired), (4, 16, 0));
}

#[test]
fn idle_flows_expire_and_their_client_may_come_back() {
    let config = WanConfig { flow_idle_max: Duration::from_millis(20), ..WanConfig::default() };
    let wan = Wan::start(config).unwrap();
    let target = socket();
    let relay = wan.link(&name("a"), &name("b"), address(&target), delayed(0.0)).unwrap();
    let client = dial(relay);
    client.send(&datagram(1, 100)).unwrap();
    let (_, first) = receive(&target);
    wait_for(&wan, "the flow has expired", |report| report.flows.expired == 1);
    assert_eq!(wan.report().flows.open, 0);
    client.send(&datagram(2, 100)).unwrap();
    let (number, _) = receive(&target);
    assert_eq!(number, 2);
    UdpSocket::bind(first).expect("the old upstream is closed, and its port free");
}

#[test]
fn a_target_that_is_down_is_no_obstacle_once_it_is_back() {
    let wan = start();
    let target = socket();
    let at = address(&target);
    let relay = wan.link(&name("a"), &name("b"), at, delayed(1.0)).unwrap();
    let client = dial(relay);
    drop(target);
    for number in 0..5 {
        client.send(&datagram(number, 100)).unwrap();
    }
    // None is held back because an earlier one was refused.
    wait_for(&wan, "all have been sent", |report| report.direction("a", "b").unwrap().forwarded == 5);
    let target = UdpSocket::bind(at).expect("the port is still free");
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(&datagram(9, 100)).unwrap();
    assert_eq!(receive(&target).0, 9);
}

#[test]
fn a_target_beyond_this_machine_is_refused() {
    let wan = start();
    let far = SocketAddr::from(([192, 0, 2, 1], 7603));
    let refused = wan.link(&name("a"), &name("b"), far, delayed(1.0));
    assert!(matches!(refused, Err(WanError::NotLoopback { target }) if target == far));
}

#[test]
fn dropping_the_emulator_closes_its_links_and_ends_its_threads() {
    let wan = start();
    let target = socket();
    let relay = wan.link(&name("a"), &name("b"), address(&target), delayed(60_000.0)).unwrap();
    let client = dial(relay);
    client.send(&datagram(1, 100)).unwrap();
    wait_for(&wan, "a packet is under way", |report| report.flows.open == 1);
    let before = Instant::now();
    drop(wan);
    assert!(before.elapsed() < PATIENCE, "it did not wait for the packet that was under way");
    // The listener is closed: its port can be bound again.
    UdpSocket::bind(relay).expect("the relay's port is free");
    assert_silent(&target);
}

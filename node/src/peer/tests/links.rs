//! Honest peers: linking, moving messages, losing and finding each other again.

use super::*;

/// Records and a ping one way.
async fn exchange(from: &mut Node, at: LinkId, to: &mut Node) {
    let batch = records(1..4);
    let weight = batch.weight();
    from.peers.send(at, batch.clone());
    let Input::LinkSent(_, sent) = from.next().await else { panic!("the weight of what was sent") };
    assert_eq!(sent, weight);
    let Input::LinkMessage(_, arrived) = to.next().await else { panic!("the records") };
    assert_eq!(arrived, batch);
    from.peers.send(at, ping(7));
    assert_eq!(to.ping().await, 7);
}

#[tokio::test]
async fn two_endpoints_link_up_and_move_messages_both_ways_with_their_weight_reported() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let Input::LinkUp { link, node, region, dialled, seed } = b.next().await else { panic!("first of all the link") };
    assert_eq!((node.as_str(), region.as_str(), dialled), ("n1", "eu-west-1", true));
    assert_eq!(seed, Some(atoll_replication::SeedIndex(0)));
    b.peers.send(link, hello("n2"));
    let Input::LinkUp { link: at_a, node, dialled, seed, .. } = a.next().await else { panic!("first of all the link") };
    assert_eq!((node.as_str(), dialled, seed), ("n2", false, None));
    a.peers.send(at_a, hello("n1"));
    let Input::LinkMessage(_, Message::Hello(greeting)) = a.next().await else { panic!("then the greeting") };
    assert_eq!(greeting.node, "n2");
    let Input::LinkMessage(_, Message::Hello(_)) = b.next().await else { panic!("then the greeting") };

    exchange(&mut b, link, &mut a).await;
    exchange(&mut a, at_a, &mut b).await;
    let info = a.peers.links().remove(0);
    assert_eq!((info.link, info.node.as_str(), info.dialled), (at_a, "n2", false));
    assert!(info.sent_bytes > 3_000 && info.received_bytes > 3_000 && a.peers.rtt(at_a).is_some());
}

#[tokio::test]
async fn many_messages_arrive_in_order_and_their_weights_add_up() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let (at_b, _) = tokio::join!(b.greeted("n1"), a.greeted("n2"));
    let mut weight = 0;
    for seq in 1..=2_000 {
        let message = records(seq..seq + 1);
        weight += message.weight();
        b.peers.send(at_b, message);
    }
    let mut expected = 1;
    while expected <= 2_000 {
        if let Input::LinkMessage(_, Message::Records(batch)) = a.next().await {
            for record in batch {
                assert_eq!(record.dot().seq, expected);
                expected += 1;
            }
        }
    }
    while weight > 0 {
        if let Input::LinkSent(_, bytes) = b.next().await {
            weight = weight.checked_sub(bytes).expect("each message is reported once");
        }
    }
}

#[tokio::test]
async fn control_overtakes_bulk_that_the_peer_does_not_take() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let (at_b, _) = tokio::join!(b.greeted("n1"), a.greeted("n2"));
    const BULK: u64 = 50_000;
    let sender = b.peers.clone();
    // The sender's replica goes on hearing of what was sent.
    let _hearing = tokio::spawn(async move {
        loop {
            b.next().await;
        }
    });
    for seq in 1..=BULK {
        sender.send(at_b, records(seq..seq + 1));
    }
    // Nobody takes in what arrives: the queue fills, then the stream's window, then the sender's.
    until(|| a.events.len() == a.events.max_capacity()).await;
    sender.send(at_b, ping(7));
    let (mut before, mut total) = (None, 0);
    while total < BULK {
        match a.next().await {
            Input::LinkMessage(_, Message::Records(_)) => total += 1,
            Input::LinkMessage(_, Message::Ping { .. }) => before = Some(total),
            _ => {}
        }
    }
    // Those that were queued already cannot be overtaken; those on the way must be.
    let before = before.expect("the ping is not behind the bulk");
    assert!(before < BULK * 2 / 3, "{before} of {BULK} came before the ping");
}

#[tokio::test]
async fn a_node_that_dials_itself_says_so_once_and_is_not_linked() {
    let ca = Ca::new();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let seeds = vec![format!("localhost:{port}")];
    let mut a = Node::start(tls(&ca, "n1"), Setup { seeds, port, ..Setup::default() });
    assert!(matches!(a.next().await, Input::SeedIsSelf(seed) if seed.0 == 0));
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    // The next thing that happens is somebody else.
    assert!(matches!(a.next().await, Input::LinkUp { node, .. } if node == name("n2")));
    b.up("n1").await;
}

#[tokio::test]
async fn a_peer_that_ends_and_comes_back_on_the_same_port_is_linked_again() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let (first, _) = tokio::join!(b.greeted("n1"), a.greeted("n2"));
    let port = a.port();
    a.peers.shutdown();
    drop(a);
    b.down(first).await;
    let mut a = Node::start(tls(&ca, "n1"), Setup { port, ..Setup::default() });
    let (again, _) = tokio::join!(b.greeted("n1"), a.greeted("n2"));
    assert_ne!(first, again);
    b.peers.send(again, ping(8));
    assert_eq!(a.ping().await, 8);
}

#[tokio::test]
async fn members_of_the_roster_are_dialled_whether_their_names_are_lower_or_higher() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::default());
    let mut c = Node::start(tls(&ca, "n3"), Setup::default());
    let member = |node: &str, of: &Node| Member {
        node: name(node),
        region: RegionName::new("eu-west-1").unwrap(),
        address: of.address(),
    };
    b.peers.set_members(vec![member("n1", &a), member("n2", &b), member("n3", &c)]);
    a.up("n2").await;
    c.up("n2").await;
    let nodes: BTreeSet<_> = [b.next().await, b.next().await].map(|input| format!("{input:?}")).into();
    assert!(nodes.iter().all(|up| up.contains("dialled: true")), "{nodes:?}");
}

#[tokio::test]
async fn a_member_whose_address_leads_to_another_node_is_refused() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let b = Node::start(tls(&ca, "n2"), Setup::default());
    let region = RegionName::new("eu-west-1").unwrap();
    b.peers.set_members(vec![Member { node: name("n3"), region, address: a.address() }]);
    let link = a.up("n2").await;
    a.down(link).await;
    assert_eq!(b.count(Fault::Identity), 1);
    assert!(b.events.is_empty(), "the dialler's replica hears nothing of it");
}

#[tokio::test]
async fn what_the_replica_ends_is_ended_on_both_sides() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let (at_b, at_a) = tokio::join!(b.greeted("n1"), a.greeted("n2"));
    a.peers.disconnect(at_a, DisconnectReason::Silent);
    a.peers.disconnect(at_a, DisconnectReason::Duplicate);
    a.down(at_a).await;
    b.down(at_b).await;
    assert_eq!(a.count(Fault::Replica(DisconnectReason::Silent)), 1);
    assert_eq!(a.count(Fault::Replica(DisconnectReason::Duplicate)), 0, "it ends once");
    a.peers.send(at_a, ping(1));
    assert!(a.peers.rtt(at_a).is_none());
    assert_ne!(a.up("n2").await, at_a, "and is dialled anew");
}

#[tokio::test]
async fn a_paused_node_is_let_in_only_after_it_is_resumed() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    a.peers.set_paused(name("n2"), true);
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    for _ in 0..2 {
        let link = b.up("n1").await;
        b.down(link).await;
    }
    assert!(a.count(Fault::Replica(DisconnectReason::Paused)) >= 2);
    assert!(a.events.is_empty(), "its replica heard nothing of it");
    a.peers.set_paused(name("n2"), false);
    tokio::join!(b.greeted("n1"), a.greeted("n2"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_its_address() {
    let ca = Ca::new();
    let a = Node::start(tls(&ca, "n1"), Setup::default());
    let config = PeerConfig {
        listen: a.peers.local_addr().unwrap(),
        seeds: Vec::new(),
        overrides: BTreeMap::new(),
        tls: tls(&ca, "n2"),
        limits: Limits::default(),
    };
    let line = PeerHandle::start(config, Inbox::new().0).unwrap_err().to_string();
    assert!(line.contains(&format!("cannot listen for peers on UDP {}", a.address())), "{line}");
}

#[tokio::test]
async fn a_stopping_node_ends_although_nobody_takes_in_what_it_says() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let (at_b, _) = tokio::join!(b.greeted("n1"), a.greeted("n2"));
    for seq in 1..=20_000 {
        b.peers.send(at_b, records(seq..seq + 1));
    }
    until(|| a.events.len() == a.events.max_capacity()).await;
    let began = Instant::now();
    a.peers.shutdown();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    b.down(at_b).await;
}

#[tokio::test]
async fn records_and_pings_overtake_a_reconciliation_and_its_weight_is_reported() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut b = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let (at_b, _) = tokio::join!(b.greeted("n1"), a.greeted("n2"));
    // Sixteen messages of 6 MiB, and behind them one batch of records.
    let (bulk, count) = (cells(1 << 18), 16);
    for _ in 0..count {
        b.peers.send(at_b, bulk.clone());
    }
    b.peers.send(at_b, records(1..4));
    let (mut before, mut after) = (0, 0);
    let mut seen = false;
    while before + after < count {
        match a.next().await {
            Input::LinkMessage(_, Message::Records(_)) => seen = true,
            Input::LinkMessage(_, message @ Message::Reconcile(_)) => {
                assert!(message == bulk);
                *if seen { &mut after } else { &mut before } += 1;
            }
            _ => {}
        }
    }
    assert!(seen && before < count / 2, "{before} of {count} messages came before the records");
    let (mut sent, all) = (0, count * bulk.weight() + records(1..4).weight());
    while sent < all {
        if let Input::LinkSent(_, weight) = b.next().await {
            sent += weight;
        }
    }
    assert_eq!(sent, all);
}

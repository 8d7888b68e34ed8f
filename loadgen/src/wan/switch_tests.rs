//! The switch on a virtual clock: stories, and one model check over random histories.

use proptest::prelude::*;

use super::super::shape::{JitterKind, ShapeSpec};
use super::*;

const MS: Duration = Duration::from_millis(1);
const ROOMY: usize = 1 << 30;

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn shape(delay_ms: f64) -> Shape {
    ShapeSpec { delay_ms, ..ShapeSpec::default() }.check().unwrap()
}

fn direction(from: &str, to: &str) -> Place {
    Place::Direction(name(from), name(to))
}

/// Everything that leaves the switch up to and including `until`, each at the moment it is due.
fn run(switch: &mut Switch<u32>, until: Duration) -> Vec<(Duration, u32)> {
    let mut left = Vec::new();
    while let Some(due) = switch.next_due().filter(|due| *due <= until) {
        while let Some(departure) = switch.pop_due(due) {
            switch.record_sent(departure.path, departure.bytes, true);
            left.push((due, departure.packet));
        }
    }
    left
}

fn counters(switch: &Switch<u32>, path: PathId) -> PathCounters {
    *switch.counters().nth(path.0).unwrap().1
}

#[test]
fn packets_leave_when_they_are_due_and_in_order() {
    let mut switch = Switch::new(1, ROOMY);
    let slow = switch.add_path(&name("a"), &name("b"), shape(40.0));
    let fast = switch.add_path(&name("a"), &name("c"), shape(10.0));
    switch.offer(Duration::ZERO, slow, 100, 1);
    switch.offer(MS, fast, 100, 2);
    switch.offer(2 * MS, slow, 100, 3);
    switch.offer(30 * MS, fast, 100, 4);
    assert_eq!(switch.next_due(), Some(11 * MS));
    assert!(switch.pop_due(11 * MS - Duration::from_nanos(1)).is_none());
    let left = run(&mut switch, 100 * MS);
    // 1 and 4 are due at once: the one that was offered first leaves first.
    assert_eq!(left, [(11 * MS, 2), (40 * MS, 1), (40 * MS, 4), (42 * MS, 3)]);
    assert_eq!(switch.in_flight_bytes, 0);
}

#[test]
fn a_cut_loses_what_comes_and_what_is_under_way_and_nothing_else() {
    let mut switch = Switch::new(1, ROOMY);
    let there = switch.add_path(&name("a"), &name("b"), shape(40.0));
    let back = switch.add_path(&name("b"), &name("a"), shape(40.0));
    switch.offer(Duration::ZERO, there, 100, 1);
    switch.offer(Duration::ZERO, back, 100, 2);
    assert_eq!(switch.cut(direction("a", "b")), 1);
    switch.offer(MS, there, 100, 3);
    switch.offer(MS, back, 100, 4);
    // Healed long before the packets under way would have been due, and still they are lost.
    assert_eq!(switch.heal(direction("a", "b")), 1);
    switch.offer(2 * MS, there, 100, 5);
    assert_eq!(run(&mut switch, 100 * MS), [(40 * MS, 2), (41 * MS, 4), (42 * MS, 5)]);
    assert_eq!((counters(&switch, there).cut, counters(&switch, there).forwarded), (2, 1));
    assert_eq!((counters(&switch, back).cut, counters(&switch, back).forwarded), (0, 2));
}

#[test]
fn a_second_cut_of_a_line_that_is_down_changes_nothing_and_both_must_heal() {
    let mut switch = Switch::new(1, ROOMY);
    let path = switch.add_path(&name("a"), &name("b"), shape(1.0));
    switch.cut(direction("a", "b"));
    switch.cut(Place::Region(name("b")));
    switch.heal(direction("a", "b"));
    switch.offer(Duration::ZERO, path, 100, 1);
    switch.heal(Place::Region(name("b")));
    switch.offer(Duration::ZERO, path, 100, 2);
    assert_eq!(run(&mut switch, 100 * MS), [(MS, 2)]);
}

#[test]
fn a_link_that_opens_into_a_cut_is_down() {
    let mut switch = Switch::new(1, ROOMY);
    assert_eq!(switch.cut(Place::Region(name("b"))), 0);
    let path = switch.add_path(&name("a"), &name("b"), shape(1.0));
    switch.offer(Duration::ZERO, path, 100, 1);
    switch.heal_all();
    switch.offer(Duration::ZERO, path, 100, 2);
    assert_eq!(run(&mut switch, 100 * MS), [(MS, 2)]);
}

#[test]
fn a_cut_leaves_the_draws_of_later_packets_as_they_were() {
    let lossy = ShapeSpec { loss: 0.5, ..ShapeSpec::default() }.check().unwrap();
    let survivors = |is_cut: bool| {
        let mut switch = Switch::new(9, ROOMY);
        let path = switch.add_path(&name("a"), &name("b"), lossy);
        if is_cut {
            switch.cut(direction("a", "b"));
        }
        for packet in 0..100 {
            switch.offer(Duration::ZERO, path, 100, packet);
        }
        switch.heal_all();
        for packet in 100..200 {
            switch.offer(MS, path, 100, packet);
        }
        let left = run(&mut switch, MS);
        left.into_iter().map(|(_, packet)| packet).filter(|p| *p >= 100).collect::<Vec<_>>()
    };
    assert_eq!(survivors(true), survivors(false));
    assert!(survivors(true).len() > 20);
}

#[test]
fn a_new_shape_holds_for_every_path_of_that_direction_from_then_on() {
    let mut switch = Switch::new(1, ROOMY);
    let one = switch.add_path(&name("a"), &name("b"), shape(40.0));
    let two = switch.add_path(&name("a"), &name("b"), shape(50.0));
    let back = switch.add_path(&name("b"), &name("a"), shape(40.0));
    switch.offer(Duration::ZERO, two, 100, 1);
    assert_eq!(switch.reshape(&name("a"), &name("b"), shape(100.0)), 2);
    assert_eq!(switch.reshape(&name("a"), &name("typo"), shape(100.0)), 0);
    switch.offer(Duration::ZERO, one, 100, 2);
    switch.offer(Duration::ZERO, back, 100, 3);
    assert_eq!(run(&mut switch, 200 * MS), [(40 * MS, 3), (50 * MS, 1), (100 * MS, 2)]);
}

#[test]
fn the_emulators_own_bound_holds_even_for_empty_packets() {
    let mut switch = Switch::new(1, 10 * PACKET_OVERHEAD_BYTES);
    let path = switch.add_path(&name("a"), &name("b"), shape(40.0));
    for packet in 0..100 {
        switch.offer(Duration::ZERO, path, 0, packet);
    }
    assert_eq!(counters(&switch, path).emulator_full, 90);
    assert_eq!(run(&mut switch, 40 * MS).len(), 10);
    switch.offer(41 * MS, path, 0, 100);
    assert_eq!(run(&mut switch, 100 * MS), [(81 * MS, 100)]);
}

#[test]
fn what_a_path_draws_does_not_depend_on_other_paths() {
    let lossy = ShapeSpec { loss: 0.5, ..ShapeSpec::default() }.check().unwrap();
    let survivors = |seed: u64, others: &[(&str, &str)]| {
        let mut switch = Switch::new(seed, ROOMY);
        for (from, to) in others {
            switch.add_path(&name(from), &name(to), lossy);
        }
        let path = switch.add_path(&name("a"), &name("b"), lossy);
        (0..200).for_each(|packet| switch.offer(Duration::ZERO, path, 100, packet));
        run(&mut switch, Duration::ZERO)
    };
    assert_eq!(survivors(1, &[]), survivors(1, &[("b", "a"), ("a", "c")]));
    assert_ne!(survivors(1, &[]), survivors(2, &[]), "the seed counts");
    assert_ne!(survivors(1, &[]), survivors(1, &[("a", "b")]), "two links, two histories");
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Offer { path: usize, bytes: usize },
    Wait { us: u64 },
    Cut(usize),
    Heal(usize),
    Reshape { path: usize, spec: ShapeSpec },
}

const ENDS: [(&str, &str); 3] = [("a", "b"), ("b", "a"), ("a", "c")];

fn spec() -> impl Strategy<Value = ShapeSpec> {
    (0.0..20.0, 0.0..5.0, any::<bool>(), 0.0..0.3, 0.0..0.3, prop::option::of(100_000_u64..1_000_000)).prop_map(
        |(delay_ms, jitter_ms, uniform, loss, duplicate, bandwidth_bps)| ShapeSpec {
            delay_ms,
            jitter_ms,
            jitter: if uniform { JitterKind::Uniform } else { JitterKind::Exponential },
            reorder: false,
            loss,
            duplicate,
            bandwidth_bps,
            queue_bytes: 5_000,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..ENDS.len(), 0..1_500_usize).prop_map(|(path, bytes)| Step::Offer { path, bytes }),
        3 => (0..5_000_u64).prop_map(|us| Step::Wait { us }),
        1 => (0..ENDS.len()).prop_map(Step::Cut),
        1 => (0..ENDS.len()).prop_map(Step::Heal),
        1 => (0..ENDS.len(), spec()).prop_map(|(path, spec)| Step::Reshape { path, spec }),
    ]
}

proptest! {
    /// S1 to S4 over random histories: order kept per path, nothing early, nothing across a cut, every
    /// packet counted once, the bound kept.
    #[test]
    fn random_histories_keep_order_cuts_counts_and_bound(
        seed in any::<u64>(),
        specs in prop::collection::vec(spec(), ENDS.len()),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let bound = 20_000;
        let mut switch: Switch<u32> = Switch::new(seed, bound);
        let mut paths = Vec::new();
        for ((from, to), spec) in ENDS.iter().zip(&specs) {
            paths.push(switch.add_path(&name(from), &name(to), spec.check().unwrap()));
        }
        let mut now = Duration::ZERO;
        let mut offered = [0_u64; ENDS.len()];
        let mut last_cut_at_packet = [0_u32; ENDS.len()];
        let mut newest_left = [0_u32; ENDS.len()];
        let mut is_down = [false; ENDS.len()];
        let mut next_packet = 1_u32;
        let end = Step::Wait { us: 100_000_000 };
        for step in steps.into_iter().chain([end]) {
            match step {
                Step::Offer { path, bytes } => {
                    switch.offer(now, paths[path], bytes, next_packet);
                    offered[path] += 1;
                    next_packet += 1;
                }
                Step::Wait { us } => {
                    now += Duration::from_micros(us);
                    while let Some(departure) = switch.pop_due(now) {
                        prop_assert!(departure.due <= now);
                        let path = departure.path.0;
                        prop_assert!(!is_down[path]);
                        prop_assert!(departure.packet >= last_cut_at_packet[path]);
                        prop_assert!(departure.packet >= newest_left[path]);
                        newest_left[path] = departure.packet;
                        switch.record_sent(departure.path, departure.bytes, true);
                    }
                    prop_assert!(switch.next_due().is_none_or(|due| due > now));
                }
                Step::Cut(path) => {
                    switch.cut(direction(ENDS[path].0, ENDS[path].1));
                    last_cut_at_packet[path] = next_packet;
                    is_down[path] = true;
                }
                Step::Heal(path) => {
                    if is_down[path] {
                        // While it was down nothing got in either.
                        last_cut_at_packet[path] = next_packet;
                    }
                    switch.heal(direction(ENDS[path].0, ENDS[path].1));
                    is_down[path] = false;
                }
                Step::Reshape { path, spec } => {
                    let shape = spec.check().unwrap();
                    switch.reshape(&name(ENDS[path].0), &name(ENDS[path].1), shape);
                }
            }
            prop_assert!(switch.in_flight_bytes <= bound);
        }
        prop_assert_eq!(switch.in_flight_bytes, 0);
        for (path, offered) in paths.iter().zip(offered) {
            let counted = counters(&switch, *path);
            prop_assert_eq!(
                offered + counted.duplicated,
                counted.forwarded + counted.lost + counted.cut + counted.queue_full + counted.emulator_full
            );
        }
    }
}

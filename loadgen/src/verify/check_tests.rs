//! The rules on broken histories: each loss, duplicate and stranger is found, and nothing else is.

use serde_json::json;

use atoll_client::api::{ErrorCode, Namespace, Sibling};

use super::*;
use crate::clock::Moment;
use crate::workload::{SessionId, value_of};

const BYTES: usize = 24;

/// A history that is written down write by write; times are milliseconds.
#[derive(Default)]
struct Scene {
    history: Vec<Write>,
    dump: Dump,
}

impl Scene {
    /// A write of `session`, asked at `from` and answered at `to`; its number is returned.
    fn write(&mut self, session: u32, cell: Cell, change: Change, from: u64, to: u64) -> WriteNumber {
        let number = WriteNumber(u64::from(session) << 32 | self.history.len() as u64);
        self.history.push(Write {
            number,
            session: SessionId(session),
            home: 0,
            region: 0,
            cell,
            change,
            outcome: Outcome::Acknowledged,
            intended: Moment::from_us(from * 1_000),
            started: Moment::from_us(from * 1_000),
            answered: Moment::from_us(to * 1_000),
            token: None,
        });
        number
    }

    /// The last write ended otherwise.
    fn ends(&mut self, outcome: Outcome) {
        self.history.last_mut().unwrap().outcome = outcome;
    }

    fn shows(&mut self, cell: Cell, observed: Observed) -> &mut Self {
        self.dump.insert((cell.data_type(), cell.key().as_str().to_owned()), observed);
        self
    }

    fn members(&mut self, members: &[Member]) -> &mut Self {
        if members.is_empty() {
            self.dump.clear();
            return self;
        }
        self.shows(SET, Observed::Set(members.iter().map(Member::to_string).collect()))
    }

    fn register(&mut self, numbers: &[WriteNumber]) -> &mut Self {
        let sibling = |&number: &WriteNumber| Sibling {
            value: value_of(number, BYTES).into_bytes(),
            content_type: String::new(),
            region: String::new(),
            at: String::new(),
        };
        self.shows(REGISTER, Observed::Register(numbers.iter().map(sibling).collect()))
    }

    fn check(&self) -> Findings {
        let namespace = Namespace::new("load").unwrap();
        let workload =
            Workload { value_bytes: BYTES, ..Workload::mixed(namespace, 1.0, std::time::Duration::from_secs(1)) };
        let region = RegionName::new("eu-west-1").unwrap();
        check(&workload, std::slice::from_ref(&region), &self.history, &region, &self.dump)
    }

    /// Lost, duplicated, foreign.
    fn counts(&self) -> (u64, u64, u64) {
        let findings = self.check();
        let (lost, duplicated, foreign) = (findings.lost, findings.duplicated, findings.foreign);
        assert_eq!(findings.explanations.is_empty(), lost + duplicated + foreign == 0);
        (lost, duplicated, foreign)
    }
}

const fn cell(kind: Kind) -> Cell {
    Cell { kind, owner: None, index: 1 }
}

const REGISTER: Cell = cell(Kind::Register);
const COUNTER: Cell = cell(Kind::Counter);
const SET: Cell = cell(Kind::Set);
const FLAG: Cell = cell(Kind::Flag);
const ONE: Member = Member::Common(1);
const FINE: (u64, u64, u64) = (0, 0, 0);
const LOST: (u64, u64, u64) = (1, 0, 0);

#[test]
fn sum_of_acknowledged_additions_is_right_and_what_is_missing_is_lost() {
    let mut scene = Scene::default();
    for (at, amount) in [(0, 5), (10, 3), (20, 3)] {
        scene.write(1, COUNTER, Change::Add(amount), at, at + 1);
    }
    assert_eq!(scene.shows(COUNTER, Observed::Counter(11)).counts(), FINE);
    assert_eq!(scene.shows(COUNTER, Observed::Counter(8)).counts(), LOST);
    // 6 are missing: the 5 alone do not explain it.
    assert_eq!(scene.shows(COUNTER, Observed::Counter(5)).counts(), (2, 0, 0));
    let why = scene.check().explanations[0].clone();
    assert!(why.contains("counters/k1: 3 additions of 11 in all were acknowledged"), "{why}");
    scene.dump.clear();
    assert_eq!(scene.counts(), (3, 0, 0));
}

#[test]
fn addition_that_counts_twice_is_duplicated() {
    let mut scene = Scene::default();
    scene.write(1, COUNTER, Change::Add(5), 0, 1);
    scene.write(2, COUNTER, Change::Add(1), 0, 1);
    assert_eq!(scene.shows(COUNTER, Observed::Counter(11)).counts(), (0, 1, 0));
    // More than all of it again.
    assert_eq!(scene.shows(COUNTER, Observed::Counter(6 + 13)).counts(), (0, 4, 0));
}

#[test]
fn addition_of_unknown_fate_may_count_once_or_not() {
    let mut scene = Scene::default();
    scene.write(1, COUNTER, Change::Add(5), 0, 1);
    scene.write(1, COUNTER, Change::Add(2), 2, 3);
    scene.ends(Outcome::Unknown);
    for value in [5, 7] {
        assert_eq!(scene.shows(COUNTER, Observed::Counter(value)).counts(), FINE);
    }
    assert_eq!(scene.shows(COUNTER, Observed::Counter(9)).counts(), (0, 1, 0));
    assert_eq!(scene.shows(COUNTER, Observed::Counter(4)).counts(), LOST);
    scene.ends(Outcome::Refused(ErrorCode::Overloaded));
    assert_eq!(scene.shows(COUNTER, Observed::Counter(7)).counts(), (0, 1, 0));
}

#[test]
fn add_that_nothing_removed_is_there_or_lost() {
    let mut scene = Scene::default();
    scene.write(1, SET, Change::Include(ONE), 0, 1);
    assert_eq!(scene.members(&[ONE]).counts(), FINE);
    assert_eq!(scene.members(&[]).counts(), LOST);
    assert!(scene.check().explanations[0].contains("added c1"), "{:?}", scene.check().explanations);
}

#[test]
fn remove_that_was_over_before_the_add_began_does_not_excuse_its_loss() {
    let mut scene = Scene::default();
    scene.write(2, SET, Change::Exclude(ONE), 0, 5);
    scene.write(1, SET, Change::Include(ONE), 6, 7);
    assert_eq!(scene.members(&[]).counts(), LOST);
    // One that overlaps it may have come after it.
    scene.history[0].answered = Moment::from_us(6_500);
    assert_eq!(scene.counts(), FINE);
    // One of unknown fate may still be under way.
    scene.history[0].answered = Moment::from_us(5_000);
    scene.history[0].outcome = Outcome::Unknown;
    assert_eq!(scene.counts(), FINE);
    scene.history[0].outcome = Outcome::NotSent;
    assert_eq!(scene.counts(), LOST);
}

#[test]
fn member_whose_every_add_the_session_itself_removed_is_not_there() {
    let mut scene = Scene::default();
    scene.write(1, SET, Change::Include(ONE), 0, 1);
    scene.write(1, SET, Change::Exclude(ONE), 2, 3);
    assert_eq!(scene.members(&[]).counts(), FINE);
    assert_eq!(scene.members(&[ONE]).counts(), LOST);
    assert!(scene.check().explanations[0].contains("removed c1"), "{:?}", scene.check().explanations);
    // Somebody else's add may not have been seen by the remove: add wins.
    scene.write(2, SET, Change::Include(ONE), 0, 1);
    assert_eq!(scene.members(&[ONE]).counts(), FINE);
    assert_eq!(scene.members(&[]).counts(), FINE);
}

#[test]
fn remove_by_another_session_may_or_may_not_have_seen_the_add() {
    let mut scene = Scene::default();
    scene.write(1, SET, Change::Include(ONE), 0, 1);
    scene.write(2, SET, Change::Exclude(ONE), 2, 3);
    for there in [&[ONE][..], &[]] {
        assert_eq!(scene.members(there).counts(), FINE);
    }
}

#[test]
fn member_that_nothing_added_is_foreign() {
    let mut scene = Scene::default();
    let own = Member::Own(WriteNumber(7));
    scene.write(1, SET, Change::Include(ONE), 0, 1);
    scene.write(1, SET, Change::Exclude(Member::Common(2)), 2, 3);
    assert_eq!(scene.members(&[ONE, own]).counts(), (0, 0, 1));
    assert_eq!(scene.members(&[ONE, Member::Common(2)]).counts(), (0, 0, 1));
    scene.write(1, SET, Change::Include(own), 4, 5);
    scene.ends(Outcome::Refused(ErrorCode::Overloaded));
    assert_eq!(scene.members(&[ONE, own]).counts(), (0, 0, 1), "a refused write shows");
}

#[test]
fn register_of_one_session_holds_its_last_value() {
    let mut scene = Scene::default();
    let old = scene.write(1, REGISTER, Change::Put, 0, 1);
    let new = scene.write(1, REGISTER, Change::Put, 2, 3);
    assert_eq!(scene.register(&[new]).counts(), FINE);
    // The new one is lost, and the old one shows again: two ways to see one loss.
    assert!(scene.register(&[old]).counts().0 >= 1);
    assert!(scene.register(&[new, old]).counts().0 >= 1);
    scene.dump.clear();
    assert_eq!(scene.counts(), LOST);
}

#[test]
fn concurrent_value_is_a_sibling_or_was_replaced_by_one_that_may_have_seen_it() {
    let mut scene = Scene::default();
    let a = scene.write(1, REGISTER, Change::Put, 0, 10);
    let b = scene.write(2, REGISTER, Change::Put, 5, 15);
    for shown in [&[a, b][..], &[b], &[a]] {
        assert_eq!(scene.register(shown).counts(), FINE, "{shown:?}");
    }
    // Began after all others were over: nobody can have replaced it.
    let last = scene.write(3, REGISTER, Change::Put, 20, 21);
    assert_eq!(scene.register(&[last, a]).counts(), FINE);
    assert_eq!(scene.register(&[b]).counts(), LOST);
}

#[test]
fn value_of_unknown_fate_may_show_whatever_came_after_it() {
    let mut scene = Scene::default();
    let unknown = scene.write(1, REGISTER, Change::Put, 0, 1);
    scene.ends(Outcome::Unknown);
    let known = scene.write(1, REGISTER, Change::Put, 2, 3);
    for shown in [&[known][..], &[unknown], &[known, unknown]] {
        assert_eq!(scene.register(shown).counts(), FINE, "{shown:?}");
    }
}

#[test]
fn value_that_nobody_put_is_foreign() {
    let mut scene = Scene::default();
    let put = scene.write(1, REGISTER, Change::Put, 0, 1);
    assert_eq!(scene.register(&[put, WriteNumber(99)]).counts(), (0, 0, 1));
    scene.write(1, REGISTER, Change::Put, 2, 3);
    scene.ends(Outcome::NotSent);
    let refused = scene.history[1].number;
    assert_eq!(scene.register(&[put, refused]).counts(), (0, 0, 1));
}

#[test]
fn flag_is_what_some_sessions_last_switch_made_it() {
    let mut scene = Scene::default();
    scene.write(1, FLAG, Change::Switch(true), 0, 1);
    scene.write(1, FLAG, Change::Switch(false), 2, 3);
    assert_eq!(scene.shows(FLAG, Observed::Flag(false)).counts(), FINE);
    assert_eq!(scene.shows(FLAG, Observed::Flag(true)).counts(), LOST);
    scene.dump.clear();
    assert_eq!(scene.counts(), LOST);
    scene.write(2, FLAG, Change::Switch(true), 2, 3);
    for state in [true, false] {
        assert_eq!(scene.shows(FLAG, Observed::Flag(state)).counts(), FINE);
    }
}

#[test]
fn leaves_of_a_map_follow_the_rules_of_their_kind() {
    let (value, sum, set) =
        (cell(Kind::Map(Leaf::Value(0))), cell(Kind::Map(Leaf::Counter(1))), cell(Kind::Map(Leaf::Set(2))));
    let mut scene = Scene::default();
    let old = scene.write(1, value, Change::Put, 0, 1);
    let new = scene.write(1, value, Change::Put, 2, 3);
    scene.write(1, sum, Change::Add(4), 4, 5);
    scene.write(1, set, Change::Include(ONE), 6, 7);
    let mut counts = |map| scene.shows(value, Observed::Map(map)).counts();
    let of = |number| value_of(number, BYTES);
    let right = json!({"v": {"0": of(new)}, "n": {"1": 4}, "t": {"2": ["c1"]}});
    assert_eq!(counts(right.clone()), FINE);
    let but = |path: &str, value| {
        let mut map = right.clone();
        *map.pointer_mut(path).unwrap() = value;
        map
    };
    assert_eq!(counts(but("/v/0", json!(of(old)))), LOST);
    assert_eq!(counts(but("/n/1", json!(3))), LOST);
    assert_eq!(counts(but("/n/1", json!(8))), (0, 1, 0));
    assert_eq!(counts(but("/t/2", json!([]))), LOST);
    assert_eq!(counts(but("/t/2", json!(["c1", "milk"]))), (0, 0, 1));
    assert_eq!(counts(but("/v/0", json!("milk"))), (0, 0, 1));
    assert_eq!(counts(but("/t", json!({"2": ["c1"], "3": ["c1"]}))), (0, 0, 1));
    assert_eq!(counts(json!({})), (3, 0, 0));
}

#[test]
fn key_that_nobody_wrote_is_foreign() {
    let mut scene = Scene::default();
    scene.shows(COUNTER, Observed::Counter(1));
    assert_eq!(scene.counts(), (0, 0, 1));
    scene.write(1, COUNTER, Change::Add(1), 0, 1);
    assert_eq!(scene.counts(), FINE);
    assert_eq!(scene.shows(COUNTER, Observed::Nothing).counts().2, 1, "listed, but not there");
}

#[test]
fn explanations_are_bounded_and_counts_are_not() {
    let mut scene = Scene::default();
    for index in 0..100 {
        scene.write(1, Cell { index, ..COUNTER }, Change::Add(1), 0, 1);
    }
    let findings = scene.check();
    assert_eq!((findings.lost, findings.cells), (100, 100));
    assert_eq!(findings.explanations.len(), EXPLANATIONS_MAX);
}

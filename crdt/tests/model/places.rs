//! The rows of the model's small database.

use atoll_crdt::{CollectionKey, DataType, LeafKind, MapPath, RowKey};
use std::sync::LazyLock;

/// Every place that exists: each type once, a set of two members, and a map with a value over other leaves.
pub(crate) struct Places {
    pub(crate) register: RowKey,
    pub(crate) flag: RowKey,
    pub(crate) counter: RowKey,
    pub(crate) set: CollectionKey,
    pub(crate) members: [RowKey; 2],
    pub(crate) map: CollectionKey,
    /// `/p`, under which everything else in the map is.
    pub(crate) p: MapPath,
    /// `/p/a`, a value.
    pub(crate) p_a: MapPath,
    /// `/p/n`, a counter.
    pub(crate) p_n: MapPath,
    /// `/p/t`, a set with the one member `x`.
    pub(crate) p_t: MapPath,
    pub(crate) all: Vec<RowKey>,
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let collection = |kind, key| CollectionKey::new("shop", kind, key).expect("a valid name");
    let path = |pointer| MapPath::from_pointer(pointer).expect("a valid pointer");
    let (set, map) = (collection(DataType::Set, "s"), collection(DataType::Map, "m"));
    let member = |name| set.member(name).expect("a short member");
    let mut places = Places {
        register: collection(DataType::Register, "r").row(),
        flag: collection(DataType::Flag, "f").row(),
        counter: collection(DataType::Counter, "n").row(),
        members: [member("x"), member("y")],
        set,
        map,
        p: path("/p"),
        p_a: path("/p/a"),
        p_n: path("/p/n"),
        p_t: path("/p/t"),
        all: Vec::new(),
    };
    places.all = vec![places.register.clone(), places.flag.clone(), places.counter.clone()];
    places.all.extend(places.members.clone());
    places.all.extend([places.p_value(), places.p_a_value(), places.p_n_counter(), places.p_t_member()]);
    places
});

/// The places.
pub(crate) fn places() -> &'static Places {
    &PLACES
}

impl Places {
    pub(crate) fn p_value(&self) -> RowKey {
        self.p.leaf(&self.map, LeafKind::Value)
    }

    pub(crate) fn p_a_value(&self) -> RowKey {
        self.p_a.leaf(&self.map, LeafKind::Value)
    }

    pub(crate) fn p_n_counter(&self) -> RowKey {
        self.p_n.leaf(&self.map, LeafKind::Counter)
    }

    pub(crate) fn p_t_member(&self) -> RowKey {
        self.p_t.member(&self.map, "x").expect("a short member")
    }

    /// The places whose keys begin with `prefix`.
    pub(crate) fn under<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a RowKey> {
        self.all.iter().filter(move |key| key.as_bytes().starts_with(prefix))
    }

    /// Whether a counter lives there.
    pub(crate) fn is_counter(&self, key: &RowKey) -> bool {
        key.data_type() == DataType::Counter || key.leaf_kind() == Some(LeafKind::Counter)
    }
}

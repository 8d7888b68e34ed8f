//! The log's part of the alarm about roots that differ at equal contexts: which rows it is about.
//!
//! **What is not here.** Finding the rows: `atoll_replication`. The count of such roots, and of the rows: the metrics.

use crate::api::api_type;
use atoll_crdt::{RowKey, RowPath};
use atoll_replication::PeerVerdict;
use std::sync::Arc;

/// What the log was told already.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    told: Vec<Arc<PeerVerdict>>,
}

impl Alarm {
    /// Tells what is known now and was not told; one line a peer.
    pub(crate) fn tell(&mut self, divergent: &[Arc<PeerVerdict>]) {
        for verdict in divergent.iter().filter(|verdict| !self.told.contains(verdict)) {
            tracing::error!(
                peer = %verdict.node,
                differing = verdict.differing,
                rows = %names(verdict),
                "rows differ from a peer's although both nodes have seen the same: nothing is repaired; keep both disks"
            );
        }
        if self.told != divergent {
            self.told = divergent.to_vec();
        }
    }
}

fn names(verdict: &PeerVerdict) -> String {
    verdict.named.iter().map(|row| row_name(&row.key)).collect::<Vec<_>>().join(", ")
}

/// A row as `atoll verify` names it. Keys are clients': what is not printable is escaped.
pub(crate) fn row_name(key: &RowKey) -> String {
    let (namespace, data_type, key, path) = key.parts();
    let path = match path {
        RowPath::Whole => String::new(),
        RowPath::Member(member) => format!(" {member}"),
        RowPath::Leaf(path, _, member) if member.is_empty() => format!(" {}", path.to_pointer()),
        RowPath::Leaf(path, _, member) => format!(" {} {member}", path.to_pointer()),
    };
    format!("{} {namespace}/{key}{path}", api_type(data_type).as_str()).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{CollectionKey, DataType};

    #[test]
    fn rows_are_named_as_the_command_line_names_them_and_stay_on_their_line() {
        let set = CollectionKey::new("shop", DataType::Set, "cart").expect("a valid name");
        assert_eq!(row_name(&set.member("milk").expect("a valid member")), "sets shop/cart milk");
        assert_eq!(row_name(&set.member("a\nb").expect("a valid member")), "sets shop/cart a\\nb");
        let counter = CollectionKey::new("shop", DataType::Counter, "hits").expect("a valid name");
        assert_eq!(row_name(&counter.row()), "counters shop/hits");
    }
}

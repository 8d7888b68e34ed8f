//! A planned write as a request, and the read that looks for it.

use std::collections::BTreeMap;

use atoll_client::api::{MapPatch, SetChange};
use atoll_client::{Error, Session};

use crate::workload::{Cell, Change, Planned, Workload, value_of};

/// Asks `session`'s region for `planned`.
pub(super) async fn write(session: &Session, workload: &Workload, planned: &Planned) -> Result<(), Error> {
    let (namespace, key) = (&workload.namespace, planned.cell.key());
    if let Some(path) = planned.cell.path() {
        let patch = patch(path, workload, planned);
        return session.map(namespace, &key).patch(&patch).await.map(|_| ());
    }
    match planned.change {
        Change::Put => {
            let value = value_of(planned.number, workload.value_bytes);
            session.register(namespace, &key).put(value, None).await.map(|_| ())
        }
        Change::Switch(enabled) => session.flag(namespace, &key).put(enabled).await.map(|_| ()),
        Change::Add(n) => session.counter(namespace, &key).add(n.into()).await.map(|_| ()),
        Change::Include(_) | Change::Exclude(_) => {
            session.set(namespace, &key).change(&set_change(planned.change)).await.map(|_| ())
        }
    }
}

fn patch(path: String, workload: &Workload, planned: &Planned) -> MapPatch {
    let mut patch = MapPatch::default();
    match planned.change {
        Change::Put => {
            let value = value_of(planned.number, workload.value_bytes);
            patch.set = BTreeMap::from([(path, value.into())]);
        }
        Change::Switch(enabled) => patch.set = BTreeMap::from([(path, enabled.into())]),
        Change::Add(n) => patch.add = BTreeMap::from([(path, n.into())]),
        Change::Include(_) | Change::Exclude(_) => {
            patch.members = BTreeMap::from([(path, set_change(planned.change))]);
        }
    }
    patch
}

fn set_change(change: Change) -> SetChange {
    match change {
        Change::Include(member) => SetChange { add: vec![member.to_string()], remove: Vec::new() },
        Change::Exclude(member) => SetChange { add: Vec::new(), remove: vec![member.to_string()] },
        Change::Put | Change::Switch(_) | Change::Add(_) => SetChange::default(),
    }
}

/// Reads what `change` wrote to `cell`; says whether the read shows that something was written
/// there. Of a member it says nothing: another write may have removed or added it since.
pub(super) async fn is_visible(
    session: &Session,
    workload: &Workload,
    cell: Cell,
    change: Change,
) -> Result<bool, Error> {
    let (namespace, key) = (&workload.namespace, cell.key());
    if let Some(path) = cell.path() {
        let found = session.map(namespace, &key).get(Some(&path)).await?.value.is_some();
        return Ok(found || matches!(change, Change::Include(_) | Change::Exclude(_)));
    }
    match change {
        Change::Put => Ok(session.register(namespace, &key).get().await?.value.is_some()),
        Change::Switch(_) => Ok(session.flag(namespace, &key).get().await?.value.is_some()),
        Change::Add(_) => Ok(session.counter(namespace, &key).get().await?.value.is_some()),
        Change::Include(member) | Change::Exclude(member) => {
            session.set(namespace, &key).has(&member.to_string()).await.map(|_| true)
        }
    }
}

//! One read: a view, and what its answer has to tell.

use super::listing::{self, KeysPage, KeysQuery, json_bytes};
use super::token::ShownCounter;
use super::{App, AppError};
use crate::store::View;
use atoll_client::api::limits::MESSAGE_BYTES_MAX;
use atoll_crdt::{
    CollectionKey, MapPath, ReadError, Row, RowPath, RowSource as _, counters, flags, maps, registers, sets,
};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of JSON that a page or a map may come to.
pub(super) const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (64 << 10);

/// A view that covers what the session has seen.
pub struct Reading<'a> {
    pub(super) app: &'a App,
    pub(super) view: Arc<View>,
    /// The session's token now.
    pub(super) token: String,
    /// How old the oldest missing acknowledged write of another region can be.
    pub(super) staleness: Duration,
}

/// One of a register's concurrent values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// The value.
    pub bytes: Arc<[u8]>,
    /// The media type it was put with.
    pub content_type: Arc<str>,
    /// The region it was put in.
    pub region: String,
    /// When, by that region's clock, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A part of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersPage {
    /// Ascending by their bytes.
    pub members: Vec<String>,
    /// Of the whole set.
    pub size: u64,
    /// Whether more follow.
    pub is_last: bool,
}

impl Reading<'_> {
    /// The session's token now.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// How old the oldest missing acknowledged write of another region can be.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.staleness
    }

    /// This node's region.
    #[must_use]
    pub fn region(&self) -> &str {
        self.app.region.as_str()
    }

    /// What the read shows, as text.
    #[must_use]
    pub fn context(&self) -> String {
        self.context_with(None)
    }

    /// What a read of a counter shows, as text: also each actor's total, so that a delete takes exactly that.
    #[must_use]
    pub fn counter_context(&self, counter: &CollectionKey, row: &Row) -> String {
        let shown = ShownCounter::new(counter, counters::shown(row));
        self.context_with(Some(&shown))
    }

    fn context_with(&self, shown: Option<&ShownCounter>) -> String {
        let vector = self.view.context();
        self.app.tokens.short_context(vector, shown, self.app.archives.under(vector).as_deref())
    }

    /// The row of a type that has one; empty when nothing is there. One look-up.
    ///
    /// # Errors
    /// The storage failed.
    pub fn row(&self, key: &CollectionKey) -> Result<Arc<Row>, ReadError> {
        Ok(self.view.row(&key.row())?.unwrap_or_default())
    }

    /// A register's concurrent values, the winner first; empty when there is none.
    ///
    /// # Errors
    /// The storage failed.
    pub fn register(&self, key: &CollectionKey) -> Result<Vec<registers::Sibling>, ReadError> {
        Ok(registers::siblings(&*self.row(key)?))
    }

    /// Where and when a value was put.
    #[must_use]
    pub fn sibling(&self, sibling: registers::Sibling) -> Sibling {
        let region = self.app.origins.region(sibling.dot.actor, &self.view);
        Sibling { bytes: sibling.bytes, content_type: sibling.content_type, region, at_ms: sibling.at.ms() }
    }

    /// Whether a flag is on; `None` when it was never set, or is deleted.
    ///
    /// # Errors
    /// The storage failed.
    pub fn flag(&self, key: &CollectionKey) -> Result<Option<bool>, ReadError> {
        Ok(flags::state(&*self.row(key)?))
    }

    /// Whether `member` is in the set.
    ///
    /// # Errors
    /// The member cannot be, or the storage failed.
    pub fn is_member(&self, set: &CollectionKey, member: &str) -> Result<bool, AppError> {
        let key = set.member(member).map_err(|error| AppError::Path(error.to_string()))?;
        Ok(self.view.row(&key)?.is_some_and(|row| sets::is_member(&row)))
    }

    /// Up to `limit` members after `after`; `None` when the set is not there. Cost: the page, whatever the set's size.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn members(
        &self,
        set: &CollectionKey,
        after: Option<String>,
        limit: usize,
    ) -> Result<Option<MembersPage>, AppError> {
        let set = set.clone();
        self.app.scan(Arc::clone(&self.view), move |view| members(view, &set, after.as_deref(), limit)).await
    }

    /// What a map shows at a place, as JSON; `None` when nothing is there.
    ///
    /// # Errors
    /// It is too large for one answer, or the storage failed.
    pub async fn map(&self, map: &CollectionKey, path: MapPath) -> Result<Option<Vec<u8>>, AppError> {
        let map = map.clone();
        self.app.scan(Arc::clone(&self.view), move |view| map_json(view, &map, &path)).await
    }

    /// A page of a namespace's keys.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn keys(&self, query: KeysQuery) -> Result<KeysPage, AppError> {
        self.app.scan(Arc::clone(&self.view), move |view| listing::keys(view, &query)).await
    }

    /// The view.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }
}

fn members(
    view: &View,
    set: &CollectionKey,
    after: Option<&str>,
    limit: usize,
) -> Result<Option<MembersPage>, ReadError> {
    let size = view.live_rows(set)?;
    if size == 0 {
        return Ok(None);
    }
    let mut from = set.as_bytes().to_vec();
    if let Some(after) = after {
        from.extend_from_slice(after.as_bytes());
        from.push(0); // The first bytes after these.
    }
    let mut page = MembersPage { members: Vec::new(), size, is_last: true };
    let mut bytes = 0;
    view.visit(set.as_bytes(), &from, &mut |key, row| {
        if !sets::is_member(row) {
            return true;
        }
        let RowPath::Member(member) = key.parts().3 else { return true };
        bytes += json_bytes(&member);
        if page.members.len() >= limit || (bytes > ANSWER_BYTES_MAX && !page.members.is_empty()) {
            page.is_last = false;
            return false;
        }
        page.members.push(member);
        true
    })?;
    Ok(Some(page))
}

fn map_json(view: &View, map: &CollectionKey, path: &MapPath) -> Result<Option<Vec<u8>>, AppError> {
    let mut rows = maps::View::default();
    let mut bytes = 0;
    let subtree = path.subtree(map);
    view.visit(&subtree, &subtree, &mut |key, row| {
        // What is held until the answer is built: as much as is said, whether it is shown or not.
        bytes += key.as_bytes().len() + row.memory_bytes().min(2 * ANSWER_BYTES_MAX);
        rows.row(key, row);
        bytes <= 4 * ANSWER_BYTES_MAX
    })?;
    const TOO_LARGE: AppError =
        AppError::TooLarge("the map is larger than one answer may be; read parts of it with ?path=");
    if bytes > 4 * ANSWER_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    let Some(shown) = rows.shown(path) else { return Ok(None) };
    let mut json = Vec::new();
    write_json(&shown, &mut json);
    if json.len() > ANSWER_BYTES_MAX { Err(TOO_LARGE) } else { Ok(Some(json)) }
}

/// Writes what is shown as JSON. No deeper than a path.
fn write_json(shown: &maps::Shown, out: &mut Vec<u8>) {
    match shown {
        maps::Shown::Object(members) => {
            out.push(b'{');
            for (at, (name, shown)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write_json(shown, out);
            }
            out.push(b'}');
        }
        maps::Shown::Members(members) => {
            out.push(b'[');
            for (at, member) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(member, out);
            }
            out.push(b']');
        }
        maps::Shown::Counter(value) => out.extend_from_slice(counters::clamped(*value).to_string().as_bytes()),
        maps::Shown::Json(json) => out.extend_from_slice(json),
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    // Text always serializes, and a vector takes every byte.
    let _ = serde_json::to_writer(out, text);
}

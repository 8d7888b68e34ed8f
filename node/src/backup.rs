//! The backup that is being read from this node, and when the last one was whole.
//!
//! **How it goes.** Whoever makes a backup asks for a state, reads pages of it at its own pace, and says when it has stored all of them.
//!
//! **What always holds.** U1: there is at most one at a time. U2: a state that nobody asked for during [`IDLE_MAX`] is let go, so that it
//! does not keep old rows for ever; whoever asks then is told. U3: a restart of the node does not make it forget when its last backup was
//! whole.
//!
//! **What is not here.** The state and its pages ([`crate::store::BackupSource`]); where a backup is stored: whoever reads it.

use crate::store::BackupSource;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a state is kept that nobody asks for: longer than storing what was asked for last takes.
pub const IDLE_MAX: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub struct Backups {
    running: Mutex<Option<Running>>,
    /// When the last one was whole, in milliseconds since 1970; 0 for never.
    last_ms: AtomicU64,
    path: PathBuf,
    idle_max: Duration,
}

#[derive(Debug)]
struct Running {
    session: u64,
    source: Arc<BackupSource>,
    asked: Instant,
}

impl Backups {
    /// Backups of a node whose data directory this is.
    #[must_use]
    pub fn of(data_dir: &Path) -> Arc<Self> {
        Self::with(data_dir, IDLE_MAX)
    }

    fn with(data_dir: &Path, idle_max: Duration) -> Arc<Self> {
        let path = data_dir.join("last-backup");
        let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Arc::new(Self { running: Mutex::default(), last_ms: AtomicU64::new(last), path, idle_max })
    }

    /// Keeps a state to be read under this number; `false` while another one is. U1
    pub fn begin(self: &Arc<Self>, session: u64, source: BackupSource) -> bool {
        let mut running = self.lock();
        if running.is_some() {
            return false;
        }
        *running = Some(Running { session, source: Arc::new(source), asked: Instant::now() });
        tokio::spawn(let_go(Arc::downgrade(self), session, self.idle_max));
        true
    }

    /// The state under this number.
    #[must_use]
    pub fn source(&self, session: u64) -> Option<Arc<BackupSource>> {
        let mut running = self.lock();
        let running = running.as_mut().filter(|running| running.session == session)?;
        running.asked = Instant::now();
        Some(Arc::clone(&running.source))
    }

    /// Ends one; `whole_at_ms` when everything of it is stored. `false` if there is none under this number.
    pub fn end(&self, session: u64, whole_at_ms: Option<u64>) -> bool {
        let Some(ended) = self.lock().take_if(|running| running.session == session) else { return false };
        free(ended);
        if let Some(at) = whole_at_ms {
            self.last_ms.store(at, Relaxed);
            if let Err(error) = self.store(at) {
                tracing::warn!(%error, "a restart will not know when the last backup was");
            }
        }
        true
    }

    /// U3
    fn store(&self, at_ms: u64) -> std::io::Result<()> {
        let new = self.path.with_extension("tmp");
        let mut file = std::fs::File::create(&new)?;
        writeln!(file, "{at_ms}")?;
        file.sync_data()?;
        std::fs::rename(new, &self.path)
    }

    /// Milliseconds since the last one was whole, by the wall clock.
    #[must_use]
    pub fn since_last_ms(&self, now_ms: u64) -> Option<u64> {
        let last = self.last_ms.load(Relaxed);
        (last > 0).then(|| now_ms.saturating_sub(last))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// It may be the last to hold many rows.
fn free(running: Running) {
    tokio::task::spawn_blocking(move || drop(running));
}

/// U2
async fn let_go(backups: Weak<Backups>, session: u64, idle_max: Duration) {
    loop {
        let Some(backups) = backups.upgrade() else { return };
        let asked = match &*backups.lock() {
            Some(running) if running.session == session => running.asked,
            _ => return,
        };
        let left = idle_max.saturating_sub(asked.elapsed());
        if left.is_zero() {
            tracing::warn!("a backup was not gone on with, and what it reads is let go");
            backups.end(session, None);
            return;
        }
        drop(backups);
        tokio::time::sleep(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Node;
    use crate::inbox::Event;
    use tokio::sync::oneshot;

    async fn source(node: &Node) -> BackupSource {
        let (answer, source) = oneshot::channel();
        node.shared.app().inbox().event(Event::Backup(answer)).await.unwrap();
        source.await.unwrap()
    }

    #[tokio::test]
    async fn one_state_is_kept_at_a_time_and_let_go_when_nobody_asks_for_it() {
        let (node, dir) = (Node::start().await, tempfile::tempdir().unwrap());
        let backups = Backups::with(dir.path(), Duration::from_millis(200));
        assert!(backups.begin(1, source(&node).await));
        assert!(!backups.begin(2, source(&node).await), "U1");
        assert!(backups.source(1).is_some() && backups.source(2).is_none());
        // U2
        let deadline = Instant::now() + Duration::from_secs(60);
        while !backups.begin(2, source(&node).await) {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        assert!(backups.source(1).is_none() && !backups.end(1, Some(5)));
        assert_eq!(backups.since_last_ms(7), None, "one that was given up was not whole");
        assert!(backups.end(2, Some(5)));
        // U3
        assert_eq!(Backups::of(dir.path()).since_last_ms(7), Some(2));
    }
}

//! Room on the data directory's disk: when this node takes no writes any more, when it hears no peer, and when again.
//!
//! **How it goes.** Ten times a second somebody asks the system how much room there is. Below `limits.disk_reserve` clients'
//! writes are refused; what peers send is still stored, out of the reserve. Below half of it links are ended and none is
//! let in. With room the node goes back by itself.
//!
//! **What always holds.** M1: nothing is refused that was acknowledged, here or to a peer: what was appended before is
//! stored out of the reserve. M2: each state is left at a quarter of the reserve more than it was entered at, so that it does
//! not flicker. M3: a reserve of nothing never refuses anything.
//!
//! **What is not here.** Room for what is built aside ([`crate::store`]), which is given up before it takes the reserve.
//!
//! **Why not wait for an error.** A failed write of the journal ends the process, and the row engine takes none any more once one has failed.

use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks: at 100 MB/s a fifteenth of the default reserve.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// For everything.
    Enough = 0,
    /// For what others have acknowledged, no longer for clients here.
    Short = 1,
    /// For nothing that comes from outside.
    Spent = 2,
}

/// What the last look said; read by everybody.
#[derive(Debug)]
pub(crate) struct Room {
    reserve_bytes: u64,
    available_bytes: AtomicU64,
    level: AtomicU8,
}

impl Room {
    /// With so much that is kept free, before the first look.
    pub(crate) fn new(reserve_bytes: u64) -> Self {
        Self { reserve_bytes, available_bytes: AtomicU64::new(u64::MAX), level: AtomicU8::new(Level::Enough as u8) }
    }

    /// Bytes that were free when somebody looked last; `None` before.
    pub(crate) fn available_bytes(&self) -> Option<u64> {
        Some(self.available_bytes.load(Ordering::Acquire)).filter(|bytes| *bytes != u64::MAX)
    }

    fn level(&self) -> Level {
        match self.level.load(Ordering::Acquire) {
            0 => Level::Enough,
            1 => Level::Short,
            _ => Level::Spent,
        }
    }

    /// Looks at the disk, and says whether peers are to be let go or back in.
    ///
    /// # Errors
    /// The system does not tell; nothing has changed.
    pub(crate) fn look(&self, path: &Path) -> std::io::Result<Option<bool>> {
        let disk = rustix::fs::statvfs(path)?;
        Ok(self.found(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    /// So much is free; says whether links are to be held from now on, or no longer.
    fn found(&self, available: u64) -> Option<bool> {
        let before = self.level();
        let now = next(before, available, self.reserve_bytes);
        self.available_bytes.store(available, Ordering::Release);
        self.level.store(now as u8, Ordering::Release);
        let reserve = self.reserve_bytes;
        match (before, now) {
            _ if before == now => {}
            (_, Level::Enough) => tracing::warn!(available, reserve, "the disk has room again: writes are taken"),
            (_, Level::Short) => {
                tracing::error!(available, reserve, "the disk is nearly full: no writes of clients are taken");
            }
            (_, Level::Spent) => {
                tracing::error!(available, reserve, "the disk is all but full: links to peers are held");
            }
        }
        let (held, hold) = (before == Level::Spent, now == Level::Spent);
        (held != hold).then_some(hold)
    }

    /// Why no writes are taken, if they are not.
    pub(crate) fn read_only(&self) -> Option<String> {
        let mib = |bytes: u64| bytes >> 20;
        let text = |more| {
            format!(
                "the disk has {} MiB free and limits.disk_reserve keeps {} MiB{more}; it goes on by itself when there is room",
                mib(self.available_bytes().unwrap_or_default()),
                mib(self.reserve_bytes)
            )
        };
        match self.level() {
            Level::Enough => None,
            Level::Short => Some(text("")),
            Level::Spent => Some(text(", and links to peers are held")),
        }
    }
}

/// M2, M3
fn next(now: Level, available: u64, reserve: u64) -> Level {
    let quarter = reserve / 4;
    let at_least = |quarters: u64| available >= quarter.saturating_mul(quarters);
    match now {
        _ if !at_least(2) => Level::Spent,
        Level::Spent if !at_least(3) => Level::Spent,
        _ if !at_least(4) => Level::Short,
        Level::Short | Level::Spent if !at_least(5) => Level::Short,
        _ => Level::Enough,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_left_later_than_they_are_entered() {
        let room = Room::new(400);
        let found = |available| (room.found(available), room.level());
        for (available, hold, level) in [
            (400, None, Level::Enough),
            (399, None, Level::Short),
            (499, None, Level::Short),
            (200, None, Level::Short),
            (199, Some(true), Level::Spent),
            (0, None, Level::Spent),
            (299, None, Level::Spent),
            (300, Some(false), Level::Short),
            (499, None, Level::Short),
            (500, None, Level::Enough),
            (0, Some(true), Level::Spent),
            (900, Some(false), Level::Enough),
        ] {
            assert_eq!(found(available), (hold, level), "{available}");
            assert_eq!(room.read_only().is_some(), level != Level::Enough);
        }
    }

    #[test]
    fn a_reserve_of_nothing_refuses_nothing() {
        let room = Room::new(0);
        assert_eq!((room.found(0), room.level(), room.read_only()), (None, Level::Enough, None));
        assert_eq!(room.available_bytes(), Some(0));
    }

    #[test]
    fn the_system_is_asked() {
        let room = Room::new(u64::MAX / 2);
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(room.available_bytes(), None);
        assert_eq!(room.look(dir.path()).expect("told"), Some(true), "no disk has so much");
        assert!(room.available_bytes().is_some_and(|bytes| bytes > 0));
        assert!(room.look(&dir.path().join("none")).is_err());
        assert_eq!(room.level(), Level::Spent, "nothing has changed");
    }
}

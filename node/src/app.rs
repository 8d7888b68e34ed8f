//! What the API can do, without a transport: reads on a snapshot, writes through the replica, sessions.
//!
//! **How it goes.** A read waits until this node's synced view covers what the session has seen, takes that view, and
//! answers from it ([`Reading`]). A write goes to the replica's queue and comes back when it is durable at the level asked
//! for. Both answer a token that covers what the session has seen by then.
//!
//! **What always holds.** P1: what is read is synced. P2: a token that is answered covers the token that was brought. P3:
//! the staleness that is told is taken before the view it is told of, so it is never too small. P4: waiting reads, and
//! reads that walk many rows, are bounded in number; one that walks is bounded in rows and bytes too.
//!
//! **What is not here.** HTTP, JSON and percent signs: [`crate::api`]. The protocol: `atoll-replication`.

mod listing;
mod origins;
mod reading;
mod status;
mod token;

use crate::archive::{self, Archives};
use crate::inbox::{Inbox, Stopped};
use crate::store::{Behind, View, Views};
use atoll_client::api::{Consistency, WriteLevel};
use atoll_crdt::{CollectionKey, DataType, ReadError, Seen, VersionVector, maps};
use atoll_replication::{
    Answer, Command, CommandError, Fence, MapChange, RegionName, WriteError, WriteOutcome, WriteRequest,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use listing::{Cursor, KeysPage, KeysQuery};
pub use reading::{MembersPage, Reading, Sibling};
pub use status::{NodeStatus, RegionFreshness, Snapshot};
pub use token::{Context, TokenError, Tokens};

use origins::Origins;

/// Rows that one write may change. The replica refuses more too, but only once it has looked at each.
const ROWS_MAX: usize = 65_536;

/// What a write of too many rows, or of too many bytes, is told.
const RECORD_TOO_LARGE: AppError =
    AppError::TooLarge("the write makes a record of more than 4 MiB or 65,536 rows; split it");

/// What an [`App`] is made of.
pub struct Parts {
    /// The cluster's name.
    pub cluster: String,
    /// This node's region.
    pub region: RegionName,
    /// The synced views.
    pub views: Arc<Views>,
    /// The way to the replica.
    pub inbox: Inbox,
    /// The archive that makes tokens short.
    pub(crate) archives: Arc<Archives>,
    /// What the driver tells of the node.
    pub status: Arc<NodeStatus>,
    /// Reads that may wait for their session.
    pub waiting_reads: u32,
    /// Reads at once that walk many rows.
    pub scans: u32,
}

/// One node's part of the API.
pub struct App {
    region: RegionName,
    views: Arc<Views>,
    inbox: Inbox,
    status: Arc<NodeStatus>,
    tokens: Tokens,
    archives: Arc<Archives>,
    origins: Origins,
    waiting_reads: Semaphore,
    scans: Arc<Semaphore>,
}

/// What a read must have seen.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// What the session has seen.
    pub token: VersionVector,
    /// Whether to wait for that.
    pub consistency: Consistency,
    /// How long.
    pub wait: Duration,
}

/// What a write goes by.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// What the session has seen.
    pub token: VersionVector,
    /// What the client was shown: exactly that is replaced.
    pub context: Option<Context>,
    /// How long to wait until this node has seen as much.
    pub wait: Duration,
    /// In how many regions it must be durable before the answer.
    pub level: WriteLevel,
    /// How long to wait for that.
    pub level_wait: Duration,
}

/// A write that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// One for each command.
    pub answers: Vec<Answer>,
    /// The session's token now.
    pub token: String,
    /// Regions that held it, and regions asked for, when time ran out before the level was reached.
    pub acked: Option<(u32, u32)>,
}

/// Why something was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppError {
    /// More regions than there are (caller).
    #[error("w asks for {asked} regions, and the cluster has {regions}")]
    Level {
        /// How many were asked for.
        asked: u32,
        /// How many there are.
        regions: usize,
    },
    /// A counter would leave its range (caller).
    #[error("the counter would leave the range of a signed 64-bit number")]
    OutOfRange,
    /// A place in a map that cannot be (caller).
    #[error("{0}")]
    Path(String),
    /// The record, or the answer, would be too large (caller): ask for less at once.
    #[error("{0}")]
    TooLarge(&'static str),
    /// This node has not seen what the session has (retry, or ask another region).
    #[error("this region has not yet seen what the session has")]
    SessionBehind {
        /// How far behind each other region this node is, in milliseconds.
        lag_ms: Vec<(RegionName, u64)>,
    },
    /// What the session saw is lost (caller: begin a new session).
    #[error("a write that this session saw is held by no member any more; begin a new session")]
    SessionLost,
    /// This node is being drained (ask another).
    #[error("this node is being drained")]
    Draining,
    /// This node is joining (retry, or ask another).
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// This node's clock is off, and the write is one that clocks may decide (operator).
    #[error("this node's clock is {skew_ms} ms away from its peers'")]
    ClockSkew {
        /// How far.
        skew_ms: u64,
    },
    /// Too much waits already (retry).
    #[error("too many requests are waiting")]
    Overloaded,
    /// The store takes no writes (operator).
    #[error("the store takes no writes: {0}")]
    ReadOnly(String),
    /// The node is stopping (ask another).
    #[error("this node is stopping")]
    Stopping,
    /// The storage failed, or a part of this program did (operator).
    #[error(transparent)]
    Storage(ReadError),
    /// A row is damaged here and not repaired yet (disk; try again, or another region).
    #[error("a row that this needs is damaged here, and is being repaired from another node")]
    Damaged,
}

impl From<ReadError> for AppError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(_) => Self::Damaged,
            error @ ReadError::Failed(_) => Self::Storage(error),
        }
    }
}

impl From<Stopped> for AppError {
    fn from(_: Stopped) -> Self {
        Self::Stopping
    }
}

impl App {
    /// An API over a running node.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            tokens: Tokens::of_cluster(&parts.cluster),
            archives: parts.archives,
            origins: Origins::default(),
            waiting_reads: Semaphore::new(parts.waiting_reads as usize),
            scans: Arc::new(Semaphore::new(parts.scans as usize)),
            region: parts.region,
            views: parts.views,
            inbox: parts.inbox,
            status: parts.status,
        }
    }

    /// This node's region.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.region
    }

    /// What the driver tells of the node.
    #[must_use]
    pub fn status(&self) -> &Arc<NodeStatus> {
        &self.status
    }

    /// The way to the replica.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// What a session has seen, by its token.
    ///
    /// # Errors
    /// It is no token of this cluster.
    pub fn read_token(&self, text: &[u8]) -> Result<VersionVector, TokenError> {
        self.tokens.read_token(text)
    }

    /// What a read showed, from its text.
    ///
    /// # Errors
    /// It is no context of this cluster, or refers to what this node does not have.
    pub fn read_context(&self, text: &[u8]) -> Result<Context, TokenError> {
        let view = self.view();
        self.tokens.read_context(text, |name| archive::look_up(&view, name).ok().flatten())
    }

    fn token_of(&self, vector: &VersionVector) -> String {
        self.tokens.short_token(vector, self.archives.under(vector).as_deref())
    }

    /// The newest synced view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.views.current()
    }

    /// A view that covers what the session has seen, with what its answer has to tell.
    ///
    /// # Errors
    /// This node is not ready, has not seen as much within the wait, or too many wait already.
    pub async fn read(&self, options: &ReadOptions) -> Result<Reading<'_>, AppError> {
        self.check_ready()?;
        if options.consistency == Consistency::Session && !options.token.leq(self.views.current().context()) {
            self.wait_until_seen(&options.token, options.wait).await?;
        }
        // P3: the bound first, then the view; a view never goes back behind what was waited for.
        let fresh = self.status.fresh_as_of();
        let view = self.views.current();
        let staleness =
            if self.status.snapshot().regions.is_empty() { Duration::ZERO } else { self.status.since(fresh) };
        let mut token = VersionVector::clone(view.context());
        token.join(&options.token); // P2
        Ok(Reading { app: self, token: self.token_of(&token), staleness, view })
    }

    async fn wait_until_seen(&self, token: &VersionVector, wait: Duration) -> Result<(), AppError> {
        // P4
        let _waiting = self.waiting_reads.try_acquire().map_err(|_| AppError::Overloaded)?;
        match self.views.covers(token, Instant::now() + wait).await {
            Ok(_) => return Ok(()),
            Err(Behind::Deadline { .. }) => {}
            Err(Behind::Overloaded) => return Err(AppError::Overloaded),
            Err(Behind::Stopped) => return Err(AppError::Stopping),
        }
        if self.inbox.is_lost(token.clone(), wait).await? { Err(AppError::SessionLost) } else { Err(self.behind()) }
    }

    /// Does `commands`, all or none.
    ///
    /// # Errors
    /// They cannot be done, or this node cannot do them now.
    pub async fn write(&self, commands: Vec<Command>, options: WriteOptions) -> Result<Written, AppError> {
        self.check_ready()?;
        self.check_writable()?;
        if commands.iter().map(rows).sum::<usize>() > ROWS_MAX {
            return Err(RECORD_TOO_LARGE);
        }
        let regions = self.level(options.level)?;
        let commands = self.looked_through(commands, &options).await?;
        let request = WriteRequest {
            seen: options.context.map(|context| seen(context, &commands)),
            commands,
            token: options.token.clone(),
            wait: options.wait,
            regions,
            regions_wait: options.level_wait,
        };
        let outcome = self.inbox.write(request).await?.map_err(|error| self.refused(error))?;
        let WriteOutcome { answers, mut token, acked, reached, .. } = outcome;
        token.join(&options.token); // P2
        Ok(Written { answers, token: self.token_of(&token), acked: (!reached).then_some((acked, regions)) })
    }

    /// Has a reader find the counters of a map that is to be deleted, so that no other write waits for that. What the
    /// client had seen must be in the view, and be all: else the writer looks through the map itself.
    async fn looked_through(&self, commands: Vec<Command>, options: &WriteOptions) -> Result<Vec<Command>, AppError> {
        let [Command::Delete { key }] = commands.as_slice() else { return Ok(commands) };
        let view = self.views.current();
        if key.data_type() != DataType::Map || options.context.is_some() || !options.token.leq(view.context()) {
            return Ok(commands);
        }
        let key = key.clone();
        let found = self.scan(view, {
            let key = key.clone();
            move |view| maps::look(view, &key, VersionVector::clone(view.context()))
        });
        Ok(vec![Command::MapDelete { found: found.await?, key }])
    }

    /// Runs a read that walks many rows, on a thread that may block. P4
    ///
    /// # Errors
    /// What it says, or the node is stopping.
    pub async fn scan<T, E>(
        &self,
        view: Arc<View>,
        walk: impl FnOnce(&View) -> Result<T, E> + Send + 'static,
    ) -> Result<T, AppError>
    where
        T: Send + 'static,
        E: Into<AppError> + Send + 'static,
    {
        let permit = Arc::clone(&self.scans).acquire_owned().await.map_err(|_| AppError::Stopping)?;
        let walked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            walk(&view)
        });
        match walked.await {
            Ok(result) => result.map_err(Into::into),
            Err(panic) => Err(ReadError::Failed(panic.to_string()).into()),
        }
    }

    /// Whether this node may serve clients.
    ///
    /// # Errors
    /// It is joining.
    fn check_ready(&self) -> Result<(), AppError> {
        self.status.snapshot().not_ready().map_or(Ok(()), |reason| Err(AppError::NotReady(reason)))
    }

    fn check_writable(&self) -> Result<(), AppError> {
        if self.status.is_draining() {
            return Err(AppError::Draining);
        }
        match &self.status.snapshot().read_only {
            Some(reason) => Err(AppError::ReadOnly(reason.clone())),
            None => Ok(()),
        }
    }

    /// How many regions a level asks for.
    fn level(&self, level: WriteLevel) -> Result<u32, AppError> {
        let regions = self.status.snapshot().regions.len() + 1;
        let asked = match level {
            WriteLevel::Local => 1,
            WriteLevel::Regions(count) => count.get().into(),
            WriteLevel::Majority => regions as u32 / 2 + 1,
            WriteLevel::All => regions as u32,
        };
        if asked as usize > regions { Err(AppError::Level { asked, regions }) } else { Ok(asked) }
    }

    fn behind(&self) -> AppError {
        let snapshot = self.status.snapshot();
        let lag_ms = snapshot.regions.iter().map(|of| {
            let lag = self.status.since(of.as_of);
            (of.region.clone(), u64::try_from(lag.as_millis()).unwrap_or(u64::MAX))
        });
        AppError::SessionBehind { lag_ms: lag_ms.collect() }
    }

    pub(crate) fn refused(&self, error: WriteError) -> AppError {
        match error {
            WriteError::SessionBehind => self.behind(),
            WriteError::SessionLost => AppError::SessionLost,
            WriteError::ClockSkew { skew_ms } => AppError::ClockSkew { skew_ms },
            WriteError::Fenced(Fence::Draining) => AppError::Draining,
            WriteError::Fenced(Fence::Removed) => {
                AppError::ReadOnly("this node was removed from the cluster".to_owned())
            }
            WriteError::Fenced(Fence::Twin) => {
                AppError::ReadOnly("another process runs under this node's name".to_owned())
            }
            WriteError::NotReady => AppError::NotReady("joining".to_owned()),
            WriteError::Overloaded => AppError::Overloaded,
            WriteError::Command(CommandError::OutOfRange) => AppError::OutOfRange,
            WriteError::Command(CommandError::Path(why)) => AppError::Path(why),
            WriteError::Command(CommandError::TooLarge) => RECORD_TOO_LARGE,
            WriteError::Command(CommandError::Read(error)) => error.into(),
            WriteError::Damaged => AppError::Damaged,
        }
    }
}

/// Rows that a command names; it may come to touch others, which exist already.
fn rows(command: &Command) -> usize {
    match command {
        Command::SetChange { add, remove, .. } => add.len() + remove.len(),
        Command::MapPatch { changes, .. } => changes.iter().map(leaves).sum(),
        Command::RegisterPut { .. }
        | Command::CounterAdd { .. }
        | Command::FlagSet { .. }
        | Command::MapDelete { .. }
        | Command::Delete { .. } => 1,
    }
}

fn leaves(change: &MapChange) -> usize {
    fn of(value: &maps::Value) -> usize {
        match value {
            // No deeper than JSON is read.
            maps::Value::Object(members) => members.iter().map(|(_, value)| of(value)).sum::<usize>().max(1),
            maps::Value::Json(_) => 1,
        }
    }
    if let MapChange::Set(_, value) = change { of(value) } else { 1 }
}

/// What a write replaces. The totals that a counter's read showed cut that counter only: applied to another one they
/// would take what nobody saw.
fn seen(context: Context, commands: &[Command]) -> Seen {
    let is_its = |of: &CollectionKey| commands.iter().all(|command| command.key() == of);
    let floors = context
        .floors
        .filter(|shown| commands.first().is_some_and(|first| shown.is_of(first.key()) && is_its(first.key())));
    Seen { context: context.vector, floors: floors.map(|shown| shown.floors) }
}

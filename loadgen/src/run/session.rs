//! One session: asks a write, waits for its outcome, asks the next.

use std::sync::Arc;
use std::time::Duration;

use atoll_client::{Client, Options, Session};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::{Shared, ask};
use crate::clock::Moment;
use crate::history::{Outcome, Write};
use crate::workload::{Planned, Planner, SessionId, Workload};

/// How long a write waits for its region to see what the session has seen: after a change of
/// region it may have to.
const WAIT: Duration = Duration::from_secs(1);

/// When a session writes.
#[derive(Clone)]
pub(super) enum Source {
    /// When the pacer says so and this session's turn has come.
    Open(Arc<AsyncMutex<mpsc::Receiver<Moment>>>),
    /// At once, until the end.
    Closed {
        /// When no more writes are asked.
        end: Moment,
    },
}

/// A session's task.
pub(super) struct SessionTask {
    shared: Arc<Shared>,
    id: SessionId,
    home: usize,
    /// The region that it is in.
    region: usize,
    session: Session,
    planner: Planner,
    source: Source,
}

impl SessionTask {
    pub(super) fn new(shared: Arc<Shared>, id: SessionId, home: usize, planner: Planner, source: Source) -> Self {
        let session = session(&shared.workload, &shared.clients[home], None);
        Self { shared, id, home, region: home, session, planner, source }
    }

    /// Writes until the source is exhausted; returns what it asked.
    pub(super) async fn run(mut self) -> Vec<Write> {
        let mut asked = Vec::new();
        while let Some(intended) = self.next().await {
            let write = self.ask(intended).await;
            self.shared.tally.count(&write);
            if let (Some(prober), Some(token)) = (&self.shared.prober, &write.token) {
                prober.offer(&write, token, |region| self.shared.router.is_up(region));
            }
            if self.shared.workload.record {
                asked.push(write); // R3
            }
        }
        asked
    }

    async fn next(&self) -> Option<Moment> {
        if self.shared.is_full() {
            return None;
        }
        match &self.source {
            Source::Open(due) => due.lock().await.recv().await,
            Source::Closed { end } => Some(self.shared.clock.now()).filter(|now| now < end),
        }
    }

    async fn ask(&mut self, intended: Moment) -> Write {
        self.follow_home();
        let planned = self.planner.plan();
        let started = self.shared.clock.now();
        let outcome = self.outcome(&planned).await;
        let answered = self.shared.clock.now();
        if outcome == Outcome::Acknowledged {
            self.planner.acknowledged(&planned);
        }
        let kept = self.shared.workload.record || self.shared.prober.is_some();
        let wanted = outcome == Outcome::Acknowledged && kept;
        let token = wanted.then(|| self.session.token()).flatten().map(String::into_boxed_str);
        let Planned { number, cell, change } = planned;
        let (session, home, region) = (self.id, self.home, self.region);
        Write { number, session, home, region, cell, change, outcome, intended, started, answered, token }
    }

    async fn outcome(&self, planned: &Planned) -> Outcome {
        let write = ask::write(&self.session, &self.shared.workload, planned);
        tokio::select! {
            answer = write => match answer {
                Ok(()) => Outcome::Acknowledged,
                Err(error) => Outcome::of_error(&error),
            },
            () = self.shared.router.lost(self.region) => Outcome::Unknown, // R4
        }
    }

    /// Goes to the region that serves this session now, and takes the token along.
    fn follow_home(&mut self) {
        let serving = self.shared.router.serving(self.home);
        if serving != self.region {
            let token = self.session.token();
            let client = &self.shared.clients[serving];
            self.session = session(&self.shared.workload, client, token.as_deref());
            self.region = serving;
        }
    }
}

fn session(workload: &Workload, client: &Client, token: Option<&str>) -> Session {
    if !workload.tokens {
        return client.without_session();
    }
    let session = token.map_or_else(|| client.session(), |token| client.resume(token));
    session.with_options(Options { wait: Some(WAIT), ..Options::default() })
}

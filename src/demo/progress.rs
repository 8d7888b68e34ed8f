//! How far the demo is, on a terminal; silence in a pipe.

use std::io::IsTerminal as _;
use std::time::Duration;

use atoll_loadgen::run::Observer;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval};

/// How often the line is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// The progress line.
pub(super) struct Progress {
    bar: ProgressBar,
    duration: Duration,
}

impl Progress {
    /// A line for a load of `duration`; hidden unless stderr is a terminal.
    pub(super) fn new(duration: Duration) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), duration };
        }
        let bar = ProgressBar::new(duration.as_millis().try_into().unwrap_or(u64::MAX));
        // A template of ours that does not parse leaves the default's look.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {bar:30} {msg}") {
            bar.set_style(style);
        }
        Self { bar, duration }
    }

    /// Says what is done now.
    pub(super) fn phase(&self, what: &'static str) {
        self.bar.set_message(what);
        self.bar.tick();
    }

    /// Shows how far the load is until `work` is done.
    pub(super) async fn watch<T>(&self, load: &Observer, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let mut ticks = interval(DRAW_EVERY);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick(), if !self.bar.is_hidden() => self.draw(load, started.elapsed()),
            }
        }
    }

    fn draw(&self, load: &Observer, elapsed: Duration) {
        let elapsed = elapsed.min(self.duration);
        self.bar.set_position(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
        let progress = load.progress();
        self.bar.set_message(format!(
            "{:>3} of {} s, {} writes acknowledged, {} failed",
            elapsed.as_secs(),
            self.duration.as_secs(),
            progress.acknowledged,
            progress.failed,
        ));
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

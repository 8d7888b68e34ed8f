//! How far long work is, on a terminal; silence in a pipe.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;

/// The line.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A line for so many rows; hidden unless stderr is a terminal.
    pub(super) fn new(rows: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(rows);
        // A template of ours that does not parse leaves the default's look.
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} rows, {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many more rows are done.
    pub(super) fn done(&self, rows: u64, what: &'static str) {
        self.0.set_message(what);
        self.0.inc(rows);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

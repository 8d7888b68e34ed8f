//! The command line of Atoll: one binary, `atoll`, as a library.
//!
//! *How it goes.* `cli` says what may be typed, `commands` does it, `console` is where the
//! input comes from and the output goes, `exit` says how it ended.
//!
//! *What always holds.* L1: the exit status is one of the contract's. L2: an error is one line on
//! stderr: what, why, what to do. L3: stdout carries the answer and nothing else, so that it can be
//! piped. L4: only this package reads flags and the environment; the libraries take values.

pub mod backup;
mod cli;
mod commands;
mod connect;
mod console;
mod demo;
mod exit;
mod load;
mod notify;
pub mod pki;
mod serve;
mod table;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use cli::{Cli, Parsed};
pub use console::Console;
pub use exit::{Exit, Failure};

/// Does what the process's arguments say, on its own standard streams.
#[must_use]
pub fn main() -> ExitCode {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    // Not locked: a node's other threads log to it.
    let mut console = Console::new(stdin.lock(), stdout.lock(), stderr);
    run(std::env::args_os(), &mut console).into()
}

/// Does what `args` say, the program's name first, on the streams of `console`.
pub fn run(args: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> Exit {
    let outcome = match cli::parse(args) {
        Parsed::Command(cli) => dispatch(*cli, console),
        Parsed::Text(text) => console.text(&text).map(|()| Exit::Done),
        Parsed::Nothing(help) => {
            console.complain_in_full(&help);
            return Exit::Usage;
        }
        Parsed::Wrong(message) => Err(Failure::usage(message)),
    };
    // The answer may still be in the stream's buffer.
    match outcome.and_then(|exit| console.flush().map(|()| exit)) {
        Ok(exit) => exit,
        Err(failure) => {
            console.complain(&failure.message);
            failure.exit
        }
    }
}

fn dispatch(cli: Cli, console: &mut Console<'_>) -> Result<Exit, Failure> {
    console.set_json(cli.json != cli::Json::No);
    commands::run(cli.command, &cli.client, console)
}

#[cfg(test)]
mod tests;

//! The streams of a command, and the two voices it speaks with: lines for people, JSON for
//! programs.

use std::fmt::{self, Display, Write as _};
use std::io::{self, ErrorKind, Read, Write};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Standard input, output and error, or what stands for them.
pub struct Console<'a> {
    stdin: Box<dyn Read + 'a>,
    stdout: Box<dyn Write + 'a>,
    stderr: Box<dyn Write + 'a>,
    json: bool,
}

impl<'a> Console<'a> {
    /// A console on these streams.
    pub fn new(stdin: impl Read + 'a, stdout: impl Write + 'a, stderr: impl Write + 'a) -> Self {
        Self { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), json: false }
    }

    pub(crate) fn set_json(&mut self, json: bool) {
        self.json = json;
    }

    /// Whether a program reads the answer.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Standard input.
    pub(crate) fn stdin(&mut self) -> &mut dyn Read {
        &mut self.stdin
    }

    /// Writes one line of the answer.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        written(writeln!(self.stdout, "{text}"))
    }

    /// Writes text that has its own line breaks.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        written(self.stdout.write_all(bytes))
    }

    /// Writes one JSON value on one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let outcome = serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from);
        written(outcome.and_then(|()| writeln!(self.stdout)))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        written(self.stdout.flush())
    }

    /// Says something beside the answer, in one line.
    pub(crate) fn complain(&mut self, message: &str) {
        // Where stderr is gone, nobody is left to tell.
        let _ = writeln!(self.stderr, "atoll: {}", OneLine(message));
    }

    /// Says something that has its own line breaks.
    pub(crate) fn complain_in_full(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes());
    }
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("json", &self.json).finish_non_exhaustive()
    }
}

/// What a write's outcome means. A reader that has enough (`atoll keys shop | head`) is no failure.
fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::CannotStart, format!("the answer cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Text on one line, control characters escaped: data from elsewhere neither breaks the line nor
/// speaks to the terminal.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                c.escape_debug().fmt(f)?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(ErrorKind);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn reader_that_has_enough_is_no_failure_and_a_full_disk_is_one() {
        let mut piped = Console::new(io::empty(), Full(ErrorKind::BrokenPipe), io::sink());
        assert_eq!(piped.line("x"), Ok(()));
        assert_eq!(piped.json(&1), Ok(()));
        assert_eq!(piped.flush(), Ok(()));
        let mut full = Console::new(io::empty(), Full(ErrorKind::StorageFull), io::sink());
        assert_eq!(full.line("x").unwrap_err().exit, Exit::CannotStart);
        assert_eq!(full.json(&1).unwrap_err().exit, Exit::CannotStart);
    }

    #[test]
    fn data_does_not_speak_to_the_terminal() {
        assert_eq!(OneLine("a\u{1b}[2J\nb é").to_string(), "a\\u{1b}[2J\\nb é");
    }
}

//! What the commands on data have in common: how answers are shown.

use atoll_client::{Acked, Context, Read, Session, Written};
use serde_json::{Map, Value, json};

use crate::console::Console;
use crate::exit::{Exit, Failure};

/// A command under way: whom it asks, against what it writes, where it answers.
pub(super) struct Ask<'a, 'c> {
    pub(super) session: &'a Session,
    pub(super) context: Option<Context>,
    pub(super) console: &'a mut Console<'c>,
}

impl Ask<'_, '_> {
    /// Refuses `--context` where it would be ignored.
    pub(super) fn reads(&self) -> Result<(), Failure> {
        if self.context.is_some() {
            return Err(Failure::usage("--context goes with a write; a read takes none"));
        }
        Ok(())
    }

    /// Ends a write that answers a number, called `name` in JSON.
    pub(super) fn wrote_number<T: Into<Value>>(&mut self, name: &str, written: Written<T>) -> Result<Exit, Failure> {
        let value: Value = written.value.into();
        if self.console.is_json() {
            let mut answer = Map::new();
            answer.insert(name.to_owned(), value);
            self.write_json(answer, written.acked)?;
        } else {
            self.console.line(value)?;
        }
        Ok(self.settle(written.acked))
    }

    /// Ends a write that answers nothing.
    pub(super) fn wrote(&mut self, written: Written<()>) -> Result<Exit, Failure> {
        if self.console.is_json() {
            self.write_json(Map::new(), written.acked)?;
        }
        Ok(self.settle(written.acked))
    }

    fn write_json(&mut self, mut answer: Map<String, Value>, acked: Option<Acked>) -> Result<(), Failure> {
        if let Some(acked) = acked {
            answer.insert("acked".to_owned(), json!(acked.to_string()));
        }
        self.console.json(&answer)
    }

    /// A write level that was asked for and not reached in time is a no, though the write stands.
    fn settle(&mut self, acked: Option<Acked>) -> Exit {
        let Some(Acked { held, wanted }) = acked else {
            return Exit::Done;
        };
        self.console.complain(&format!(
            "the write stands, but {held} of {wanted} regions hold it durably so far; it goes on \
             spreading, do not repeat it"
        ));
        Exit::No
    }

    /// Shows what a read found: `answer` is its JSON, `line` its form for people.
    pub(super) fn found<T>(
        &mut self,
        read: &Read<T>,
        answer: Value,
        line: impl FnOnce(&mut Console<'_>) -> Result<(), Failure>,
    ) -> Result<Exit, Failure> {
        if self.console.is_json() {
            self.console.json(&with_circumstances(answer, read))?;
        } else {
            line(self.console)?;
        }
        Ok(Exit::Done)
    }
}

/// A read's JSON answer together with what it tells about itself.
fn with_circumstances<T>(mut answer: Value, read: &Read<T>) -> Value {
    if let Value::Object(members) = &mut answer {
        let mut tell = |name: &str, value: Value| members.insert(name.to_owned(), value);
        if let Some(context) = &read.context {
            tell("context", json!(context.as_str()));
        }
        if let Some(region) = &read.region {
            tell("region", json!(region));
        }
        if let Some(staleness) = read.staleness {
            tell("staleness_ms", json!(u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX)));
        }
    }
    answer
}

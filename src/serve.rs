//! `atoll serve`: one node, until it is told to stop.
//!
//! **How it goes.** Every key of the configuration is also a flag and a variable, made from the node's own table of keys.
//! A flag beats a variable, a variable beats the file.
//!
//! **What always holds.** Logs go to stderr, structured; nothing goes to stdout. A node that cannot start says why in one
//! line and exits with 5.

use crate::exit::{Exit, Failure};
use crate::notify::Notify;
use atoll_node::config::{Config, Key};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// What was typed, or stands in the environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServeArgs {
    config: Option<PathBuf>,
    found: bool,
    overrides: Vec<(String, String)>,
}

const CONFIG: &str = "serve.config";
const FOUND: &str = "serve.found";

/// Clap wants names that live as long as the program; there is one table, and it is read once or twice.
fn argument(key: &Key) -> Arg {
    let id: &'static str = format!("serve.{}", key.name).leak();
    let flag: &'static str = key.flag().trim_start_matches('-').to_owned().leak();
    let variable: &'static str = key.variable().leak();
    let doc = match key.default {
        Some(default) => format!("{} [default: {default}]", key.doc),
        None => key.doc.to_owned(),
    };
    Arg::new(id)
        .long(flag)
        .env(variable)
        .hide_env_values(true)
        .value_name("VALUE")
        .action(ArgAction::Set)
        .help(doc)
        .help_heading("Configuration keys")
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let command = command
            .arg(
                Arg::new(CONFIG)
                    .long("config")
                    .env("ATOLL_CONFIG")
                    .hide_env_values(true)
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("The node's configuration, node.toml"),
            )
            .arg(
                Arg::new(FOUND)
                    .long("found")
                    .action(ArgAction::SetTrue)
                    .help("Found a new cluster even though seeds are given and do not answer"),
            );
        Config::KEYS.iter().fold(command, |command, key| command.arg(argument(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let value = |key: &Key| {
            let text = matches.get_one::<String>(&format!("serve.{}", key.name))?;
            Some((key.name.to_owned(), text.clone()))
        };
        Ok(Self {
            config: matches.get_one::<PathBuf>(CONFIG).cloned(),
            found: matches.get_flag(FOUND),
            overrides: Config::KEYS.iter().filter_map(value).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs the node until SIGINT or SIGTERM, and then until it has drained.
pub(crate) fn run(args: &ServeArgs) -> Result<Exit, Failure> {
    let cannot = |what: &dyn std::fmt::Display| Failure::new(Exit::CannotStart, what.to_string());
    let text = match &args.config {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| cannot(&format_args!("cannot read the configuration {}: {error}", file.display())))?,
        None => String::new(),
    };
    let config = Config::load(&text, &args.overrides).map_err(|error| match &args.config {
        Some(file) => cannot(&format_args!("{}: {error}", file.display())),
        None => cannot(&error),
    })?;
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(atoll_node::client_threads())
        .thread_name("client")
        .enable_all()
        .build()
        .map_err(|error| cannot(&format_args!("no runtime: {error}")))?;
    runtime.block_on(async {
        let node = atoll_node::Node::start(config, args.found).await.map_err(|error| cannot(&chain(&error)))?;
        let notify = Notify::from_environment();
        notify.ready();
        tokio::select! {
            () = until_ended(&node, &notify) => {}
            () = notify.keep_alive(|| node.silent_for()) => {}
        }
        node.stop().await;
        Ok(Exit::Done)
    })
}

/// Waits until the node is to stop: it was asked to, and has drained, or it cannot go on. Who asks twice does not wait.
async fn until_ended(node: &atoll_node::Node, notify: &Notify) {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else { return node.failed().await };
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
        _ = terminate.recv() => tracing::info!("asked to end: stopping"),
        () = node.failed() => return,
    }
    notify.stopping();
    tokio::select! {
        () = node.drain() => {}
        _ = interrupt.recv() => tracing::info!("interrupted again: not draining"),
        _ = terminate.recv() => tracing::info!("asked again to end: not draining"),
        () = node.failed() => {}
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// One line an event; `ATOLL_LOG` chooses what, as in `info,atoll_node::peer=debug`.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ATOLL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second start in one process keeps the first one's log.
    let _ = subscriber.try_init();
}

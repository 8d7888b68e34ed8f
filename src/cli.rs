//! What may be typed.
//!
//! Every client option is also a variable, `ATOLL_` and its name in capitals. Commands that the
//! contract reserves and this version does not have are not listed, but known: they are answered
//! as such rather than as a mistake.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::backup::id::BackupId;
use atoll_client::api::{Consistency, DataType, Key, Namespace, Rejection, WriteLevel, limits, parse_duration};
use atoll_client::{Context, Endpoint};
use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

/// Commands of the contract that a later version brings.
const RESERVED: &[&str] = &["compare", "doc", "edge", "policy", "route", "watch"];

/// Commands that ask no node for anything, for which client options mean nothing.
const LOCAL: &[&str] = &["demo", "doctor", "load", "pki", "restore", "serve"];

/// A multi-region CRDT data service: local writes in every region, convergence by anti-entropy
/// over QUIC.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, disable_help_subcommand = true, color = clap::ColorChoice::Never)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Answer in JSON, for programs
    #[arg(long, global = true, action = ArgAction::SetTrue, env = "ATOLL_JSON", value_parser = json_or_not(), hide_env_values = true)]
    pub(crate) json: Json,

    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Whether, and where, JSON is wanted. One option of this name is a switch everywhere, and takes a
/// file after `load run`; of two options of one name, both must be of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Json {
    /// It is not.
    No,
    /// On standard output.
    Yes,
    /// In a file.
    File(PathBuf),
}

fn json_or_not() -> impl TypedValueParser<Value = Json> {
    BoolishValueParser::new().map(|wanted| if wanted { Json::Yes } else { Json::No })
}

/// What may be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Data(DataCommand),
    /// Show a node's view of itself and its peers
    Status(StatusArgs),
    /// Compare every region's rows, while writes go on
    Verify(VerifyArgs),
    /// List members, drain and remove them
    Member(MemberArgs),
    /// Look at a stopped node's data directory, changing nothing
    Doctor(crate::commands::DoctorArgs),
    /// Back up a running node; list, verify and remove backups
    Backup(BackupArgs),
    /// Make a data directory of a backup
    Restore(RestoreArgs),
    /// See regions take writes and converge: one process each, an emulated ocean between them
    Demo(crate::demo::DemoArgs),
    /// Put load on running nodes and measure them
    #[command(subcommand)]
    Load(crate::load::LoadCommand),
    /// Run one node until it is asked to end
    Serve(crate::serve::ServeArgs),
    /// Make and inspect certificates
    #[command(subcommand)]
    Pki(PkiCommand),
}

/// Which node compares itself with the others.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The node's admin listener; --endpoint, when typed, names it as well
    #[arg(
        long, env = "ATOLL_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:7604",
        value_parser = parsed::<Endpoint>, hide_env_values = true
    )]
    pub(crate) admin: Endpoint,
    /// How long to wait for the end
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// What is backed up, and where to.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false)]
pub(crate) struct BackupArgs {
    /// The admin listener of the node that is backed up
    #[arg(
        long, global = true, env = "ATOLL_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:7604",
        value_parser = parsed::<Endpoint>, hide_env_values = true
    )]
    pub(crate) admin: Endpoint,
    /// Where backups are: a directory, file://… or s3://BUCKET/PREFIX (keys by the AWS_ variables, or the machine's role)
    #[arg(long, global = true, env = "ATOLL_BACKUP_TO", value_name = "DEST", hide_env_values = true)]
    pub(crate) to: Option<String>,
    /// All rows, although there is a backup to go on from
    #[arg(long)]
    pub(crate) full: bool,
    /// Bytes read of the node in a second, as 64MiB; 0 for as many as there are
    #[arg(long, value_name = "BYTES", default_value = "32MiB", value_parser = bytes)]
    pub(crate) rate: u64,

    #[command(subcommand)]
    pub(crate) command: Option<BackupCommand>,
}

/// What may be asked about backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// List them
    List,
    /// Read all objects, and check that they are as they were written and add up
    Verify {
        /// This one and those that it goes on from, instead of all
        #[arg(long, value_name = "ID", value_parser = backup_id)]
        backup: Option<BackupId>,
    },
    /// Remove old ones; what a backup that stays goes on from stays as well
    Prune {
        /// The newest of each node stay, so many
        #[arg(long, value_name = "N", conflicts_with = "keep_days", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
        /// Those of the last D days stay, and the newest of each node
        #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        keep_days: Option<u32>,
        /// Say what would go, and leave it
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which backup becomes which data directory.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Where backups are: a directory, file://… or s3://BUCKET/PREFIX
    #[arg(long, env = "ATOLL_BACKUP_TO", value_name = "DEST", hide_env_values = true)]
    pub(crate) from: String,
    /// Which one [default: the newest]
    #[arg(long, value_name = "ID", value_parser = backup_id)]
    pub(crate) backup: Option<BackupId>,
    /// The data directory to make, which must be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Begin a cluster of this name with what was backed up, instead of joining the old one again
    #[arg(long, value_name = "NAME")]
    pub(crate) new_cluster: Option<String>,
}

fn backup_id(text: &str) -> Result<BackupId, crate::backup::id::NoId> {
    text.parse()
}

/// A number of bytes: `1048576`, `64KiB`, `32MiB`, `1GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err("a number of bytes is written like 32MiB".to_owned()),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| "a number of bytes is written like 32MiB".to_owned())
}

/// What may be asked about members, and of which node.
#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    /// The admin listener of the member that is asked
    #[arg(
        long, global = true, env = "ATOLL_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:7604",
        value_parser = parsed::<Endpoint>, hide_env_values = true
    )]
    pub(crate) admin: Endpoint,

    #[command(subcommand)]
    pub(crate) command: MemberCommand,
}

/// What may be asked about members.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List who belongs to the cluster, and where each stands
    List,
    /// Have a member take no more clients' writes, and wait until the node that is asked holds all it took
    Drain {
        /// The member's name
        node: String,
        /// Let it take writes again
        #[arg(long)]
        undo: bool,
        /// How long to wait
        #[arg(long, default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
    /// Remove a member that has drained, for good: every other one refuses it from then on
    Remove {
        /// The member's name
        node: String,
        /// Although it has not drained: it is gone, or cut off. What only it holds is lost unless it is exported
        #[arg(long)]
        force: bool,
    },
    /// Write what a removed node alone holds to a file
    Export {
        /// The admin listener of a member, beyond whose records to write
        #[arg(long, value_name = "URL", value_parser = parsed::<Endpoint>)]
        beyond: Endpoint,
        /// The file
        file: PathBuf,
    },
    /// Hand such a file to a member; a second time does nothing
    Import {
        /// The file
        file: PathBuf,
    },
}

/// What may be asked of the cluster's data.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// One value of any bytes; concurrent writes stay readable
    #[command(subcommand)]
    Register(RegisterCommand),
    /// A sum
    #[command(subcommand)]
    Counter(CounterCommand),
    /// A set of strings
    #[command(subcommand)]
    Set(SetCommand),
    /// Nested values, counters and sets by path
    #[command(subcommand)]
    Map(MapCommand),
    /// A switch
    #[command(subcommand)]
    Flag(FlagCommand),
    /// List a namespace's keys
    Keys(KeysArgs),
}

/// How to reach the cluster and what to ask of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Client options")]
pub(crate) struct ClientArgs {
    /// Where a node listens: http://, https:// or quic://HOST:PORT; repeat to give others to try
    #[arg(
        id = "client.endpoint", long = "endpoint", global = true, env = "ATOLL_ENDPOINT",
        value_name = "URL", value_delimiter = ',', default_value = "http://127.0.0.1:7601",
        value_parser = parsed::<Endpoint>, hide_env_values = true
    )]
    pub(crate) endpoints: Vec<Endpoint>,

    /// The cluster's CA certificate; needed for https and quic
    #[arg(id = "client.ca", long = "ca", global = true, env = "ATOLL_CA", value_name = "FILE", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,

    /// This client's certificate, where the node asks for one
    #[arg(
        id = "client.cert",
        long = "cert",
        global = true,
        env = "ATOLL_CERT",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) cert: Option<PathBuf>,

    /// The key of --cert
    #[arg(
        id = "client.key",
        long = "key",
        global = true,
        env = "ATOLL_KEY",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) key: Option<PathBuf>,

    /// A file whose first line is the bearer token
    #[arg(
        id = "client.bearer-file",
        long = "bearer-file",
        global = true,
        env = "ATOLL_BEARER_FILE",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) bearer_file: Option<PathBuf>,

    /// A file that keeps the session token between calls: each sees what those before have seen
    #[arg(
        id = "client.token",
        long = "token",
        global = true,
        env = "ATOLL_TOKEN",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) token: Option<PathBuf>,

    /// How many regions hold a write durably before it is answered: local, a number, majority, all
    #[arg(id = "client.w", long = "w", global = true, env = "ATOLL_W", value_name = "LEVEL", value_parser = parsed::<WriteLevel>, hide_env_values = true)]
    pub(crate) w: Option<WriteLevel>,

    /// How long a write waits for --w [node's default: 1s]
    #[arg(id = "client.wtimeout", long = "wtimeout", global = true, env = "ATOLL_WTIMEOUT", value_name = "DURATION", value_parser = duration, hide_env_values = true)]
    pub(crate) wtimeout: Option<Duration>,

    /// How long a request waits for the node to see what the session has seen [node's default: 200ms]
    #[arg(id = "client.wait", long = "wait", global = true, env = "ATOLL_WAIT", value_name = "DURATION", value_parser = wait, hide_env_values = true)]
    pub(crate) wait: Option<Duration>,

    /// What a read must have seen: session (what the session has seen) or eventual (anything)
    #[arg(id = "client.consistency", long = "consistency", global = true, env = "ATOLL_CONSISTENCY", value_name = "WHAT", value_parser = parsed::<Consistency>, hide_env_values = true)]
    pub(crate) consistency: Option<Consistency>,

    /// With a write: replace exactly what the read that answered this context (--json) showed
    #[arg(id = "client.context", long = "context", global = true, env = "ATOLL_CONTEXT", value_name = "CONTEXT", value_parser = context, hide_env_values = true)]
    pub(crate) context: Option<Context>,

    /// Reserved: how to choose among regions
    #[arg(
        id = "client.policy",
        long = "policy",
        global = true,
        env = "ATOLL_POLICY",
        value_name = "POLICY",
        hide = true
    )]
    pub(crate) policy: Option<String>,
}

/// `NAMESPACE/KEY`; the key may hold further slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) namespace: Namespace,
    pub(crate) key: Key,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.key)
    }
}

impl std::str::FromStr for Name {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        // Without a slash the key is missing, which `Key` says in the words of the contract.
        let (namespace, key) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self { namespace: Namespace::new(namespace)?, key: Key::new(key)? })
    }
}

/// The key a command is about.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The key, after its namespace: shop/cart:42
    #[arg(value_name = "NAMESPACE/KEY", value_parser = parsed::<Name>)]
    pub(crate) name: Name,
}

/// `atoll register …`
#[derive(Debug, Subcommand)]
pub(crate) enum RegisterCommand {
    /// Put a value
    Put {
        #[command(flatten)]
        name: NameArgs,
        /// The value; `-` reads it from standard input
        #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
        value: Option<String>,
        /// Read the value from a file
        #[arg(long)]
        file: Option<PathBuf>,
        /// The value's media type
        #[arg(long, value_name = "TYPE")]
        content_type: Option<String>,
    },
    /// Write the winning value to standard output, as it was put; --json shows all siblings
    Get(NameArgs),
    /// Delete it
    Delete(NameArgs),
}

/// `atoll counter …`
#[derive(Debug, Subcommand)]
pub(crate) enum CounterCommand {
    /// Add N, which may be negative, and show the value
    Add {
        #[command(flatten)]
        name: NameArgs,
        /// What to add
        #[arg(value_name = "N", allow_negative_numbers = true)]
        add: i64,
    },
    /// Show the value
    Get(NameArgs),
    /// Delete it
    Delete(NameArgs),
}

/// `atoll set …`
#[derive(Debug, Subcommand)]
pub(crate) enum SetCommand {
    /// Add members and show the size
    Add(MembersArgs),
    /// Remove members and show the size
    Remove(MembersArgs),
    /// Show the members in order
    Members {
        #[command(flatten)]
        name: NameArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Ask whether MEMBER is in the set: exit 0 or 1
    Has {
        #[command(flatten)]
        name: NameArgs,
        /// The member
        #[arg(allow_negative_numbers = true)]
        member: String,
    },
    /// Delete it
    Delete(NameArgs),
}

/// A set and some members.
#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    #[command(flatten)]
    pub(crate) name: NameArgs,
    /// The members
    #[arg(value_name = "MEMBER", required = true, allow_negative_numbers = true)]
    pub(crate) members: Vec<String>,
}

/// `atoll map …`
#[derive(Debug, Subcommand)]
pub(crate) enum MapCommand {
    /// Set the value at PATH; an object sets each of its members
    Set {
        #[command(flatten)]
        name: NameArgs,
        /// A JSON Pointer: /address/city
        path: String,
        /// JSON where it is JSON, else a string
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// VALUE is a string even where it is JSON
        #[arg(long)]
        string: bool,
    },
    /// Show the map, or what is at PATH, as JSON
    Get {
        #[command(flatten)]
        name: NameArgs,
        /// A JSON Pointer
        path: Option<String>,
    },
    /// Remove what is at each PATH and under it
    Remove {
        #[command(flatten)]
        name: NameArgs,
        /// JSON Pointers
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<String>,
    },
    /// Add N to the counter at PATH
    Add {
        #[command(flatten)]
        name: NameArgs,
        /// A JSON Pointer
        path: String,
        /// What to add
        #[arg(value_name = "N", allow_negative_numbers = true)]
        add: i64,
    },
    /// Add members to the set at PATH and remove members from it
    Members {
        #[command(flatten)]
        name: NameArgs,
        /// A JSON Pointer
        path: String,
        /// A member to add; may be repeated
        #[arg(long, value_name = "MEMBER", required_unless_present = "remove")]
        add: Vec<String>,
        /// A member to remove; may be repeated
        #[arg(long, value_name = "MEMBER")]
        remove: Vec<String>,
    },
    /// Delete it
    Delete(NameArgs),
}

/// `atoll flag …`
#[derive(Debug, Subcommand)]
pub(crate) enum FlagCommand {
    /// Turn it on
    Enable(NameArgs),
    /// Turn it off
    Disable(NameArgs),
    /// Show true or false
    Get(NameArgs),
    /// Delete it
    Delete(NameArgs),
}

/// `atoll keys …`
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// The namespace
    #[arg(value_parser = parsed::<Namespace>)]
    pub(crate) namespace: Namespace,
    /// Only keys of this type: registers, counters, sets, maps or flags
    #[arg(long = "type", value_name = "TYPE", value_parser = parsed::<DataType>)]
    pub(crate) data_type: Option<DataType>,
    /// Only keys that begin with this
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    #[command(flatten)]
    pub(crate) page: PageArgs,
}

/// Which part of a list.
#[derive(Debug, Clone, Args)]
pub(crate) struct PageArgs {
    /// At most this many, to 10,000 [node's default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PAGE_LIMIT_MAX)))]
    pub(crate) limit: Option<u32>,
    /// Go on after the cursor that the last page ended with
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// Go on to the end; with --json, one page a line
    #[arg(long)]
    pub(crate) all: bool,
}

/// `atoll status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The node's admin listener; --endpoint, when typed, names it as well
    #[arg(
        long, env = "ATOLL_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:7604",
        value_parser = parsed::<Endpoint>, hide_env_values = true
    )]
    pub(crate) admin: Endpoint,
}

/// `atoll pki …`
#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make a cluster's certificate authority: ca.crt and ca.key
    Init {
        /// Where to put it
        #[arg(long)]
        dir: PathBuf,
        /// The cluster's name
        #[arg(long)]
        cluster: String,
    },
    /// Make a node's certificate and key: NODE.crt and NODE.key
    Issue {
        /// Where the authority is
        #[arg(long)]
        dir: PathBuf,
        /// The node's name
        #[arg(long)]
        node: String,
        /// The node's region
        #[arg(long)]
        region: String,
        /// A DNS name or IP address beyond loopback; may be repeated
        #[arg(long = "san", value_name = "DNS-OR-IP")]
        sans: Vec<String>,
        /// For how long
        #[arg(long, default_value_t = crate::pki::NODE_DAYS, value_parser = days())]
        days: u32,
    },
    /// Replace a node's certificate and key by new ones that name the same
    Renew {
        /// Where the authority and the node's files are
        #[arg(long)]
        dir: PathBuf,
        /// The node's name
        #[arg(long)]
        node: String,
        /// For how long
        #[arg(long, default_value_t = crate::pki::NODE_DAYS, value_parser = days())]
        days: u32,
    },
    /// Show what a certificate says
    Show {
        /// The certificate, in PEM
        file: PathBuf,
    },
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(crate::pki::DAYS_MAX))
}

fn parsed<T: std::str::FromStr<Err = Rejection>>(text: &str) -> Result<T, Rejection> {
    text.parse()
}

pub(crate) fn duration(text: &str) -> Result<Duration, Rejection> {
    parse_duration(text)
}

fn wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(wait) if wait <= limits::WAIT_MAX => Ok(wait),
        Ok(_) => Err("30s is the most".to_owned()),
        Err(rejection) => Err(rejection.detail),
    }
}

fn context(text: &str) -> Result<Context, Rejection> {
    Context::new(text)
}

/// What was typed.
pub(crate) enum Parsed {
    /// Something to do.
    Command(Box<Cli>),
    /// Help or the version was asked for.
    Text(String),
    /// Nothing: help, unasked.
    Nothing(String),
    /// Nonsense, and what is wrong with it.
    Wrong(String),
}

/// Makes sense of `args`, the program's name first.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Parsed {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return explain(&error),
    };
    let local = matches.subcommand_name().filter(|name| LOCAL.contains(name));
    if let Some(local) = local {
        // On the command line only: a variable is a default for those that it concerns.
        let typed = matches.ids().find(|id| is_client_option(id.as_str()) && is_typed(&matches, id.as_str()));
        if let Some(id) = typed {
            let name = id.as_str().trim_start_matches(CLIENT_PREFIX);
            return Parsed::Wrong(format!(
                "--{name} says how to ask a node, and 'atoll {local}' asks none; leave it out"
            ));
        }
    }
    let mut cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let admin = match &mut cli.command {
        Command::Status(args) => Some(&mut args.admin),
        Command::Member(args) => Some(&mut args.admin),
        Command::Verify(args) => Some(&mut args.admin),
        Command::Backup(args) => Some(&mut args.admin),
        _ => None,
    };
    if let Some(admin) = admin
        && is_typed(&matches, "client.endpoint")
        && !is_typed_below(&matches, "admin")
    {
        // Whoever types an address for these means the address that is asked.
        admin.clone_from(&cli.client.endpoints[0]);
    }
    Parsed::Command(Box::new(cli))
}

/// Whether an option stands on the command line, and is not a variable's or the default.
fn is_typed(matches: &clap::ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// The same of an option of a command, or of one of its own commands.
fn is_typed_below(matches: &clap::ArgMatches, id: &str) -> bool {
    matches.subcommand().is_some_and(|(_, below)| {
        let is_known = below.ids().any(|known| known == id);
        is_known && is_typed(below, id) || is_typed_below(below, id)
    })
}

const CLIENT_PREFIX: &str = "client.";

fn is_client_option(id: &str) -> bool {
    id.starts_with(CLIENT_PREFIX)
}

/// The grammar, with the client options left out of the help of commands that do not use them.
fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    LOCAL.iter().fold(command, |command, name| command.mut_subcommand(name, hide_client_options))
}

fn hide_client_options(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| if is_client_option(arg.get_id().as_str()) { arg.hide(true) } else { arg })
        .mut_subcommands(hide_client_options)
}

fn explain(error: &clap::Error) -> Parsed {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Text(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Parsed::Nothing(text),
        _ => match error.get(ContextKind::InvalidSubcommand) {
            Some(ContextValue::String(name)) if RESERVED.contains(&name.as_str()) => {
                Parsed::Wrong(format!("'atoll {name}' is not supported yet; 'atoll --help' lists what is"))
            }
            _ => Parsed::Wrong(in_one_line(&text)),
        },
    }
}

/// A usage error's paragraphs without the grammar, which `--help` shows better.
fn in_one_line(text: &str) -> String {
    let told = text.trim_start_matches("error: ");
    let lines: Vec<_> = told
        .lines()
        .take_while(|line| !line.starts_with("Usage:"))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    format!("{}; see --help", lines.join(" "))
}

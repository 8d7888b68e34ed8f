//! What each command does.
//!
//! A command turns what was typed into one call of the client and the answer into lines or JSON.
//! Nothing here knows a URL, a header or a certificate.

mod answer;
mod backup;
mod counter;
mod doctor;
mod flag;
mod keys;
mod map;
mod member;
mod pki;
mod register;
mod set;
mod status;
mod verify;

use crate::cli::{ClientArgs, Command, DataCommand};
use crate::connect::Connection;
use crate::console::Console;
use crate::exit::{Exit, Failure};

use answer::Ask;
pub(crate) use doctor::DoctorArgs;

/// Does `command`.
pub(crate) fn run(command: Command, client: &ClientArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    match command {
        Command::Pki(command) => pki::run(command, console),
        Command::Doctor(args) => doctor::run(&args, console),
        Command::Demo(args) => block_on(crate::demo::run(&args, console)),
        Command::Load(command) => block_on(crate::load::run(command, console)),
        Command::Serve(args) => crate::serve::run(&args),
        Command::Status(args) => block_on(status::run(&args, client, console)),
        Command::Verify(args) => block_on(verify::run(&args, client, console)),
        Command::Backup(args) => block_on(backup::run(&args, client, console)),
        Command::Restore(args) => block_on(backup::restore(&args, console)),
        Command::Member(args) => block_on(member::run(&args, client, console)),
        Command::Data(command) => block_on(ask(command, client, console)),
    }
}

/// Does a command that asks the cluster, in a session whose token is kept whatever comes of it.
async fn ask(command: DataCommand, client: &ClientArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let connection = Connection::open(client)?;
    let context = client.context.clone();
    let mut ask = Ask { session: &connection.session, context, console };
    let outcome = match command {
        DataCommand::Register(command) => register::run(command, &mut ask).await,
        DataCommand::Counter(command) => counter::run(command, &mut ask).await,
        DataCommand::Set(command) => set::run(command, &mut ask).await,
        DataCommand::Map(command) => map::run(command, &mut ask).await,
        DataCommand::Flag(command) => flag::run(command, &mut ask).await,
        DataCommand::Keys(args) => keys::run(args, &mut ask).await,
    };
    let kept = connection.close().await;
    outcome.and_then(|exit| kept.map(|()| exit))
}

/// A failure of something that was asked of an admin listener.
pub(crate) fn admin_failure(error: atoll_client::Error) -> Failure {
    let Failure { exit, message } = Failure::from(error);
    Failure::new(exit, message.replace("--endpoint names its client", "--admin names its admin"))
}

/// Runs to its end on this thread: a command has one thing to do.
fn block_on<F: Future<Output = Result<Exit, Failure>>>(work: F) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::CannotStart, format!("no runtime: {error}")))?
        .block_on(work)
}

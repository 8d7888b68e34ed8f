//! `atoll pki …`

use serde_json::json;

use crate::cli::PkiCommand;
use crate::connect::read;
use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};
use crate::pki::{self, Description, Issued, Node, PkiError};

pub(super) fn run(command: PkiCommand, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let issued = match command {
        PkiCommand::Init { dir, cluster } => pki::init(&dir, &cluster)?,
        PkiCommand::Issue { dir, node, region, sans, days } => {
            pki::issue(&dir, &Node { name: node, region, sans, days })?
        }
        PkiCommand::Renew { dir, node, days } => pki::renew(&dir, &node, days)?,
        PkiCommand::Show { file } => return show(&read(&file, "FILE")?, console),
    };
    let Issued { cert, key } = issued;
    if console.is_json() {
        console.json(&json!({ "cert": cert, "key": key }))?;
    } else {
        console.line(cert.display())?;
        console.line(key.display())?;
    }
    Ok(Exit::Done)
}

fn show(pem: &[u8], console: &mut Console<'_>) -> Result<Exit, Failure> {
    let description = pki::describe(pem)?;
    if console.is_json() {
        console.json(&description)?;
        return Ok(Exit::Done);
    }
    let Description { subject, issuer, identity, is_ca, dns, ip, uri, .. } = &description;
    let mut row = |name: &str, value: &str| console.line(format_args!("{name:<12}{}", OneLine(value)));
    row("subject", subject)?;
    row("issuer", issuer)?;
    if let Some(identity) = identity {
        row("cluster", &identity.cluster)?;
        row("region", &identity.region)?;
        row("node", &identity.node)?;
    }
    row("authority", if *is_ca { "yes" } else { "no" })?;
    for (name, names) in [("dns", dns), ("ip", ip), ("uri", uri)] {
        if !names.is_empty() {
            row(name, &names.join(" "))?;
        }
    }
    row("not before", &description.not_before)?;
    row("not after", &description.not_after)?;
    row("serial", &description.serial)?;
    row("sha256", &description.fingerprint_sha256)?;
    Ok(Exit::Done)
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        let exit = match &error {
            PkiError::BadName { .. }
            | PkiError::BadAlternative { .. }
            | PkiError::TooManyAlternatives { .. }
            | PkiError::NotACertificate { .. }
            | PkiError::NotAnAuthority { .. }
            | PkiError::NotANode { .. }
            | PkiError::Read { .. } => Exit::Usage,
            PkiError::Exists { .. } => Exit::Refused,
            PkiError::Write { .. } | PkiError::Generate(_) => Exit::CannotStart,
        };
        Self::new(exit, error.to_string())
    }
}

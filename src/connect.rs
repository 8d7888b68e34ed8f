//! From client options to a session with the cluster, and its token's way to a file and back.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use atoll_client::{Client, ClientBuilder, Endpoint, Identity, Options, Session, Trust};

use crate::cli::ClientArgs;
use crate::exit::{Exit, Failure};

/// Most bytes of a file with certificates, a key or a token. Real ones are a few KB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A session, and where its token is kept between calls.
pub(crate) struct Connection {
    pub(crate) session: Session,
    token_file: Option<PathBuf>,
    token_before: Option<String>,
}

impl Connection {
    /// A session with the cluster that `args` name. Connects to nothing yet.
    pub(crate) fn open(args: &ClientArgs) -> Result<Self, Failure> {
        let builder = args.endpoints.iter().cloned().fold(Client::builder(), ClientBuilder::endpoint);
        let client = with_credentials(builder, args)?.build()?;
        let token_before = args.token.as_deref().map(read_token).transpose()?.flatten();
        let session = match &token_before {
            Some(token) => client.resume(token),
            None => client.session(),
        };
        let session = session.with_options(Options {
            write_level: args.w,
            write_timeout: args.wtimeout,
            wait: args.wait,
            consistency: args.consistency,
        });
        Ok(Self { session, token_file: args.token.clone(), token_before })
    }

    /// Keeps the token and lets the connections go.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        self.session.client().close().await;
        let Some(path) = &self.token_file else {
            return Ok(());
        };
        match self.session.token() {
            Some(token) if self.token_before.as_ref() != Some(&token) => write_token(path, &token),
            _ => Ok(()),
        }
    }
}

/// A client of one node's admin listener.
pub(crate) fn admin_client(admin: &Endpoint, args: &ClientArgs) -> Result<Client, Failure> {
    Ok(with_credentials(Client::builder().endpoint(admin.clone()), args)?.build()?)
}

fn with_credentials(mut builder: ClientBuilder, args: &ClientArgs) -> Result<ClientBuilder, Failure> {
    if let Some(policy) = &args.policy {
        return Err(Failure::usage(format!(
            "--policy {policy} is not supported yet; endpoints are tried in the order given"
        )));
    }
    if let Some(ca) = &args.ca {
        builder = builder.trust(Trust::from_pem(&read(ca, "--ca")?)?);
    }
    match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            let (cert, key) = (read(cert, "--cert")?, read(key, "--key")?);
            builder = builder.identity(Identity::from_pem(&cert, &key)?);
        }
        (None, None) => {}
        _ => {
            return Err(Failure::usage("--cert and --key go together; give both or neither"));
        }
    }
    if let Some(file) = &args.bearer_file {
        builder = builder.bearer(bearer(file, "--bearer-file")?);
    }
    Ok(builder)
}

/// The bearer token in the first line of the file that an option names.
pub(crate) fn bearer(file: &Path, option: &str) -> Result<String, Failure> {
    let text = read(file, option)?;
    let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let token = std::str::from_utf8(first).unwrap_or_default().trim();
    if token.is_empty() {
        return Err(Failure::usage(format!("{option} has no token in its first line")));
    }
    Ok(token.to_owned())
}

/// Reads a small file that an option names.
pub(crate) fn read(path: &Path, option: &str) -> Result<Vec<u8>, Failure> {
    read_at_most(path, FILE_BYTES_MAX)
        .map_err(|error| Failure::usage(format!("{option}: {} cannot be read: {error}", path.display())))
}

/// Reads a file, refusing one that is larger than `bytes_max`.
pub(crate) fn read_at_most(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// The token in `path`; none when there is no such file yet.
fn read_token(path: &Path) -> Result<Option<String>, Failure> {
    let bytes = match read_at_most(path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::usage(format!("--token: {} cannot be read: {error}", path.display())));
        }
        Ok(bytes) => bytes,
    };
    let token = String::from_utf8(bytes).unwrap_or_default().trim().to_owned();
    match token.as_str() {
        "" => Ok(None),
        _ if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(token)),
        _ => Err(Failure::usage(format!(
            "--token: {} holds no session token; remove it to begin a new session",
            path.display()
        ))),
    }
}

/// Replaces the token in `path` at once, readable by its owner alone: it tells what was read.
fn write_token(path: &Path, token: &str) -> Result<(), Failure> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // A temporary file is 0600 from the start.
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        writeln!(file, "{token}")?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| {
        Failure::new(
            Exit::CannotStart,
            format!("done, but the session token cannot be kept in {}: {error}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_file_is_written_whole_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert_eq!(read_token(&path), Ok(None));
        write_token(&path, "t1").unwrap();
        write_token(&path, "t2").unwrap();
        assert_eq!(read_token(&path), Ok(Some("t2".to_owned())));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary is left");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn file_that_holds_no_token_is_refused_rather_than_sent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "two words").unwrap();
        assert_eq!(read_token(&path).unwrap_err().exit, Exit::Usage);
        fs::write(&path, "").unwrap();
        assert_eq!(read_token(&path), Ok(None));
    }

    #[test]
    fn reading_stops_at_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, [7; 11]).unwrap();
        assert!(read_at_most(&path, 10).is_err());
        assert_eq!(read_at_most(&path, 11).unwrap().len(), 11);
    }
}

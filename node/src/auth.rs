//! Bearer tokens: who may speak to a listener that is not loopback.
//!
//! **How it goes.** A tokens file holds one token a line as the SHA-256 of its bytes, in hexadecimal, with or without
//! `sha256:` before it; `#` begins a comment. A request shows its token as `Authorization: Bearer …`.
//!
//! **What always holds.** A1: no token is kept, logged or shown; only its hash is. A2: a comparison takes the same time
//! whatever differs, and looks at every line. A3: a file with a line that does not read lets nobody in: the node does
//! not start.
//!
//! **What is not here.** Certificates: clients have none. Rights that differ by token: every token may do everything.

use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a tokens file: 10,000 tokens with room for comments.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// Longest token that is hashed; a longer one is nobody's.
const TOKEN_BYTES_MAX: usize = 4 << 10;

/// Why a tokens file cannot be used. The operator corrects it; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It does not open.
    #[error("cannot read the tokens file {}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than any tokens file.
    #[error("the tokens file {} has more than 2 MiB", file.display())]
    TooLarge {
        /// Which.
        file: PathBuf,
    },
    /// A line is no hash. The line itself is not repeated: it may be a token that was not hashed.
    #[error("line {line} of the tokens file {} is not a SHA-256 in hexadecimal; `printf %s TOKEN | sha256sum` makes one", file.display())]
    Line {
        /// Which file.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// It lets nobody in.
    #[error("the tokens file {} holds no token", file.display())]
    Empty {
        /// Which.
        file: PathBuf,
    },
}

/// The tokens that are let in.
#[derive(Clone)]
pub struct Tokens {
    hashes: Arc<[[u8; 32]]>,
}

// A1
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.hashes.len())
    }
}

impl Tokens {
    /// Reads a tokens file.
    ///
    /// # Errors
    /// It does not open, is too large, or has a line that is no hash.
    pub fn load(file: &Path) -> Result<Self, TokensError> {
        use std::io::Read as _;
        let unreadable = |source| TokensError::Unreadable { file: file.to_owned(), source };
        let mut text = String::new();
        let open = std::fs::File::open(file).map_err(unreadable)?;
        open.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(TokensError::TooLarge { file: file.to_owned() });
        }
        let mut hashes = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let hex = line.strip_prefix("sha256:").unwrap_or(line);
            let hash = hash_from_hex(hex).ok_or_else(|| TokensError::Line { file: file.to_owned(), line: at + 1 })?;
            hashes.push(hash);
        }
        if hashes.is_empty() {
            return Err(TokensError::Empty { file: file.to_owned() });
        }
        Ok(Self { hashes: hashes.into() })
    }

    /// Whether `token` is one of them. A2
    #[must_use]
    pub fn contain(&self, token: &[u8]) -> bool {
        if token.len() > TOKEN_BYTES_MAX {
            return false;
        }
        let shown: [u8; 32] = Sha256::digest(token).into();
        self.hashes.iter().fold(false, |found, known| found | is_equal(known, &shown))
    }
}

/// Compares without stopping at the first difference.
fn is_equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn hash_from_hex(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).ok()?;
    }
    Some(hash)
}

/// Who is let in at one listener.
#[derive(Debug, Clone)]
pub struct Gate {
    /// `None`: everybody.
    tokens: Option<Tokens>,
}

/// The request shows no token that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("send a known token as `Authorization: Bearer …`")]
pub struct Unauthenticated;

impl Gate {
    /// The gate of a listener at `address`. On loopback everybody who is on the machine is let in; elsewhere only who
    /// shows one of `tokens`, and without tokens nobody.
    #[must_use]
    pub fn at(address: IpAddr, tokens: Option<&Tokens>) -> Self {
        if address.is_loopback() {
            return Self { tokens: None };
        }
        Self { tokens: Some(tokens.cloned().unwrap_or_else(|| Tokens { hashes: Arc::default() })) }
    }

    /// Whether everybody is let in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tokens.is_none()
    }

    /// Whether a request with these headers may pass.
    ///
    /// # Errors
    /// It shows no known token.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Unauthenticated> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let shown = headers.get(http::header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
        });
        if shown.is_some_and(|token| tokens.contain(token)) { Ok(()) } else { Err(Unauthenticated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::net::Ipv4Addr;

    const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    /// SHA-256 of "secret".
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn load(text: &str) -> Result<Tokens, TokensError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, text).unwrap();
        Tokens::load(&file)
    }

    fn showing(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn known_token_passes_and_nothing_else_does() {
        let other = "a".repeat(64);
        for text in [SECRET.to_owned(), format!("# ours\n\n{other}\n  sha256:{}  # the CI's\n", SECRET.to_uppercase())]
        {
            let gate = Gate::at(EVERYWHERE, Some(&load(&text).unwrap()));
            assert!(gate.check(&showing("Bearer secret")).is_ok());
            assert!(gate.check(&showing("bearer  secret")).is_ok());
            for bad in
                ["Bearer secret2", "Bearer ", "Bearer", "Basic secret", "secret", SECRET, &format!("Bearer {SECRET}")]
            {
                assert_eq!(gate.check(&showing(bad)), Err(Unauthenticated), "{bad}");
            }
            assert_eq!(gate.check(&HeaderMap::new()), Err(Unauthenticated));
        }
    }

    #[test]
    fn loopback_needs_no_token_and_everywhere_else_nobody_passes_without_a_file() {
        let known = load(SECRET).unwrap();
        assert!(Gate::at(Ipv4Addr::LOCALHOST.into(), Some(&known)).check(&HeaderMap::new()).is_ok());
        assert!(Gate::at("::1".parse().unwrap(), None).check(&HeaderMap::new()).is_ok());
        assert!(Gate::at(EVERYWHERE, None).check(&showing("Bearer secret")).is_err());
    }

    #[test]
    fn file_that_does_not_read_lets_nobody_in_and_repeats_nothing() {
        assert!(matches!(load(""), Err(TokensError::Empty { .. })));
        let error = load(&format!("{SECRET}\nhunter2-in-the-clear\n")).unwrap_err();
        assert!(matches!(error, TokensError::Line { line: 2, .. }));
        assert!(!error.to_string().contains("hunter2"));
        assert!(matches!(load(&SECRET[1..]), Err(TokensError::Line { line: 1, .. })));
        assert!(matches!(load(&"#\n".repeat(2 << 20)), Err(TokensError::TooLarge { .. })));
        assert!(matches!(Tokens::load(Path::new("/nowhere/tokens")), Err(TokensError::Unreadable { .. })));
        assert_eq!(format!("{:?}", load(SECRET).unwrap()), "1 tokens");
    }
}

//! Session tokens and read contexts: vectors as text that a client carries.
//!
//! **How it goes.** Base64url, without padding, of: a version byte, a kind byte, four bytes of the cluster's name hashed,
//! the vector; for the context of a counter, four bytes of the counter's key hashed and each actor's total as shown. A
//! long vector is told by the name of an archive and what is beyond it ([`crate::archive`]).
//!
//! **What always holds.** T1: text that is not exactly what this module writes is refused, as is a token of another cluster.
//! T2: a forged token costs its bearer a bounded wait and nothing else. T3: totals in a context lie within its vector.
//!
//! **What is not here.** Secrecy: a token names actors and counts, which every member's status shows too.

use crate::archive::{Archive, Name};
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{CollectionKey, Dot, Floors, VersionVector, decode_floors, encode_floors};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const VERSION: u8 = 1;
const KIND_TOKEN: u8 = b't';
const KIND_CONTEXT: u8 = b'c';
const KIND_COUNTER_CONTEXT: u8 = b'n';
/// The same two, beyond an archive.
const KIND_ARCHIVED_CONTEXT: u8 = b'C';
const KIND_ARCHIVED_COUNTER_CONTEXT: u8 = b'N';

/// Longest text that is decoded: a vector of the most actors, with totals.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// What a read showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// The causal context of the read.
    pub vector: VersionVector,
    /// A counter's totals.
    pub floors: Option<ShownCounter>,
}

/// A counter as it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCounter {
    counter: [u8; 4],
    /// Each actor's total.
    pub(super) floors: Floors,
}

impl ShownCounter {
    /// What a read of `counter` showed.
    #[must_use]
    pub fn new(counter: &CollectionKey, floors: Floors) -> Self {
        Self { counter: check(counter.as_bytes()), floors }
    }

    /// Whether it was this counter.
    #[must_use]
    pub fn is_of(&self, counter: &CollectionKey) -> bool {
        self.counter == check(counter.as_bytes())
    }
}

/// Text that is no token or context of this cluster: the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not what a node answered.
    #[error("it is not what a node answered in that header")]
    Malformed,
    /// It refers to something that this node does not have (retry), or nobody has any more (read again).
    #[error("it refers to an archived vector that is not here; read again")]
    Unknown,
    /// A node of another cluster answered it.
    #[error("it comes from another cluster")]
    OtherCluster,
}

impl From<DecodeError> for TokenError {
    fn from(_: DecodeError) -> Self {
        Self::Malformed
    }
}

/// Reads and writes tokens and contexts of one cluster.
#[derive(Debug, Clone)]
pub struct Tokens {
    cluster: [u8; 4],
}

impl Tokens {
    /// For the cluster of this name.
    #[must_use]
    pub fn of_cluster(name: &str) -> Self {
        Self { cluster: check(name.as_bytes()) }
    }

    /// A session's token.
    #[must_use]
    pub fn token(&self, vector: &VersionVector) -> String {
        self.short_token(vector, None)
    }

    /// A session's token: a vector that covers the same in every causal context.
    pub(crate) fn short_token(&self, vector: &VersionVector, archive: Option<&Archive>) -> String {
        let mut out = self.begin(KIND_TOKEN);
        match archive {
            Some(archive) => archive.shortened(vector).encode(&mut out),
            None => vector.encode(&mut out),
        }
        text(out)
    }

    /// What a session has seen, by its token.
    ///
    /// # Errors
    /// It is no token of this cluster.
    pub fn read_token(&self, text: &[u8]) -> Result<VersionVector, TokenError> {
        let bytes = bytes(text)?;
        let mut input = Reader::new(&bytes);
        if self.check_head(&mut input)? != KIND_TOKEN {
            return Err(TokenError::Malformed);
        }
        let vector = VersionVector::decode(&mut input)?;
        input.finish()?;
        Ok(vector)
    }

    /// What a read showed, as text.
    #[must_use]
    pub fn context(&self, vector: &VersionVector, floors: Option<&ShownCounter>) -> String {
        self.short_context(vector, floors, None)
    }

    /// What a read showed, as text that refers to an archive that the vector covers.
    pub(crate) fn short_context(
        &self,
        vector: &VersionVector,
        floors: Option<&ShownCounter>,
        archive: Option<&Archive>,
    ) -> String {
        let mut out = self.begin(match (floors, archive) {
            (None, None) => KIND_CONTEXT,
            (Some(_), None) => KIND_COUNTER_CONTEXT,
            (None, Some(_)) => KIND_ARCHIVED_CONTEXT,
            (Some(_), Some(_)) => KIND_ARCHIVED_COUNTER_CONTEXT,
        });
        match archive {
            Some(archive) => {
                out.raw(&archive.name);
                vector.beyond(&archive.vector).encode(&mut out);
            }
            None => vector.encode(&mut out),
        }
        if let Some(shown) = floors {
            out.raw(&shown.counter);
            encode_floors(&mut out, &shown.floors);
        }
        text(out)
    }

    /// What a read showed, from its text; `archived` gives a vector by its name.
    ///
    /// # Errors
    /// It is no context of this cluster, or refers to what is not here.
    pub(crate) fn read_context(
        &self,
        text: &[u8],
        archived: impl FnOnce(Name) -> Option<VersionVector>,
    ) -> Result<Context, TokenError> {
        let bytes = bytes(text)?;
        let mut input = Reader::new(&bytes);
        let kind = self.check_head(&mut input)?;
        let mut vector = match kind {
            KIND_CONTEXT | KIND_COUNTER_CONTEXT => VersionVector::new(),
            KIND_ARCHIVED_CONTEXT | KIND_ARCHIVED_COUNTER_CONTEXT => {
                let mut name = Name::default();
                name.copy_from_slice(input.raw(8)?);
                archived(name).ok_or(TokenError::Unknown)?
            }
            _ => return Err(TokenError::Malformed),
        };
        vector.join(&VersionVector::decode(&mut input)?);
        let mut floors = None;
        if matches!(kind, KIND_COUNTER_CONTEXT | KIND_ARCHIVED_COUNTER_CONTEXT) {
            let mut counter = [0; 4];
            counter.copy_from_slice(input.raw(4)?);
            let shown = decode_floors(&mut input)?;
            // T3
            if !shown.iter().all(|(actor, floor)| vector.covers(Dot::new(*actor, floor.seq))) {
                return Err(TokenError::Malformed);
            }
            floors = Some(ShownCounter { counter, floors: shown });
        }
        input.finish()?;
        Ok(Context { vector, floors })
    }

    fn begin(&self, kind: u8) -> Writer {
        let mut out = Writer::new();
        out.byte(VERSION);
        out.byte(kind);
        out.raw(&self.cluster);
        out
    }

    fn check_head(&self, input: &mut Reader<'_>) -> Result<u8, TokenError> {
        if input.byte()? != VERSION {
            return Err(TokenError::Malformed);
        }
        let kind = input.byte()?;
        if input.raw(4)? != self.cluster { Err(TokenError::OtherCluster) } else { Ok(kind) }
    }
}

fn text(bytes: Writer) -> String {
    URL_SAFE_NO_PAD.encode(bytes.into_bytes())
}

fn bytes(text: &[u8]) -> Result<Vec<u8>, TokenError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TokenError::Malformed);
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)
}

/// Tells mix-ups apart; no protection against somebody who forges (T2).
fn check(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{ActorId, DataType, Floor};

    fn vector(seqs: &[(u64, u64)]) -> VersionVector {
        seqs.iter().map(|(actor, seq)| Dot::new(ActorId::new(*actor), *seq)).collect()
    }

    fn whole(tokens: &Tokens, text: &str) -> Result<Context, TokenError> {
        tokens.read_context(text.as_bytes(), |_| None)
    }

    #[test]
    fn an_archive_makes_text_short_and_what_it_says_the_same() {
        let tokens = Tokens::of_cluster("shop");
        let old: Vec<_> = (1..=3_000).map(|actor| (actor, 1_000)).collect();
        let archive = Archive { name: [7; 8], dot: Dot::new(ActorId::new(9_001), 5), vector: vector(&old) };
        let mut seen = archive.vector.clone();
        seen.join(&vector(&[(1, 1_002), (9_001, 8), (9_002, 3)]));
        let token = tokens.short_token(&seen, Some(&archive));
        assert!(token.len() < 100 && tokens.token(&seen).len() > 30_000, "{}", token.len());
        assert_eq!(tokens.read_token(token.as_bytes()), Ok(vector(&[(1, 1_002), (9_001, 8), (9_002, 3)])));
        let exact = vector(&old);
        let token = tokens.short_token(&exact, Some(&archive));
        assert_eq!(tokens.read_token(token.as_bytes()), Ok(vector(&[(9_001, 5)])), "its row stands for all of it");
        let counter = CollectionKey::new("shop", DataType::Counter, "visits").unwrap();
        let shown = ShownCounter::new(&counter, Floors::from([(ActorId::new(4), Floor { seq: 7, total: 1 })]));
        for floors in [None, Some(&shown)] {
            let text = tokens.short_context(&seen, floors, Some(&archive));
            assert!(text.len() < 150, "{}", text.len());
            let read = tokens.read_context(text.as_bytes(), |name| (name == archive.name).then(|| exact.clone()));
            assert_eq!(read, Ok(Context { vector: seen.clone(), floors: floors.cloned() }));
            assert_eq!(whole(&tokens, &text), Err(TokenError::Unknown));
        }
    }

    #[test]
    fn token_reads_back_and_only_in_its_cluster() {
        let (shop, bank) = (Tokens::of_cluster("shop"), Tokens::of_cluster("bank"));
        for seen in [vector(&[]), vector(&[(1, 7), (u64::MAX, 1 << 40)])] {
            let text = shop.token(&seen);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            assert_eq!(shop.read_token(text.as_bytes()), Ok(seen));
            assert_eq!(bank.read_token(text.as_bytes()), Err(TokenError::OtherCluster));
        }
    }

    #[test]
    fn context_reads_back_with_the_totals_of_its_counter() {
        let tokens = Tokens::of_cluster("shop");
        let seen = vector(&[(1, 7)]);
        let plain = tokens.context(&seen, None);
        assert_eq!(whole(&tokens, &plain), Ok(Context { vector: seen.clone(), floors: None }));
        let counter = CollectionKey::new("shop", DataType::Counter, "visits").unwrap();
        let other = CollectionKey::new("shop", DataType::Counter, "stock").unwrap();
        let shown = ShownCounter::new(&counter, Floors::from([(ActorId::new(1), Floor { seq: 7, total: -3 })]));
        assert!(shown.is_of(&counter) && !shown.is_of(&other));
        let text = tokens.context(&seen, Some(&shown));
        assert_eq!(whole(&tokens, &text).unwrap().floors, Some(shown));
        let beyond = ShownCounter::new(&counter, Floors::from([(ActorId::new(1), Floor { seq: 8, total: 1 })]));
        let forged = tokens.context(&seen, Some(&beyond));
        assert_eq!(whole(&tokens, &forged), Err(TokenError::Malformed), "T3");
    }

    #[test]
    fn nothing_else_reads() {
        let tokens = Tokens::of_cluster("shop");
        let (token, context) = (tokens.token(&vector(&[(1, 7)])), tokens.context(&vector(&[(1, 7)]), None));
        assert_eq!(tokens.read_token(context.as_bytes()), Err(TokenError::Malformed), "a context is no token");
        assert_eq!(whole(&tokens, &token), Err(TokenError::Malformed), "a token is no context");
        for bad in
            ["", "garbage!", "AA", &token[1..], &token[..token.len() - 2], &format!("{token}AA"), &format!("{token}=")]
        {
            assert!(tokens.read_token(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(tokens.read_token(&vec![b'A'; TEXT_BYTES_MAX + 1]).is_err());
        // Every damaged byte is either refused or reads as some vector: none panics.
        for at in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let _ = (tokens.read_token(&damaged), tokens.read_context(&damaged, |_| Some(VersionVector::new())));
        }
    }
}

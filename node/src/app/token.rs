//! Session tokens and read contexts: vectors as text that a client carries.
//!
//! **How it goes.** Base64url, without padding, of: a version byte, a kind byte, four bytes of the cluster's name hashed,
//! the vector; for the context of a counter, four bytes of the counter's key hashed and each actor's total as shown.
//!
//! **What always holds.** T1: text that is not exactly what this module writes is refused, as is a token of another cluster.
//! T2: a forged token costs its bearer a bounded wait and nothing else. T3: totals in a context lie within its vector.
//!
//! **What is not here.** Secrecy: a token names actors and counts, which every member's status shows too.

use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{CollectionKey, Dot, Floors, VersionVector, decode_floors, encode_floors};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const VERSION: u8 = 1;
const KIND_TOKEN: u8 = b't';
const KIND_CONTEXT: u8 = b'c';
const KIND_COUNTER_CONTEXT: u8 = b'n';

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
        let mut out = self.begin(KIND_TOKEN);
        vector.encode(&mut out);
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
        let mut out = self.begin(if floors.is_some() { KIND_COUNTER_CONTEXT } else { KIND_CONTEXT });
        vector.encode(&mut out);
        if let Some(shown) = floors {
            out.raw(&shown.counter);
            encode_floors(&mut out, &shown.floors);
        }
        text(out)
    }

    /// What a read showed, from its text.
    ///
    /// # Errors
    /// It is no context of this cluster.
    pub fn read_context(&self, text: &[u8]) -> Result<Context, TokenError> {
        let bytes = bytes(text)?;
        let mut input = Reader::new(&bytes);
        let kind = self.check_head(&mut input)?;
        if kind != KIND_CONTEXT && kind != KIND_COUNTER_CONTEXT {
            return Err(TokenError::Malformed);
        }
        let vector = VersionVector::decode(&mut input)?;
        let mut floors = None;
        if kind == KIND_COUNTER_CONTEXT {
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
        assert_eq!(tokens.read_context(plain.as_bytes()), Ok(Context { vector: seen.clone(), floors: None }));
        let counter = CollectionKey::new("shop", DataType::Counter, "visits").unwrap();
        let other = CollectionKey::new("shop", DataType::Counter, "stock").unwrap();
        let shown = ShownCounter::new(&counter, Floors::from([(ActorId::new(1), Floor { seq: 7, total: -3 })]));
        assert!(shown.is_of(&counter) && !shown.is_of(&other));
        let text = tokens.context(&seen, Some(&shown));
        assert_eq!(tokens.read_context(text.as_bytes()).unwrap().floors, Some(shown));
        let beyond = ShownCounter::new(&counter, Floors::from([(ActorId::new(1), Floor { seq: 8, total: 1 })]));
        let forged = tokens.context(&seen, Some(&beyond));
        assert_eq!(tokens.read_context(forged.as_bytes()), Err(TokenError::Malformed), "T3");
    }

    #[test]
    fn nothing_else_reads() {
        let tokens = Tokens::of_cluster("shop");
        let (token, context) = (tokens.token(&vector(&[(1, 7)])), tokens.context(&vector(&[(1, 7)]), None));
        assert_eq!(tokens.read_token(context.as_bytes()), Err(TokenError::Malformed), "a context is no token");
        assert_eq!(tokens.read_context(token.as_bytes()), Err(TokenError::Malformed), "a token is no context");
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
            let _ = (tokens.read_token(&damaged), tokens.read_context(&damaged));
        }
    }
}

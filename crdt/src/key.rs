//! Row keys: namespace ‖ type ‖ key ‖ path, as bytes that sort the way people list.
//!
//! **How it goes.**
//! ```text
//! collection  = namespace 00 type escaped(key) 00 01
//! row         = collection path
//! path        = nothing                      registers, counters, flags
//!             | member                       sets
//!             | (escaped(segment) 00 01)* 00 02 kind [member]     maps
//! escaped(b)  = b with every 00 written as 00 ff
//! ```
//!
//! **What always holds.** K1: the type is part of the identity: one name with two types is two things. K2: keys of one
//! namespace and type sort by the bytes of the user's key, and no collection's bytes are a prefix of another's.
//! K3: a [`RowKey`] that exists is well formed; bytes from outside become one only through [`RowKey::parse`].

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Bytes of a namespace.
pub const NAMESPACE_BYTES_MAX: usize = 63;
/// Bytes of a user's key.
pub const USER_KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a set member, and of a JSON Pointer.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Segments of a JSON Pointer: what common JSON readers nest without complaint.
pub const PATH_DEPTH_MAX: usize = 100;

/// Why a name was refused: the caller's input is at fault, nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A namespace against its rule.
    #[error("a namespace is 1 to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit")]
    Namespace,
    /// A key that is empty or too long.
    #[error("a key is 1 to 1,024 bytes of UTF-8")]
    UserKey,
    /// A member that is too long.
    #[error("a set member is at most 1,024 bytes of UTF-8")]
    Member,
    /// Text that is no JSON Pointer, or one that is too long or deep.
    #[error(
        "a map path is a JSON Pointer ('' or '/a/b', '~0' for '~', '~1' for '/') of at most 1,024 bytes and 100 segments"
    )]
    Path,
    /// Bytes that no row key has.
    #[error("malformed row key")]
    Malformed,
}

/// What kind of thing a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataType {
    /// Last writer wins, losers kept as siblings.
    Register,
    /// Sum of increments.
    Counter,
    /// Add-wins set of strings.
    Set,
    /// Nested object of values, counters and member sets.
    Map,
    /// Enable-wins flag.
    Flag,
}

impl DataType {
    /// Every type, in the order of their bytes.
    pub const ALL: [Self; 5] = [Self::Register, Self::Counter, Self::Set, Self::Map, Self::Flag];

    const fn byte(self) -> u8 {
        match self {
            Self::Register => b'r',
            Self::Counter => b'c',
            Self::Set => b's',
            Self::Map => b'm',
            Self::Flag => b'f',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.byte() == byte)
    }
}

/// What a leaf of a map is. The three are different things even at one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeafKind {
    /// A counter.
    Counter,
    /// A member of a set.
    Member,
    /// A JSON value.
    Value,
}

impl LeafKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Counter => b'c',
            Self::Member => b's',
            Self::Value => b'v',
        }
    }
}

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const END: u8 = 0x01;
const LEAF: u8 = 0x02;

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        out.push(*byte);
        if *byte == ESCAPE {
            out.push(ESCAPED_ZERO);
        }
    }
}

/// Reads an escaped string up to its end mark; gives the text and what follows.
fn unescape(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        let byte = *bytes.get(at)?;
        if byte != ESCAPE {
            text.push(byte);
            at += 1;
            continue;
        }
        match *bytes.get(at + 1)? {
            ESCAPED_ZERO => text.push(ESCAPE),
            END => return Some((text, &bytes[at + 2..])),
            _ => return None,
        }
        at += 2;
    }
}

/// One named thing of one type: where its rows begin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionKey(Arc<[u8]>);

impl CollectionKey {
    /// A user's collection.
    ///
    /// # Errors
    /// The namespace or the key is against its rule.
    pub fn new(namespace: &str, data_type: DataType, key: &str) -> Result<Self, KeyError> {
        let mut bytes = Self::namespace_prefix(namespace, data_type)?;
        if key.is_empty() || key.len() > USER_KEY_BYTES_MAX {
            return Err(KeyError::UserKey);
        }
        escape(&mut bytes, key.as_bytes());
        bytes.extend_from_slice(&[ESCAPE, END]);
        Ok(Self(bytes.into()))
    }

    /// The bytes with which every collection of a namespace and type begins, before the user's key.
    ///
    /// # Errors
    /// The namespace is against its rule.
    pub fn namespace_prefix(namespace: &str, data_type: DataType) -> Result<Vec<u8>, KeyError> {
        let system = namespace.strip_prefix('_').unwrap_or(namespace);
        let valid = !system.is_empty()
            && namespace.len() <= NAMESPACE_BYTES_MAX
            && system.as_bytes()[0].is_ascii_alphanumeric()
            && system.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        if !valid {
            return Err(KeyError::Namespace);
        }
        let mut bytes = Vec::with_capacity(namespace.len() + 32);
        bytes.extend_from_slice(namespace.as_bytes());
        bytes.extend_from_slice(&[ESCAPE, data_type.byte()]);
        Ok(bytes)
    }

    /// Like [`Self::namespace_prefix`], followed by the beginning of a user's key.
    ///
    /// # Errors
    /// The namespace is against its rule.
    pub fn listing_prefix(namespace: &str, data_type: DataType, key_prefix: &str) -> Result<Vec<u8>, KeyError> {
        let mut bytes = Self::namespace_prefix(namespace, data_type)?;
        escape(&mut bytes, key_prefix.as_bytes());
        Ok(bytes)
    }

    /// What kind of thing it is.
    ///
    /// # Panics
    /// Never: a collection that exists is well formed (K3).
    #[must_use]
    pub fn data_type(&self) -> DataType {
        let end = self.0.iter().position(|b| *b == ESCAPE).unwrap_or_default();
        DataType::from_byte(self.0[end + 1]).expect("K3: a collection is checked before it exists")
    }

    /// Whether it is in a namespace that is not for users.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.first() == Some(&b'_')
    }

    /// The bytes with which every row of this collection begins.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The row of a type that has one.
    #[must_use]
    pub fn row(&self) -> RowKey {
        RowKey { bytes: Arc::clone(&self.0), collection_bytes: self.0.len() as u32 }
    }

    /// The row of a set's member.
    ///
    /// # Errors
    /// The member is too long.
    pub fn member(&self, member: &str) -> Result<RowKey, KeyError> {
        if member.len() > PATH_BYTES_MAX {
            return Err(KeyError::Member);
        }
        Ok(self.extended(member.as_bytes()))
    }

    fn extended(&self, path: &[u8]) -> RowKey {
        let mut bytes = Vec::with_capacity(self.0.len() + path.len());
        bytes.extend_from_slice(&self.0);
        bytes.extend_from_slice(path);
        RowKey { bytes: bytes.into(), collection_bytes: self.0.len() as u32 }
    }
}

impl fmt::Debug for CollectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// A place in a map: the segments of a JSON Pointer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MapPath {
    segments: Vec<String>,
    bytes: usize,
}

impl MapPath {
    /// The whole map.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a JSON Pointer (RFC 6901).
    ///
    /// # Errors
    /// It is none, or too long or deep.
    pub fn from_pointer(pointer: &str) -> Result<Self, KeyError> {
        let mut path = Self::root();
        if pointer.is_empty() {
            return Ok(path);
        }
        let rest = pointer.strip_prefix('/').ok_or(KeyError::Path)?;
        for raw in rest.split('/') {
            let mut segment = String::with_capacity(raw.len());
            let mut chars = raw.chars();
            while let Some(c) = chars.next() {
                segment.push(match c {
                    '~' => match chars.next() {
                        Some('0') => '~',
                        Some('1') => '/',
                        _ => return Err(KeyError::Path),
                    },
                    c => c,
                });
            }
            path = path.child(&segment)?;
        }
        Ok(path)
    }

    /// One segment deeper.
    ///
    /// # Errors
    /// Too long or deep.
    pub fn child(&self, segment: &str) -> Result<Self, KeyError> {
        let bytes = self.bytes + segment.len() + 1;
        if bytes > PATH_BYTES_MAX || self.segments.len() >= PATH_DEPTH_MAX {
            return Err(KeyError::Path);
        }
        let mut segments = self.segments.clone();
        segments.push(segment.into());
        Ok(Self { segments, bytes })
    }

    /// The segments, outermost first.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// The path as a JSON Pointer (RFC 6901).
    #[must_use]
    pub fn to_pointer(&self) -> String {
        self.segments.iter().flat_map(|s| ["/".into(), s.replace('~', "~0").replace('/', "~1")]).collect()
    }

    /// Whether this is the whole map.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.segments.is_empty()
    }

    /// Every path above this one, the root first, itself not included.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        (0..self.segments.len()).map(|depth| Self {
            segments: self.segments[..depth].to_vec(),
            bytes: self.segments[..depth].iter().map(|s| s.len() + 1).sum(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes + 2 * self.segments.len() + 3);
        for segment in &self.segments {
            escape(&mut out, segment.as_bytes());
            out.extend_from_slice(&[ESCAPE, END]);
        }
        out
    }

    /// The bytes with which every row at and under this place begins.
    #[must_use]
    pub fn subtree(&self, map: &CollectionKey) -> Vec<u8> {
        let mut bytes = map.as_bytes().to_vec();
        bytes.extend(self.encode());
        bytes
    }

    /// The row of a leaf that is one row.
    #[must_use]
    pub fn leaf(&self, map: &CollectionKey, kind: LeafKind) -> RowKey {
        let mut path = self.encode();
        path.extend_from_slice(&[ESCAPE, LEAF, kind.byte()]);
        map.extended(&path)
    }

    /// The row of a member of the set at this place.
    ///
    /// # Errors
    /// The member is too long.
    pub fn member(&self, map: &CollectionKey, member: &str) -> Result<RowKey, KeyError> {
        if member.len() > PATH_BYTES_MAX {
            return Err(KeyError::Member);
        }
        let mut path = self.encode();
        path.extend_from_slice(&[ESCAPE, LEAF, LeafKind::Member.byte()]);
        path.extend_from_slice(member.as_bytes());
        Ok(map.extended(&path))
    }
}

/// What a row is within its collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowPath {
    /// The only row of a register, counter or flag.
    Whole,
    /// A member of a set.
    Member(String),
    /// A leaf of a map; the text is the member of a member set, else empty.
    Leaf(MapPath, LeafKind, String),
}

/// The identity of one row.
#[derive(Clone)]
pub struct RowKey {
    bytes: Arc<[u8]>,
    collection_bytes: u32,
}

impl RowKey {
    /// Reads bytes from outside. K3
    ///
    /// # Errors
    /// They are no row key.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let (_, _, _, path) = Self::split(bytes).ok_or(KeyError::Malformed)?;
        let key = Self { bytes: bytes.into(), collection_bytes: (bytes.len() - path.len()) as u32 };
        key.parts_checked().ok_or(KeyError::Malformed)?;
        Ok(key)
    }

    fn split(bytes: &[u8]) -> Option<(&str, DataType, String, &[u8])> {
        let end = bytes.iter().take(NAMESPACE_BYTES_MAX + 1).position(|b| *b == ESCAPE)?;
        let namespace = core::str::from_utf8(&bytes[..end]).ok()?;
        let data_type = DataType::from_byte(*bytes.get(end + 1)?)?;
        let (key, path) = unescape(&bytes[end + 2..])?;
        let key = String::from_utf8(key).ok()?;
        CollectionKey::namespace_prefix(namespace, data_type).ok()?;
        (1..=USER_KEY_BYTES_MAX).contains(&key.len()).then_some((namespace, data_type, key, path))
    }

    fn parts_checked(&self) -> Option<(&str, DataType, String, RowPath)> {
        let (namespace, data_type, key, path) = Self::split(&self.bytes)?;
        let path = match data_type {
            DataType::Register | DataType::Counter | DataType::Flag => path.is_empty().then_some(RowPath::Whole)?,
            DataType::Set => RowPath::Member(member_text(path)?),
            DataType::Map => leaf_path(path)?,
        };
        Some((namespace, data_type, key, path))
    }

    /// Namespace, type, the user's key, and what the row is in there.
    ///
    /// # Panics
    /// Never: a row key that exists is well formed (K3).
    #[must_use]
    pub fn parts(&self) -> (&str, DataType, String, RowPath) {
        self.parts_checked().expect("K3: a row key is parsed before it exists")
    }

    /// The type of the thing the row belongs to.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.collection().data_type()
    }

    /// What a map's row is, without decoding its path; `None` for other types.
    #[must_use]
    pub fn leaf_kind(&self) -> Option<LeafKind> {
        (self.data_type() == DataType::Map).then(|| {
            let path = &self.bytes[self.collection_bytes as usize..];
            let at = path.windows(2).position(|w| w == [ESCAPE, LEAF]).expect("K3: a map's row names its kind");
            match path[at + 2] {
                b'c' => LeafKind::Counter,
                b's' => LeafKind::Member,
                _ => LeafKind::Value,
            }
        })
    }

    /// The collection the row belongs to.
    #[must_use]
    pub fn collection(&self) -> CollectionKey {
        let end = self.collection_bytes as usize;
        if end == self.bytes.len() {
            CollectionKey(Arc::clone(&self.bytes))
        } else {
            CollectionKey(self.bytes[..end].into())
        }
    }

    /// The bytes, which sort as the rows do.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn member_text(bytes: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(bytes).ok()?;
    (text.len() <= PATH_BYTES_MAX).then(|| text.into())
}

fn leaf_path(mut bytes: &[u8]) -> Option<RowPath> {
    let mut path = MapPath::root();
    loop {
        if let [ESCAPE, LEAF, kind, rest @ ..] = bytes {
            return match (*kind, rest.is_empty()) {
                (b'c', true) => Some(RowPath::Leaf(path, LeafKind::Counter, String::new())),
                (b'v', true) => Some(RowPath::Leaf(path, LeafKind::Value, String::new())),
                (b's', _) => Some(RowPath::Leaf(path, LeafKind::Member, member_text(rest)?)),
                _ => None,
            };
        }
        let (segment, rest) = unescape(bytes)?;
        path = path.child(core::str::from_utf8(&segment).ok()?).ok()?;
        bytes = rest;
    }
}

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for RowKey {}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl core::hash::Hash for RowKey {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl core::borrow::Borrow<[u8]> for RowKey {
    fn borrow(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn names_against_their_rules_are_refused() {
        let long = "n".repeat(64);
        for bad in ["", "-a", ".a", "A", "a b", "ä", long.as_str(), "__a", "_"] {
            assert_eq!(CollectionKey::new(bad, DataType::Set, "k"), Err(KeyError::Namespace), "{bad}");
        }
        assert!(CollectionKey::new("_system", DataType::Register, "members").is_ok());
        assert_eq!(CollectionKey::new("shop", DataType::Set, ""), Err(KeyError::UserKey));
        assert_eq!(CollectionKey::new("shop", DataType::Set, &"k".repeat(1_025)), Err(KeyError::UserKey));
        assert_eq!(MapPath::from_pointer("a"), Err(KeyError::Path));
        assert_eq!(MapPath::from_pointer("/a~2"), Err(KeyError::Path));
        assert_eq!(MapPath::from_pointer(&"/a".repeat(101)), Err(KeyError::Path));
    }

    #[test]
    fn a_pointer_reads_as_rfc_6901_says() {
        assert_eq!(MapPath::from_pointer("/a~1b/~0c/").unwrap().segments(), vec!["a/b", "~c", ""]);
        assert!(MapPath::from_pointer("").unwrap().is_root());
    }

    #[test]
    fn what_is_under_a_place_is_what_begins_with_its_bytes() {
        let map = CollectionKey::new("shop", DataType::Map, "m").unwrap();
        let a = MapPath::from_pointer("/a").unwrap();
        let inside = MapPath::from_pointer("/a/b").unwrap().leaf(&map, LeafKind::Value);
        let beside = MapPath::from_pointer("/ab").unwrap().leaf(&map, LeafKind::Value);
        assert!(inside.as_bytes().starts_with(&a.subtree(&map)));
        assert!(a.leaf(&map, LeafKind::Counter).as_bytes().starts_with(&a.subtree(&map)));
        assert!(!beside.as_bytes().starts_with(&a.subtree(&map)));
    }

    proptest! {
        #[test]
        fn a_row_key_reads_back_and_sorts_by_the_users_key(
            a in "\\PC{1,8}|[\\x00\\x01a]{1,6}", b in "\\PC{1,8}|[\\x00\\x01a]{1,6}",
            member in "\\PC{0,8}|[\\x00\\x02]{0,4}", pointer in "(/[a\\x00b]{0,3}){0,4}"
        ) {
            let set = CollectionKey::new("shop", DataType::Set, &a).unwrap();
            let row = set.member(&member).unwrap();
            let back = RowKey::parse(row.as_bytes()).unwrap();
            prop_assert_eq!(back.parts(), ("shop", DataType::Set, a.clone(), RowPath::Member(member.clone())));
            prop_assert_eq!(back.collection(), set.clone());
            let other = CollectionKey::new("shop", DataType::Set, &b).unwrap();
            prop_assert_eq!(set.cmp(&other), a.as_bytes().cmp(b.as_bytes()));
            let map = CollectionKey::new("shop", DataType::Map, &a).unwrap();
            let path = MapPath::from_pointer(&pointer).unwrap();
            prop_assert_eq!(path.to_pointer(), pointer.clone());
            let row = RowKey::parse(path.member(&map, &member).unwrap().as_bytes()).unwrap();
            prop_assert_eq!(row.leaf_kind(), Some(LeafKind::Member));
            prop_assert_eq!(row.parts().3, RowPath::Leaf(path, LeafKind::Member, member));
        }

        #[test]
        fn bytes_from_outside_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 0_usize..30) {
            let _ = RowKey::parse(&bytes);
            let map = CollectionKey::new("shop", DataType::Map, "m").unwrap();
            let row = MapPath::from_pointer("/a/b").unwrap().leaf(&map, LeafKind::Value);
            let mut damaged = row.as_bytes().to_vec();
            if let Some(byte) = damaged.get_mut(cut) {
                *byte = bytes.first().copied().unwrap_or(0);
            }
            if let Ok(key) = RowKey::parse(&damaged) {
                let _ = (key.parts(), key.leaf_kind(), key.collection());
            }
        }
    }
}

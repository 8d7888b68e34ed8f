//! The rules, by what they speak of: walls between crates, sizes, words, documents.

pub(crate) mod documents;
pub(crate) mod sizes;
pub(crate) mod walls;
pub(crate) mod words;

//! Where backups lie: a directory, or a bucket that speaks S3.
//!
//! **What always holds.** D1: what was stored has been synced by a directory, and acknowledged by a bucket. D2: an object is read only if
//! it is no larger than it may be. D3: an error names the object and what the store said, and never a key.

use super::manifest::{MANIFEST_BYTES_MAX, Manifest};
use super::part::{Kind, PART_BYTES_MAX};
use super::{id::BackupId, s3};
use crate::exit::{Exit, Failure};
use futures_util::StreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};
use std::fmt;
use std::sync::Arc;

const MANIFEST: &str = "manifest";

/// A place for backups.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// As it was typed.
    name: String,
}

/// One backup's place: whose, and which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) id: BackupId,
    pub(crate) node: String,
}

/// What lies under the name of a backup.
pub(crate) enum Found {
    /// A backup.
    Whole(Box<Manifest>),
    /// Objects without a manifest: it is being taken, or was interrupted.
    Unfinished(Place),
    /// Its manifest does not read.
    Damaged(Place, String),
}

impl Destination {
    /// A directory, `file://…`, or `s3://BUCKET/PREFIX`. A directory is made only `to_write`.
    pub(crate) fn open(name: &str, to_write: bool) -> Result<Self, Failure> {
        let name = name.trim_end_matches('/');
        let opened = |store: Arc<dyn ObjectStore>, root: Path| Self { store, root, name: name.to_owned() };
        if let Some(rest) = name.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let root = Path::parse(prefix).map_err(|_| Failure::usage(format!("{name}: no such prefix can be")))?;
            let store = s3::bucket(bucket)
                .map_err(|error| Failure::usage(format!("{name}: {}; see the AWS_ variables", told(&error))))?;
            return Ok(opened(Arc::new(store), root));
        }
        let path = name.strip_prefix("file://").unwrap_or(name);
        if path.contains("://") {
            return Err(Failure::usage(format!(
                "{name}: a backup goes to a directory, file://… or s3://BUCKET/PREFIX"
            )));
        }
        let path = if path.is_empty() { "/" } else { path };
        let cannot =
            |error: &dyn fmt::Display| Failure::new(Exit::CannotStart, format!("{path} cannot be used: {error}"));
        if to_write {
            use std::os::unix::fs::DirBuilderExt as _;
            // Readable by its owner alone: it will hold everybody's data.
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| cannot(&error))?;
        }
        let store = LocalFileSystem::new_with_prefix(path).map_err(|error| cannot(&told(&error)))?;
        Ok(opened(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)), Path::default()))
    }

    /// As it was typed.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn folder(&self, place: &Place) -> Path {
        self.root.clone().join(place.node.as_str()).join(place.id.as_str())
    }

    /// The name of an object, for people.
    pub(crate) fn object(&self, place: &Place, name: &str) -> String {
        format!("{}/{}/{}/{name}", self.name, place.node, place.id)
    }

    fn failed(&self, place: &Place, name: &str, what: &str, error: &Error) -> Failure {
        let exit = if matches!(error, Error::NotFound { .. }) { Exit::No } else { Exit::CannotStart };
        Failure::new(exit, format!("{} {what}: {}", self.object(place, name), told(error)))
    }

    /// Stores an object. D1
    pub(crate) async fn put(&self, place: &Place, name: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let path = self.folder(place).join(name);
        let stored = self.store.put(&path, bytes.into()).await;
        stored.map(drop).map_err(|error| self.failed(place, name, "cannot be written", &error))
    }

    /// Makes a backup of what was stored.
    pub(crate) async fn put_manifest(&self, place: &Place, manifest: &Manifest) -> Result<(), Failure> {
        self.put(place, MANIFEST, manifest.encode()).await
    }

    /// The nth object of a kind. D2
    pub(crate) async fn part(&self, place: &Place, kind: Kind, n: usize) -> Result<Vec<u8>, Failure> {
        let name = kind.name(n);
        let read = self.read(place, &name, PART_BYTES_MAX).await;
        read.map_err(|error| self.failed(place, &name, "cannot be read", &error))
    }

    async fn read(&self, place: &Place, name: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let got = self.store.get(&self.folder(place).join(name)).await?;
        if got.meta.size > bytes_max as u64 {
            let source = format!("it has {} bytes, and {bytes_max} at most are believed", got.meta.size).into();
            return Err(Error::Generic { store: "backup", source });
        }
        Ok(got.bytes().await?.to_vec())
    }

    /// What lies under a name.
    pub(crate) async fn find(&self, place: Place) -> Result<Found, Failure> {
        let bytes = match self.read(&place, MANIFEST, MANIFEST_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(Error::NotFound { .. }) => return Ok(Found::Unfinished(place)),
            Err(error) => return Err(self.failed(&place, MANIFEST, "cannot be read", &error)),
        };
        Ok(match Manifest::decode(&bytes) {
            Ok(manifest) if (&manifest.id, &manifest.node) == (&place.id, &place.node) => {
                Found::Whole(Box::new(manifest))
            }
            Ok(_) => Found::Damaged(place, "it is another backup's".into()),
            Err(error) => Found::Damaged(place, error.to_string()),
        })
    }

    /// The places of all backups, of this node if one is named; oldest first.
    pub(crate) async fn places(&self, node: Option<&str>) -> Result<Vec<Place>, Failure> {
        let nodes = match node {
            Some(node) => vec![node.to_owned()],
            None => self.folders(&self.root).await?,
        };
        let mut places = Vec::new();
        for node in nodes {
            let ids = self.folders(&self.root.clone().join(node.as_str())).await?;
            places.extend(ids.iter().filter_map(|id| Some(Place { id: id.parse().ok()?, node: node.clone() })));
        }
        places.sort_unstable();
        Ok(places)
    }

    async fn folders(&self, path: &Path) -> Result<Vec<String>, Failure> {
        let listed = self.store.list_with_delimiter(Some(path)).await.map_err(|error| {
            Failure::new(Exit::CannotStart, format!("{} cannot be listed: {}", self.name, told(&error)))
        })?;
        Ok(listed.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect())
    }

    /// Removes a backup, the manifest first: what is left when this is cut off is no backup.
    pub(crate) async fn remove(&self, place: &Place) -> Result<(), Failure> {
        let folder = self.folder(place);
        let removed = |name: &str, outcome: Result<(), Error>| match outcome {
            Err(error) if !matches!(error, Error::NotFound { .. }) => {
                Err(self.failed(place, name, "cannot be removed", &error))
            }
            _ => Ok(()),
        };
        removed(MANIFEST, self.store.delete(&folder.clone().join(MANIFEST)).await)?;
        let mut objects = self.store.list(Some(&folder));
        while let Some(object) = objects.next().await {
            let path = object.map_err(|error| self.failed(place, "", "cannot be listed", &error))?.location;
            removed(path.filename().unwrap_or_default(), self.store.delete(&path).await)?;
        }
        Ok(())
    }
}

/// An error in one line, without what it repeats.
fn told(error: &dyn std::error::Error) -> String {
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

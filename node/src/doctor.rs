//! What is to be looked at, from a directory's name or a node's configuration; the look itself is the store's.

use crate::config::Config;
use crate::divergence::row_name;
use crate::run;
use crate::store::{DoctorError, Examination, Patient, Progress, StoreConfig};
use crate::tls::TlsError;
use std::path::{Path, PathBuf};

/// A directory, and how much is known of its cluster.
#[derive(Debug)]
pub struct Doctor {
    patient: Patient,
}

impl Doctor {
    /// Of a directory alone: rows are compared with their checksums.
    #[must_use]
    pub fn of_directory(dir: &Path) -> Self {
        Self::new(StoreConfig::new(dir), false)
    }

    /// Of a node's directory: rows are compared with their digests too, and a start is rehearsed.
    ///
    /// # Errors
    /// The certificates cannot be used; the cluster's secret is made of its CA's.
    pub fn of_node(config: &Config) -> Result<Self, TlsError> {
        Ok(Self::new(run::store_config(config, run::tls(config)?.as_ref()), true))
    }

    fn new(store: StoreConfig, knows_secret: bool) -> Self {
        Self { patient: Patient { store, knows_secret, scratch: None, name_of: row_name } }
    }

    /// Makes the likeness of the directory elsewhere than beside it.
    #[must_use]
    pub fn with_scratch(mut self, dir: Option<PathBuf>) -> Self {
        self.patient.scratch = dir;
        self
    }

    /// Looks.
    ///
    /// # Errors
    /// The directory cannot be looked at.
    pub fn examine(&self, progress: &mut Progress<'_>) -> Result<Examination, DoctorError> {
        crate::store::examine(&self.patient, progress)
    }
}

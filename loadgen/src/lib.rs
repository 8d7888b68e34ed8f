//! Load, and what it takes to judge it: emulated oceans, workloads, measurement and verification.
//!
//! [`wan`] is a user-space WAN emulator: UDP relays on loopback with the delays, losses, limits and cuts of
//! real links. [`workload`] says what is asked of a cluster, [`run`] asks it and measures, [`history`] is
//! the evidence, [`verify`] the judgement. [`scenario`] is a run as somebody wrote it.

pub mod clock;
pub mod history;
pub mod latency;
pub mod run;
pub mod scenario;
pub mod verify;
pub mod wan;
pub mod workload;

//! The binary; everything it does is in the library of the same name.

use std::process::ExitCode;

/// Requests, records and rows are allocated on one thread and freed on another, which costs glibc's allocator a third of
/// the rate of durable writes (docs/internals/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    atoll::main()
}

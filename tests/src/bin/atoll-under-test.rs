//! The product's own binary, built with the tests so that they can start it as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    atoll::main()
}

//! `cargo xtask`: what developers and checks run.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}

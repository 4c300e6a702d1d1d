//! `ffsctl`: the operator's tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    admin::ctl::main()
}

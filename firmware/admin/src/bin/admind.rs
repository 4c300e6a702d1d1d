//! The appliance's administration.

use std::process::ExitCode;

fn main() -> ExitCode {
    admin::admind::main()
}

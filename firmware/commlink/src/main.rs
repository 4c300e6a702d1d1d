//! commlinkd: the commlink endpoint of an appliance.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::run("commlinkd", commlink::endpoint::run)
}

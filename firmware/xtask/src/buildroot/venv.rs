//! Python's packages that checks need, in an environment of their own.

use super::run;
use crate::Usage;
use anyhow::Result;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

/// What is installed, exactly: CycloneDX's schemas, a parser of Kconfig, what Buildroot's lint asks for, and what systemd's ukify does.
const PACKAGES: [&str; 5] = [
    "cyclonedx-python-lib[json-validation]==11.12.0",
    "flake8==7.5.0",
    "kconfiglib==14.1.0",
    "pefile==2024.8.26",
    "python-magic==0.4.27",
];

/// What python3 must be able to do, which is in a package of its own; asked for with the tools ([`super::TOOLS`]).
pub(super) const NEEDED: &[&str] = &["-c", "import ensurepip, venv"];

/// Makes it, if it is not there; its folder of programs.
pub(crate) fn provide() -> Result<PathBuf> {
    let home = super::workdir();
    fs::create_dir_all(&home)?;
    // Tests come here at once.
    let lock = File::create(home.join("venv.lock"))?;
    lock.lock()?;
    let (venv, done) = (home.join("venv"), home.join("venv/packages"));
    let bin = venv.join("bin");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&done).is_ok_and(|have| have == wanted) {
        return Ok(bin);
    }
    if !Command::new("python3").args(NEEDED).output()?.status.success() {
        return Err(Usage("python3 is here without venv; run: apt-get install python3-venv".into()).into());
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(bin.join("python")).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    fs::write(done, wanted)?;
    Ok(bin)
}

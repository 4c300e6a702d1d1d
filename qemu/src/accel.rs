//! How guests are run.

use crate::{Error, Patience, QEMU, rom};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// By what the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor.
    Kvm,
    /// Translation.
    Tcg,
}

impl Accel {
    /// QEMU's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// How long the probe may take. With a working KVM it takes a tenth of a second.
const PROBE: Duration = Duration::from_secs(5);

/// What is best here: KVM if a guest really runs under it, since `/dev/kvm` may open and the guest still hang. Looks once.
///
/// # Errors
/// When not even translation runs the probe, so that QEMU is missing or broken.
pub fn best() -> Result<Accel, Error> {
    static BEST: OnceLock<Accel> = OnceLock::new();
    if let Some(accel) = BEST.get() {
        return Ok(*accel);
    }
    let accel = if fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() && runs(Accel::Kvm)? {
        Accel::Kvm
    } else {
        Accel::Tcg
    };
    Ok(*BEST.get_or_init(|| accel))
}

/// Whether a guest that goes through real, protected and 64-bit mode comes to its end.
///
/// # Errors
/// When QEMU cannot be run at all.
pub fn runs(accel: Accel) -> Result<bool, Error> {
    let scratch = Error::io(std::env::temp_dir());
    let rom = tempfile::NamedTempFile::new().and_then(|file| fs::write(file.path(), rom::build("")).map(|()| file));
    let rom = rom.map_err(scratch)?;
    let model = if accel == Accel::Kvm { "host" } else { "max" };
    let mut child = Command::new(QEMU)
        .args(["-accel", accel.as_str(), "-cpu", model, "-machine", "q35", "-m", "64", "-display", "none"])
        .args(["-nodefaults", "-no-user-config"])
        .args(rom::EXIT_DEVICE)
        .arg("-bios")
        .arg(rom.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::Run { program: QEMU, source })?;
    let patience = Patience::of(PROBE);
    let status = loop {
        match child.try_wait().map_err(|source| Error::Run { program: QEMU, source })? {
            None if patience.pause(Duration::from_millis(10)).is_ok() => {}
            other => break other,
        }
    };
    if status.is_none() {
        // It may end right now; either way it is waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(status.and_then(|s| s.code()) == Some(rom::RAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "vm: needs QEMU"]
    fn vm_translation_always_runs_the_probe() {
        assert!(runs(Accel::Tcg).unwrap());
        best().unwrap();
    }
}

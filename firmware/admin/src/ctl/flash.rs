//! Writing the disk of a machine.

use super::args::Flash;
use super::{CtlError, show};
use crate::flash::target::{self, Allowed};
use crate::flash::{FlashError, Image, Job};
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often progress is shown where it is not on a terminal.
const SHOWN: Duration = Duration::from_secs(2);

pub(crate) fn run(command: Flash, site: Option<&Path>, as_json: bool) -> Result<(), CtlError> {
    let Flash { image, target: to, yes, force, size } = command;
    let folder = site.ok_or_else(|| CtlError::Usage("name the machine's folder with --site DIR/MACHINE".into()))?;
    let folder = folder.canonicalize().map_err(|e| CtlError::Usage(format!("{}: {e}", folder.display())))?;
    let machine = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let image = Image::open(&image).map_err(refused)?;
    let job = Job::new(&image, &folder, &machine).map_err(refused)?;
    let target = target::choose(&to, image.size, Allowed { force, size }).map_err(refused)?;
    if target.device && !yes {
        confirm(&target)?;
    }
    let begin = Instant::now();
    let mut progress = Progress::new();
    let written =
        job.write(&target.path, target.size, target.device, &mut |step, done, all| progress.tell(step, done, all));
    progress.end();
    let written = written.map_err(|error| {
        if !target.device {
            // Half a disk is of use to nobody, and has keys in it.
            let _ = std::fs::remove_file(&target.path);
        }
        refused(error)
    })?;
    let (role, disk, seconds) = (image.role.as_str(), written.disk.to_string(), begin.elapsed().as_secs_f64());
    let path = target.path.display().to_string();
    if as_json {
        return show::json(&json!({
            "machine": machine, "role": role, "target": path, "size": written.size, "disk": disk,
            "sha256": written.sha256, "verified": true, "seconds": seconds,
        }));
    }
    show::line(&format!("{path} is the disk of {machine} ({role}), read back and compared, in {seconds:.1} s"))
}

/// What the user named wrongly is wrong usage; what failed failed.
fn refused(error: FlashError) -> CtlError {
    match error {
        FlashError::Image { .. } | FlashError::Role { .. } | FlashError::Folder { .. } => {
            CtlError::Usage(daemon::report(&error))
        }
        FlashError::Target { .. } => CtlError::failed(error.to_string())("choose another, or free it"),
        other => CtlError::failed("the disk was not written")(other),
    }
}

/// Asks a person to type the disk's name.
fn confirm(target: &target::Target) -> Result<(), CtlError> {
    if !io::stdin().is_terminal() {
        return Err(CtlError::Usage("writing a disk needs --yes where nobody can be asked".into()));
    }
    let path = target.path.display().to_string();
    eprint!("Everything on {path} ({}) will be lost. Type {path} to go on: ", target.description);
    let _ = io::stderr().flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(CtlError::failed("nothing was typed"))?;
    if line.trim() == path {
        Ok(())
    } else {
        Err(CtlError::failed("the disk was not written")("what was typed is not its name"))
    }
}

/// Progress on standard error.
struct Progress {
    terminal: bool,
    shown: Option<(&'static str, Instant)>,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), shown: None }
    }

    fn tell(&mut self, step: &'static str, done: u64, all: u64) {
        let due = if self.terminal { SHOWN / 20 } else { SHOWN };
        if done < all && self.shown.is_some_and(|(of, at)| of == step && at.elapsed() < due) {
            return;
        }
        self.shown = Some((step, Instant::now()));
        let what = match step {
            "write" => "writing the image",
            "state" => "writing the state partition",
            _ => "reading back",
        };
        let percent = done * 100 / all.max(1);
        if self.terminal {
            eprint!("\r\x1b[K{what} {percent} %");
        } else {
            eprintln!("{what} {percent} %");
        }
    }

    fn end(&self) {
        if self.terminal && self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

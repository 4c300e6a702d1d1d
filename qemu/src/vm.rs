//! A machine that runs.

use crate::accel::Accel;
use crate::machine::{Disk, Files, Machine, Medium};
use crate::qmp::{Event, Qmp};
use crate::{Error, Patience, QEMU, Waited};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long QEMU itself may take to start, to obey and to end.
const QEMU_ITSELF: Duration = Duration::from_secs(60);
/// Between two looks at something.
const MOMENT: Duration = Duration::from_millis(20);
/// How long one connection may take to show a banner before another is tried. QEMU accepts for a machine that is not there
/// yet, and what then waits in its network comes late or never.
const BANNER: Duration = Duration::from_millis(400);
/// How much of the end of a log is shown with a failure.
const LAST_WORDS: usize = 2000;

/// A running machine. Dropping it ends it at once; so does the end of the thread that started it.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    files: Files,
    child: Child,
    qmp: Option<Qmp>,
    started: Instant,
    serial: Follow,
}

/// A file that grows, read line by line.
#[derive(Debug, Default)]
struct Follow {
    at: u64,
    partial: Vec<u8>,
}

impl Follow {
    /// The lines that came since the last look; what is not complete yet comes again with its rest.
    fn lines(&mut self, path: &Path) -> std::io::Result<Vec<String>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.read_to_end(&mut self.partial)?;
        self.at += u64::try_from(read).unwrap_or(0);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else { return Ok(Vec::new()) };
        let rest = self.partial.split_off(end + 1);
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial = rest;
        Ok(text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect())
    }
}

impl Machine {
    /// Starts it; sockets, serial line and QEMU's messages go to this directory.
    ///
    /// # Errors
    /// When the description makes no machine, or QEMU does not start.
    pub fn start(&self, accel: Accel, dir: &Path) -> Result<Vm, Error> {
        let files = Files::of(dir, &self.name);
        let args = self.args(accel, &files)?;
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        // What an earlier machine of this name left.
        let _ = fs::remove_file(&files.qmp);
        fs::write(&files.serial, "").map_err(Error::io(&files.serial))?;
        let log = File::create(&files.log).map_err(Error::io(&files.log))?;
        let both = log.try_clone().map_err(Error::io(&files.log))?;
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg("--").arg(QEMU).args(args);
        // A group of its own: Ctrl-C is for us, who then end it in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(both).stderr(log);
        let child = command.spawn().map_err(|source| Error::Run { program: "setpriv", source })?;
        let mut vm =
            Vm { machine: self.clone(), files, child, qmp: None, started: Instant::now(), serial: Follow::default() };
        let patience = Patience::of(QEMU_ITSELF);
        // Looks at QEMU in between, which may have ended with a word about why.
        while vm.qmp.is_none() {
            vm.running("it to start")?;
            match Qmp::connect(&vm.files.qmp, &Patience::of(Duration::from_millis(200))) {
                Ok(qmp) => vm.qmp = Some(qmp),
                Err(error) => {
                    if patience.check().is_err() {
                        return Err(error);
                    }
                }
            }
        }
        match vm.execute("cont", &json!({})) {
            Err(error @ (Error::Refused { .. } | Error::Waited { .. })) => Err(error),
            // A connection that broke is that of a guest which is over already; who waits for something learns that.
            _ => Ok(vm),
        }
    }
}

impl Vm {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// What it consists of at present.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The host's memory that QEMU has at present, in KiB: all that the machine ever touched, and QEMU's own.
    pub fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The file with what its serial line said.
    pub fn serial_file(&self) -> &Path {
        &self.files.serial
    }

    /// All that its serial line said so far.
    pub fn serial(&self) -> String {
        fs::read(&self.files.serial).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// How QEMU ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn running(&mut self, what: &str) -> Result<(), Error> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                name: self.machine.name.clone(),
                status: status.to_string(),
                what: what.into(),
                said: last_words(&self.files.log),
            }),
        }
    }

    /// Waits for an event that only a look shows.
    ///
    /// # Errors
    /// When it does not come, or QEMU ends.
    pub fn wait<T>(
        &mut self,
        what: &str,
        patience: &Patience,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, Error> {
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            self.running(what)?;
            let name = self.machine.name.clone();
            patience.pause(MOMENT).map_err(|waited| Error::Waited { what: format!("{what} of {name}"), waited })?;
        }
    }

    /// The next line of the serial line that holds this text.
    ///
    /// # Errors
    /// When it does not come.
    pub fn line(&mut self, text: &str, patience: &Patience) -> Result<String, Error> {
        let what = format!("{text:?} on the serial line");
        self.wait(&what, patience, |vm| {
            let lines = vm.serial.lines(&vm.files.serial).ok()?;
            lines.into_iter().find(|line| line.contains(text))
        })
    }

    /// Waits until whoever serves a forwarded port begins with these bytes; how old the machine is then.
    ///
    /// # Errors
    /// When that does not come.
    pub fn banner(&mut self, port: u16, begins: &[u8], patience: &Patience) -> Result<Duration, Error> {
        let what = format!("{:?} on port {port}", String::from_utf8_lossy(begins));
        self.wait(&what, patience, |_| shows(port, begins).then_some(()))?;
        Ok(self.age())
    }

    /// Runs a command of QEMU's control protocol.
    ///
    /// # Errors
    /// [`Error::Refused`]; others when QEMU does not answer.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        self.qmp()?.execute(command, arguments, &Patience::of(QEMU_ITSELF))
    }

    /// Waits for an event of QEMU's control protocol.
    ///
    /// # Errors
    /// When it does not come.
    pub fn event(&mut self, wanted: impl Fn(&Event) -> bool, patience: &Patience) -> Result<Event, Error> {
        self.qmp()?.event(wanted, patience)
    }

    fn qmp(&mut self) -> Result<&mut Qmp, Error> {
        self.qmp.as_mut().ok_or_else(|| Error::Protocol("no connection".into()))
    }

    fn disk(&self, id: &str) -> Result<Disk, Error> {
        let found = self.machine.disks.iter().find(|disk| disk.id == id).cloned();
        found.ok_or_else(|| Error::Description(format!("{} has no disk {id}", self.machine.name)))
    }

    /// Pulls a disk out, as a hand would with a hot-plug bay: the machine's system is told, then it is gone.
    ///
    /// # Errors
    /// When the machine does not let go of it.
    pub fn unplug(&mut self, id: &str, patience: &Patience) -> Result<(), Error> {
        let disk = self.disk(id)?;
        let device = disk.device();
        self.execute("device_del", &json!({ "id": device }))?;
        self.event(|e| e.name == "DEVICE_DELETED" && e.data["device"] == device.as_str(), patience)?;
        self.execute("blockdev-del", &json!({ "node-name": disk.node() }))?;
        self.mark(id, false);
        Ok(())
    }

    /// Puts a disk in that was pulled, or was not there.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn plug(&mut self, id: &str) -> Result<(), Error> {
        let disk = self.disk(id)?;
        let file = match &disk.medium {
            Medium::File(path) => json!({ "driver": "file", "filename": path.to_string_lossy() }),
            Medium::Nbd(socket) => {
                json!({ "driver": "nbd", "server": { "type": "unix", "path": socket.to_string_lossy() } })
            }
        };
        let block = json!({ "driver": "raw", "node-name": disk.node(), "discard": "unmap", "file": file });
        self.execute("blockdev-add", &block)?;
        let device = json!({
            "driver": disk.bus.driver(), "id": disk.device(), "drive": disk.node(), "serial": disk.id, "bus": disk.port(),
        });
        self.execute("device_add", &device)?;
        self.mark(id, true);
        Ok(())
    }

    /// How many bytes its system has written to a disk since it was started.
    ///
    /// # Errors
    /// When QEMU does not say.
    pub fn written(&mut self, id: &str) -> Result<u64, Error> {
        let device = format!("/{}/", self.disk(id)?.device());
        let all = self.execute("query-blockstats", &json!({}))?;
        let of = |stats: &&Value| stats["qdev"].as_str().is_some_and(|path| format!("{path}/").contains(&device));
        let found = all.as_array().into_iter().flatten().find(of).and_then(|stats| stats["stats"]["wr_bytes"].as_u64());
        found.ok_or_else(|| Error::Protocol(format!("no count of the writes to {id}")))
    }

    /// Ends it in order: QEMU writes what it has, which makes a log of writes complete. Its system is not asked.
    ///
    /// # Errors
    /// When it does not end.
    pub fn quit(&mut self) -> Result<(), Error> {
        self.execute("quit", &json!({}))?;
        let patience = Patience::of(QEMU_ITSELF);
        while self.ended().is_none() {
            let what = format!("the end of {}", self.machine.name);
            patience.pause(MOMENT).map_err(|waited| Error::Waited { what, waited })?;
        }
        Ok(())
    }

    fn mark(&mut self, id: &str, plugged: bool) {
        for disk in self.machine.disks.iter_mut().filter(|disk| disk.id == id) {
            disk.plugged = plugged;
        }
    }

    /// From now on, all that passes an interface goes to a file (pcap).
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn capture(&mut self, nic: &str, file: &Path) -> Result<(), Error> {
        let path = file.to_string_lossy();
        let dump = json!({ "qom-type": "filter-dump", "id": format!("dump-{nic}"), "netdev": nic, "file": path });
        self.execute("object-add", &dump)?;
        Ok(())
    }

    /// Ends a capture; the file is complete then.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn end_capture(&mut self, nic: &str) -> Result<(), Error> {
        self.execute("object-del", &json!({ "id": format!("dump-{nic}") }))?;
        Ok(())
    }

    /// Ends it at once. What its system had not written is lost; what QEMU had been given is in the host's cache.
    pub fn kill(&mut self) {
        self.qmp = None;
        // It may have ended by itself; either way it is waited for, so that nothing is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.files.qmp);
    }

    /// The end of what serial line and QEMU said, for a message about a failure.
    pub fn last_words(&self) -> String {
        let (serial, log) = (&self.files.serial, &self.files.log);
        format!("{}:\n{}\n{}:\n{}", serial.display(), last_words(serial), log.display(), last_words(log))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn last_words(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LAST_WORDS)..]).into_owned();
    text.trim().to_owned()
}

/// Whether a port of 127.0.0.1 begins with these bytes right now.
pub fn shows(port: u16, begins: &[u8]) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, BANNER) else { return false };
    let mut got = vec![0; begins.len()];
    stream.set_read_timeout(Some(BANNER)).is_ok() && stream.read_exact(&mut got).is_ok() && got == begins
}

/// A blank disk that takes space only where something was written.
///
/// # Errors
/// When it cannot be made.
pub fn blank_disk(path: &Path, bytes: u64) -> Result<(), Error> {
    // Anew, also when an earlier one was larger or had something on it.
    File::create(path).and_then(|file| file.set_len(bytes)).map_err(Error::io(path))
}

impl Error {
    /// Whether somebody asked us to end.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Waited { waited: Waited::Cancelled, .. })
    }
}

#[cfg(test)]
mod tests;

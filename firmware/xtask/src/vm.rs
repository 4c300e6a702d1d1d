//! The three roles as VMs, booted from the images that `cargo xtask image` makes.
//!
//! ```text
//! DIR/site/                        what `ffsctl site new` made
//! DIR/disks/<machine>-state.raw    its state partition: its part of the site (booted directly)
//! DIR/disks/<machine>-boot.raw     the flashed image, -vars.fd its firmware's variables (booted by UEFI)
//! DIR/disks/<machine>-<n>.raw      its data disks, sparse
//! DIR/run/<machine>.serial, .qemu  what its serial line and QEMU said
//! DIR/run/web-*.{0,1}, *.qmp       sockets of the LAN segments and of QEMU
//! ```
//! They need no privilege: QEMU runs as whoever calls.

mod bays;
mod progress;

pub use bays::Bays;

use crate::access::{Access, OPERATOR, Running};
use crate::host::Tool;
use crate::local::succeed;
use crate::ports::Ports;
use crate::{image, interrupt};
use anyhow::{Context, Result, bail};
use bays::Servers;
use keys::site::{Machine, Plan, Role};
use progress::Progress;
use qemu::accel::{self, Accel};
use qemu::image::RoleImage;
use qemu::machine::{Boot, Disk};
use qemu::nbd::{Loss, Lost, Server};
use qemu::vm::{Vm, blank_disk};
use qemu::{Patience, site};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Needed beside Rust to run the VMs and to be their customer.
pub const TOOLS: &[Tool] = &[
    Tool::new(qemu::QEMU, "qemu-system-x86"),
    Tool::new("curl", "curl"),
    Tool::new("debugfs", "e2fsprogs"),
    Tool::new("mkfs.ext4", "e2fsprogs"),
    Tool::new("setpriv", "util-linux"),
];

/// Needed beside [`TOOLS`] to boot by UEFI.
pub const UEFI_TOOLS: &[Tool] = &[Tool::new(qemu::image::OVMF[0], "ovmf")];

/// All that is needed beside Rust to build the images and to run the VMs.
pub(crate) fn tools() -> Vec<Tool> {
    [TOOLS, image::TOOLS].concat()
}

/// Ports for data connections of ftp. QEMU polls the socket of each that it forwards whenever anything happens.
const PASSIVE: u16 = 64;
/// How long the machines may take to be healthy. Alone on two quiet cores they take half a minute; nothing says that they are alone,
/// or that the cores are quick: four minutes were seen.
const HEALTHY: Duration = Duration::from_secs(600);
/// How long one look at the portal may take.
const LOOK: &str = "10";
/// Smallest data disk: mkfs.xfs refuses less than 300 MB, and the stager leaves a part free.
const LEAST_DISK: u64 = 1 << 30;
/// Data disks of the database machine: RAID1.
const DATABASE_DISKS: usize = 2;

/// How the machines come to their system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// QEMU loads kernel and first file system; the site is on a small disk of its own.
    Direct,
    /// UEFI and systemd-boot load it from a disk that `ffsctl flash` wrote, with the site on it.
    Flashed,
    /// The same with a firmware that enforces Secure Boot: at the first start systemd-boot enrols the builder's keys.
    Secure,
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where everything goes; made anew.
    pub dir: PathBuf,
    /// How they boot.
    pub start: Start,
    /// Which of them.
    pub roles: Vec<Role>,
    /// Bytes of objects that the download machine must have room for.
    pub room: u64,
    /// Its data disks.
    pub bays: Bays,
    /// The operator's tool.
    pub ffsctl: PathBuf,
    /// Where the image of a role is.
    pub images: fn(Role) -> PathBuf,
}

/// The three roles, running. Dropping it ends them.
#[derive(Debug)]
pub struct Vms {
    access: Access,
    accel: Accel,
    // Before the servers, so that disks are there as long as machines are.
    vms: Vec<(Role, Vm)>,
    servers: Servers,
    banner: Duration,
    healthy: Duration,
}

/// Builds the operator's tool; where it is.
///
/// # Errors
/// When the build fails.
pub fn build_ffsctl() -> Result<PathBuf> {
    // As this program was built, which has most of it already.
    let build = ["build", "--package", "admin", "--bin", "ffsctl"];
    let mut child = crate::test::cargo().args(build).spawn().context("cannot run cargo")?;
    let waiting = interrupt::Waiting::on(child.id());
    let built = child.wait()?.success();
    drop(waiting);
    interrupt::check()?;
    if built { Ok(crate::target().join("debug/ffsctl")) } else { bail!("the build failed") }
}

fn cancelled() -> bool {
    interrupt::requested(Duration::ZERO)
}

impl Setup {
    /// The present images, everything else in a directory of its own.
    pub fn new(ffsctl: &Path, dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            start: Start::Direct,
            roles: Role::ALL.to_vec(),
            room: 0,
            bays: Bays::default(),
            ffsctl: ffsctl.into(),
            images: |role| image::dir(role, false),
        }
    }

    /// Makes a site and its disks and boots its machines, until all of them are healthy.
    ///
    /// # Errors
    /// When they do not get there; nothing runs then.
    pub fn start(&self) -> Result<Vms> {
        let mut vms = self.boot()?;
        match vms.wait_healthy() {
            Ok(()) => Ok(vms),
            Err(error) => {
                let words: Vec<String> = vms.vms.iter().map(|(_, vm)| vm.last_words()).collect();
                Err(if cancelled() { error } else { error.context(words.join("\n\n")) })
            }
        }
    }

    /// Makes a site and its disks and starts its machines, without waiting for them.
    ///
    /// # Errors
    /// When that cannot be done; nothing runs then.
    pub fn boot(&self) -> Result<Vms> {
        let dir = &self.dir;
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir.join("disks"))?;
        // Keys are in it, and nobody else has business here.
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        let (mut free, mut machines) = (Ports::default(), Role::ALL.map(site::planned));
        for machine in &mut machines {
            free.assign(machine, PASSIVE)?;
        }
        let machines = machines.to_vec();
        let plan = Plan { name: "vms".into(), operators: vec![OPERATOR.into()], time: Vec::new(), machines };
        fs::write(dir.join("plan.toml"), toml::to_string_pretty(&plan)?)?;
        let access = Access::new(dir, &self.ffsctl, &plan);
        succeed(access.ffsctl().args(["site", "new"]).arg(access.site()).arg("--plan").arg(dir.join("plan.toml")))?;
        let accel = accel::best()?;
        let (vms, servers) = (Vec::new(), Servers::default());
        let mut vms = Vms { access, accel, vms, servers, banner: Duration::ZERO, healthy: Duration::ZERO };
        for machine in plan.machines.iter().filter(|m| self.roles.contains(&m.role)) {
            interrupt::check()?;
            let described = self.machine(&vms.access, machine, &mut vms.servers)?;
            vms.vms.push((machine.role, described.start(accel, &vms.run_dir())?));
        }
        Ok(vms)
    }

    fn machine(&self, access: &Access, machine: &Machine, servers: &mut Servers) -> Result<qemu::machine::Machine> {
        let name = &machine.name;
        let path = |disk: &str| self.dir.join("disks").join(format!("{name}-{disk}"));
        let (boot, first) = self.system(access, machine)?;
        let mut disks = vec![first];
        let (count, size) = match machine.role {
            // Half of the four, and a quarter to spare.
            Role::Download => (self.bays.count, LEAST_DISK.max(self.room / 2 + self.room / 8 + LEAST_DISK / 2)),
            Role::Database => (DATABASE_DISKS, LEAST_DISK),
            Role::Web => (0, 0),
        };
        for n in 0..count {
            let disk = format!("data{n}");
            let file = path(&format!("{disk}.raw"));
            let larger = machine.role == Role::Download && n >= self.bays.larger_from;
            blank_disk(&file, if larger { 2 * size } else { size })?;
            disks.push(Disk::new(&disk, &file));
        }
        let run = self.dir.join("run");
        if machine.role == Role::Download {
            for (n, disk) in disks.iter_mut().skip(1).enumerate() {
                (disk.bus, disk.plugged) = (self.bays.bus, n < self.bays.filled);
            }
        }
        if machine.role != Role::Web && self.bays.volatile {
            let served = disks.into_iter().map(|disk| servers.serve(name, disk, &run));
            disks = served.collect::<Result<_>>()?;
        }
        let reboots = self.start != Start::Direct;
        Ok(qemu::machine::Machine { reboots, ..site::machine(machine, &run, boot, disks) })
    }

    /// What a machine boots, and the disk that makes it this machine.
    fn system(&self, access: &Access, machine: &Machine) -> Result<(Boot, Disk)> {
        let (name, images) = (&machine.name, (self.images)(machine.role));
        let (folder, disks) = (access.site().join(name), self.dir.join("disks"));
        match self.start {
            Start::Direct => {
                let file = disks.join(format!("{name}-state.raw"));
                admin::state::small_disk(&folder, name, &file)?;
                Ok((RoleImage::open(&images)?.direct(), Disk::new("state", &file)))
            }
            Start::Flashed | Start::Secure => {
                let (image, file) =
                    (images.join(format!("{}.img", machine.role.as_str())), disks.join(format!("{name}-boot.raw")));
                succeed(access.ffsctl().arg("flash").arg(image).arg("--site").arg(folder).arg(&file))?;
                let vars = disks.join(format!("{name}-vars.fd"));
                let boot = if self.start == Start::Secure {
                    image::enrol(&images, &file)?;
                    qemu::image::secure_uefi(&vars)?
                } else {
                    qemu::image::uefi(&vars)?
                };
                Ok((boot, Disk { boot: true, ..Disk::new("boot", &file) }))
            }
        }
    }
}

impl Vms {
    /// How operator and customers reach them.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The machine of a role, one of those that were started.
    ///
    /// # Panics
    /// When it was not.
    pub fn vm(&mut self, role: Role) -> &mut Vm {
        let found = self.vms.iter_mut().find(|(of, _)| *of == role);
        &mut found.expect("this role was started").1
    }

    /// Where the sockets of the segments are.
    pub fn run_dir(&self) -> PathBuf {
        self.access.dir().join("run")
    }

    /// Cuts the power of all machines and starts them again, changed or not, without waiting for them.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn restart(&mut self, change: impl Fn(&qemu::machine::Machine) -> qemu::machine::Machine) -> Result<()> {
        let dir = self.run_dir();
        for (_, vm) in &mut self.vms {
            vm.kill();
        }
        for (_, vm) in &mut self.vms {
            *vm = change(vm.machine()).start(self.accel, &dir)?;
        }
        Ok(())
    }

    /// The server of a volatile disk of the download machine.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn server(&self, disk: &str) -> &Server {
        self.servers.get(Role::Download.as_str(), disk).expect("this disk has a server")
    }

    /// Cuts the power of a machine; what its volatile disks lost by that.
    ///
    /// # Errors
    /// When a disk cannot be read or written.
    pub fn cut(&mut self, role: Role, loss: impl FnMut() -> Loss) -> Result<Lost> {
        // The disks first: a machine could still flush on its way out.
        self.servers.off(role.as_str());
        self.vm(role).kill();
        self.servers.cut(role.as_str(), loss)
    }

    /// Writes to a machine's volatile disks that were not flushed.
    pub fn unflushed(&self, role: Role) -> usize {
        self.servers.unflushed(role.as_str())
    }

    /// Starts a machine again that has lost its power, changed or not, without waiting for it.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn start_again(
        &mut self,
        role: Role,
        change: impl FnOnce(qemu::machine::Machine) -> qemu::machine::Machine,
    ) -> Result<()> {
        let (accel, dir) = (self.accel, self.run_dir());
        let vm = self.vm(role);
        vm.kill();
        *vm = change(vm.machine().clone()).start(accel, &dir)?;
        Ok(())
    }

    /// Waits until the ftp daemon greets, the portal answers and every machine says that it is well.
    ///
    /// # Errors
    /// When one of that does not come.
    pub fn wait_healthy(&mut self) -> Result<()> {
        let patience = Patience::of(HEALTHY).unless(cancelled);
        let mut progress = Progress::new();
        let (_, port) = self.access.ftp();
        self.until("the ftp banner", &patience, &mut progress, |_| qemu::vm::shows(port, b"220"))?;
        self.banner = self.vm(Role::Download).age();
        self.until("the portal", &patience, &mut progress, |access| {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--max-time", LOOK, "--output", "/dev/null", "--cacert"]).arg(access.ca());
            succeed(curl.arg(access.portal_url())).is_ok()
        })?;
        let well = self.until("health", &patience, &mut progress, |access| access.operate(&["status"], "").is_ok());
        if well.is_err()
            && !cancelled()
            && let Ok(said) = self.access.ffsctl().arg("status").output()
        {
            let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
            return well.context(said);
        }
        self.healthy = self.vm(Role::Download).age();
        well
    }

    fn until(
        &mut self,
        what: &str,
        patience: &Patience,
        progress: &mut Progress,
        look: impl Fn(&Access) -> bool,
    ) -> Result<()> {
        while !look(&self.access) {
            if let Some(ended) = self.failed() {
                bail!("{ended} ended while we waited for {what}");
            }
            progress.tell(what, &self.vms);
            patience.pause(Duration::from_millis(20)).with_context(|| format!("waited for {what}"))?;
        }
        progress.reached(what);
        Ok(())
    }
}

impl Running for Vms {
    fn access(&self) -> &Access {
        &self.access
    }
    fn logs(&self) -> PathBuf {
        self.access.dir().join("run")
    }
    fn failed(&mut self) -> Option<String> {
        let ended = self.vms.iter_mut().find_map(|(_, vm)| Some((vm.ended()?, vm.name().to_owned())));
        ended.map(|(status, name)| format!("{name} ({status})"))
    }
    fn stop(&mut self) {
        for (_, vm) in &mut self.vms {
            vm.kill();
        }
    }
    fn measured(&self) -> Vec<(String, String)> {
        let seconds =
            |d: Duration| format!("{:.1} s after the start of QEMU ({})", d.as_secs_f64(), self.accel.as_str());
        let mut all =
            vec![("ftp banner".to_owned(), seconds(self.banner)), ("all healthy".to_owned(), seconds(self.healthy))];
        let said = self.access.ffsctl().args(["--json", "status"]).output().map(|o| o.stdout).unwrap_or_default();
        let machines: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
        for machine in machines.as_array().into_iter().flatten() {
            let checks = machine["checks"].as_array().into_iter().flatten();
            for check in checks.filter(|check| check["name"] == "memory") {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                all.push((format!("memory of {}", text(&machine["machine"])), text(&check["detail"])));
            }
        }
        for (_, vm) in &self.vms {
            if let Some(kib) = vm.resident() {
                all.push((
                    format!("QEMU of {}", vm.name()),
                    format!("{} MiB resident, of the emulator and all that was ever used", kib >> 10),
                ));
            }
        }
        all
    }
}

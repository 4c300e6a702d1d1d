//! What a machine consists of, and QEMU's command line for it.

mod net;

use crate::accel::Accel;
use crate::{Error, rom};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use net::{End, Forward, MAX_FORWARDS, Mac, Net, Nic, Segment, User};

/// Longest path of a Unix socket: 108 bytes with the final NUL (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;
/// Translated code that a machine keeps in emulation, in MiB. QEMU's default would be a quarter of the host's memory.
const TRANSLATION_MIB: u32 = 256;

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name; also that of its files.
    pub name: String,
    /// Memory, in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u8,
    /// What it starts.
    pub boot: Boot,
    /// Whether it may start anew by itself; otherwise that ends it, so that a test sees it.
    pub reboots: bool,
    /// What its clock says at the start, as QEMU writes it (`1970-01-01T00:00:00`); that of the host without it.
    pub clock: Option<String>,
    /// Network interfaces, in the order of their slots.
    pub nics: Vec<Nic>,
    /// Disks, in the order of their slots.
    pub disks: Vec<Disk>,
    /// The disk whose writes are all logged, and the file for that, which must be there ([`crate::writes`]).
    pub logged: Option<(String, PathBuf)>,
}

/// What a machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A kernel, without a firmware's detours.
    Direct {
        /// The kernel.
        kernel: PathBuf,
        /// Its first file system.
        initrd: Option<PathBuf>,
        /// Its command line.
        cmdline: String,
    },
    /// UEFI: the disk with [`Disk::boot`].
    Uefi {
        /// The firmware (OVMF).
        code: PathBuf,
        /// The machine's own copy of the firmware's variables.
        vars: PathBuf,
        /// A firmware that lets nothing but itself write the variables, as Secure Boot needs it.
        guarded: bool,
    },
    /// 64 KiB in place of the firmware.
    Rom(PathBuf),
}

/// A disk, behind a PCIe root port of its own, so that it can be pulled and plugged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name within the machine, and its serial number.
    pub id: String,
    /// Where its bytes are.
    pub medium: Medium,
    /// What it is to the machine.
    pub bus: Bus,
    /// Whether a firmware starts from it.
    pub boot: bool,
    /// Whether it is there; otherwise there is room for it.
    pub plugged: bool,
}

/// Where the bytes of a disk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    /// In a raw image.
    File(PathBuf),
    /// Behind the socket of an NBD server, such as [`crate::nbd`]'s.
    Nbd(PathBuf),
}

/// What a disk is to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// A controller with one namespace. Unlike virtio's, its driver gives up on what is not answered.
    Nvme,
}

impl Bus {
    /// QEMU's name of the device.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-blk-pci",
            Self::Nvme => "nvme",
        }
    }
}

impl Disk {
    /// A virtio disk in a raw image that nothing starts from.
    pub fn new(id: &str, path: &Path) -> Self {
        Self { id: id.into(), medium: Medium::File(path.into()), bus: Bus::Virtio, boot: false, plugged: true }
    }

    /// The same bytes, from a server at this socket.
    #[must_use]
    pub fn served(self, socket: &Path) -> Self {
        Self { medium: Medium::Nbd(socket.into()), ..self }
    }

    /// The name of its root port.
    pub(crate) fn port(&self) -> String {
        format!("port-{}", self.id)
    }

    /// The name of its device.
    pub(crate) fn device(&self) -> String {
        format!("dev-{}", self.id)
    }

    /// The name of its image in QEMU's block layer.
    pub(crate) fn node(&self) -> String {
        format!("disk-{}", self.id)
    }
}

/// Where the files of a running machine are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// What the serial line said.
    pub serial: PathBuf,
    /// What QEMU said.
    pub log: PathBuf,
    /// The control socket.
    pub qmp: PathBuf,
}

impl Files {
    /// Those of a machine, in a directory.
    pub fn of(dir: &Path, name: &str) -> Self {
        let file = |ending: &str| dir.join(format!("{name}.{ending}"));
        Self { serial: file("serial"), log: file("qemu"), qmp: file("qmp") }
    }
}

/// A list of arguments under construction.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    /// An option with a path in it; QEMU wants commas doubled.
    fn with_path(&mut self, name: &str, before: &str, path: &Path, after: &str) -> Result<(), Error> {
        let path = text(path)?.replace(',', ",,");
        self.flag(name, format!("{before}{path}{after}"));
        Ok(())
    }
}

fn text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Description(format!("{} is not UTF-8", path.display())))
}

fn socket(path: &Path) -> Result<&Path, Error> {
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        let why = format!("the path of the socket {} has more than {MAX_SOCKET_PATH} bytes", path.display());
        return Err(Error::Description(why));
    }
    Ok(path)
}

fn plain(id: &str) -> Result<(), Error> {
    let first = id.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    if first && id.len() <= 20 && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        return Ok(());
    }
    Err(Error::Description(format!("{id:?} is no name: a letter, then up to 19 of a-z A-Z 0-9 - _")))
}

impl Machine {
    /// A machine with one processor, without networks and disks.
    pub fn new(name: &str, memory: u32, boot: Boot) -> Self {
        Self {
            name: name.into(),
            memory,
            cpus: 1,
            boot,
            reboots: false,
            clock: None,
            nics: Vec::new(),
            disks: Vec::new(),
            logged: None,
        }
    }

    /// QEMU's arguments.
    ///
    /// # Errors
    /// [`Error::Description`] when the description makes no machine.
    pub fn args(&self, accel: Accel, files: &Files) -> Result<Vec<OsString>, Error> {
        plain(&self.name)?;
        let mut args = Args::default();
        // Its processors wait until somebody is there: a guest of a few instructions may be over before that.
        args.0.extend(["-nodefaults", "-no-user-config", "-S"].map(OsString::from));
        if !self.reboots {
            args.0.push("-no-reboot".into());
        }
        args.flag("-name", &self.name);
        args.flag("-display", "none");
        args.flag("-machine", "q35");
        match accel {
            Accel::Kvm => {
                args.flag("-accel", "kvm");
                args.flag("-cpu", "host");
            }
            Accel::Tcg => {
                args.flag("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"));
                args.flag("-cpu", "max");
            }
        }
        args.flag("-smp", self.cpus.to_string());
        args.flag("-m", self.memory.to_string());
        args.flag("-device", "virtio-rng-pci");
        // A machine that hangs starts anew once its system has armed this.
        args.flag("-device", "i6300esb");
        args.flag("-action", "watchdog=reset");
        if let Some(clock) = &self.clock {
            args.flag("-rtc", format!("base={clock}"));
        }
        args.with_path("-chardev", "file,id=serial,path=", &files.serial, "")?;
        args.flag("-serial", "chardev:serial");
        args.with_path("-qmp", "unix:", socket(&files.qmp)?, ",server=on,wait=off")?;
        self.boot.args(&mut args)?;
        for (slot, nic) in self.nics.iter().enumerate() {
            nic.args(slot + 1, &mut args)?;
        }
        for (slot, disk) in self.disks.iter().enumerate() {
            let log = self.logged.as_ref().filter(|(id, _)| *id == disk.id).map(|(_, path)| path.as_path());
            disk.args(slot + 1, log, &mut args)?;
        }
        Ok(args.0)
    }
}

impl Boot {
    fn args(&self, args: &mut Args) -> Result<(), Error> {
        match self {
            Self::Direct { kernel, initrd, cmdline } => {
                args.flag("-kernel", kernel);
                if let Some(initrd) = initrd {
                    args.flag("-initrd", initrd);
                }
                args.flag("-append", cmdline);
            }
            Self::Uefi { code, vars, guarded } => {
                if *guarded {
                    args.flag("-global", "driver=cfi.pflash01,property=secure,value=on");
                }
                args.with_path("-drive", "if=pflash,unit=0,format=raw,readonly=on,file=", code, "")?;
                args.with_path("-drive", "if=pflash,unit=1,format=raw,file=", vars, "")?;
            }
            Self::Rom(path) => {
                args.flag("-bios", path);
                args.0.extend(rom::EXIT_DEVICE.map(OsString::from));
            }
        }
        Ok(())
    }
}

impl Disk {
    fn args(&self, slot: usize, log: Option<&Path>, args: &mut Args) -> Result<(), Error> {
        plain(&self.id)?;
        let (port, mut node, device) = (self.port(), self.node(), self.device());
        args.flag("-device", format!("pcie-root-port,id={port},chassis={slot},slot={slot}"));
        if !self.plugged {
            return Ok(());
        }
        let block = format!("driver=raw,node-name={node},discard=unmap,file.driver=");
        match &self.medium {
            Medium::File(path) => args.with_path("-blockdev", &format!("{block}file,file.filename="), path, "")?,
            Medium::Nbd(path) => {
                let block = format!("{block}nbd,file.server.type=unix,file.server.path=");
                args.with_path("-blockdev", &block, socket(path)?, "")?;
            }
        }
        if let Some(log) = log {
            let through =
                format!("driver=blklogwrites,node-name=log-{},file={node},log.driver=file,log.filename=", self.id);
            args.with_path("-blockdev", &through, log, "")?;
            node = format!("log-{}", self.id);
        }
        let boot = if self.boot { ",bootindex=1" } else { "" };
        let (id, driver) = (&self.id, self.bus.driver());
        args.flag("-device", format!("{driver},id={device},drive={node},serial={id},bus={port}{boot}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::net::SINK;
    use super::*;
    use std::net::Ipv4Addr;

    fn machine() -> Machine {
        let boot = Boot::Direct { kernel: "/k".into(), initrd: Some("/i".into()), cmdline: "quiet a=b".into() };
        let segment = Segment::new(Path::new("/run/x"), "lan");
        let user = User::new(Ipv4Addr::new(10, 83, 200, 15)).forward((7640, 7641));
        Machine {
            nics: vec![
                Nic {
                    id: "lan".into(),
                    mac: Mac([82, 84, 0, 1, 2, 255]),
                    net: Net::Segment(segment.second()),
                    capture: None,
                },
                Nic {
                    id: "mgmt".into(),
                    mac: Mac([82, 84, 0, 1, 2, 3]),
                    net: Net::User(user),
                    capture: Some("/tmp/a,b".into()),
                },
            ],
            disks: vec![
                Disk::new("state", Path::new("/d/state.raw")),
                Disk::new("data0", Path::new("/d/0.raw")),
                Disk { bus: Bus::Nvme, ..Disk::new("data1", Path::new("/d/1.raw")).served(Path::new("/r/1,.nbd")) },
                Disk { plugged: false, ..Disk::new("data2", Path::new("/d/2.raw")) },
            ],
            ..Machine::new("web", 1024, boot)
        }
    }

    fn args(machine: &Machine) -> Result<Vec<String>, Error> {
        let args = machine.args(Accel::Tcg, &Files::of(Path::new("/run/x"), "web"))?;
        Ok(args.into_iter().map(|a| a.into_string().unwrap()).collect())
    }

    #[test]
    fn the_command_line() {
        let args = args(&machine()).unwrap();
        let has = |name: &str, value: &str| {
            assert!(args.windows(2).any(|w| w[0] == name && w[1] == value), "{name} {value} is not in {args:#?}");
        };
        has("-append", "quiet a=b");
        has(
            "-netdev",
            "dgram,id=end-lan,local.type=unix,local.path=/run/x/lan.1,remote.type=unix,remote.path=/run/x/lan.0",
        );
        has("-netdev", "hubport,id=hub-end-lan,hubid=1,netdev=end-lan");
        has("-netdev", "hubport,id=lan,hubid=1");
        let sink = "local.type=unix,local.path=/run/x/lan.1.sink,remote.type=unix,remote.path=/dev/null";
        has("-netdev", &format!("dgram,id=sink-lan,{sink}"));
        has("-netdev", "hubport,id=hub-sink-lan,hubid=1,netdev=sink-lan");
        has("-device", "virtio-net-pci,id=dev-lan,netdev=lan,mac=52:54:00:01:02:ff");
        has(
            "-netdev",
            "user,id=mgmt,net=10.83.200.0/24,host=10.83.200.2,dhcpstart=10.83.200.15,ipv6=off,restrict=on,\
             hostfwd=tcp:127.0.0.1:7640-10.83.200.15:7640,hostfwd=tcp:127.0.0.1:7641-10.83.200.15:7641",
        );
        has("-object", "filter-dump,id=dump-mgmt,netdev=mgmt,file=/tmp/a,,b");
        has("-device", "pcie-root-port,id=port-data0,chassis=2,slot=2");
        has("-device", "i6300esb");
        has("-action", "watchdog=reset");
        has("-device", "virtio-blk-pci,id=dev-data0,drive=disk-data0,serial=data0,bus=port-data0");
        has("-blockdev", "driver=raw,node-name=disk-data0,discard=unmap,file.driver=file,file.filename=/d/0.raw");
        has("-device", "nvme,id=dev-data1,drive=disk-data1,serial=data1,bus=port-data1");
        has(
            "-blockdev",
            "driver=raw,node-name=disk-data1,discard=unmap,file.driver=nbd,file.server.type=unix,file.server.path=/r/1,,.nbd",
        );
        has("-device", "pcie-root-port,id=port-data2,chassis=4,slot=4");
        assert_eq!(args.iter().filter(|a| a.contains("data2")).count(), 1, "room for a disk, and no disk");
        has("-chardev", "file,id=serial,path=/run/x/web.serial");
        assert!(args.iter().any(|a| a == "-nodefaults"));
    }

    #[test]
    fn a_clock_and_a_log_of_writes() {
        let plain = args(&machine()).unwrap();
        assert!(!plain.iter().any(|a| a == "-rtc" || a.contains("blklogwrites")));
        let (clock, logged) = (Some("1970-01-01T00:00:00".into()), Some(("data0".into(), "/d/log".into())));
        let args = args(&Machine { clock, logged, ..machine() }).unwrap();
        let has = |value: &str| assert!(args.iter().any(|a| a == value), "{value} is not in {args:#?}");
        has("base=1970-01-01T00:00:00");
        has("driver=blklogwrites,node-name=log-data0,file=disk-data0,log.driver=file,log.filename=/d/log");
        has("virtio-blk-pci,id=dev-data0,drive=log-data0,serial=data0,bus=port-data0");
        has("virtio-blk-pci,id=dev-state,drive=disk-state,serial=state,bus=port-state");
    }

    #[test]
    fn a_firmware_may_guard_its_variables() {
        let mut machine = machine();
        for guarded in [false, true] {
            machine.boot = Boot::Uefi { code: "/c,d".into(), vars: "/v".into(), guarded };
            let args = args(&machine).unwrap();
            assert!(args.contains(&"if=pflash,unit=0,format=raw,readonly=on,file=/c,,d".to_owned()));
            assert_eq!(args.iter().any(|a| a == "driver=cfi.pflash01,property=secure,value=on"), guarded);
        }
    }

    #[test]
    fn a_serial_line_is_never_written_to() {
        let args = args(&machine()).unwrap();
        assert!(!args.iter().any(|a| a.contains("stdio") || a.contains("pty")), "{args:?}");
        assert_eq!(args.iter().filter(|a| *a == "-chardev" || *a == "-serial").count(), 2);
    }

    #[test]
    fn what_makes_no_machine() {
        let with = |change: fn(&mut Machine)| {
            let mut machine = machine();
            change(&mut machine);
            args(&machine)
        };
        let forwards = |m: &mut Machine, n: usize| {
            let forwards = vec![Forward { host: 1, guest: 1 }; n];
            m.nics[1].net = Net::User(User { forwards, ..User::new(Ipv4Addr::new(10, 0, 0, 15)) });
        };
        let mut most = machine();
        forwards(&mut most, MAX_FORWARDS);
        assert!(args(&most).unwrap().iter().all(|a| a.len() < 128 << 10));
        forwards(&mut most, MAX_FORWARDS + 1);
        assert!(args(&most).is_err());
        assert!(with(|m| m.name = "a,b".into()).is_err());
        assert!(with(|m| m.disks[0].id = String::new()).is_err());
        assert!(with(|m| m.nics[0].id = "x".repeat(21)).is_err());
        assert!(with(|m| m.nics[1].net = Net::User(User::new(Ipv4Addr::new(10, 0, 0, 2)))).is_err());
        let long = |n: usize| Segment::new(Path::new(&format!("/{}", "x".repeat(n - 5))), "s").first();
        let segment = MAX_SOCKET_PATH - SINK.len();
        for (net, most) in [(Net::Wire as fn(_) -> _, MAX_SOCKET_PATH), (Net::Segment as fn(_) -> _, segment)] {
            for (length, fits) in [(most, true), (most + 1, false)] {
                let mut machine = machine();
                assert_eq!(long(length).local.as_os_str().len(), length);
                machine.nics[0].net = net(long(length));
                assert_eq!(args(&machine).is_ok(), fits, "{length}");
            }
        }
    }
}

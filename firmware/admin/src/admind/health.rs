//! The health gate: whether this start of the machine is a good one (`admind health`, before `boot-complete.target`).
//!
//! It looks at nothing outside of the machine: a cable that is out or a peer that is down is no reason to give a version up. What it
//! wants: firewall, network and the role's daemons run; customers are greeted (ftp banner, TLS of the portal; on a database machine a
//! commlink port that turns a stranger away) on loopback; and the array runs, degraded or not, if the machine ever had one. A version on
//! trial also has to find each network interface that the plan names: a kernel or a udev that calls one otherwise cuts the machine off.
//!
//! Where that does not come within [`LIMIT`], not counting the time in which the disks or a daemon start for the first time (which has a
//! limit of its own: a file system or a ledger may have a log to recover), and the running entry is still on trial, the reason is
//! written down and the machine starts anew, which uses up a try. An entry that has proven itself is never left for that.

use super::storage::{self, Data};
use super::update;
use crate::console::facts::{self, HEALTH};
use crate::setup::{Daemon, SITE};
use crate::storage::keeps_data;
use crate::tools;
use crate::update::esp::{AT, EspError, Mounted};
use crate::update::record::{RECORD, Record};
use keys::site::{Interface, Machine, Plan, Role};
use rustls::pki_types::ServerName;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a start may take to be good, where the image says nothing else.
pub(super) const LIMIT: Duration = Duration::from_secs(300);
/// Where an image may say something else: seconds, in decimal.
const LIMIT_FILE: &str = "/usr/share/ffs/health-seconds";
/// Takes the count of tries from the name of the entry that was booted (Boot Loader Specification, "Boot counting").
const BLESS: &str = "/usr/lib/systemd/systemd-bless-boot";
/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);
/// Without these nobody reaches the machine, or anybody does.
const NETWORK: [&str; 2] = ["ffs-firewall.service", "systemd-networkd.service"];
/// How long one look at a port may take.
const PORT: Duration = Duration::from_secs(5);
/// How long commlinkd may take to turn away whom it does not know. At once as a rule; a machine that starts is busy.
const STRANGER: Duration = Duration::from_secs(90);
/// Where the kernel shows network interfaces.
const INTERFACES: &str = "/sys/class/net";

type Failed = Box<dyn Error>;

/// Waits until all is well.
///
/// # Errors
/// What was not well at the end; the machine then starts anew, if the running entry is on trial.
pub(super) fn gate() -> Result<(), Failed> {
    let (mut counted, mut since) = (Duration::ZERO, Instant::now());
    let limit = fs::read_to_string(LIMIT_FILE).ok().and_then(|text| text.trim().parse().ok());
    let limit = limit.map_or(LIMIT, Duration::from_secs);
    let mut said = String::new();
    loop {
        // Read each time: a machine whose site cannot be read is not well either.
        match machine().and_then(|machine| look(&machine)) {
            Ok(()) => break,
            Err(why) => {
                let why = daemon::report(&*why);
                if !starting() {
                    counted += since.elapsed();
                }
                since = Instant::now();
                if counted >= limit {
                    give_up(&why);
                    return Err(why.into());
                }
                if why != said {
                    tracing::info!(why, "not healthy yet");
                    show(&why);
                    said = why;
                }
            }
        }
        std::thread::sleep(LOOK);
    }
    tracing::info!("this start is a good one");
    show(facts::GOOD);
    // What was tried before has come to its end, one way or the other. That this cannot be noted is no reason to give up.
    if let Err(error) = machine().and_then(|machine| update::settle(machine.role)) {
        tracing::error!("what became of the last update is not noted: {}", daemon::report(&*error));
    }
    Ok(())
}

/// Says how it is where the console finds it; that this cannot be done is no reason to give up.
fn show(how: &str) {
    let path = Path::new(HEALTH);
    // Where the set-up has failed, nothing is there yet.
    let dir = path.parent().map_or(Ok(()), fs::create_dir_all);
    if let Err(error) = dir.and_then(|()| facts::publish(path, how)) {
        tracing::error!("the console does not show how it is: {}", daemon::report(&error));
    }
}

fn machine() -> Result<Machine, Failed> {
    let name = fs::read_to_string(Path::new(SITE).join("machine"));
    let name = name.map_err(|e| format!("the machine's part of the site cannot be read from {SITE}: {e}"))?;
    let plan = Plan::load(&Path::new(SITE).join("site.toml"))?;
    Ok(plan.machine(name.trim()).cloned().ok_or("the site does not know this machine")?)
}

fn look(machine: &Machine) -> Result<(), Failed> {
    let mut data = storage::data(machine.role)?;
    if data == Data::None && keeps_data(machine.role) {
        settled()?;
        // It may have been made meanwhile.
        data = storage::data(machine.role)?;
    }
    // First, for without them their daemons do not start either.
    if let Data::Missing(why) = data {
        return Err(why.into());
    }
    let wanted = units(machine.role, &data);
    let names: Vec<&str> = wanted.iter().map(|unit| &**unit).collect();
    if let Some(down) = first_down(&names, &states(&names)?) {
        return Err(format!("{down} does not run").into());
    }
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match machine.role {
        // Nobody can be served from an array that never was.
        Role::Download if data == Data::None => {}
        Role::Download => banner(at(machine.ftp))?,
        Role::Web => handshake(at(machine.https))?,
        Role::Database => turned_away(at(machine.ports.0), STRANGER)?,
    }
    match absent(machine, Path::new(INTERFACES)) {
        Some(interface) if has_to_prove_itself() => {
            Err(format!("there is no network interface {interface}, which the plan names").into())
        }
        _ => Ok(()),
    }
}

/// The first network interface of the plan that the kernel does not show. Whether a cable is in does not matter.
fn absent<'a>(machine: &'a Machine, class: &Path) -> Option<&'a Interface> {
    const ETHERNET: &str = "1";
    let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned();
    let all = fs::read_dir(class).into_iter().flatten().flatten();
    let all = all.filter(|entry| read(&entry.path(), "type") == ETHERNET);
    let all: Vec<(String, String)> =
        all.map(|e| (e.file_name().to_string_lossy().into_owned(), read(&e.path(), "address"))).collect();
    let is = |wanted: &Interface, (name, address): &(String, String)| match wanted {
        Interface::Mac(_) => wanted.to_string().eq_ignore_ascii_case(address),
        Interface::Name(wanted) => match wanted.strip_suffix('*') {
            Some(stem) => name.starts_with(stem),
            None => name == wanted,
        },
    };
    machine.networks.iter().map(|n| &n.interface).find(|wanted| !all.iter().any(|there| is(wanted, there)))
}

/// Whether this version is on trial, as far as that is known; looked at once, for that does not change before the gate has passed.
fn has_to_prove_itself() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| on_trial().unwrap_or(false))
}

/// What must run. What works with data cannot where the machine never had an array.
fn units(role: Role, data: &Data) -> Vec<String> {
    let without = keeps_data(role) && *data == Data::None;
    let with_data = |daemon: Daemon| matches!(daemon, Daemon::Stagerd | Daemon::Ftpd | Daemon::Masterd);
    let daemons = Daemon::of(role).iter().filter(|daemon| !(without && with_data(**daemon)));
    let daemons = daemons.map(|daemon| format!("{}.service", daemon.as_str()));
    daemons.chain(NETWORK.map(str::to_owned)).collect()
}

/// Whether the data disks or a daemon of data are being started, and for the first time.
fn starting() -> bool {
    let [stagerd, masterd] = [Daemon::Stagerd, Daemon::Masterd].map(|daemon| format!("{}.service", daemon.as_str()));
    let asked = ["show", "--property=SubState,NRestarts", storage::STORAGE, &stagerd, &masterd];
    let said = tools::find("systemctl").and_then(|systemctl| tools::output(&systemctl, &asked).ok());
    said.is_some_and(|said| starts(&String::from_utf8_lossy(&said)))
}

/// Whether a unit starts, and did not fail before; out of what `systemctl show` says, a paragraph for each unit.
fn starts(said: &str) -> bool {
    let is = |unit: &str, line: &str| unit.lines().any(|l| l == line);
    said.split("\n\n").any(|unit| is(unit, "SubState=start") && is(unit, "NRestarts=0"))
}

/// What systemd says of these units, a line for each.
fn states(units: &[&str]) -> Result<String, Failed> {
    let systemctl = tools::find("systemctl").ok_or("systemctl is not there")?;
    let said = tools::output(&systemctl, &[&["is-active"], units].concat())?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The first unit that does not run. One of which nothing is said does not.
fn first_down<'a>(units: &[&'a str], said: &str) -> Option<&'a str> {
    let mut states = said.lines();
    // A daemon that reads its configuration again runs.
    units.iter().copied().find(|_| !matches!(states.next(), Some("active" | "reloading")))
}

/// Whether the step that makes or finds an array is over, one way or the other.
fn settled() -> Result<(), Failed> {
    match states(&[storage::STORAGE])?.trim() {
        "active" | "failed" => Ok(()),
        _ => Err("the data disks are being brought into use".into()),
    }
}

fn connect(at: SocketAddr) -> Result<TcpStream, Failed> {
    let stream = TcpStream::connect_timeout(&at, PORT).map_err(|e| format!("port {}: {e}", at.port()))?;
    stream.set_read_timeout(Some(PORT))?;
    stream.set_write_timeout(Some(PORT))?;
    Ok(stream)
}

/// The service is ready (RFC 959: 220).
fn banner(at: SocketAddr) -> Result<(), Failed> {
    let mut code = [0; 3];
    connect(at)?.read_exact(&mut code).map_err(|e| format!("no ftp banner: {e}"))?;
    if &code == b"220" { Ok(()) } else { Err("ftp refuses".into()) }
}

/// commlinkd takes connections and reads greetings: one of a link that no machine has is closed without a word. The kernel alone would
/// open the connection as well.
fn turned_away(at: SocketAddr, within: Duration) -> Result<(), Failed> {
    let mut stream = connect(at)?;
    stream.set_read_timeout(Some(within))?;
    // Names of links have a dash.
    stream.write_all(b"FFS/2 nobody 1\r\n")?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("commlinkd answers a stranger".into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(format!("commlinkd does not answer: {error}").into()),
    }
}

/// TLS is spoken. Whose certificate it is does not matter here, so to find it untrusted is as good as the end of the handshake.
fn handshake(at: SocketAddr) -> Result<(), Failed> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let mut stream = connect(at)?;
    loop {
        while tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
        stream.flush()?;
        if !tls.is_handshaking() {
            return Ok(());
        }
        if tls.read_tls(&mut stream).map_err(|e| format!("no TLS: {e}"))? == 0 {
            return Err("no TLS: the connection was closed".into());
        }
        match tls.process_new_packets() {
            Ok(_) => {}
            Err(rustls::Error::InvalidCertificate(_)) => return Ok(()),
            Err(error) => return Err(format!("no TLS: {error}").into()),
        }
    }
}

/// Marks the running entry as good, and notes what became of the version that was tried.
///
/// # Errors
/// When it cannot be marked; it stays on trial then. When that cannot be noted.
pub(super) fn bless() -> Result<(), Failed> {
    let mounted = Mounted::new()?;
    tools::run(Path::new(BLESS), &[&format!("--path={AT}"), "good"], b"")?;
    update::settle_on(&mounted, machine()?.role)
}

/// Leaves an entry that is on trial, with a word about why.
fn give_up(why: &str) {
    match on_trial() {
        Ok(false) | Err(EspError::Direct) => return,
        Ok(true) => {}
        // Whether it is on trial cannot be told: better to stay than to start over and over.
        Err(error) => return tracing::error!("{}", daemon::report(&error)),
    }
    let note = || -> Result<(), Failed> {
        let mut record = Record::load(Path::new(RECORD))?;
        let running = crate::update::esp::running().ok_or("no version")?;
        record.found(running, why);
        Ok(record.save(Path::new(RECORD))?)
    };
    if let Err(error) = note() {
        tracing::error!("the reason is not noted: {}", daemon::report(&*error));
    }
    tracing::error!(why, "this version is on trial and not healthy; the machine starts anew");
    if let Some(systemctl) = tools::find("systemctl")
        && let Err(error) = tools::run(&systemctl, &["--no-block", "reboot"], b"")
    {
        tracing::error!("{}", daemon::report(&error));
    }
}

/// Whether the running entry still has to prove itself, and a start anew may help.
fn on_trial() -> Result<bool, EspError> {
    let mounted = Mounted::new()?;
    let mut slots = mounted.slots(Role::Web)?;
    // The site may be what cannot be read, so the entry tells the role.
    if let Some(current) = slots.entries.iter().find(|e| e.version == slots.running) {
        slots.role = current.role;
    }
    Ok(slots.worth_leaving())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A server of one connection that says this and reads until the end.
    fn serve(says: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(says).unwrap();
            if !says.is_empty() {
                // So that it ends by what was said, not by a reset.
                let _ = stream.read(&mut [0; 4096]);
            }
        });
        at
    }

    #[test]
    fn what_must_run() {
        let names = |role, data: &Data| units(role, data).join(" ").replace(".service", "");
        let all = |more: &str| format!("commlinkd admind {more}ffs-firewall systemd-networkd");
        assert_eq!(names(Role::Download, &Data::InUse), all("stagerd ftpd "));
        assert_eq!(names(Role::Database, &Data::Missing("x")), all("masterd "));
        assert_eq!(names(Role::Web, &Data::None), all("portald "));
        // Without an array there is nothing to serve, which is no fault of the software.
        for role in [Role::Download, Role::Database] {
            assert_eq!(names(role, &Data::None), all(""));
        }
    }

    #[test]
    fn what_does_not_run() {
        let units = ["a.service", "b.service"];
        assert_eq!(first_down(&units, "active\nreloading\n"), None);
        assert_eq!(first_down(&units, "active\nactivating\n"), Some("b.service"));
        assert_eq!(first_down(&units, "failed\nactive\n"), Some("a.service"));
        assert_eq!(first_down(&units, "active\n"), Some("b.service"));
        assert_eq!(first_down(&units, ""), Some("a.service"));
    }

    #[test]
    fn a_first_start_takes_its_time() {
        assert!(starts("SubState=start\nNRestarts=0\n") && starts("NRestarts=0\nSubState=start\n"));
        assert!(starts("SubState=running\nNRestarts=0\n\nSubState=start\nNRestarts=0\n"));
        for other in [
            "SubState=start\nNRestarts=1\n",
            "SubState=auto-restart\nNRestarts=0\n",
            "SubState=running\nNRestarts=0\n",
            "SubState=start\nNRestarts=1\n\nSubState=running\nNRestarts=0\n",
            "",
        ] {
            assert!(!starts(other), "{other}");
        }
    }

    #[test]
    fn banners() {
        assert!(banner(serve(b"220 ready\r\n")).is_ok());
        assert!(banner(serve(b"421 full\r\n")).is_err());
        assert!(banner(serve(b"")).is_err());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(banner(closed).unwrap_err().to_string().contains("refused"));
    }

    #[test]
    fn a_port_behind_which_nobody_is_awake_is_no_greeting() {
        let deadline = Duration::from_secs(60);
        // As commlinkd does; one that answers; one whose program hangs; one that is closed.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 64];
            let n = stream.read(&mut line).unwrap();
            line[..n].to_vec()
        });
        assert!(turned_away(at, deadline).is_ok());
        assert_eq!(server.join().unwrap(), b"FFS/2 nobody 1\r\n");
        assert!(turned_away(serve(b"FFS/2 50001 1\r\n"), deadline).unwrap_err().to_string().contains("stranger"));
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = turned_away(hangs.local_addr().unwrap(), Duration::from_millis(1)).unwrap_err().to_string();
        assert!(refused.contains("does not answer"), "{refused}");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(turned_away(closed, deadline).is_err());
    }

    #[test]
    fn interfaces_of_the_plan() {
        let class = tempfile::tempdir().unwrap();
        let shown = [
            ("lo", "772", "00:00:00:00:00:00"),
            ("enp1s0", "1", "52:54:00:12:34:5a"),
            ("eth7", "1", "52:54:00:00:00:07"),
        ];
        for (name, kind, address) in shown {
            let dir = class.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("type"), format!("{kind}\n")).unwrap();
            fs::write(dir.join("address"), format!("{address}\n")).unwrap();
        }
        let missing = |interfaces: &[&str]| {
            let network = |name: &&str| keys::site::Network {
                interface: name.parse().unwrap(),
                role: keys::site::NetworkRole::Lan,
                address: keys::site::Address::Dhcp,
                gateway: None,
            };
            let networks = interfaces.iter().map(network).collect();
            let machine = Machine { networks, ..Machine::new(Role::Web, "10.1.0.1") };
            absent(&machine, class.path()).map(Interface::to_string)
        };
        assert_eq!(missing(&[]), None);
        assert_eq!(missing(&["52:54:00:12:34:5A", "enp1s0", "enp*", "*"]), None);
        assert_eq!(missing(&["enp1s0", "enp1s"]).as_deref(), Some("enp1s"), "another that begins so");
        assert_eq!(missing(&["eth7", "enp1s0np0"]).as_deref(), Some("enp1s0np0"), "it was called so before");
        assert_eq!(missing(&["52:54:00:12:34:5b"]).as_deref(), Some("52:54:00:12:34:5b"));
        assert_eq!(missing(&["lo"]).as_deref(), Some("lo"), "nobody comes by that");
    }

    #[test]
    fn tls_with_any_certificate_and_nothing_else() {
        let made = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            // The client goes once it has seen the certificate.
            let _ = tls.complete_io(&mut stream);
        });
        assert!(handshake(at).is_ok());
        server.join().unwrap();
        assert!(handshake(serve(b"220 this is ftp\r\n")).is_err());
        assert!(handshake(serve(b"")).is_err());
    }
}

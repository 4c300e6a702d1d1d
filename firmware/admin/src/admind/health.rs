//! The health gate: whether this start of the machine is a good one (`admind health`, before `boot-complete.target`).
//!
//! It looks at nothing outside of the machine: a cable that is out or a peer that is down is no reason to give a version up. What it
//! wants: the role's daemons run; customers are greeted (ftp banner, TLS of the portal; on a database machine an open commlink port)
//! on loopback; and the array runs, degraded or not, if the machine ever had one.
//!
//! Where that does not come within [`LIMIT`] and the running entry is still on trial, the reason is written down and the machine
//! starts anew, which uses up a try. An entry that has proven itself is never left for that.

use super::update;
use crate::block;
use crate::console::facts::{self, HEALTH};
use crate::setup::{Daemon, SITE, STORAGE};
use crate::storage::record::{self as storage_record, Progress};
use crate::storage::{array, keeps_data};
use crate::tools;
use crate::update::esp::{EspError, Mounted, detach};
use crate::update::record::{RECORD, Record};
use keys::site::{Machine, Plan, Role};
use rustls::pki_types::ServerName;
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a start may take to be good, where the image says nothing else.
pub(super) const LIMIT: Duration = Duration::from_secs(300);
/// Where an image may say something else: seconds, in decimal.
const LIMIT_FILE: &str = "/usr/share/ffs/health-seconds";
/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);
/// How long one look at a port may take.
const PORT: Duration = Duration::from_secs(5);

type Failed = Box<dyn Error>;

/// Waits until all is well.
///
/// # Errors
/// What was not well at the end; the machine then starts anew, if the running entry is on trial.
pub(super) fn gate() -> Result<(), Failed> {
    let begin = Instant::now();
    let limit = fs::read_to_string(LIMIT_FILE).ok().and_then(|text| text.trim().parse().ok());
    let limit = limit.map_or(LIMIT, Duration::from_secs);
    let mut said = String::new();
    loop {
        // Read each time: a machine whose site cannot be read is not well either.
        match machine().and_then(|machine| look(&machine)) {
            Ok(()) => break,
            Err(why) => {
                let why = daemon::report(&*why);
                if begin.elapsed() >= limit {
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
    tracing::info!(seconds = begin.elapsed().as_secs(), "this start is a good one");
    show(facts::GOOD);
    // What was tried before has come to its end, one way or the other. That this cannot be noted is no reason to give up.
    if let Err(error) = settle() {
        tracing::error!("what became of the last update is not noted: {}", daemon::report(&*error));
    }
    Ok(())
}

/// Says how it is where the console finds it; that this cannot be done is no reason to give up.
fn show(how: &str) {
    if let Err(error) = facts::publish(Path::new(HEALTH), how) {
        tracing::error!("the console does not show how it is: {}", daemon::report(&error));
    }
}

fn machine() -> Result<Machine, Failed> {
    let name = fs::read_to_string(Path::new(SITE).join("machine"))?;
    let plan = Plan::load(&Path::new(SITE).join("site.toml"))?;
    Ok(plan.machine(name.trim()).cloned().ok_or("the site does not know this machine")?)
}

fn look(machine: &Machine) -> Result<(), Failed> {
    daemons(machine.role)?;
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match machine.role {
        Role::Download => banner(at(machine.ftp))?,
        Role::Web => handshake(at(machine.https))?,
        Role::Database => drop(connect(at(machine.ports.0))?),
    }
    if keeps_data(machine.role) { disks() } else { Ok(()) }
}

fn daemons(role: Role) -> Result<(), Failed> {
    let systemctl = tools::find("systemctl").ok_or("systemctl is not there")?;
    for daemon in Daemon::of(role) {
        let unit = format!("{}.service", daemon.as_str());
        tools::run(&systemctl, &["is-active", "--quiet", &unit], b"").map_err(|_| format!("{unit} does not run"))?;
    }
    Ok(())
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

fn disks() -> Result<(), Failed> {
    let record: Option<storage_record::Record> = storage_record::load(Path::new(storage_record::RECORD))?;
    // A machine that never had an array waits for an operator, which is no fault of its software.
    if record.is_none_or(|r| r.progress != Progress::Ready) {
        return Ok(());
    }
    if !array::look(Path::new(block::SYS)).is_some_and(|a| a.runs()) {
        return Err("the array does not run".into());
    }
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    let found = block::mounts(&mounted).iter().any(|(_, at)| at == STORAGE);
    if found { Ok(()) } else { Err(format!("nothing is mounted at {STORAGE}").into()) }
}

/// The boot partition is not needed any more after the running entry was marked as good, or could not be.
pub(super) fn marked() -> Result<(), Failed> {
    let settled = settle();
    detach()?;
    settled
}

/// Notes what became of the version that was tried.
fn settle() -> Result<(), Failed> {
    update::settle(machine()?.role)
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
    fn banners() {
        assert!(banner(serve(b"220 ready\r\n")).is_ok());
        assert!(banner(serve(b"421 full\r\n")).is_err());
        assert!(banner(serve(b"")).is_err());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(banner(closed).unwrap_err().to_string().contains("refused"));
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

//! The other servers: Debian's packages, unpacked beside our work and installed nowhere, since they exclude each other.

use super::Target;
use super::client::{Client, Login};
use crate::access::Access;
use crate::local::{run_with_input, succeed};
use anyhow::{Context, Result, bail};
use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which packages.
const PACKAGES: [&str; 4] = ["vsftpd", "pure-ftpd", "pure-ftpd-common", "proftpd-core"];
/// The password of the others' users, by crypt(5)'s cheapest method.
const CHEAP: &str = "$1$ffsbench$djLMk7LWdjgxxC5GCAdna.";
/// How long a server may take to greet.
const START: Duration = Duration::from_secs(20);

/// The servers, running. Dropping it stops them.
pub(super) struct Peers(Vec<(Target, Child)>);

impl Peers {
    /// Gets and starts them; `dir/public` is what they serve.
    pub(super) fn start(root: &Path, dir: &Path, site: &Access) -> Result<Self> {
        unpack(root)?;
        let home = dir.join("peers");
        for name in ["vsftpd", "pure-ftpd", "proftpd", "empty"] {
            fs::create_dir_all(home.join(name))?;
        }
        fs::set_permissions(home.join("empty"), Permissions::from_mode(0o555))?;
        let public = dir.join("public");
        let mut peers = Self(Vec::new());
        peers.add("vsftpd", "anonymous", &home, vsftpd(root, &home, &public, site))?;
        peers.add("pure-ftpd", "bench", &home, pure_ftpd(root, &home, &public))?;
        peers.add("proftpd", "nobody", &home, proftpd(root, &home, &public))?;
        Ok(peers)
    }

    fn add(&mut self, name: &'static str, user: &str, home: &Path, start: Result<(Command, SocketAddr)>) -> Result<()> {
        let (mut command, address) = start.with_context(|| format!("cannot set {name} up"))?;
        let log = fs::File::create(home.join(name).join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let login = Login { address, user: user.into(), password: "x".into(), tls: None };
        self.0.push((Target { name, login: login.clone(), pid: child.id() }, child));
        let deadline = Instant::now() + START;
        loop {
            match Client::login(&login).and_then(|mut client| client.ask("SIZE /small/1/file", 213)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.context(format!("{name} lets nobody in"))),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// What is measured.
    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.0.iter().map(|(target, _)| target.clone())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Downloads the packages and the libraries that they name, by the host's own apt, once.
fn unpack(root: &Path) -> Result<()> {
    let done = root.join("usr/sbin");
    if ["vsftpd", "pure-ftpd", "proftpd"].iter().all(|program| done.join(program).exists()) {
        return Ok(());
    }
    fs::create_dir_all(root)?;
    eprintln!("Debian's ftp servers are downloaded and unpacked to {}", root.display());
    let depends = ["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"];
    let more = ["--no-replaces", "--no-enhances", "--no-pre-depends"];
    let output = succeed(Command::new("apt-cache").args(depends).args(more).args(PACKAGES))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let library = |line: &&str| line.starts_with("lib") && !is_installed(line);
    let mut packages: Vec<&str> = text.lines().filter(library).collect();
    packages.extend(PACKAGES);
    let download = ["-o", "APT::Sandbox::User=root", "-o", "DPkg::Lock::Timeout=300", "download"];
    succeed(Command::new("apt-get").args(download).args(&packages).current_dir(root))?;
    for entry in fs::read_dir(root)?.collect::<std::io::Result<Vec<_>>>()? {
        if entry.path().extension().is_some_and(|ext| ext == "deb") {
            succeed(Command::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(root))?;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let status = Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    status.is_ok_and(|output| output.stdout.starts_with(b"installed"))
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A program of theirs with their libraries.
fn program(root: &Path, name: &str) -> Result<Command> {
    let path = ["usr/sbin", "usr/bin"].iter().map(|bin| root.join(bin).join(name)).find(|path| path.exists());
    let Some(path) = path else { bail!("{name} is not among the packages") };
    let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let libraries = ["usr/lib", "lib"].map(|lib| root.join(lib).join(&arch).to_string_lossy().into_owned());
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    Ok(command)
}

fn vsftpd(root: &Path, home: &Path, public: &Path, site: &Access) -> Result<(Command, SocketAddr)> {
    let address = free_port()?;
    let machine = site.site().join(&site.machine(keys::site::Role::Download).name);
    let text = format!(
        "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
         ftp_username=bin\nnopriv_user=nobody\nanon_root={public}\nsecure_chroot_dir={empty}\nxferlog_enable=NO\n\
         max_clients=0\nmax_per_ip=0\npasv_min_port=30000\npasv_max_port=59999\nidle_session_timeout=3600\n\
         ssl_enable=YES\nallow_anon_ssl=YES\nforce_local_logins_ssl=NO\nforce_local_data_ssl=NO\nrequire_ssl_reuse=NO\n\
         rsa_cert_file={cert}\nrsa_private_key_file={key}\n",
        port = address.port(),
        public = public.display(),
        empty = home.join("empty").display(),
        cert = machine.join("tls.pem").display(),
        key = machine.join("tls.key").display(),
    );
    let config = home.join("vsftpd/vsftpd.conf");
    fs::write(&config, text)?;
    let mut command = program(root, "vsftpd")?;
    command.arg(config);
    Ok((command, address))
}

fn pure_ftpd(root: &Path, home: &Path, public: &Path) -> Result<(Command, SocketAddr)> {
    let address = free_port()?;
    let users: PathBuf = home.join("pure-ftpd/passwd");
    let database = home.join("pure-ftpd/pdb");
    let mut add = program(root, "pure-pw")?;
    add.args(["useradd", "bench", "-u", "65534", "-g", "65534", "-d"]).arg(public).arg("-f").arg(&users);
    run_with_input(&mut add, "x\nx\n")?;
    // Its own hash takes half a second on purpose; what is compared is not that.
    let text = fs::read_to_string(&users)?;
    let mut fields: Vec<&str> = text.trim_end().split(':').collect();
    *fields.get_mut(1).context("no password")? = CHEAP;
    fs::write(&users, fields.join(":") + "\n")?;
    succeed(program(root, "pure-pw")?.arg("mkdb").arg(&database).arg("-f").arg(&users))?;
    let mut command = program(root, "pure-ftpd")?;
    command.arg("-S").arg(format!("127.0.0.1,{}", address.port()));
    command.arg("-l").arg(format!("puredb:{}", database.display()));
    command.args([
        "-A",
        "-E",
        "-H",
        "-c",
        "20000",
        "-C",
        "20000",
        "-I",
        "60",
        "-p",
        "30000:59999",
        "-u",
        "1",
        "-f",
        "none",
    ]);
    command.arg("-g").arg(home.join("pure-ftpd/pid"));
    Ok((command, address))
}

fn proftpd(root: &Path, home: &Path, public: &Path) -> Result<(Command, SocketAddr)> {
    let address = free_port()?;
    let own = home.join("proftpd");
    let text = format!(
        "ServerName bench\nServerType standalone\nDefaultAddress 127.0.0.1\nPort {port}\nUseIPv6 off\nUser nobody\nGroup nogroup\n\
         MaxInstances none\nScoreboardFile {own}/scoreboard\nPidFile {own}/pid\nDelayEngine off\nWtmpLog off\nTransferLog none\n\
         SystemLog none\nAuthPAM off\nUseReverseDNS off\nUseSendfile on\nPassivePorts 30000 59999\nTimeoutIdle 3600\n\
         ModulePath {root}/usr/lib/proftpd\n\
         <Anonymous {public}>\n User nobody\n Group nogroup\n RequireValidShell off\n AnonRequirePassword off\n \
         <Limit WRITE>\n  DenyAll\n </Limit>\n</Anonymous>\n",
        port = address.port(),
        own = own.display(),
        root = root.display(),
        public = public.display(),
    );
    let config = own.join("proftpd.conf");
    fs::write(&config, text)?;
    let mut command = program(root, "proftpd")?;
    command.args(["--nodaemon", "--config"]).arg(config);
    Ok((command, address))
}

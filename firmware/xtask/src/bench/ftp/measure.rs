//! The measurements, each of one server.

use super::Target;
use super::client::{Client, Login};
use super::median;
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::sendfile::sendfile;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Logins in one round, and who makes them at the same time.
const LOGINS: usize = 300;
const CLIENTS: usize = 4;
/// Replies of each kind in one round.
const REPLIES: usize = 200;
/// Small files in one round.
const FILES: usize = 100;

/// Descriptors that stagerd needs for each session: its socket twice, and its counter.
const FOR_EACH: u64 = 3;

/// So many sessions need as many descriptors, also in the daemons, which inherit the limit.
pub(super) fn raise_limits(sessions: usize) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("there is no limit of open files")?;
    let need = FOR_EACH * sessions as u64 + 1000;
    ensure!(most >= need, "{need} open files are needed, and the hard limit is {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("the limit of open files cannot be raised")
}

/// The processes of a server.
fn processes(top: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut family = HashSet::from([top]);
    loop {
        let before = family.len();
        family.extend(
            parents.iter().filter(|(_, parent)| family.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        if family.len() == before {
            return family.into_iter().collect();
        }
    }
}

/// CPU seconds of all its living processes.
fn cpu(top: u32) -> f64 {
    let mut nanos = 0;
    for pid in processes(top) {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    nanos as f64 / 1e9
}

/// KiB of memory of all its processes, what is shared counted once.
fn pss(top: u32) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).map(str::trim).map(str::to_owned);
        line.and_then(|line| line.split(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    processes(top).iter().map(of).sum()
}

/// GB/s into a sink in the kernel, and CPU seconds per GiB.
pub(super) fn sink(target: &Target, path: &str, size: u64, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Vec<f64>> {
    let private = tls.is_some();
    let mut client = Client::login(&Login { tls, ..target.login.clone() })?;
    let (before, begin) = (cpu(target.pid), Instant::now());
    let got = client.sink(path)?;
    let (time, used) = (begin.elapsed().as_secs_f64(), cpu(target.pid) - before);
    ensure!(if private { got > size } else { got == size }, "{got} bytes of {size}");
    client.ask("QUIT", 221)?;
    Ok(vec![size as f64 / time / 1e9, used / (size as f64 / f64::from(1 << 30))])
}

/// GB/s to curl.
pub(super) fn curl(target: &Target, path: &str, ca: Option<&Path>) -> Result<Vec<f64>> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{speed_download}"]);
    curl.args(["--user", &format!("{}:{}", target.login.user, target.login.password)]);
    if let Some(ca) = ca {
        curl.arg("--ssl-reqd").arg("--cacert").arg(ca);
    }
    let output = crate::local::succeed(curl.arg(format!("ftp://{}{path}", target.login.address)))?;
    let speed: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    Ok(vec![speed / 1e9])
}

/// Logins per second.
pub(super) fn logins(target: &Target) -> Result<Vec<f64>> {
    let (left, begin) = (AtomicUsize::new(LOGINS), Instant::now());
    let one = || -> Result<()> {
        while left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
            Client::login(&target.login)?.ask("QUIT", 221)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client panicked"))
    })?;
    Ok(vec![LOGINS as f64 / begin.elapsed().as_secs_f64()])
}

/// Microseconds for NOOP, SIZE, CWD and for fetching a small file.
pub(super) fn replies(target: &Target, directory: &str, path: &str) -> Result<Vec<f64>> {
    let mut client = Client::login(&target.login)?;
    let mut values = Vec::new();
    for (command, code) in [("NOOP".to_owned(), 200), (format!("SIZE {path}"), 213), (format!("CWD {directory}"), 250)]
    {
        let mut times = Vec::with_capacity(REPLIES);
        for _ in 0..REPLIES {
            let begin = Instant::now();
            client.ask(&command, code)?;
            times.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        values.push(median(&mut times));
    }
    let begin = Instant::now();
    for _ in 0..FILES {
        client.fetch(path, |_| ())?;
    }
    values.push(begin.elapsed().as_secs_f64() * 1e6 / FILES as f64);
    client.ask("QUIT", 221)?;
    Ok(values)
}

fn wait_until_alone(target: &Target, alone: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while processes(target.pid).len() > alone {
        ensure!(Instant::now() < deadline, "the sessions do not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// KiB of memory for each of so many sessions that are logged in.
pub(super) fn idle(target: &Target, count: usize) -> Result<Vec<f64>> {
    let (alone, before) = (processes(target.pid).len(), pss(target.pid));
    let clients = (0..count).map(|_| Client::login(&target.login)).collect::<Result<Vec<_>>>()?;
    let value = (pss(target.pid) - before) / count as f64;
    drop(clients);
    wait_until_alone(target, alone)?;
    Ok(vec![value])
}

/// KiB of memory that are left for something new, on the whole machine.
fn available() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The same with a crowd: KiB for each, KiB that the machine has less with what its kernel and others keep for each, both ends of
/// its connection included, and microseconds for one more login beside them. All are asked whether they live.
pub(super) fn crowd(target: &Target, count: usize) -> Result<Vec<f64>> {
    let (alone, before, machine) = (processes(target.pid).len(), pss(target.pid), available()?);
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        clients.push(Client::login(&target.login).with_context(|| format!("session {number}"))?);
    }
    let machine = (machine - available()?) / count as f64;
    let memory = (pss(target.pid) - before) / count as f64;
    let mut times = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        Client::login(&target.login)?.ask("QUIT", 221)?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    clients.iter_mut().try_for_each(|client| client.ask("NOOP", 200).map(drop))?;
    drop(clients);
    wait_until_alone(target, alone)?;
    Ok(vec![memory, machine, median(&mut times)])
}

/// GB/s of so many streams at once, every hash right, and how the slowest compares with the one in the middle.
pub(super) fn streams(target: &Target, path: &str, size: u64, count: usize, sum: &[u8]) -> Result<Vec<f64>> {
    let barrier = Barrier::new(count);
    // Some servers take few connections that come at once, and leave the others hanging.
    let turn = Mutex::new(());
    let one = || -> Result<(Instant, Instant)> {
        let client = {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            Client::login(&target.login)
        };
        barrier.wait();
        let (mut client, begin, mut hash) = (client?, Instant::now(), Sha256::new());
        client.fetch(path, |bytes| hash.update(bytes))?;
        ensure!(hash.finalize().as_slice() == sum, "a hash is wrong");
        Ok((begin, Instant::now()))
    };
    let all = std::thread::scope(|scope| -> Result<Vec<(Instant, Instant)>> {
        let spawn = |_| std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, one);
        let threads: Vec<_> = (0..count).map(spawn).collect::<std::io::Result<_>>()?;
        threads.into_iter().map(|thread| thread.join().expect("a client panicked")).collect()
    })?;
    // By the streams themselves: this thread may come to its turn when most of them are through.
    let (first, last) = (all.iter().map(|(begin, _)| *begin).min(), all.iter().map(|(_, end)| *end).max());
    let total = first.zip(last).map(|(first, last)| (last - first).as_secs_f64()).context("no streams")?;
    let mut times: Vec<f64> = all.iter().map(|(begin, end)| (*end - *begin).as_secs_f64()).collect();
    let middle = median(&mut times);
    let slowest = times.last().copied().unwrap_or(middle);
    Ok(vec![size as f64 * count as f64 / total / 1e9, middle / slowest])
}

/// The name of [`bare_sendfile`].
pub(in crate::bench) const BARE: &str = "sendfile";

/// A server of one line per command that only sends the file, with as little as can be: what is possible here.
pub(super) fn bare_sendfile(file: &Path) -> Result<Target> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, file) = (listener.local_addr()?, file.to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let file = file.clone();
            std::thread::spawn(move || serve_bare(&client, &file));
        }
    });
    let login = Login { address, user: "x".into(), password: "x".into(), tls: None };
    Ok(Target { name: BARE, login, pid: std::process::id() })
}

fn serve_bare(control: &TcpStream, file: &Path) -> Result<()> {
    let mut lines = BufReader::new(control);
    let mut control = control;
    control.set_nodelay(true)?;
    control.write_all(b"220 x\r\n")?;
    let mut data = None;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = match line.get(..4) {
            Some("USER") => "331 x".to_owned(),
            Some("PASS") => "230 x".to_owned(),
            Some("QUIT") => "221 x".to_owned(),
            Some("EPSV") => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let port = listener.local_addr()?.port();
                data = Some(listener);
                format!("229 x (|||{port}|)")
            }
            Some("RETR") => {
                let (socket, _) = data.take().context("no EPSV")?.accept()?;
                control.write_all(b"150 x\r\n")?;
                let file = File::open(file)?;
                while sendfile(socket.as_fd(), file.as_fd(), None, 1 << 30)? > 0 {}
                "226 x".to_owned()
            }
            _ => "200 x".to_owned(),
        };
        control.write_all(format!("{reply}\r\n").as_bytes())?;
    }
}

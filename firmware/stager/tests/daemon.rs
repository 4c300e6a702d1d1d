//! The whole stager over its sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{PATIENCE, Session, Site, fault, my_uid, sha256};
use daemon::ipc::Client;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tobj::LeaseKind::{OneTime, Standing};
use tobj::{AuditEvent, Fault, LeaseInfo, LeaseState, Reply, Request, Secret, Text, Timestamp};

const CONTENT: &[u8] = b"what the customer paid for";
const SIZE: u64 = CONTENT.len() as u64;

/// What a directory of a session holds, seen through its descriptor.
fn names(dir: &OwnedFd) -> Vec<String> {
    use nix::{dir::Dir, fcntl::OFlag, sys::stat::Mode};
    let dir = Dir::openat(dir, ".", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    let mut names: Vec<_> = dir.into_iter().map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.retain(|name| !name.starts_with('.'));
    names
}

fn admitted((reply, fds): (Reply, Vec<OwnedFd>)) -> (OwnedFd, File) {
    assert!(matches!(reply, Reply::FtpAdmitted { .. }), "{reply:?}");
    let [directory, counter] = <[OwnedFd; 2]>::try_from(fds).unwrap();
    (directory, counter.into())
}

fn transfer(reply: &Reply) -> u64 {
    match reply {
        Reply::Transfer { transfer } => *transfer,
        other => panic!("no transfer: {other:?}"),
    }
}

fn ticket(reply: &Reply) -> (String, String) {
    match reply {
        Reply::Staged { user: Some(user), secret: Some(secret), .. } => (user.to_string(), secret.expose().to_owned()),
        other => panic!("not staged: {other:?}"),
    }
}

async fn leases(stager: &common::Running) -> Vec<LeaseInfo> {
    match stager.ask("operator:eve", Request::LeaseList { offset: 0 }).await {
        Reply::Leases { items, more: false } => items,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_operators_object_to_the_customers_transfer() {
    let site = Site::new();
    let stager = site.start();
    let stored = stager.put(CONTENT).await;
    assert_eq!(stored, Reply::Stored { sha256: sha256(CONTENT), size: SIZE, known: false });
    let grant = site.grant(1, Standing, CONTENT);
    let standing = stager.stage(1, grant.clone()).await;
    assert!(matches!(standing, Reply::Staged { user: None, secret: None, .. }), "{standing:?}");
    let (user, secret) = ticket(&stager.stage(2, site.grant(2, OneTime, CONTENT)).await);

    let items = leases(&stager).await;
    assert_eq!(
        items.iter().map(|l| (l.kind, l.state)).collect::<Vec<_>>(),
        [(Standing, LeaseState::Active), (OneTime, LeaseState::Active)]
    );
    let Reply::Lease { link: Some(link), .. } =
        stager.ask("operator:eve", Request::LeaseShow { lease: items[0].lease }).await
    else {
        panic!("no link")
    };
    assert_eq!((link.inode, link.links), (link.storeroom_inode, 3));

    let session = stager.session("192.0.2.7");
    let (directory, counter) = admitted(session.login(&user, &secret));
    assert_eq!(names(&directory), ["grüße 1.iso"]);
    let number = transfer(&session.begin("/grüße 1.iso", 0));
    counter.write_all_at(&SIZE.to_le_bytes(), 0).unwrap();
    assert_eq!(session.end(number, SIZE, "complete"), Reply::Done {});

    let all =
        site.database.audit_until("all records", |all| all.last().is_some_and(|r| r.event == AuditEvent::LeaseEnded));
    let all = all.await;
    let events: Vec<_> = all.iter().map(|r| r.event).collect();
    use AuditEvent::{LeaseEnded, Login, Staged, Stored, Transfer};
    assert_eq!(events, [Stored, Staged, Staged, Login, Transfer, LeaseEnded]);
    assert!(all.iter().map(|r| r.seq).eq(1..=6));
    let sent = &all[4];
    assert_eq!((sent.bytes, sent.offset, sent.sha256), (Some(SIZE), Some(0), Some(sha256(CONTENT))));
    assert_eq!(sent.address.as_ref().map(Text::as_str), Some("192.0.2.7"));
    assert_eq!(leases(&stager).await[1].state, LeaseState::Ending);

    let Reply::StatusReport { checks, .. } = stager.ask("operator:eve", Request::Status {}).await else { panic!() };
    assert!(checks.iter().all(|check| check.healthy), "{checks:?}");
    drop(session);
    stager.stop().await;

    // Another life: the same leases, and the same answer to the same request.
    let stager = site.start();
    assert_eq!(leases(&stager).await.len(), 2);
    assert_eq!(stager.stage(1, grant).await, standing);
    assert_eq!(site.database.with(|known| known.repeated), 0);
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_the_databases_business() {
    let site = Site::new();
    site.database.with(|known| known.passwords.insert("alice".into(), "swordfish".into()));
    let stager = site.start();
    stager.put(CONTENT).await;
    let session = stager.session("192.0.2.1");
    for (user, password) in [("alice", "wrong"), ("bob", "swordfish"), ("../alice", "swordfish"), ("", "")] {
        assert_eq!(fault(&session.login(user, password).0), Some(Fault::Denied), "{user}");
    }
    assert_eq!(site.database.with(|known| known.checks), 2, "what is no name is not asked");
    let (directory, _) = admitted(session.login("alice", "swordfish"));
    assert_eq!(names(&directory), [""; 0], "an account of a customer without leases is empty");
    assert_eq!(fault(&session.login("alice", "swordfish").0), Some(Fault::Invalid), "one yes per socket");
    assert_eq!(fault(&session.begin("/maps/1.0/grüße 1.iso", 0)), Some(Fault::NotFound));
    stager.stage(1, site.grant(1, Standing, CONTENT)).await;
    assert_eq!(names(&directory), ["maps"]);
    let number = transfer(&session.begin("/maps/1.0/grüße 1.iso", 0));
    assert_eq!(session.end(number, SIZE, "complete"), Reply::Done {});

    admitted(stager.session("192.0.2.2").login("alice", "swordfish"));
    assert_eq!(site.database.with(|known| known.checks), 3, "the second time it is remembered");

    // A withdrawn right empties the cache and ends the lease, in the same session too.
    site.database.revoke("alice", Some("maps"));
    let ended = |all: &[tobj::AuditRecord]| all.iter().any(|r| r.event == AuditEvent::LeaseEnded);
    site.database.audit_until("the lease ends", ended).await;
    assert_eq!(fault(&session.begin("/maps/1.0/grüße 1.iso", 0)), Some(Fault::NotFound));
    assert_eq!(names(&directory), [""; 0]);
    admitted(stager.session("192.0.2.2").login("alice", "swordfish"));
    assert_eq!(site.database.with(|known| known.checks), 4);
    let refused = site
        .database
        .audit_until("logins", |all| all.iter().filter(|r| r.event == AuditEvent::LoginRefused).count() == 4);
    assert!(refused.await.iter().all(|r| !format!("{r:?}").contains("swordfish")));
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database() {
    let site = Site::new();
    site.database.with(|known| {
        known.passwords.insert("alice".into(), "swordfish".into());
        known.down = true;
    });
    let stager = site.start();
    stager.put(CONTENT).await;
    let grant = site.grant(1, OneTime, CONTENT);
    let (user, secret) = ticket(&stager.stage(1, grant.clone()).await);
    let session = stager.session("192.0.2.1");
    assert_eq!(fault(&session.login("alice", "swordfish").0), Some(Fault::Unavailable));
    admitted(session.login(&user, &secret));
    let Reply::StatusReport { checks, .. } = stager.ask("operator:eve", Request::Status {}).await else { panic!() };
    let unhealthy: Vec<_> = checks.iter().filter(|c| !c.healthy).map(|c| c.name.as_str()).collect();
    assert_eq!(unhealthy, ["database"]);
    drop(session);
    stager.stop().await;

    // Its answers get lost: it is told again, and knows.
    site.database.with(|known| (known.down, known.deaf) = (false, true));
    let stager = site.start();
    let all = |all: &[tobj::AuditRecord]| all.iter().any(|r| r.event == AuditEvent::Login);
    site.database.audit_until("the records of the other life", all).await;
    stager.stop().await;
    site.database.with(|known| known.deaf = false);
    let stager = site.start();
    let nudge = stager.stage(9, grant).await;
    assert_eq!(fault(&nudge), Some(Fault::Denied));
    let refused = |all: &[tobj::AuditRecord]| all.iter().any(|r| r.event == AuditEvent::StageRefused);
    let all = site.database.audit_until("a new record", refused).await;
    assert!(all.iter().map(|r| r.seq).eq(1..=all.len() as u64));
    assert_eq!(site.database.with(|known| known.conflicts), 0, "no number has two meanings");
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_breaks_off_leaves_its_count() {
    let site = Site::new();
    let stager = site.start();
    stager.put(CONTENT).await;
    let (user, secret) = ticket(&stager.stage(1, site.grant(1, OneTime, CONTENT)).await);
    for (sent, expected) in [(7, 7), (u64::MAX, SIZE - 3)] {
        let session = stager.session("2001:db8::1");
        let (_directory, counter) = admitted(session.login(&user, &secret));
        assert!(counter.set_len(1 << 20).is_err() && counter.set_len(0).is_err(), "its size is sealed");
        transfer(&session.begin("/grüße 1.iso", 3));
        counter.write_all_at(&u64::to_le_bytes(sent), 0).unwrap();
        drop(session);
        let closed = site.database.audit_until("the record", |all| {
            all.last().is_some_and(|r| r.event == AuditEvent::Transfer && r.bytes == Some(expected))
        });
        let last = closed.await.pop().unwrap();
        assert_eq!(last.outcome.as_ref().map(Text::as_str), Some("interrupted"));
    }
    // A stop of the daemon closes transfers in the same way.
    let session = stager.session("2001:db8::1");
    let (_directory, counter) = admitted(session.login(&user, &secret));
    transfer(&session.begin("/grüße 1.iso", 3));
    counter.write_all_at(&9u64.to_le_bytes(), 0).unwrap();
    stager.stop().await;
    let stager = site.start();
    let closed = |all: &[tobj::AuditRecord]| all.iter().any(|r| r.bytes == Some(9));
    site.database.audit_until("the count at the stop", closed).await;
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_ask_what() {
    let site = Site::new();
    let stager = site.start();
    stager.put(CONTENT).await;
    let lease = tobj::Id::from([1; 16]);
    for request in [
        Request::LeaseList { offset: 0 },
        Request::LeaseShow { lease },
        Request::LeaseRevoke { lease },
        Request::ObjectPut { sha256: None },
        Request::Audit { records: Vec::new() },
    ] {
        let reply = stager.ask("web", request).await;
        assert_eq!(reply, Reply::Fault { fault: Fault::Denied, text: Text::default() });
    }
    let forged = Secret::new("v4.public.AAAA").unwrap();
    let reply = stager.stage(1, forged).await;
    assert_eq!(reply, Reply::Fault { fault: Fault::Denied, text: Text::default() }, "no word of why");
    let over = site.grant_for("alice", 1, Standing, CONTENT, Timestamp::now().0);
    assert_eq!(fault(&stager.stage(1, over).await), Some(Fault::Expired));
    assert_eq!(fault(&stager.stage(2, site.grant(2, Standing, b"unknown")).await), Some(Fault::NotFound));
    let Reply::Fault { fault: Fault::NotFound, text } = stager.ask("operator:eve", Request::LeaseShow { lease }).await
    else {
        panic!("there is no such lease")
    };
    assert!(text.as_str().contains("no such lease"));
    assert_eq!(fault(&stager.ask("operator:eve", Request::ObjectPut { sha256: None }).await), Some(Fault::Invalid));
    assert_eq!(leases(&stager).await, []);
    let refused = |all: &[tobj::AuditRecord]| all.iter().filter(|r| r.event == AuditEvent::StageRefused).count() == 3;
    site.database.audit_until("refusals on record", refused).await;
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_keep_to_their_order() {
    let site = Site::new();
    let stager = site.start();
    stager.put(CONTENT).await;
    let (user, secret) = ticket(&stager.stage(1, site.grant(1, OneTime, CONTENT)).await);
    let silent = Session(UnixStream::connect(&stager.sessions).unwrap());
    assert_eq!(fault(&silent.login(&user, &secret).0), Some(Fault::Invalid), "no address yet");
    assert_eq!(fault(&silent.ask(Request::FtpSession { address: Text::new("here").unwrap() }).0), Some(Fault::Invalid));
    let session = stager.session("192.0.2.1");
    assert_eq!(fault(&session.ask(Request::FtpSession { address: Text::new("::1").unwrap() }).0), Some(Fault::Invalid));
    assert_eq!(fault(&session.begin("/grüße 1.iso", 0)), Some(Fault::Invalid), "no login yet");
    assert_eq!(fault(&session.login(&user, &secret[1..]).0), Some(Fault::Denied));
    assert_eq!(fault(&session.login(&user, "").0), Some(Fault::Denied));
    assert_eq!(fault(&session.ask(Request::Status {}).0), Some(Fault::Invalid));
    admitted(session.login(&user, &secret));
    let number = transfer(&session.begin("/grüße 1.iso", 0));
    assert_eq!(fault(&session.begin("/grüße 1.iso", 0)), Some(Fault::Invalid), "one at a time");
    assert_eq!(fault(&session.end(number + 1, 1, "complete")), Some(Fault::Invalid));
    assert_eq!(fault(&session.end(number, 1, "lost interest")), Some(Fault::Invalid));
    assert_eq!(session.end(number, 1, "aborted"), Reply::Done {});
    assert_eq!(fault(&session.end(number, 1, "aborted")), Some(Fault::Invalid));
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_are_turned_away() {
    let mut site = Site::new();
    site.config.session_uids = vec![my_uid().wrapping_add(1)];
    let stager = site.start();
    let stream = UnixStream::connect(&stager.sessions).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(daemon::fds::recv_frame(&stream), Ok(None)), "closed without a word");
    stager.stop().await;
    site.config.allow_uids = Vec::new();
    let stager = site.start();
    assert!(Client::new(&stager.socket).call("web", Request::Status {}).await.is_err());
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_expire_by_themselves() {
    let site = Site::with("one_time_grace_seconds = 0\nstanding_grace_seconds = 0");
    let stager = site.start();
    stager.put(CONTENT).await;
    stager.stage(1, site.grant(1, Standing, CONTENT)).await;
    let (user, secret) = ticket(&stager.stage(2, site.grant(2, OneTime, CONTENT)).await);
    // Two hours later, by the database's time; our own clock says nothing of it.
    stager.stop().await;
    site.database.with(|known| known.now = Some(Timestamp::now().0 + 7200));
    let stager = site.start();
    let gone = |all: &[tobj::AuditRecord]| all.iter().filter(|r| r.event == AuditEvent::LeaseEnded).count() == 2;
    let all = site.database.audit_until("both end", gone).await;
    assert!(all[all.len() - 2..].iter().all(|r| r.outcome.as_ref().map(Text::as_str) == Some("expired")));
    // The records are there before the links go; what the writer answers now comes after that.
    let unknown = Request::LeaseRevoke { lease: [9; 16].into() };
    assert_eq!(fault(&stager.ask("operator:eve", unknown).await), Some(Fault::NotFound));
    assert!(!site.root().join("accounts/alice/maps").exists());
    let session = stager.session("192.0.2.1");
    assert!(matches!(fault(&session.login(&user, &secret).0), Some(Fault::Denied | Fault::Expired)));
    assert_eq!(leases(&stager).await, []);
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_customer_may_have() {
    use std::os::unix::fs::FileExt;
    let site = Site::with("max_sessions_per_customer = 2\ncustomer_bytes_per_second = 1000");
    site.database.with(|known| known.passwords.insert("alice".into(), "swordfish".into()));
    let stager = site.start();
    stager.put(CONTENT).await;
    stager.stage(1, site.grant(1, Standing, CONTENT)).await;
    let login = |session: &Session| session.login("alice", "swordfish");
    let (first, second, third) =
        (stager.session("192.0.2.1"), stager.session("192.0.2.2"), stager.session("192.0.2.3"));
    let (_, one) = admitted(login(&first));
    let (_, two) = admitted(login(&second));
    assert_eq!(fault(&login(&third).0), Some(Fault::Busy), "whatever the address");
    // The transfers under way share what he may have.
    let rate = |counter: &std::fs::File| {
        let mut bytes = [0; 8];
        counter.read_exact_at(&mut bytes, 8).unwrap();
        u64::from_le_bytes(bytes)
    };
    let path = "/maps/1.0/grüße 1.iso";
    let number = transfer(&first.begin(path, 0));
    assert_eq!(rate(&one), 1000);
    transfer(&second.begin(path, 0));
    assert_eq!((rate(&one), rate(&two)), (500, 500));
    assert_eq!(first.end(number, 1, "complete"), Reply::Done {});
    assert_eq!(rate(&two), 1000);
    // A session that is over leaves its place.
    drop(first);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fault(&login(&third).0).is_some() {
        assert!(std::time::Instant::now() < deadline, "the place stays taken");
    }
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_sessions_at_once() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let site = Site::with("max_sessions = 500\nmax_sessions_per_customer = 500");
    let stager = site.start();
    stager.put(CONTENT).await;
    let (user, secret) = ticket(&stager.stage(1, site.grant(1, OneTime, CONTENT)).await);
    let sessions: Vec<_> = (0..500)
        .map(|_| {
            let session = stager.session("192.0.2.1");
            let fds = admitted(session.login(&user, &secret));
            (session, fds)
        })
        .collect();
    let one_more = Session(UnixStream::connect(&stager.sessions).unwrap());
    assert!(matches!(daemon::fds::recv_frame(&one_more.0), Ok(None)), "that is the limit");
    std::thread::scope(|scope| {
        for part in sessions.chunks(25) {
            scope.spawn(move || {
                for (session, _) in part {
                    let number = transfer(&session.begin("/grüße 1.iso", 1));
                    assert_eq!(session.end(number, 1, "aborted"), Reply::Done {});
                }
            });
        }
    });
    drop(sessions);
    site.database
        .audit_until("every transfer", |all| all.iter().filter(|r| r.event == AuditEvent::Transfer).count() == 500)
        .await;
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_lead_nowhere_else() {
    let site = Site::new();
    let stager = site.start();
    stager.put(CONTENT).await;
    let (user, secret) = ticket(&stager.stage(1, site.grant(1, OneTime, CONTENT)).await);
    let session = stager.session("192.0.2.1");
    let (directory, counter) = admitted(session.login(&user, &secret));
    for fd in [directory.as_fd(), counter.as_fd()] {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_ne!(flags & nix::libc::FD_CLOEXEC, 0);
    }
    let path = std::fs::read_link(PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))).unwrap();
    assert!(path.starts_with(site.root().canonicalize().unwrap().join("tickets")), "{path:?}");
    assert_ne!(path.file_name(), Path::new("tickets").file_name());
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_fails_ends_the_daemon_and_a_start_repairs_it() {
    let site = Site::new();
    let stager = site.start();
    stager.put(CONTENT).await;
    // Something that no part of the stager makes: a symbolic link where a customer's directory belongs.
    std::os::unix::fs::symlink("/nonexistent", site.root().join("accounts/alice")).unwrap();
    let grant = site.grant(1, Standing, CONTENT);
    assert_eq!(fault(&stager.stage(1, grant.clone()).await), Some(Fault::Unavailable));
    let ended = stager.ended().await.unwrap_err();
    assert!(daemon::report(&ended).contains("file system"), "{}", daemon::report(&ended));

    let stager = site.start();
    assert!(matches!(stager.stage(1, grant).await, Reply::Staged { .. }), "the lease was committed before");
    stager.stop().await;
}

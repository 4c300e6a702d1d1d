//! The forker and its sessions: limits, deaths, the end.

use crate::client::Client;
use crate::daemon::{Daemon, start, start_with, until};
use nix::sys::signal::{Signal, kill};
use std::io::{ErrorKind, Read};

#[test]
fn the_limit_of_an_address() {
    let daemon = start_with("max_per_address = 2");
    let first = Client::greeted(daemon.v4);
    let _second = Client::greeted(daemon.v4);
    let mut third = Client::new(daemon.v4);
    third.expect(421);
    third.expect_end();
    // another address has its own
    let _other = Client::greeted(daemon.v6);
    assert_eq!(daemon.sessions().len(), 3);
    drop(first);
    until("the place is free again", || Client::new(daemon.v4).try_reply().is_ok_and(|r| r.starts_with("220")));
}

#[test]
fn the_limit_of_all() {
    let daemon = start_with("max_sessions = 2");
    let _first = Client::greeted(daemon.v4);
    let _second = Client::greeted(daemon.v6);
    for address in [daemon.v4, daemon.v6] {
        let mut third = Client::new(address);
        third.expect(421);
        third.expect_end();
    }
}

#[test]
fn a_session_that_dies_touches_no_other() {
    let daemon = start();
    let bytes = daemon.stagerd.put("big", 24 << 20);
    let mut victim = Client::logged_in(daemon.v4);
    let pid = daemon.session();
    let mut cut = victim.begin("RETR big");
    let mut other = Client::logged_in(daemon.v4);
    let mut whole = other.begin("RETR big");

    let mut some = vec![0; 3 << 20];
    cut.read_exact(&mut some).unwrap();
    until("stagerd knows what has come to the client", || daemon.stagerd.counted(0) >= 3 << 20);
    let counted = daemon.stagerd.counted(0);
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(cut.read_to_end(&mut some).unwrap_err().kind(), ErrorKind::ConnectionReset, "it must not look whole");
    victim.expect_end();
    let (last, came) = (daemon.stagerd.counted(0), u64::try_from(some.len()).unwrap());
    assert!((counted..=came).contains(&last), "{counted} bytes, then {last}, and {came} came");

    let mut got = Vec::new();
    whole.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    other.expect(226);
    let mut third = Client::logged_in(daemon.v4);
    assert!(third.fetch("RETR big") == bytes);
    until("the death is in the log", || daemon.log().contains("a session was killed"));
}

fn stopping(mut daemon: Daemon) {
    assert!(daemon.wait().success(), "{}", daemon.log());
}

#[test]
fn a_stop_ends_idle_sessions_and_lets_transfers_finish() {
    let daemon = start();
    let bytes = daemon.stagerd.put("big", 24 << 20);
    let mut idle = Client::logged_in(daemon.v4);
    let mut silent = Client::greeted(daemon.v4);
    let mut busy = Client::logged_in(daemon.v4);
    let mut data = busy.begin("RETR big");
    daemon.signal(Signal::SIGTERM);
    idle.expect(421);
    silent.expect(421);
    let mut late = Client::new(daemon.v4);
    late.expect(421);
    let mut got = Vec::new();
    data.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    busy.expect(226);
    busy.expect(421);
    busy.expect_end();
    assert_eq!(daemon.stagerd.wait_for_end(0).1, "complete");
    stopping(daemon);
}

#[test]
fn a_stalled_session_is_cut_when_the_time_to_finish_is_over() {
    let daemon = start_with("drain_seconds = 1");
    daemon.stagerd.put("big", 24 << 20);
    let mut stalled = Client::logged_in(daemon.v4);
    let mut data = stalled.begin("RETR big");
    daemon.signal(Signal::SIGTERM);
    stopping(daemon);
    assert_eq!(data.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn without_its_forker_a_session_finishes_and_ends() {
    let daemon = start();
    let bytes = daemon.stagerd.put("big", 24 << 20);
    let mut busy = Client::logged_in(daemon.v4);
    let mut idle = Client::logged_in(daemon.v4);
    let mut data = busy.begin("RETR big");
    daemon.signal(Signal::SIGKILL);
    idle.expect(421);
    let mut got = Vec::new();
    data.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    busy.expect(226);
    busy.expect(421);
}

#[test]
fn many_at_once() {
    let daemon = start();
    let bytes = daemon.stagerd.put("a", 300_000);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let mut client = Client::logged_in(daemon.v4);
                assert!(client.fetch("RETR a") == bytes);
                client.ask("QUIT", 221);
            });
        }
    });
    until("all sessions are over", || daemon.sessions().is_empty());
}

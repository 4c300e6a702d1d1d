//! A disk that hangs stops the transfer, not the session.

use crate::client::Client;
use crate::daemon::{start, start_with};
use crate::fuse::{Hanging, READABLE, SIZE};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

/// Begins a transfer and reads until nothing more comes, because the disk hangs.
fn until_it_hangs(client: &mut Client) -> Box<dyn crate::client::Io> {
    let mut data = client.begin("RETR hangs");
    let mut readable = vec![0; usize::try_from(READABLE / 2).unwrap()];
    data.read_exact(&mut readable).unwrap();
    assert!(readable.iter().all(|byte| *byte == 7));
    data
}

#[test]
#[ignore = "long: needs root and /dev/fuse"]
fn ftp_of_a_disk_that_hangs() {
    let daemon = start();
    let _hanging = Hanging::over(&daemon.stagerd.account);
    let mut client = Client::logged_in(daemon.v4);
    assert_eq!(client.fetch("RETR whole").len() as u64, SIZE);
    let mut data = until_it_hangs(&mut client);
    client.ask("NOOP", 200);
    client.ask("STAT", 213);
    let begun = Instant::now();
    client.ask("ABOR", 426);
    client.expect(226);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(data.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (bytes, outcome, counted) = daemon.stagerd.wait_for_end(1);
    assert!(outcome == "aborted" && bytes == counted && bytes <= READABLE, "{bytes} {counted} {outcome}");
    client.ask("NOOP", 200);
    client.ask("PWD", 257);
    client.ask("QUIT", 221);
    client.expect_end();
    // Another customer is not touched by it.
    let mut other = Client::logged_in(daemon.v4);
    assert_eq!(other.fetch("RETR whole").len() as u64, SIZE);
}

#[test]
#[ignore = "long: needs root and /dev/fuse"]
fn ftp_deadlines_hold_while_a_disk_hangs() {
    let daemon = start_with("stall_seconds = 1\nsession_seconds = 12");
    let _hanging = Hanging::over(&daemon.stagerd.account);
    let mut quits = Client::logged_in(daemon.v4);
    let _data = until_it_hangs(&mut quits);
    quits.send("QUIT");
    assert!(quits.expect(451).contains("cannot be read"));
    quits.expect(221);
    quits.expect_end();
    let mut stays = Client::logged_in(daemon.v4);
    let _data = until_it_hangs(&mut stays);
    stays.expect(451);
    // The disk is asked again and does not answer; the longest life of a session ends it.
    let begun = Instant::now();
    stays.send("SIZE whole");
    stays.expect_end();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

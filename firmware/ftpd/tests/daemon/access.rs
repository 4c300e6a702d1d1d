//! Who gets in, what he finds there, and what he does not.

use crate::client::{Client, connect, connect_from};
use crate::daemon::{start, start_talking, start_with};
use crate::stagerd::{PASSWORD, USER};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::Read;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tobj::{Fault, Request};

#[test]
fn wrong_passwords_are_slow_and_few() {
    let mut daemon = start_talking();
    let mut client = Client::greeted(daemon.v4);
    let begun = Instant::now();
    for (user, password) in [(USER, "wrong"), ("nobody", PASSWORD), (USER, "")] {
        client.ask(&format!("USER {user}"), 331);
        client.ask(&format!("PASS {password}"), 530);
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "a second for each failure");
    client.expect_end();
    let log = daemon.whole_log();
    assert_eq!(log.matches("login refused").count(), 2, "{log}");
    assert!(!log.contains("wrong") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn strangers_write_no_journal() {
    let mut daemon = start_with("max_per_address = 1");
    let mut client = Client::greeted(daemon.v4);
    client.ask("USER nobody", 331);
    client.ask("PASS wrong", 530);
    Client::new(daemon.v4).expect(421);
    client.login();
    let mut stranger = connect_from(Ipv4Addr::new(127, 0, 0, 9), client.passive()).unwrap();
    assert!(!matches!(stranger.read(&mut [0]), Ok(n) if n > 0));
    let log = daemon.whole_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("address=127.0.0.")).collect();
    // Where it listens, and who has come in.
    assert!(matches!(lines[..], [first, last] if first.contains("listening") && last.contains("logged in")), "{log}");
}

#[test]
fn who_is_gone_before_he_is_greeted_is_no_failure() {
    let mut daemon = start();
    for _ in 0..50 {
        let socket = connect(daemon.v4);
        // Closed by RST.
        setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    }
    // All were taken before this one.
    Client::greeted(daemon.v4);
    let log = daemon.whole_log();
    assert!(!log.contains("failed"), "{log}");
}

#[test]
fn a_wrong_password_does_not_spoil_the_right_one() {
    let mut daemon = start();
    let mut client = Client::greeted(daemon.v4);
    client.ask("PASS x", 503);
    client.ask(&format!("USER {USER}"), 331);
    client.ask("PASS wrong", 530);
    client.ask(&format!("PASS {PASSWORD}"), 503);
    // The last USER counts, and a password may hold spaces.
    client.ask("USER nobody", 331);
    client.login();
    client.ask(&format!("USER {USER}"), 530);
    client.ask("PWD", 257);
    let logins = daemon.stagerd.seen().into_iter().filter(|r| matches!(r, Request::FtpLogin { .. })).count();
    assert_eq!(logins, 2);
    let Request::FtpSession { address } = &daemon.stagerd.seen()[0] else { panic!() };
    assert_eq!(address.as_str(), "127.0.0.1");
    let log = daemon.whole_log();
    assert!(log.contains("logged in customer=ada") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn a_login_that_cannot_be_checked_is_not_a_wrong_password() {
    for fault in [Fault::Unavailable, Fault::Busy] {
        let daemon = start();
        daemon.stagerd.refuse_logins(fault);
        let mut client = Client::greeted(daemon.v4);
        client.ask(&format!("USER {USER}"), 331);
        let reply = client.ask(&format!("PASS {PASSWORD}"), 421);
        assert!(!reply.contains("eyes"), "{reply}");
        client.expect_end();
    }
}

#[test]
fn names_lead_to_files() {
    let daemon = start();
    let name = "product/1.0/Straße nach Zürich.bin";
    let bytes = daemon.stagerd.put(name, 1000);
    daemon.stagerd.put("product/1.0/ -l b ", 3);
    let mut client = Client::logged_in(daemon.v4);
    assert_eq!(client.fetch(&format!("RETR {name}")), bytes);
    assert_eq!(client.fetch(&format!("RETR /product/./x/../1.0//{}", name.rsplit('/').next().unwrap())), bytes);
    client.ask("CWD product", 250);
    client.ask("CWD 1.0", 250);
    assert_eq!(client.ask("PWD", 257), "257 \"/product/1.0\"\r\n");
    assert_eq!(client.fetch("RETR Straße nach Zürich.bin"), bytes);
    assert_eq!(client.fetch("RETR  -l b ").len(), 3);
    assert_eq!(client.ask("SIZE Straße nach Zürich.bin", 213), "213 1000\r\n");
    let time = client.ask("MDTM Straße nach Zürich.bin", 213);
    assert!(time.len() == "213 20200101000000\r\n".len() && time.starts_with("213 20"), "{time}");
    client.ask("CDUP", 250);
    assert_eq!(client.ask("PWD", 257), "257 \"/product\"\r\n");
    client.ask("SIZE 1.0", 550);
    client.ask("CWD 1.0/Straße nach Zürich.bin", 550);
    assert_eq!(client.ask("CWD nowhere", 550), "550 No such file or directory\r\n");
    assert_eq!(client.ask("PWD", 257), "257 \"/product\"\r\n");
}

#[test]
fn listings() {
    let daemon = start();
    daemon.stagerd.put("d/b c", 5);
    daemon.stagerd.put("d/ä", 70_000);
    daemon.stagerd.put("d/e/f", 1);
    std::os::unix::fs::symlink("/etc/passwd", daemon.stagerd.account.join("d/link")).unwrap();
    let mut client = Client::logged_in(daemon.v4);
    assert_eq!(client.fetch_text("NLST d"), "b c\r\ne\r\nä\r\n");
    assert_eq!(client.fetch_text("NLST -la d"), "b c\r\ne\r\nä\r\n");
    let long = client.fetch_text("LIST d");
    assert_eq!(long.lines().count(), 3);
    assert!(long.lines().next().unwrap().starts_with("-r") && long.lines().nth(1).unwrap().starts_with('d'), "{long}");
    assert!(long.contains(" 70000 "), "{long}");
    assert_eq!(client.fetch_text("LIST d/b c").lines().count(), 1);
    let facts = client.fetch_text("MLSD d");
    assert!(facts.starts_with("type=file;size=5;modify=20") && facts.lines().nth(1).unwrap().starts_with("type=dir;"));
    client.ask("OPTS MLST size;", 200);
    assert!(client.fetch_text("MLSD d").starts_with("size=5; b c\r\n"));
    let one = client.ask("MLST d/b c", 250);
    assert_eq!(one.lines().nth(1), Some(" size=5; /d/b c"), "{one}");
    let status = client.ask("STAT d", 213);
    assert!(status.contains("b c"), "{status}");
    client.refused("MLSD d/ä", 550);
    client.refused("LIST nowhere", 550);
    client.refused("NLST nowhere", 550);
    assert_eq!(client.fetch_text("NLST"), "d\r\n");
    assert_eq!(client.fetch_text("NLST /d/e"), "f\r\n");
    // listings are not downloads
    assert!(!daemon.stagerd.seen().iter().any(|r| matches!(r, Request::TransferBegin { .. })));
}

#[test]
fn a_listing_of_ten_thousand() {
    let daemon = start();
    for number in 0..10_000 {
        std::fs::write(daemon.stagerd.account.join(format!("file {number:05}")), "x").unwrap();
    }
    let mut client = Client::logged_in(daemon.v4);
    for command in ["NLST", "LIST", "MLSD"] {
        let text = client.fetch_text(command);
        assert_eq!(text.lines().count(), 10_000, "{command}");
        assert!(text.ends_with("file 09999\r\n"), "{command}");
    }
}

#[test]
fn nothing_outside_the_account() {
    let daemon = start();
    let file = daemon.stagerd.put("in/file", 3);
    let account = &daemon.stagerd.account;
    std::fs::hard_link(account.join("in/file"), account.join("linked")).unwrap();
    let links = [("abs", "/etc/passwd"), ("up", "../secret"), ("upup", "../../../../etc/passwd"), ("root", "/")];
    for (name, target) in links {
        std::os::unix::fs::symlink(target, account.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(account.parent().unwrap(), account.join("dir")).unwrap();
    let secret = account.parent().unwrap().join("secret");
    let secret = secret.to_str().unwrap();
    // A part of a name, and a whole one, that are longer than any can be.
    let (part, whole) = ("x".repeat(256), "y/".repeat(2050));
    let behind = format!("{part}/../secret");
    let mut client = Client::logged_in(daemon.v4);
    let names = [
        "..",
        "../secret",
        "/../secret",
        "in/../../secret",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "abs",
        "up",
        "upup",
        "root/etc/passwd",
        "dir/secret",
        secret,
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "/dev/null",
        // Nothing here is decoded: these are names that no file has.
        "%2e%2e%2fsecret",
        "..%2fsecret",
        "%2e%2e/secret",
        "..%c0%afsecret",
        "..\\secret",
        "..\\..\\secret",
        "in\\file",
        "\u{ff0e}\u{ff0e}/secret",
        "\u{2025}/secret",
        "..\u{2215}secret",
        &part,
        &whole,
        &behind,
        // A hard link is the file, and nothing is behind it.
        "linked/../../secret",
        "linked/secret",
    ];
    for name in names {
        client.refused(&format!("RETR {name}"), 550);
        if name != ".." {
            for verb in ["SIZE", "MDTM", "MLST", "STAT", "CWD"] {
                client.ask(&format!("{verb} {name}"), 550);
            }
        }
        // Who never fetches anything would have to wait before long.
        assert_eq!(client.fetch("RETR linked"), file);
    }
    // A slash in more bytes than it needs is no text.
    for slash in [&b"\xc0\xaf"[..], b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf"] {
        client.raw(&[b"SIZE ..", slash, b"secret\r\n"].concat());
        client.expect(501);
    }
    client.ask("CWD ../../..", 250);
    assert_eq!(client.ask("PWD", 257), "257 \"/\"\r\n");
    assert_eq!(client.fetch_text("NLST"), "in\r\nlinked\r\n");
    assert_eq!(client.fetch("RETR in/file"), file);
    // Two that are long enough for any path are one that is too long.
    let below = format!("{}/", "z".repeat(255)).repeat(8);
    std::fs::create_dir_all(account.join(&below)).unwrap();
    client.ask(&format!("CWD {below}"), 250);
    client.ask(&format!("SIZE {whole}"), 550);
    client.ask("SIZE /in/file", 213);
}

#[test]
fn nothing_is_written() {
    let daemon = start();
    daemon.stagerd.put("file", 3);
    let mut client = Client::logged_in(daemon.v4);
    for verb in ["STOR", "APPE", "STOU"] {
        client.refused(&format!("{verb} new"), 550);
    }
    for command in ["DELE file", "MKD new", "RMD new", "RNFR file", "RNTO new", "MFMT 20200101000000 file"] {
        client.ask(command, 550);
    }
    client.ask("SITE CHMOD 777 file", 502);
    client.ask("PORT 127,0,0,1,0,25", 502);
    client.ask("EPRT |1|127.0.0.1|25|", 502);
    let names: Vec<_> = std::fs::read_dir(&daemon.stagerd.account).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
}

#[test]
fn no_line_ends_a_session() {
    let daemon = start();
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    for (line, code) in [
        (&b"RETR\r\n"[..], 501),
        (b"SIZE\r\n", 501),
        (b"REST x\r\n", 501),
        (b"OPTS\r\n", 501),
        (b"STRU X\r\n", 504),
        (b"MODE\r\n", 501),
        (b"\xff\xfe\r\n", 500),
        (b"RETR \xe4\r\n", 501),
        (b"RETR a\0\r\n", 501),
        (b"\r\n", 500),
        (b"OPTS MLST type;\r\n", 200),
        (b"EPSV 3\r\n", 522),
        (b"RETR a\r\n", 425),
        (b"NOOP\n", 200),
    ] {
        client.raw(line);
        client.expect(code);
    }
    client.raw(&[&[b'x'; 5000][..], b"\r\n"].concat());
    client.expect(500);
    // several in one packet
    client.raw(b"NOOP\r\nSIZE a\r\nCWD /\r\nSIZE a\r\nPWD\r\n");
    for code in [200, 213, 250, 213, 257] {
        client.expect(code);
    }
    client.raw(&[b'x'; 70_000]);
    client.expect(500);
    client.expect_end();
}

#[test]
fn deadlines() {
    let daemon = start_with("login_seconds = 1\nidle_seconds = 2");
    let mut silent = Client::greeted(daemon.v4);
    let mut idle = Client::logged_in(daemon.v4);
    let begun = Instant::now();
    silent.expect(421);
    silent.expect_end();
    assert!(begun.elapsed() < Duration::from_secs(10));
    idle.ask("NOOP", 200);
    idle.expect(421);
    idle.expect_end();
}

#[test]
fn much_before_the_login() {
    let daemon = start();
    let mut client = Client::greeted(daemon.v4);
    let noise = b"NOOP\r\n".repeat(100);
    let refused = (0..10_000).find_map(|_| {
        client.raw(&noise);
        (0..100).find_map(|_| client.try_reply().ok().filter(|reply| !reply.starts_with("200")))
    });
    assert!(refused.unwrap().starts_with("421"));
    client.expect_end();
}

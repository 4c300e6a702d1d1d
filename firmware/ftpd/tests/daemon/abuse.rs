//! What was done to other servers, and libunftp's own traps behind the gate; each row is a test here or where the list says.
//!
//! | class | test |
//! |---|---|
//! | unauthenticated copy (CVE-2015-3306) | `commands_of_other_servers` |
//! | globbing (CVE-2011-0762, CVE-2011-0418) | `patterns_are_names` |
//! | STARTTLS buffering (CVE-2011-1575) | `ftps::commands_behind_auth_tls_are_not_obeyed` |
//! | data theft, bounce (CVE-1999-0351, GHSA-mq66-4xx4-r348) | `transfers::a_stranger_gets_nothing_and_takes_nothing`, `access::nothing_is_written` |
//! | PASV exhaustion (CVE-2002-0221) | `transfers::each_passive_port_replaces_the_last`, `pipelined_ports_are_one` |
//! | connection floods | `forking::the_limit_of_an_address`, `forking::the_limit_of_all`, and all at once in `ftp_abuse_in_one_run` |
//! | slow readers | `transfers::a_stalled_client`, `limits::who_reads_no_replies_is_left` |
//! | slow writers | `access::deadlines`, `a_line_that_comes_byte_by_byte` |
//! | ALPACA (CVE-2021-3618) | `ftps::a_web_server_is_what_this_is_not`, `a_browser_gets_nothing` |
//! | REST negative, overflowing, left over | `rfc`, `transfers::whole_and_from_an_offset` |
//! | paths (CVE-2026-30914, GHSA-h64p-8h4r-6gfh) | `access::nothing_outside_the_account` |
//! | unknown users | `access::wrong_passwords_are_slow_and_few`: same reply, same delay |
//! | PASS in parallel | `pipelined_passwords_are_checked_one_by_one` |
//! | pipelines that locked sessions up | `pipelines_do_not_lock_up` |
//! | TLS on the data connection: panic, hang, EPSV around PROT | `ftps::data_in_clear_where_it_should_be_private`, `limits::a_handshake_that_never_ends`, `command` |
//! | lists without bound | `listing`, `access::a_listing_of_ten_thousand` |
//! | 501, UTF-8, Telnet that ended the session | `rfc`, `access::no_line_ends_a_session` |

use crate::client::{Client, connect, only, trusting};
use crate::daemon::{start, start_with, until};
use crate::ftps;
use crate::stagerd::{PASSWORD, USER};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tobj::Request;

#[test]
fn commands_of_other_servers() {
    let daemon = start();
    daemon.stagerd.put("a", 3);
    let site =
        ["SITE CPFR /etc/passwd", "SITE CPTO /tmp/x", "SITE EXEC id", "SITE CHMOD 777 a", "SITE UTIME a", "SITE"];
    let mut outside = Client::greeted(daemon.v4);
    for command in site {
        outside.ask(command, 530);
    }
    let mut client = Client::logged_in(daemon.v4);
    for command in site {
        client.ask(command, 502);
    }
    for command in ["XSHA256 a", "HASH a", "XCRC a", "XMD5 a", "EXEC id", "LPRT 6,16", "LPSV", "ESTA", "XRCP a", "MLFL"]
    {
        client.ask(command, 500);
    }
    assert_eq!(client.fetch("RETR a").len(), 3);
}

#[test]
fn patterns_are_names() {
    let daemon = start();
    daemon.stagerd.put("*", 1);
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    let bomb = format!("{{{}}}", "..,".repeat(1000));
    let deep = "*/../".repeat(500);
    for pattern in ["a*", "[a]", "{a,b}", "~", "~root", "?", bomb.as_str(), deep.as_str()] {
        let begun = Instant::now();
        let listed = client.attempt(&format!("NLST {pattern}"));
        if pattern == deep {
            // Arithmetic on text, which comes to the root.
            assert!(listed.starts_with("150"), "{listed}");
            client.expect(226);
        } else {
            assert!(listed.starts_with("550"), "{pattern}: {listed}");
            client.ask(&format!("STAT {pattern}"), 550);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{pattern}");
    }
    assert_eq!(client.fetch("RETR *").len(), 1);
}

#[test]
fn pipelined_ports_are_one() {
    let daemon = start();
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    client.raw(&b"EPSV\r\n".repeat(500));
    let last = (0..500).map(|_| client.expect(229)).last().unwrap();
    let port: u16 = last.split('|').nth(3).unwrap().parse().unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.session())).map(Iterator::count);
    // Only root may look.
    assert!(descriptors.is_err() || descriptors.unwrap() < 24);
    let mut data = connect((daemon.v4.ip(), port).into());
    client.ask("RETR a", 150);
    assert_eq!(data.read_to_end(&mut Vec::new()).unwrap(), 3);
    client.expect(226);
}

#[test]
fn a_line_that_comes_byte_by_byte() {
    let daemon = start_with("login_seconds = 1");
    let mut client = Client::greeted(daemon.v4);
    let begun = Instant::now();
    let mut socket = client.socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        while socket.write_all(b"x").is_ok() && begun.elapsed().as_secs() < 20 {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    client.expect(421);
    client.expect_end();
    assert!(begun.elapsed() < Duration::from_secs(10), "each byte is no new chance");
    drop(client);
    writer.join().unwrap();
}

#[test]
fn a_browser_gets_nothing() {
    let daemon = start();
    let mut client = Client::greeted(daemon.v4);
    client.raw(b"POST / HTTP/1.1\r\nHost: ftp.example\r\nCookie: <script>alert(1)</script>\r\n\r\n");
    let mut replies = String::new();
    for _ in 0..4 {
        replies += &client.try_reply().unwrap();
    }
    assert!(replies.lines().all(|line| line.starts_with("500 ")), "{replies}");
    assert!(!replies.contains("script"), "nothing is sent back: {replies}");
}

#[test]
fn pipelined_passwords_are_checked_one_by_one() {
    let daemon = start();
    let mut client = Client::greeted(daemon.v4);
    let mut all = String::new();
    for number in 0..10 {
        all += &format!("USER {USER}\r\nPASS wrong{number}\r\n");
    }
    client.raw(format!("{all}USER {USER}\r\nPASS {PASSWORD}\r\n").as_bytes());
    for _ in 0..3 {
        client.expect(331);
        client.expect(530);
    }
    client.expect_end();
    let tried = daemon.stagerd.seen().into_iter().filter(|r| matches!(r, Request::FtpLogin { .. })).count();
    assert_eq!(tried, 3, "the right one among them is not heard any more");
}

#[test]
fn pipelines_do_not_lock_up() {
    let (daemon, der) = ftps::start("");
    daemon.stagerd.put("a", 3);
    daemon.stagerd.put("d/b", 3);
    let mut client = Client::logged_in(daemon.v4);
    client.raw(
        &b"SIZE a\r\nCWD d\r\nSIZE b\r\nCDUP\r\nMDTM a\r\nREST 1\r\nSIZE nothing\r\nSTAT a\r\nMLST a\r\n".repeat(30),
    );
    for _ in 0..30 {
        for code in [213, 250, 213, 250, 213, 350, 550, 213, 250] {
            client.expect(code);
        }
    }
    let mut client = Client::greeted(daemon.v4);
    client.raw(b"AUTH TLS\r\nQUIT\r\n");
    client.expect(234);
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = client.socket.read_to_end(&mut Vec::new());
    let mut client = Client::greeted(daemon.v4);
    client.secure(trusting(&der));
    client.raw(format!("USER {USER}\r\nPASS {PASSWORD}\r\nSIZE a\r\nQUIT\r\n").as_bytes());
    for code in [331, 230, 213, 221] {
        client.expect(code);
    }
    client.expect_end();
    until("all sessions are over", || daemon.sessions().len() <= 1);
}

#[test]
fn garbage_does_no_harm() {
    let daemon = start();
    let mut noise = 0x1234_5678_9abc_def1_u64;
    // So many lines are in the short ones that nobody has to wait between them, and in the last one that somebody has to.
    for length in std::iter::repeat_n(6_000, 200).chain([16_000]) {
        let mut client = Client::greeted(daemon.v4);
        let mut bytes = Vec::new();
        while bytes.len() < length {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            bytes.extend_from_slice(&noise.to_le_bytes());
        }
        let mut socket = client.socket.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let _ = socket.write_all(&bytes);
            let _ = socket.shutdown(std::net::Shutdown::Write);
        });
        while let Ok(reply) = client.try_reply() {
            assert!(["500", "501", "421"].contains(&&reply[..3]), "{reply}");
        }
        writer.join().unwrap();
    }
    assert!(!daemon.log().contains("panicked") && !daemon.log().contains("a session failed"), "{}", daemon.log());
}

#[test]
fn data_sessions_that_are_not_the_control_connections() {
    let (daemon, der) = ftps::start("require_data_resumption = true");
    let bytes = daemon.stagerd.put("a", 100_000);
    // The same configuration keeps the session and resumes it.
    let mut client = Client::greeted(daemon.v4);
    client.secure(trusting(&der));
    client.login();
    assert_eq!(client.fetch_text("NLST"), "a\r\n");
    assert!(client.fetch("RETR a") == bytes);
    assert!(client.fetch("RETR a") == bytes, "also a second time");
    // One of its own, from the same address, with everything else right. What it got for a session is worth nothing afterwards.
    let turned_away = |client: &mut Client| {
        for _ in 0..3 {
            let mut data = client.begin("RETR a");
            assert!(client.expect(425).contains("resume"));
            // Here come the tickets for another try.
            let mut got = Vec::new();
            let _ = data.read_to_end(&mut got);
            assert!(got.is_empty(), "{} bytes of the file", got.len());
        }
    };
    let own = client.data_tls(Some(trusting(&der)));
    turned_away(&mut client);
    client.ask("NOOP", 200);
    client.data_tls(Some(only(&der, &rustls::version::TLS12)));
    turned_away(&mut client);
    // Nor is a session of another control connection good enough.
    let mut other = Client::greeted(daemon.v4);
    let foreign = trusting(&der);
    other.secure(foreign.clone());
    other.login();
    client.data_tls(Some(foreign));
    turned_away(&mut client);
    // Whose session it is still has it.
    client.data_tls(own);
    assert!(client.fetch("RETR a") == bytes);
}

#[test]
fn sessions_of_tls_1_2_are_resumed_too() {
    let (daemon, der) = ftps::start("require_data_resumption = true");
    let bytes = daemon.stagerd.put("a", 1000);
    let mut client = Client::greeted(daemon.v4);
    client.secure(only(&der, &rustls::version::TLS12));
    client.login();
    for _ in 0..3 {
        assert!(client.fetch("RETR a") == bytes);
    }
}

mod crowd;

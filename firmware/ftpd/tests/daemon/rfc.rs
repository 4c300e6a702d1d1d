//! The replies, row by row, as the RFCs have them for a server that only reads: each table runs in clear, under TLS and over IPv6.
//!
//! A line is a check: a command, an arrow and what the reply begins with. `%` before it is a transfer that succeeds, with the bytes
//! it brings; `!` one that is refused, with a data connection open; `raw` sends bytes as they are, `long` a line that is
//! too long; `reply` only waits. `[new]` and `[in]` begin a session of their own, without and with a login. `4`, `6`, `clear` and
//! `tls` in brackets before a check say that it holds there only.

use crate::client::{Client, trusting};
use crate::daemon::Daemon;
use crate::ftps;
use ftpd::line::MAX_LINE;
use rustls::ClientConfig;
use std::sync::Arc;

const RFC959_1123: &str = r#"
[new]
NOOP -> 200
NOOP argument -> 200
noop -> 200
SYST -> 215 UNIX
HELP -> 214
HELP USER -> 214
STAT -> 530
XYZZY -> 500
 -> 500
USER -> 501
PASS x -> 503
USER ada -> 331
PWD -> 530
PASS wrong -> 530
PASS correct horse -> 503
USER ada -> 331
USER ada -> 331
PASS correct horse -> 230
PASS correct horse -> 503
USER ada -> 530
QUIT -> 221
end
[new]
CWD / -> 530
CDUP -> 530
PORT 127,0,0,1,4,1 -> 530
PASV -> 530
TYPE I -> 530
STRU F -> 530
MODE S -> 530
RETR a -> 530
STOR x -> 530
STOU -> 530
APPE x -> 530
ALLO 1 -> 530
REST 0 -> 530
RNFR a -> 530
RNTO b -> 530
ABOR -> 530
DELE a -> 530
RMD d -> 530
MKD x -> 530
LIST -> 530
NLST -> 530
SITE HELP -> 530
ACCT x -> 530
SMNT x -> 530
REIN -> 530
QUIT -> 221
end
[in]
PWD -> 257 "/"
XPWD -> 257 "/"
CWD d -> 250
PWD -> 257 "/d"
CWD e -> 250
PWD -> 257 "/d/e"
CDUP -> 250
XCUP -> 250
PWD -> 257 "/"
XCWD /d/e -> 250
PWD -> 257 "/d/e"
CWD .. -> 250
CWD ./e/../../d/ -> 250
PWD -> 257 "/d"
CDUP -> 250
CDUP -> 250
PWD -> 257 "/"
CWD q"q -> 250
PWD -> 257 "/q""q"
CWD / -> 250
CWD -> 501
CWD a -> 550
CWD nowhere -> 550
CWD d/b c -> 550
PWD -> 257 "/"
TYPE I -> 200
TYPE A -> 200
TYPE A N -> 200
type l 8 -> 200
TYPE -> 501
TYPE E -> 504
TYPE A T -> 504
TYPE L 7 -> 504
TYPE X -> 504
STRU F -> 200
STRU R -> 504
STRU P -> 504
STRU -> 501
MODE S -> 200
MODE B -> 504
MODE C -> 504
MODE -> 501
ALLO 100 -> 202
ALLO 100 R 5 -> 202
ACCT money -> 202
SMNT / -> 502
REIN -> 502
PORT 127,0,0,1,4,1 -> 502
PORT x -> 502
SITE CHMOD 777 a -> 502
SITE SHA256 a -> 213
site sha256 ./d/../a -> 213
SITE SHA256 -> 501
SITE SHA256 d -> 550
SITE SHA256 nowhere -> 550
SITE HELP -> 214
HELP RETR -> 214
STAT -> 211
STAT a -> 213
STAT d -> 213
STAT nowhere -> 550
STAT /d/* -> 550
ABOR -> 226
NOOP -> 200
[in]
RETR a -> 425
LIST -> 425
NLST d -> 425
STOR x -> 550
STOU -> 550
APPE a -> 550
DELE a -> 550
RNFR a -> 550
RNTO b -> 550
MKD x -> 550
XMKD x -> 550
RMD d -> 550
XRMD d -> 550
% RETR a -> abc
! RETR nowhere -> 550
! RETR d -> 550
! RETR d/../../../etc/passwd -> 550
% RETR /d/../a -> abc
RETR -> 501
% NLST d -> b c\r\ne\r\nü\r\n
% NLST -> a\r\nd\r\nq"q\r\n
% NLST -la d/e -> f\r\n
% LIST -> *
% LIST -a /d -> *
% LIST a -> *
! LIST nowhere -> 550
! NLST nowhere -> 550
! LIST d/* -> 550
! STOR x -> 550
% RETR a -> abc
CWD d -> 250
% NLST -> b c\r\ne\r\nü\r\n
% NLST e -> f\r\n
% RETR b c -> 12345
! RETR a -> 550
% RETR ../a -> abc
QUIT -> 221
end
[in]
raw \xff\xf4\xff\xf2ABOR\r\n
reply -> 226
raw NOOP\nNOOP\r\nPWD\r\n
reply -> 200
reply -> 200
reply -> 257
raw RETR a\0b\r\n
reply -> 501
raw CWD \xe4\r\n
reply -> 501
raw \xff\xfb\x01NOOP\r\n
reply -> 200
raw QUIT\r\nNOOP\r\n
reply -> 221
end
"#;

const RFC2228_4217: &str = r#"
[new]
[clear] PBSZ 0 -> 503
[clear] PROT P -> 503
[clear] CCC -> 503
[clear] AUTH -> 501
[clear] AUTH GSSAPI -> 504
[clear] AUTH KERBEROS_V4 -> 504
[tls] AUTH TLS -> 503
ADAT x -> 500
MIC x -> 500
CONF x -> 500
ENC x -> 500
[tls] PBSZ -> 501
[tls] PBSZ x -> 501
[tls] PBSZ 4294967296 -> 501
[tls] PBSZ 0 -> 200
[tls] PBSZ 8192 -> 200 PBSZ=0
[tls] PROT -> 501
[tls] PROT S -> 536
[tls] PROT E -> 536
[tls] PROT X -> 504
[tls] PROT C -> 200
[tls] PROT P -> 200
[tls] CCC -> 533
[in]
[clear] AUTH TLS -> 503
[tls] AUTH TLS -> 503
[tls] PROT C -> 200
[tls] PROT P -> 200
% RETR a -> abc
"#;

const RFC2389_3659_7151: &str = r#"
[new]
FEAT -> 211-
FEAT x -> 211-
OPTS UTF8 ON -> 200
OPTS utf8 -> 200
HOST -> 501
HOST ftp.example.com -> 220
HOST [::1] -> 220
LANG -> 200
LANG EN -> 200
LANG fr -> 504
CLNT anything 1.0 -> 200
MDTM a -> 530
SIZE a -> 530
MLST -> 530
MLSD -> 530
OPTS MLST type; -> 530
USER ada -> 331
HOST ftp.example.com -> 503
[in]
HOST ftp.example.com -> 503
FEAT -> 211-
OPTS -> 501
OPTS XYZ -> 501
OPTS UTF8 OFF -> 501
SIZE a -> 213 3
SIZE d/b c -> 213 5
SIZE d -> 550
SIZE nowhere -> 550
SIZE -> 501
MDTM a -> 213 20
MDTM d -> 213 20
MDTM nowhere -> 550
MDTM -> 501
MFMT 20200101000000 a -> 550
MFCT 20200101000000 a -> 550
MFF size=1; a -> 550
MLST a -> 250
MLST d -> 250
MLST -> 250
MLST nowhere -> 550
OPTS MLST size; -> 200 MLST OPTS size;
MLST d/b c -> 250
% MLSD d/e -> size=1; f\r\n
OPTS MLST -> 200 MLST OPTS
% MLSD d/e ->  f\r\n
OPTS MLST nonsense; -> 200 MLST OPTS
OPTS MLST Size;TYPE; -> 200 MLST OPTS type;size;
% MLSD d/e -> type=file;size=1; f\r\n
! MLSD a -> 550
! MLSD nowhere -> 550
MLSD -> 425
[in]
REST -> 501
REST x -> 501
REST -1 -> 501
REST +1 -> 501
REST 1.5 -> 501
REST 99999999999999999999 -> 501
REST 9223372036854775807 -> 350
! RETR a -> 550
% RETR a -> abc
REST 2 -> 350
% RETR a -> c
% RETR a -> abc
REST 3 -> 350
% RETR a -> 
REST 4 -> 350
! RETR a -> 550
% RETR a -> abc
REST 1 -> 350
! RETR nowhere -> 550
% RETR a -> abc
REST 1 -> 350
% NLST d/e -> f\r\n
% RETR a -> abc
REST 1 -> 350
ABOR -> 226
% RETR a -> abc
REST 1 -> 350
STOR x -> 550
% RETR a -> abc
REST 2 -> 350
REST 1 -> 350
TYPE I -> 200
% RETR a -> bc
REST 1 -> 350
XYZZY -> 500
% RETR a -> abc
REST 1 -> 350
raw RETR \xe4\r\n
reply -> 501
% RETR a -> abc
REST 1 -> 350
long
reply -> 500
% RETR a -> abc
"#;

const RFC2428: &str = r#"
[in]
EPRT |1|127.0.0.1|4097| -> 502
EPRT x -> 502
EPSV -> 229
[4] EPSV 1 -> 229
[4] EPSV 2 -> 522
[6] EPSV 2 -> 229
[6] EPSV 1 -> 522
EPSV 3 -> 522
EPSV x -> 522
[4] PASV -> 227
[6] PASV -> 522
EPSV ALL -> 200
[4] PASV -> 503
PORT 127,0,0,1,4,1 -> 502
EPSV -> 229
% RETR a -> abc
[in]
EPSV -> 229
EPSV -> 229
% RETR a -> abc
RETR a -> 425
"#;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Clear,
    Tls,
    Six,
}

struct Run<'a> {
    daemon: &'a Daemon,
    tls: Arc<ClientConfig>,
    way: Way,
    checks: usize,
}

impl Run<'_> {
    fn session(&self, login: bool) -> Client {
        let mut client = Client::greeted(if self.way == Way::Six { self.daemon.v6 } else { self.daemon.v4 });
        if self.way == Way::Tls {
            client.secure(self.tls.clone());
        }
        if login {
            client.login();
        }
        client
    }

    fn holds(&self, only: &str) -> bool {
        match only {
            "4" => self.way != Way::Six,
            "6" => self.way == Way::Six,
            "clear" => self.way != Way::Tls,
            _ => self.way == Way::Tls,
        }
    }

    fn table(&mut self, table: &str) {
        let mut client = None;
        for line in table.lines().filter(|line| !line.is_empty()) {
            match line {
                "[new]" | "[in]" => client = Some(self.session(line == "[in]")),
                "end" => client.as_mut().unwrap().expect_end(),
                "long" => client.as_mut().unwrap().send(&"RETR a".repeat(MAX_LINE)),
                line => self.check(client.as_mut().unwrap(), line),
            }
        }
    }

    fn check(&mut self, client: &mut Client, line: &str) {
        let mut check = line;
        if let Some((only, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            if !self.holds(only) {
                return;
            }
            check = rest;
        }
        if let Some(bytes) = check.strip_prefix("raw ") {
            return client.raw(&unescape(bytes));
        }
        let (command, expected) = check.split_once(" -> ").unwrap();
        self.checks += 1;
        if let Some(command) = command.strip_prefix("% ") {
            let got = client.fetch(command);
            let expected = unescape(expected);
            assert!(expected == b"*" || got == expected, "{line}: {:?}", String::from_utf8_lossy(&got));
            return;
        }
        let reply = if let Some(command) = command.strip_prefix("! ") {
            client.attempt(command)
        } else if command == "reply" {
            client.try_reply().unwrap()
        } else {
            client.send(command);
            client.try_reply().unwrap()
        };
        assert!(reply.starts_with(expected), "{line}: {reply:?}");
    }
}

/// Rust's escapes for bytes, as far as the tables use them.
fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [b'r', after @ ..]) => {
                out.push(b'\r');
                after
            }
            (b'\\', [b'n', after @ ..]) => {
                out.push(b'\n');
                after
            }
            (b'\\', [b'0', after @ ..]) => {
                out.push(0);
                after
            }
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                after
            }
            (byte, after) => {
                out.push(*byte);
                after
            }
        };
    }
    out
}

fn every_row(way: Way, least: usize) {
    let (daemon, der) = ftps::start("max_failed_logins = 9");
    let account = &daemon.stagerd.account;
    for dir in ["d/e", "q\"q"] {
        std::fs::create_dir_all(account.join(dir)).unwrap();
    }
    for (name, text) in [("a", "abc"), ("d/b c", "12345"), ("d/ü", ""), ("d/e/f", "x")] {
        std::fs::write(account.join(name), text).unwrap();
    }
    let mut run = Run { daemon: &daemon, tls: trusting(&der), way, checks: 0 };
    for table in [RFC959_1123, RFC2228_4217, RFC2389_3659_7151, RFC2428] {
        run.table(table);
    }
    assert!(run.checks >= least, "only {} checks", run.checks);
}

#[test]
fn every_row_in_clear() {
    every_row(Way::Clear, 260);
}

#[test]
fn every_row_under_tls() {
    every_row(Way::Tls, 270);
}

#[test]
fn every_row_over_ipv6() {
    every_row(Way::Six, 260);
}

#[test]
fn features_are_what_works() {
    let (daemon, _) = ftps::start("");
    let mut client = Client::greeted(daemon.v4);
    let features = client.ask("FEAT", 211);
    let lines: Vec<_> = features.lines().collect();
    assert_eq!((lines[0], lines[lines.len() - 1]), ("211-Features", "211 End"));
    let inner = &lines[1..lines.len() - 1];
    assert!(inner.iter().all(|line| line.starts_with(' ')), "RFC 2389 section 3.2");
    for feature in [
        "AUTH TLS",
        "PBSZ",
        "PROT",
        "EPSV",
        "REST STREAM",
        "SITE SHA256",
        "SIZE",
        "MDTM",
        "TVFS",
        "UTF8",
        "HOST",
        "CLNT",
    ] {
        assert!(inner.iter().any(|line| line[1..] == *feature), "{feature}: {features}");
    }
    assert!(inner.contains(&" MLST type*;size*;modify*;") && inner.contains(&" LANG EN*"), "{features}");
}

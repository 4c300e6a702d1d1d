use super::*;

const NEW: View = View {
    tls: false,
    tls_offered: true,
    tls_required: false,
    user: false,
    logged_in: false,
    buffer_size: false,
    private: false,
    epsv_only: false,
    ipv6: false,
};
const IN: View = View { user: true, logged_in: true, ..NEW };

fn reply(text: &'static str) -> Action {
    Action::Reply(text)
}

fn check(rows: &[(&str, &str, View, Action)]) {
    for (verb, argument, view, action) in rows {
        assert_eq!(&decide(verb, argument, *view), action, "{verb} {argument} {view:?}");
    }
}

fn code(verb: &str, argument: &str, view: View) -> u16 {
    match decide(verb, argument, view) {
        Action::Reply(text) => text[..3].parse().unwrap(),
        other => panic!("{verb} {argument}: {other:?}"),
    }
}

#[test]
fn before_the_login() {
    check(&[
        ("QUIT", "", NEW, Action::Quit),
        ("NOOP", "x", NEW, reply("200 OK")),
        ("SYST", "", NEW, reply("215 UNIX Type: L8")),
        ("FEAT", "", NEW, Action::Features),
        ("ADAT", "x", NEW, reply("500 Only with mechanisms other than TLS")),
        ("ENC", "x", IN, reply("500 Only with mechanisms other than TLS")),
        ("HELP", "", NEW, Action::Help),
        ("USER", "", NEW, reply("501 Who?")),
        ("USER", "Ada Lovelace", NEW, Action::User("Ada Lovelace".into())),
        ("PASS", "x", NEW, reply("503 USER comes first")),
        ("PASS", "x y", View { user: true, ..NEW }, Action::Password(Some(Secret::new("x y").unwrap()))),
        ("PASS", "", View { user: true, ..NEW }, Action::Password(None)),
        ("HOST", "ftp.example", NEW, reply("220 Ready")),
        ("HOST", "ftp.example", View { user: true, ..NEW }, reply("503 HOST comes before USER")),
        ("LANG", "de", NEW, reply("504 Only English")),
        ("OPTS", "utf8 on", NEW, reply("200 Always in UTF-8")),
        ("XYZZY", "", NEW, reply("500 Unknown command")),
        ("", "", NEW, reply("500 Unknown command")),
    ]);
}

#[test]
fn everything_else_needs_a_login() {
    for verb in ["CWD", "RETR", "STOR", "PASV", "EPSV", "LIST", "SIZE", "STAT", "PORT", "SITE", "DELE", "TYPE", "ABOR"]
    {
        assert_eq!(code(verb, "x", NEW), 530, "{verb}");
        assert_eq!(code(verb, "x", View { user: true, ..NEW }), 530, "{verb}");
    }
}

#[test]
fn security_extensions() {
    let tls = View { tls: true, ..NEW };
    let sized = View { buffer_size: true, ..tls };
    check(&[
        ("AUTH", "tls", NEW, Action::StartTls),
        ("AUTH", "TLS-C", NEW, Action::StartTls),
        ("AUTH", "GSSAPI", NEW, reply("504 TLS only")),
        ("AUTH", "", NEW, reply("501 Which mechanism?")),
        ("AUTH", "TLS", View { tls_offered: false, ..NEW }, reply("502 No TLS here")),
        ("AUTH", "TLS", tls, reply("503 Too late")),
        ("AUTH", "TLS", IN, reply("503 Too late")),
        ("PBSZ", "0", NEW, reply("503 AUTH TLS comes first")),
        ("PBSZ", "0", tls, Action::BufferSize),
        ("PBSZ", "x", tls, reply("501 Not a size")),
        ("PROT", "P", tls, reply("503 PBSZ comes first")),
        ("PROT", "p", sized, Action::Protection(true)),
        ("PROT", "C", sized, Action::Protection(false)),
        ("PROT", "C", View { tls_required: true, ..sized }, reply("534 Data in clear is not allowed")),
        ("PROT", "S", sized, reply("536 Only P and C")),
        ("PROT", "X", sized, reply("504 Only P and C")),
        ("CCC", "", tls, reply("533 The control connection stays private")),
        ("CCC", "", NEW, reply("503 There is no TLS to end")),
    ]);
}

#[test]
fn required_tls_binds_login_and_every_way_to_a_data_connection() {
    let clear = View { tls_required: true, ..NEW };
    assert_eq!(code("USER", "a", clear), 530);
    assert_eq!(code("PASS", "a", View { user: true, ..clear }), 530);
    assert_eq!(decide("USER", "a", View { tls: true, ..clear }), Action::User("a".into()));
    let control_only = View { tls: true, tls_required: true, ..IN };
    for (verb, argument) in [("PASV", ""), ("EPSV", ""), ("EPSV", "1"), ("EPSV", "2")] {
        assert_eq!(code(verb, argument, control_only), 521, "{verb} {argument}");
    }
    assert_eq!(decide("EPSV", "", View { private: true, ..control_only }), Action::Listen(true));
}

#[test]
fn parameters_survive_any_argument() {
    check(&[
        ("TYPE", "I", IN, reply("200 All the same here")),
        ("TYPE", "a n", IN, reply("200 All the same here")),
        ("TYPE", "E", IN, reply("504 Not offered")),
        ("TYPE", "", IN, reply("501 Which?")),
        ("STRU", "F", IN, reply("200 Always so")),
        ("STRU", "R", IN, reply("504 Not offered")),
        ("MODE", "S", IN, reply("200 Always so")),
        ("MODE", "Z", IN, reply("504 Not offered")),
        ("OPTS", "MLST type;size;", IN, Action::ChooseFacts("type;size;".into())),
        ("OPTS", "mlst", IN, Action::ChooseFacts(String::new())),
        ("OPTS", "XYZ", IN, reply("501 No such option")),
        ("PWD", "", IN, Action::WorkingDirectory),
        ("STAT", "", IN, Action::Status),
        ("STAT", "-l a", IN, Action::Ask(Query::Stat, "a".into())),
        ("CDUP", "", IN, Action::Ask(Query::Cwd, "..".into())),
        ("CWD", "", IN, reply("501 Which?")),
        ("SIZE", "", IN, reply("501 Which?")),
        ("MDTM", "", IN, reply("501 Which?")),
        ("RETR", "", IN, reply("501 Which?")),
        ("RETR", " a b ", IN, Action::Retrieve(" a b ".into())),
        ("MLST", "", IN, Action::Ask(Query::Mlst, String::new())),
        ("LIST", "-la", IN, Action::List(Listing::List, String::new())),
        ("NLST", "-a x y", IN, Action::List(Listing::Nlst, "x y".into())),
        ("MLSD", "-a", IN, Action::List(Listing::Mlsd, "-a".into())),
        ("USER", "b", IN, reply("530 Logged in already")),
        ("PASS", "b", IN, reply("503 Logged in already")),
    ]);
}

#[test]
fn offsets() {
    let rows = [("0", Some(0)), ("9223372036854775807", Some(i64::MAX as u64)), ("0007", Some(7))];
    for (argument, offset) in rows {
        assert_eq!(decide("REST", argument, IN), Action::Restart(offset.unwrap()), "{argument}");
    }
    for argument in ["", "-1", "+1", "1.5", "9223372036854775808", "99999999999999999999", "x", " 1", "1 "] {
        assert_eq!(code("REST", argument, IN), 501, "{argument:?}");
    }
}

#[test]
fn restart_lives_until_the_command_it_is_for() {
    for verb in ["PASV", "EPSV", "TYPE", "NOOP", "SIZE"] {
        assert!(keeps_restart(verb), "{verb}");
    }
    for verb in ["RETR", "STOR", "LIST", "CWD", "ABOR", "USER", "XYZZY"] {
        assert!(!keeps_restart(verb), "{verb}");
    }
}

#[test]
fn ports() {
    let six = View { ipv6: true, ..IN };
    check(&[
        ("EPSV", "", IN, Action::Listen(true)),
        ("EPSV", "1", IN, Action::Listen(true)),
        ("EPSV", "2", IN, reply("522 Use (1)")),
        ("EPSV", "3", IN, reply("522 Use (1)")),
        ("EPSV", "2", six, Action::Listen(true)),
        ("EPSV", "1", six, reply("522 Use (2)")),
        ("EPSV", "all", IN, Action::EpsvOnly),
        ("PASV", "", IN, Action::Listen(false)),
        ("PASV", "", six, reply("522 Use EPSV")),
        ("PASV", "", View { epsv_only: true, ..IN }, reply("503 EPSV ALL was sent")),
        ("PORT", "127,0,0,1,0,25", IN, reply("502 Passive mode only")),
        ("EPRT", "|1|127.0.0.1|25|", IN, reply("502 Passive mode only")),
    ]);
}

#[test]
fn nothing_that_writes() {
    for verb in ["STOR", "STOU", "APPE"] {
        assert_eq!(decide(verb, "x", IN), Action::RefuseUpload, "{verb}");
    }
    for verb in ["DELE", "MKD", "XMKD", "RMD", "XRMD", "RNFR", "RNTO", "MFMT", "MFF", "MFCT"] {
        assert_eq!(code(verb, "x", IN), 550, "{verb}");
    }
    let site = ["CHMOD 777 x", "MD5 x", "SHA2567 x", "CPFR /etc/passwd", ""].map(|argument| ("SITE", argument));
    for (verb, argument) in site.into_iter().chain([("REIN", ""), ("SMNT", "x")]) {
        assert_eq!(code(verb, argument, IN), 502, "{verb} {argument}");
    }
    for (argument, name) in [("SHA256 x", "x"), ("sha256  a b ", " a b ")] {
        assert_eq!(decide("SITE", argument, IN), Action::Digest(name.to_owned()), "{argument}");
    }
    assert_eq!((code("SITE", "SHA256", IN), code("SITE", "SHA256 x", NEW)), (501, 530));
}

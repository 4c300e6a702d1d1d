use super::*;
use proptest::prelude::*;
use std::process::Command;

fn site(tls: bool, ca_hint: Option<&str>) -> Download {
    Download { host: "127.0.0.1".into(), port: 2121, tls, require_tls: false, ca_hint: ca_hint.map(str::to_owned) }
}

fn target<'a>(at: &'a Download, path: &'a str) -> Target<'a> {
    Target { at, user: "t1", password: Some("s3cret"), path }
}

/// What a shell makes of the words of a command line.
fn words(line: &str) -> Vec<String> {
    // Each word is printed with a NUL behind it; set -f, since the shell of a customer has no files to match either.
    let script = format!("set -f; set -- {line}; for w; do printf '%s\\0' \"$w\"; done");
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            bytes.extend(hex::decode(&rest[..2]).unwrap());
            rest = &rest[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn urls() {
    let at = site(false, None);
    assert_eq!(target(&at, "/a.iso").url(), "ftp://t1:s3cret@127.0.0.1:2121/a.iso");
    let hostile = Target { at: &at, user: "a@b+c", password: Some("p:/@%"), path: "/p/1.0/a b#?ü;'\".iso" };
    assert_eq!(hostile.url(), "ftp://a%40b%2Bc:p%3A%2F%40%25@127.0.0.1:2121/p/1.0/a%20b%23%3F%C3%BC%3B%27%22.iso");
    let six = Download { host: "2001:db8::1".into(), port: 21, tls: false, require_tls: false, ca_hint: None };
    assert_eq!(Target { at: &six, user: "u", password: None, path: "/x" }.url(), "ftp://u@[2001:db8::1]/x");
}

#[test]
fn commands_in_full() {
    let clear = site(false, Some("unused.pem"));
    assert_eq!(
        target(&clear, "/a.iso").curl(),
        "curl --fail --globoff --continue-at - --user t1:s3cret --output a.iso ftp://127.0.0.1:2121/a.iso"
    );
    assert_eq!(target(&clear, "/a.iso").lftp(), "lftp -u t1,s3cret -e 'get -c \"/a.iso\"; bye' ftp://127.0.0.1:2121");
    let tls = site(true, Some("the ca.pem"));
    assert_eq!(
        target(&tls, "/-a b.iso").curl(),
        "curl --fail --globoff --continue-at - --ssl-reqd --cacert 'the ca.pem' --user t1:s3cret --output './-a b.iso' \
         ftp://127.0.0.1:2121/-a%20b.iso"
    );
    assert_eq!(
        target(&tls, "/-a b.iso").lftp(),
        "lftp -u t1,s3cret -e 'set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set ssl:ca-file \"the ca.pem\"; \
         get -c \"/-a b.iso\"; bye' ftp://127.0.0.1:2121"
    );
    let own = Target { at: &clear, user: "alice", password: None, path: "/p/1/a" };
    assert!(own.curl().contains(" --user alice --output a "));
    assert!(own.lftp().starts_with("lftp -u alice -e "));
}

/// The commands with names that hold what shells, lftp and HTML make something of.
#[test]
fn a_shell_gives_back_the_names() {
    let at = site(false, None);
    for name in
        ["a b", "it's", "\"q\"", "$HOME", "`id`", "a\\b", "*", "!x", "-", "-rf", "grüße 世界.iso", "#1", "~", "a;b&c|d"]
    {
        let path = format!("/{name}");
        let curl = words(&target(&at, &path).curl());
        let output = curl.iter().position(|w| w == "--output").unwrap();
        let expected = if name.starts_with('-') { format!("./{name}") } else { name.to_owned() };
        assert_eq!(curl[output + 1], expected);
        assert_eq!(decode(curl[output + 2].strip_prefix("ftp://127.0.0.1:2121").unwrap()), path);
        assert_eq!(curl.len(), output + 3);

        let lftp = words(&target(&at, &path).lftp());
        assert_eq!(lftp.len(), 6);
        let quoted = lftp[4].strip_prefix("get -c ").unwrap().strip_suffix("; bye").unwrap();
        assert_eq!(quoted, lftp_word(&path));
    }
    assert_eq!(lftp_word(r#"a"b\c"#), r#""a\"b\\c""#);
}

/// The line is run as it stands, by a real shell and the real sha256sum.
#[test]
fn the_checking_line_checks() {
    let dir = tempfile::tempdir().unwrap();
    let content = b"some bytes";
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(content));
    for name in ["plain", "two  spaces ", "it's", "-", "-c", "a\\nb", "grüße", "*x", " lead"] {
        std::fs::write(dir.path().join(name), content).unwrap();
        let run = |line: &str| Command::new("sh").arg("-c").arg(line).current_dir(dir.path()).output().unwrap();
        let good = run(&sha256sum(&sha256, name));
        assert!(good.status.success(), "{name}: {good:?}");
        let bad = run(&sha256sum(&sha256.replace(|c: char| c.is_ascii_digit(), "f"), name));
        assert!(!bad.status.success(), "{name}: {bad:?}");
    }
}

#[test]
fn sizes() {
    for (bytes, shown) in [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1_048_524, "1023.9 KiB"),
        (1_048_575, "1.0 MiB"),
        (2 << 30, "2.0 GiB"),
        (u64::MAX, "16.0 EiB"),
    ] {
        assert_eq!(human_size(bytes), shown, "{bytes}");
    }
}

proptest! {
    #[test]
    fn encoding_is_reversible_and_plain(text in "\\PC{0,40}") {
        let encoded = encode(&text, false);
        prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
        prop_assert_eq!(decode(&encoded), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_shell_undoes_the_quoting(text in "\\PC{0,40}") {
        prop_assert_eq!(words(&shell(&text)), vec![text]);
    }
}

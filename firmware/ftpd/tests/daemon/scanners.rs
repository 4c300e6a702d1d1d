//! What scanners say of it: nmap's scripts for ftp, and testssl.sh, both from Debian.

use crate::client::Client;
use crate::ftps;
use std::process::Command;

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("TERM", "dumb").output();
    let output =
        output.unwrap_or_else(|error| panic!("{program}: {error}; apt-get install nmap testssl.sh bsdextrautils"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "long: needs nmap"]
fn ftp_nmap_finds_nothing() {
    let (daemon, _) = ftps::start("max_failed_logins = 9");
    let port = daemon.v4.port().to_string();
    let scripts =
        "ftp-anon,ftp-bounce,ftp-libopie,ftp-proftpd-backdoor,ftp-syst,ftp-vsftpd-backdoor,ftp-vuln-cve2010-4221";
    let found = output("nmap", &["-Pn", "-n", "-p", &port, "-sV", "--script", scripts, "127.0.0.1"]);
    assert!(found.contains("/tcp open"), "{found}");
    for bad in ["VULNERABLE", "Anonymous FTP login allowed", "bounce working", "backdoor"] {
        assert!(!found.contains(bad), "{bad}: {found}");
    }
    Client::logged_in(daemon.v4).ask("NOOP", 200);
}

#[test]
#[ignore = "long: needs testssl.sh, and takes minutes"]
fn ftp_testssl_finds_nothing() {
    let (daemon, _) = ftps::start("max_per_address = 1000");
    let report = daemon.dir.path().join("report.csv");
    let target = format!("127.0.0.1:{}", daemon.v4.port());
    let said = output(
        "testssl",
        &[
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "off",
            "--starttls",
            "ftp",
            "--csvfile",
            report.to_str().unwrap(),
            "-p",
            "-s",
            "-f",
            "-U",
            &target,
        ],
    );
    let report = std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {said}"));
    // "id","fqdn/ip","port","severity","finding","cve","cwe"
    let worse =
        |line: &&str| ["MEDIUM", "HIGH", "CRITICAL", "FATAL"].iter().any(|s| line.contains(&format!("\",\"{s}\",\"")));
    let found: Vec<&str> = report.lines().filter(worse).collect();
    assert!(report.contains("TLS1_3") && report.contains("heartbleed"), "{report}");
    assert_eq!(found, [""; 0], "{report}");
}

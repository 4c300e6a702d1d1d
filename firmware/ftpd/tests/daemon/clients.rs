//! The clients that customers have: each lists, fetches, resumes in the middle, fetches a name with spaces and letters beyond ASCII,
//! and a hundred small files; in clear, under TLS and over IPv6 where it can. All bytes are compared.
//!
//! Each client is a script for bash. It finds `$HOST`, `$PORT`, `$FTP_USER`, `$PASS`, `$TLS` (`yes` or empty) and `$SIX` (`-6` or
//! empty), works in a directory of its own, and leaves there `list`, `whole`, `spaced`, `resumed` (half of which is there already)
//! and the hundred in `many`.

use crate::daemon::{Daemon, public_dir};
use crate::ftps;
use crate::stagerd::{PASSWORD, USER};
use std::path::Path;
use std::process::Command;

const SPACED: &str = "Straße nach Zürich.bin";
const BIG: usize = 3_000_001;
const FILES: usize = 100;

struct Foreign {
    name: &'static str,
    tls: bool,
    six: bool,
    script: &'static str,
}

/// Where a script finds everything in its account.
const CLIENTS: &[Foreign] = &[
    Foreign {
        name: "curl",
        tls: true,
        six: true,
        script: r#"
            get() { curl -sS --globoff --max-time 60 -k ${TLS:+--ssl-reqd} -u "$FTP_USER:$PASS" "$@"; }
            at="ftp://$HOST:$PORT"
            get -l "$at/" > list
            get -o whole "$at/big"
            get -o spaced "$at/Stra%C3%9Fe%20nach%20Z%C3%BCrich.bin"
            get -C - -o resumed "$at/big"
            mkdir many
            urls=(); for i in $(seq -w 0 99); do urls+=(-o "many/f 0$i" "$at/many/f%200$i"); done
            get "${urls[@]}"
        "#,
    },
    Foreign {
        name: "wget",
        tls: false,
        six: true,
        script: r#"
            get() { wget -q --tries=1 --timeout=60 --user="$FTP_USER" --password="$PASS" "$@"; }
            at="ftp://$HOST:$PORT"
            get --no-remove-listing -O - "$at/" > list
            get -O whole "$at/big"
            get -O spaced "$at/Stra%C3%9Fe%20nach%20Z%C3%BCrich.bin"
            mkdir r; mv resumed r/big; (cd r; get -c "$at/big"); mv r/big resumed
            get -r -nH "$at/many/"
            rm -f many/.listing
        "#,
    },
    Foreign {
        name: "lftp",
        tls: true,
        six: true,
        script: r#"
            lftp -c "
                set net:max-retries 2; set net:timeout 60; set ssl:verify-certificate no; set xfer:clobber on
                set ftp:ssl-allow ${TLS:-no}; set ftp:ssl-force ${TLS:-no}; set ftp:ssl-protect-data ${TLS:-no}
                open -u $FTP_USER,'$PASS' -p $PORT $HOST
                cls > list
                pget -n 8 big -o whole
                get 'Straße nach Zürich.bin' -o spaced
                get -c big -o resumed
                mirror many many"
        "#,
    },
    Foreign {
        name: "ncftp",
        tls: false,
        six: false,
        script: r#"
            with=(-u "$FTP_USER" -p "$PASS" -P "$PORT" -t 60 -V)
            ncftpls -u "$FTP_USER" -p "$PASS" -P "$PORT" "ftp://$HOST/" > list
            mkdir w s r
            ncftpget "${with[@]}" "$HOST" w big && mv w/big whole
            ncftpget "${with[@]}" "$HOST" s "Straße nach Zürich.bin" && mv s/* spaced
            mv resumed r/big; ncftpget "${with[@]}" "$HOST" r big; mv r/big resumed
            ncftpget "${with[@]}" -R "$HOST" . many
        "#,
    },
    Foreign {
        name: "tnftp",
        tls: false,
        six: true,
        script: r#"
            mkdir many; mv resumed r
            # Patterns such as `mget *` are not offered.
            {
                printf '%s\n' "user $FTP_USER \"$PASS\"" binary "nlist . list" "get big whole" \
                    "get \"Straße nach Zürich.bin\" spaced" "reget big r"
                for i in $(seq -w 0 99); do printf 'get "many/f 0%s" "many/f 0%s"\n' "$i" "$i"; done
                echo quit
            } | tnftp -n -i "$HOST" "$PORT" > log 2>&1 || { cat log; false; }
            mv r resumed
        "#,
    },
    Foreign {
        name: "inetutils-ftp",
        tls: false,
        six: true,
        script: r#"
            mkdir many; mv resumed r
            # Patterns such as `mget *` are not offered.
            {
                printf '%s\n' "user $FTP_USER \"$PASS\"" binary "nlist . list" "get big whole" \
                    "get \"Straße nach Zürich.bin\" spaced" "reget big r"
                for i in $(seq -w 0 99); do printf 'get "many/f 0%s" "many/f 0%s"\n' "$i" "$i"; done
                echo quit
            } | inetutils-ftp -n -i -p "$HOST" "$PORT" > log 2>&1 || { cat log; false; }
            mv r resumed
        "#,
    },
    Foreign {
        name: "aria2c",
        tls: false,
        six: false,
        script: r#"
            get() { aria2c -q --ftp-user="$FTP_USER" --ftp-passwd="$PASS" -x 8 -s 8 -k 1M --timeout=60 --max-tries=2 "$@"; }
            at="ftp://$HOST:$PORT"
            printf 'big\n' > list   # it lists nothing
            get -o whole "$at/big"
            get -o spaced "$at/Stra%C3%9Fe%20nach%20Z%C3%BCrich.bin"
            get -c -o resumed "$at/big"
            for i in $(seq -w 0 99); do printf '%s/many/f%%200%s\n  out=f 0%s\n' "$at" "$i" "$i"; done > urls
            # It overlooks a 226 that comes in one segment with the 150, and then waits for its own timeout.
            get --timeout=2 -d many -j 8 -i urls
        "#,
    },
    Foreign {
        name: "ftplib",
        tls: true,
        six: true,
        script: r#"
            python3 - <<'END'
import ftplib, os, ssl
tls = os.environ["TLS"]
ftp = ftplib.FTP_TLS(context=ssl._create_unverified_context()) if tls else ftplib.FTP()
ftp.connect(os.environ["HOST"].strip("[]"), int(os.environ["PORT"]), timeout=60)
ftp.login(os.environ["FTP_USER"], os.environ["PASS"])
if tls: ftp.prot_p()
open("list", "w").write("\n".join(name for name, facts in ftp.mlsd() if facts["type"] in ("file", "dir")))
assert ftp.size("big") == 3000001
def get(name, to, rest=None):
    with open(to, "ab" if rest else "wb") as f: ftp.retrbinary("RETR " + name, f.write, rest=rest)
get("big", "whole")
get("Straße nach Zürich.bin", "spaced")
get("big", "resumed", os.path.getsize("resumed"))
os.mkdir("many")
ftp.cwd("many")
for name in ftp.nlst(): get(name, "many/" + name)
ftp.quit()
END
        "#,
    },
    Foreign {
        name: "aioftp",
        tls: true,
        six: true,
        script: r#"
            python3 - <<'END'
import aioftp, asyncio, os, ssl, pathlib
async def main():
    client = aioftp.Client(socket_timeout=60)
    await client.connect(os.environ["HOST"].strip("[]"), int(os.environ["PORT"]))
    if os.environ["TLS"]: await client.upgrade_to_tls(ssl._create_unverified_context())
    await client.login(os.environ["FTP_USER"], os.environ["PASS"])
    open("list", "w").write("\n".join(str(path) for path, info in await client.list("/")))
    async def get(name, to, offset=0):
        async with client.download_stream(name, offset=offset) as stream:
            with open(to, "ab" if offset else "wb") as f:
                async for block in stream.iter_by_block(): f.write(block)
    await get("big", "whole")
    await get("Straße nach Zürich.bin", "spaced")
    await get("big", "resumed", os.path.getsize("resumed"))
    os.mkdir("many")
    for path, info in await client.list("many"): await get(path, "many/" + pathlib.Path(path).name)
    await client.quit()
asyncio.run(main())
END
        "#,
    },
    Foreign {
        name: "basic-ftp",
        tls: true,
        six: true,
        script: r#"
            node - <<'END'
const ftp = require("basic-ftp"), fs = require("fs"), env = process.env;
(async () => {
    const client = new ftp.Client(60000);
    await client.access({ host: env.HOST.replace(/[\[\]]/g, ""), port: +env.PORT, user: env.FTP_USER, password: env.PASS,
        secure: !!env.TLS, secureOptions: { rejectUnauthorized: false } });
    fs.writeFileSync("list", (await client.list()).map(entry => entry.name).join("\n"));
    await client.downloadTo("whole", "big");
    await client.downloadTo("spaced", "Straße nach Zürich.bin");
    await client.downloadTo("resumed", "big", fs.statSync("resumed").size);
    await client.downloadToDir("many", "many");
    client.close();
})().catch(error => { console.error(error); process.exit(1); });
END
        "#,
    },
];

struct Account {
    daemon: Daemon,
    big: Vec<u8>,
    spaced: Vec<u8>,
    many: Vec<Vec<u8>>,
}

fn account() -> Account {
    let (daemon, _) = ftps::start("");
    let big = daemon.stagerd.put("big", BIG);
    let spaced = daemon.stagerd.put(SPACED, 70_001);
    let many = (0..FILES).map(|number| daemon.stagerd.put(&format!("many/f {number:03}"), number * 37)).collect();
    Account { daemon, big, spaced, many }
}

fn run(client: &Foreign, account: &Account, tls: bool, six: bool) {
    let way = format!("{}{}{}", client.name, if tls { ", TLS" } else { "" }, if six { ", IPv6" } else { "" });
    let dir = public_dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("resumed"), &account.big[..BIG / 2]).unwrap();
    let address = if six { account.daemon.v6 } else { account.daemon.v4 };
    let host = if six { "[::1]" } else { "127.0.0.1" };
    // Those that are no URLs take it without brackets.
    let host = if six && ["tnftp", "inetutils-ftp", "lftp"].contains(&client.name) { "::1" } else { host };
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", client.script])
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .env("LC_ALL", "C.UTF-8")
        .envs([("HOST", host), ("FTP_USER", USER), ("PASS", PASSWORD)])
        .env("PORT", address.port().to_string())
        .env("TLS", if tls { "yes" } else { "" })
        .env_remove("ftp_proxy")
        .env_remove("all_proxy")
        .output()
        .unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{way}: {}\n{}", output.status, String::from_utf8_lossy(&said));
    let list = String::from_utf8_lossy(&std::fs::read(at("list")).unwrap()).into_owned();
    assert!(list.contains("big"), "{way}: {list}");
    let same = |path: &Path, bytes: &[u8]| {
        let got = std::fs::read(path).unwrap_or_else(|e| panic!("{way}: {}: {e}", path.display()));
        assert!(got == bytes, "{way}: {} has {} bytes, not {}", path.display(), got.len(), bytes.len());
    };
    same(&at("whole"), &account.big);
    same(&at("spaced"), &account.spaced);
    same(&at("resumed"), &account.big);
    for (number, bytes) in account.many.iter().enumerate() {
        same(&at(&format!("many/f {number:03}")), bytes);
    }
}

fn all_ways(client: &Foreign, account: &Account) {
    run(client, account, false, false);
    if client.tls {
        run(client, account, true, false);
    }
    if client.six {
        run(client, account, false, true);
    }
}

#[test]
fn curl_as_customers_have_it() {
    all_ways(&CLIENTS[0], &account());
}

/// Gets what is not there: Debian's packages, and those of PyPI and npm.
fn install() {
    let there = |program: &str| Command::new("which").arg(program).output().is_ok_and(|o| o.status.success());
    let works = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|o| o.status.success())
    };
    let packages: Vec<&str> = [
        ("curl", "curl"),
        ("wget", "wget"),
        ("lftp", "lftp"),
        ("ncftpget", "ncftp"),
        ("tnftp", "tnftp"),
        ("inetutils-ftp", "inetutils-ftp"),
        ("aria2c", "aria2"),
        ("python3", "python3-pip"),
        ("npm", "npm"),
    ]
    .into_iter()
    .filter_map(|(program, package)| (!there(program)).then_some(package))
    .collect();
    let need = |works: bool, what: &str| assert!(works, "{what} cannot be installed");
    if !packages.is_empty() {
        let options = ["install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
        need(works("apt-get", &[&options[..], &packages].concat()), "a Debian package");
    }
    if !works("python3", &["-c", "import aioftp"]) {
        need(works("python3", &["-m", "pip", "install", "--break-system-packages", "aioftp"]), "aioftp");
    }
    if !works("node", &["-e", "require('basic-ftp')"]) {
        need(works("npm", &["install", "--global", "basic-ftp"]), "basic-ftp");
    }
}

#[test]
#[ignore = "long: installs ten clients where they are missing, and runs each of them"]
fn ftp_foreign_clients() {
    install();
    let modules = Command::new("npm").args(["root", "--global"]).output().unwrap().stdout;
    // The scripts inherit it.
    let modules = String::from_utf8(modules).unwrap().trim().to_owned();
    let account = account();
    for client in CLIENTS {
        let script = format!("export NODE_PATH={modules}\n{}", client.script);
        all_ways(&Foreign { script: Box::leak(script.into_boxed_str()), ..*client }, &account);
        println!("{}", client.name);
    }
}

/// What FileZilla does, with what OpenSSL has for it: each data connection offers what the control connection was given last, and is
/// refused by the client if that is not taken.
const ONE_SESSION: &str = r#"
import ftplib, os, ssl
class One(ftplib.FTP_TLS):
    def ntransfercmd(self, cmd, rest=None):
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        conn = self.context.wrap_socket(conn, server_hostname=self.host, session=self.sock.session)
        assert conn.session_reused, "a full handshake"
        return conn, size
ftp = One(context=ssl._create_unverified_context())
ftp.connect("127.0.0.1", int(os.environ["PORT"]), timeout=60)
ftp.login(os.environ["FTP_USER"], os.environ["PASS"])
ftp.prot_p()
assert ftp.sock.version() == "TLSv1.3"
for _ in range(300): assert ftp.nlst() == ["a"]
ftp.quit()
"#;

#[test]
#[ignore = "long: needs python3"]
fn ftp_one_ticket_for_all_data_connections() {
    let (daemon, _) = ftps::start("require_data_resumption = true");
    daemon.stagerd.put("a", 3);
    let output = Command::new("python3")
        .args(["-c", ONE_SESSION])
        .env("PORT", daemon.v4.port().to_string())
        .envs([("FTP_USER", USER), ("PASS", PASSWORD)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

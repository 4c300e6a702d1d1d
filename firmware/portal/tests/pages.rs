//! What customers see.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{PASSWORD, SECRET, TOKEN, World, item, name, request, world};
use tobj::{Fault, LeaseKind, Request};

/// A file name that means something to HTML, URLs, shells and lftp.
const HOSTILE: &str = r#"<img src=x onerror=alert(1)> "q" 'it' & $(id) a;b #1 %41 grüße.iso"#;

async fn shop() -> World {
    world(vec![item("maps", "1.0", "europe.iso", 3 << 30), item("maps", "2.0", HOSTILE, 17)]).await
}

fn login_of(world: &World) -> (String, String, String) {
    let asked = world.machines.asked.lock().unwrap();
    let Request::Login { customer, password, address } = request(&asked.last().unwrap().1) else { panic!("{asked:?}") };
    (customer.to_string(), password.expose().to_owned(), address.to_string())
}

#[tokio::test]
async fn login_and_list() {
    let mut world = shop().await;
    let page = world.browser.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(
        (page.attribute("user", "name"), page.attribute("password", "name")),
        ("user".into(), "password".into())
    );
    assert_eq!(
        (page.attribute("login", "method"), page.attribute("login", "action")),
        ("post".into(), "/login".into())
    );

    let page = world.browser.login().await;
    assert_eq!((page.status, page.header("location")), (303, Some("/downloads")));
    assert_eq!(
        page.header("set-cookie"),
        Some(format!("__Host-session={TOKEN}:alice; Path=/; Secure; HttpOnly; SameSite=Lax").as_str())
    );
    assert_eq!(login_of(&world), ("alice".into(), PASSWORD.into(), "127.0.0.1".into()));
    assert_eq!(world.browser.get("/").await.header("location"), Some("/downloads"));

    let page = world.browser.get("/downloads").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.text("customer"), "alice");
    for shown in
        ["<td>maps</td><td>1.0</td><td class=\"file\">europe.iso</td>", "3.0 GiB", "17 bytes", &"ab".repeat(32)]
    {
        assert!(page.body.contains(shown), "{shown} in {}", page.body);
    }
    assert!(!page.body.contains("<img") && page.body.contains("&lt;img src=x onerror=alert(1)&gt; &quot;q&quot;"));
    assert_eq!((page.hidden("product"), page.hidden("version")), ("maps".into(), "1.0".into()));
    assert!(!page.body.contains(TOKEN), "the token is in the cookie only");
}

#[tokio::test]
async fn logins_that_fail() {
    let world = shop().await;
    let page = world.browser.post("/login", &[("user", "alice"), ("password", "wrong")]).await;
    assert_eq!(page.status, 401);
    assert_eq!(page.text("message"), "The name or the password is wrong.");
    assert_eq!((page.attribute("login", "action"), page.header("set-cookie")), ("/login".into(), None));
    let other = world.browser.post("/login", &[("user", "nobody"), ("password", PASSWORD)]).await;
    assert_eq!((other.status, &other.body), (401, &page.body), "unknown and wrong look alike");

    // What cannot be a name or a password is not asked for at all.
    let asked = world.machines.tags().len();
    for (user, password) in [("", "x"), ("alice", ""), ("a\nb", "x"), ("alice", "x\0"), (&"x".repeat(4097), "x")] {
        let page = world.browser.post("/login", &[("user", user), ("password", password)]).await;
        assert_eq!(page.status, 401, "{user:?} {password:?}");
    }
    assert_eq!(world.machines.tags().len(), asked);
    assert_eq!(world.browser.post("/login", &[("user", "alice")]).await.status, 400);

    for (fault, status) in
        [(Fault::Busy, 429), (Fault::Unavailable, 503), (Fault::NotFound, 401), (Fault::Expired, 500)]
    {
        world.fail("LOGIN", fault);
        let page = world.browser.post("/login", &[("user", "alice"), ("password", PASSWORD)]).await;
        assert_eq!((page.status, page.header("set-cookie")), (status, None), "{fault}");
        assert_eq!(page.header("retry-after").is_some(), matches!(status, 429 | 503), "{fault}");
    }
    assert!(world.machines.tags().iter().all(|t| t == "database LOGIN"));
}

#[tokio::test]
async fn without_commlinkd() {
    let mut world = shop().await;
    world.browser.login().await;
    std::fs::remove_file(world.site.path("commlink")).unwrap();
    assert_eq!(world.browser.post("/login", &[("user", "alice"), ("password", PASSWORD)]).await.status, 503);
    let page = world.browser.get("/downloads").await;
    assert_eq!(page.status, 503);
    assert!(page.text("message").contains("cannot be reached"));
    assert_eq!(world.browser.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn staging() {
    let mut world = shop().await;
    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    world.machines.asked.lock().unwrap().clear();
    let page = world.browser.post("/stage", &[("csrf", &csrf), ("product", "maps"), ("version", "1.0")]).await;
    assert_eq!(page.status, 200, "{page:?}");
    for (id, text) in [
        ("ftp-user", "t-0101"),
        ("ftp-password", SECRET),
        ("ftp-host", "127.0.0.1"),
        ("ftp-port", "2121"),
        ("sha256", &"ab".repeat(32)),
        ("size", "3221225472"),
        ("lease", &"01".repeat(16)),
        ("file", "europe.iso"),
        ("account-path", "/maps/1.0/europe.iso"),
        ("ca", "site ca.pem"),
    ] {
        assert_eq!(page.text(id), text, "{id}");
    }
    assert_eq!(page.attribute("ftp-link", "href"), format!("ftp://t-0101:{SECRET}@127.0.0.1:2121/europe.iso"));
    assert!(page.body.contains("<time datetime=\"2026-11-24T04:05:00Z\">2026-11-24 04:05:00 UTC</time>"));
    assert_eq!(
        page.text("curl"),
        format!(
            "curl --fail --globoff --continue-at - --ssl-reqd --cacert 'site ca.pem' --user t-0101:{SECRET} \
             --output europe.iso ftp://127.0.0.1:2121/europe.iso"
        )
    );
    assert!(page.text("lftp").contains("get -c \"/europe.iso\"; bye"));
    assert!(page.text("sha256sum").contains(&format!("'{}  europe.iso'", "ab".repeat(32))));
    assert!(page.text("account-curl").contains("--user alice --output europe.iso"));
    assert_eq!(page.header("cache-control"), Some("no-store"));

    let mut tags = world.machines.tags();
    tags.sort();
    assert_eq!(tags, ["database GRANT", "database GRANT", "download STAGE", "download STAGE"]);
    let asked = world.machines.asked.lock().unwrap();
    let mut kinds: Vec<_> = asked
        .iter()
        .filter_map(|(_, m)| match request(m) {
            Request::Grant { session, product, version, kind } => {
                assert_eq!((session.expose(), product, version), (TOKEN, &name("maps"), &name("1.0")));
                Some(*kind)
            }
            _ => None,
        })
        .collect();
    kinds.sort();
    assert_eq!(kinds, [LeaseKind::Standing, LeaseKind::OneTime]);
}

#[tokio::test]
async fn hostile_names_stay_names() {
    let mut world = shop().await;
    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    let page = world.browser.post("/stage", &[("csrf", &csrf), ("product", "maps"), ("version", "2.0")]).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert!(!page.body.contains("<img"));
    assert_eq!(page.text("file"), HOSTILE);
    assert_eq!(page.text("account-path"), format!("/maps/2.0/{HOSTILE}"));
    let link = page.attribute("ftp-link", "href");
    assert!(link.ends_with("/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%20%22q%22%20%27it%27%20%26%20%24%28id%29%20a%3Bb%20%231%20%2541%20gr%C3%BC%C3%9Fe.iso"), "{link}");
    // A shell makes one argument of it, and runs nothing.
    let line = page.text("curl").replacen("curl ", "printf '%s\\n' ", 1);
    let output = std::process::Command::new("sh").arg("-c").arg(line).output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(words.lines().any(|word| word == HOSTILE), "{words}");
}

#[tokio::test]
async fn staging_that_is_refused() {
    let mut world = shop().await;
    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    for (product, version) in [("maps", "3.0"), ("films", "1.0"), ("../maps", "1.0"), ("", "")] {
        let page = world.browser.post("/stage", &[("csrf", &csrf), ("product", product), ("version", version)]).await;
        assert_eq!(page.status, 403, "{product} {version}");
        assert!(page.text("message").starts_with("There is no such download"));
        assert!(product.is_empty() || !page.body.contains(&format!(">{product}<")));
    }
    assert!(world.machines.tags().iter().all(|tag| tag != "download STAGE"), "nothing was staged");
    let choice = [("csrf", csrf.as_str()), ("product", "maps"), ("version", "1.0")];
    for (tag, fault, status) in [
        ("STAGE", Fault::NotFound, 503),
        ("STAGE", Fault::Denied, 500),
        ("STAGE", Fault::Expired, 500),
        ("STAGE", Fault::Unavailable, 503),
        ("GRANT", Fault::Busy, 503),
        ("GRANT", Fault::Denied, 403),
        ("GRANT", Fault::Expired, 401),
    ] {
        world.fail(tag, fault);
        assert_eq!(world.browser.post("/stage", &choice).await.status, status, "{tag} {fault}");
    }
}

#[tokio::test]
async fn a_stage_order_is_repeated_once_with_its_id() {
    let mut world = shop().await;
    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    let choice = [("csrf", csrf.as_str()), ("product", "maps"), ("version", "1.0")];
    let orders = || {
        let mut times = std::collections::BTreeMap::new();
        for (to, message) in world.machines.asked.lock().unwrap().drain(..) {
            if to == "download" {
                *times.entry(message.id).or_insert(0) += 1;
            }
        }
        times.into_values().collect::<Vec<_>>()
    };
    world.machines.script.lock().unwrap().breaks_first_stage = true;
    assert_eq!(world.browser.post("/stage", &choice).await.status, 200);
    assert_eq!(orders(), [2, 2], "two orders, each of them twice");
    world.fail("STAGE", Fault::Unavailable);
    assert_eq!(world.browser.post("/stage", &choice).await.status, 503);
    assert_eq!(orders(), [2, 2], "and not more often than that");
}

#[tokio::test]
async fn leases_that_disagree_are_not_shown() {
    let mut world = shop().await;
    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    world.machines.script.lock().unwrap().standing_sha256 = Some([1; 32]);
    let page = world.browser.post("/stage", &[("csrf", &csrf), ("product", "maps"), ("version", "1.0")]).await;
    assert_eq!(page.status, 500);
    assert!(!page.body.contains(SECRET));
}

#[tokio::test]
async fn forms_of_others_do_nothing() {
    let mut world = shop().await;
    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    let asked = world.machines.tags().len();
    for fields in [
        &[("product", "maps"), ("version", "1.0")][..],
        &[("csrf", ""), ("product", "maps"), ("version", "1.0")],
        &[("csrf", &csrf[2..]), ("product", "maps"), ("version", "1.0")],
        &[("csrf", &"00".repeat(32)), ("product", "maps"), ("version", "1.0")],
    ] {
        let page = world.browser.post("/stage", fields).await;
        assert_eq!(page.status, 403, "{fields:?}");
        assert!(page.text("message").contains("Nothing was done"));
        assert_eq!(world.browser.post("/logout", fields).await.status, 403);
    }
    let good = common::form(&[("csrf", &csrf), ("product", "maps"), ("version", "1.0")]);
    for header in ["Origin: https://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        assert_eq!(world.browser.send("POST", "/stage", header, &good).await.status, 403, "{header}");
        let login = common::form(&[("user", "alice"), ("password", PASSWORD)]);
        assert_eq!(world.browser.send("POST", "/login", header, &login).await.status, 403, "{header}");
    }
    assert_eq!(world.machines.tags().len(), asked, "nobody was asked anything");
    let same = "Origin: https://localhost\r\nSec-Fetch-Site: same-origin\r\n";
    assert_eq!(world.browser.send("POST", "/stage", same, &good).await.status, 200);
}

#[tokio::test]
async fn sessions_end() {
    let mut world = shop().await;
    let choice = [("product", "maps"), ("version", "1.0")];
    let page = world.browser.get("/downloads").await;
    assert_eq!((page.status, page.header("location")), (303, Some("/")), "without a session");
    assert_eq!(world.browser.post("/stage", &choice).await.header("location"), Some("/"));

    world.browser.cookie = Some("__Host-session=0123456789abcdef0123456789abcdef:alice".into());
    let page = world.browser.get("/downloads").await;
    assert_eq!(page.status, 401, "with one that the database does not know");
    assert_eq!(page.text("message"), "Your session has ended. Please log in again.");
    assert_eq!(page.attribute("login", "action"), "/login");
    assert!(page.header("set-cookie").unwrap().ends_with("Max-Age=0"));

    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    let page = world.browser.post("/logout", &[("csrf", &csrf)]).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/")));
    assert!(page.header("set-cookie").unwrap().ends_with("Max-Age=0"));
    let asked = world.machines.asked.lock().unwrap();
    assert!(matches!(request(&asked.last().unwrap().1), Request::Logout { session } if session.expose() == TOKEN));
}

#[tokio::test]
async fn long_lists_have_pages() {
    let items = (0..401).map(|n| item("maps", &format!("v{n:03}"), "x", 1)).collect();
    let mut world = world(items).await;
    world.browser.login().await;
    let links = |body: &str, rel: &str| {
        body.split(&format!("rel=\"{rel}\" href=\"")).nth(1).map(|l| l.split('"').next().unwrap().to_owned())
    };
    let mut path = Some("/downloads".to_owned());
    let mut seen = Vec::new();
    while let Some(at) = path {
        let page = world.browser.get(&at).await;
        assert_eq!(page.status, 200);
        seen.push((at, page.body.matches("action=\"/stage\"").count(), links(&page.body, "prev")));
        path = links(&page.body, "next");
    }
    assert_eq!(
        seen,
        [
            ("/downloads".into(), 200, None),
            ("/downloads?offset=200".into(), 200, Some("/downloads?offset=0".into())),
            ("/downloads?offset=400".into(), 1, Some("/downloads?offset=200".into())),
        ]
    );
    assert_eq!(world.browser.get("/downloads?offset=-1").await.status, 400);
}

#[tokio::test]
async fn scripts_get_json() {
    let mut world = shop().await;
    world.browser.json = true;
    let refused = world.browser.post("/login", &[("user", "alice"), ("password", "wrong")]).await;
    assert_eq!((refused.status, &refused.json()["error"]), (401, &"wrong-login".into()));
    let page = world.browser.get("/downloads").await;
    assert_eq!((page.status, &page.json()["error"]), (401, &"not-signed-in".into()));

    let page = world.browser.login().await;
    assert_eq!((page.status, &page.json()["customer"]), (200, &"alice".into()));
    let csrf = page.json()["csrf"].as_str().unwrap().to_owned();
    let list = world.browser.get("/downloads").await.json();
    assert_eq!(
        (&list["csrf"], &list["next"], &list["items"][1]["file"]),
        (&csrf.clone().into(), &().into(), &HOSTILE.into())
    );
    assert_eq!((&list["items"][0]["size"], &list["items"][0]["until"]), (&(3u64 << 30).into(), &().into()));

    let choice = [("product", "maps"), ("version", "2.0")];
    assert_eq!(world.browser.post("/stage", &choice).await.json()["error"], "foreign-form");
    let staged = world.browser.post("/stage", &[("csrf", csrf.as_str()), choice[0], choice[1]]).await.json();
    for (key, value) in [
        ("file", HOSTILE.into()),
        ("size", 17.into()),
        ("user", "t-0101".into()),
        ("password", SECRET.into()),
        ("port", 2121.into()),
        ("tls", true.into()),
        ("expires", "2026-11-24T04:05:00Z".into()),
        ("lease", "01".repeat(16).into()),
    ] {
        assert_eq!(staged[key], serde_json::Value::clone(&value), "{key}");
    }
    assert_eq!(staged["account"]["path"], format!("/maps/2.0/{HOSTILE}"));
}

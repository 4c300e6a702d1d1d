//! Links: those that lead here from elsewhere, and what the page of a staged file gives and leaves out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{PASSWORD, Page, SECRET, World, item, world, world_with};
use tobj::Fault;

/// Three products, the one in the middle larger than a page.
async fn shop() -> World {
    let mut items = vec![item("atlas", "1", "a", 1)];
    items.extend((0..250).map(|n| item("maps", &format!("v{n:03}"), "m", 1)));
    items.push(item("music+more", "1", "z", 1));
    world(items).await
}

async fn stage(world: &mut World, product: &str, version: &str) -> Page {
    world.browser.login().await;
    let csrf = world.browser.get("/downloads").await.hidden("csrf");
    let page = world.browser.post("/stage", &[("csrf", &csrf), ("product", product), ("version", version)]).await;
    assert_eq!(page.status, 200, "{page:?}");
    page
}

/// The choices on a page: how many, and the first product of them.
fn choices(page: &Page) -> (usize, Option<String>) {
    let count = page.body.matches("action=\"/stage\"").count();
    (count, (count > 0).then(|| page.hidden("product")))
}

#[tokio::test]
async fn who_is_logged_in_gets_there_by_a_link() {
    let mut world = shop().await;
    assert!(world.browser.login().await.header("set-cookie").unwrap().ends_with("; SameSite=Lax"));
    // As a browser says it that follows a link of the company's own web site.
    let from_elsewhere = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nReferer: https://www.example/\r\n";
    let page = world.browser.send("GET", "/downloads?product=atlas", from_elsewhere, "").await;
    assert_eq!((page.status, choices(&page)), (200, (1, Some("atlas".into()))));
    assert_eq!(page.text("product"), "atlas");
    assert_eq!(world.browser.get("/?product=atlas").await.header("location"), Some("/downloads?product=atlas"));

    let page = world.browser.get("/downloads?product=music%2Bmore").await;
    assert_eq!((choices(&page), page.text("product")), ((1, Some("music+more".into())), "music+more".into()));
    for unknown in ["aaa", "mapr", "zzz"] {
        let page = world.browser.get(&format!("/downloads?product={unknown}")).await;
        assert_eq!((page.status, choices(&page)), (200, (0, None)), "{unknown}");
        assert_eq!(page.text("message"), "Nothing of it is among your downloads.");
    }
    for bad in ["", "..", "%2F%2Fevil.example", "a%20b", "maps&product=maps"] {
        assert_eq!(world.browser.get(&format!("/downloads?product={bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_product_with_many_versions_has_pages() {
    let mut world = shop().await;
    world.browser.login().await;
    let (mut path, mut seen) = (Some("/downloads?product=maps".to_owned()), Vec::new());
    while let Some(at) = path {
        let page = world.browser.get(&at).await;
        assert!(!page.body.contains("rel=\"prev\"") && !page.body.contains(">atlas<"), "{at}");
        let next = page.body.split("rel=\"next\" href=\"").nth(1).map(|rest| rest.split('"').next().unwrap());
        path = next.map(|next| next.replace("&amp;", "&"));
        seen.push((at, choices(&page).0));
    }
    // The page that it begins on is asked for from its first version on.
    assert_eq!(
        seen,
        [("/downloads?product=maps".to_owned(), 199), ("/downloads?product=maps&offset=200".to_owned(), 51)]
    );
    world.browser.json = true;
    let list = world.browser.get("/downloads?product=maps").await.json();
    assert_eq!((&list["product"], &list["offset"], &list["next"]), (&"maps".into(), &1.into(), &200.into()));
}

#[tokio::test]
async fn the_way_to_a_product_leads_over_the_login() {
    let mut world = shop().await;
    let page = world.browser.get("/downloads?product=music%2Bmore").await;
    assert_eq!((page.status, page.header("location")), (303, Some("/?product=music%2Bmore")));
    let form = world.browser.get("/?product=music%2Bmore").await;
    let action = form.attribute("login", "action");
    assert_eq!(action, "/login?product=music%2Bmore");
    // Who errs, or reloads what he got then, keeps it.
    let wrong = world.browser.post(&action, &[("user", "alice"), ("password", "wrong")]).await;
    assert_eq!((wrong.status, wrong.attribute("login", "action")), (401, action.clone()));
    assert_eq!(world.browser.get(&action).await.header("location"), Some("/?product=music%2Bmore"));
    let page = world.browser.login_by(&action).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/downloads?product=music%2Bmore")));
    // So does who comes back when his session has ended.
    world.fail("CATALOGUE", Fault::Expired);
    let ended = world.browser.get("/downloads?product=atlas").await;
    assert_eq!((ended.status, ended.attribute("login", "action")), (401, "/login?product=atlas".into()));
    assert_eq!(world.browser.get("/downloads?offset=200").await.attribute("login", "action"), "/login");
}

/// Whatever stands in the address: nobody is led away from here by it, and nothing of it gets into a header or the page.
#[tokio::test]
async fn no_link_leads_elsewhere() {
    let mut world = shop().await;
    for hostile in [
        "product=//evil.example",
        "product=%2F%2Fevil.example",
        "product=https:%2F%2Fevil.example%2F",
        "product=%5C%5Cevil.example",
        "product=/%5Cevil.example",
        "product=javascript:alert(1)",
        "product=..%2F..%2Fevil",
        "product=maps%0d%0aLocation:%20https://evil.example",
        "product=maps%00",
        "product=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "product=maps&product=//evil.example",
        "next=//evil.example",
        "next=https://evil.example&product=.evil",
        "redirect=https://evil.example",
    ] {
        let form = world.browser.get(&format!("/?{hostile}")).await;
        assert_eq!((form.status, form.attribute("login", "action")), (200, "/login".into()), "{hostile}");
        assert!(!form.body.contains("evil") && !form.body.contains("<script"), "{hostile}");
        let page = world.browser.login_by(&format!("/login?{hostile}")).await;
        assert_eq!((page.status, page.header("location")), (303, Some("/downloads")), "{hostile}");
        assert_eq!(world.browser.get(&format!("/?{hostile}")).await.header("location"), Some("/downloads"));
        world.browser.cookie = None;
        for (path, to) in [("/login", "/"), ("/stage", "/"), ("/logout", "/")] {
            let page = world.browser.get(&format!("{path}?{hostile}")).await;
            assert_eq!((page.status, page.header("location")), (303, Some(to)), "{path} {hostile}");
        }
    }
    // What is a name is nothing else afterwards.
    let page = world.browser.login_by("/login?product=@evil.example").await;
    assert_eq!(page.header("location"), Some("/downloads?product=%40evil.example"));
    // In the form itself nothing is taken.
    let fields = [("user", "alice"), ("password", PASSWORD), ("product", "maps"), ("next", "//evil.example")];
    assert_eq!(world.browser.post("/login", &fields).await.header("location"), Some("/downloads"));
}

fn with_authority(pem: &str) -> impl FnOnce(String) -> String {
    let line = format!("authority = {}\n", toml::Value::String(pem.to_owned()));
    move |config| line + &config
}

#[tokio::test]
async fn the_certificate_that_the_commands_need_is_to_be_had() {
    let pem = rcgen::generate_simple_self_signed(vec!["authority".to_owned()]).unwrap().cert.pem();
    let mut world = world_with(vec![item("maps", "1.0", "europe.iso", 3)], with_authority(&pem)).await;
    let file = world.browser.get("/ca.pem").await;
    assert_eq!((file.status, file.body.as_str()), (200, pem.as_str()), "without a login");
    for (name, value) in [
        ("content-type", "application/x-pem-file"),
        ("content-disposition", "attachment; filename=\"ca.pem\""),
        ("cache-control", "max-age=3600"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(file.header(name), Some(value), "{name}");
    }
    assert_eq!(world.browser.send("HEAD", "/ca.pem", "", "").await.status, 200);
    assert_eq!(world.browser.send("POST", "/ca.pem", "", "").await.status, 405);

    let page = stage(&mut world, "maps", "1.0").await;
    // Under the name that the commands have for it.
    assert_eq!(
        (page.attribute("ca-link", "href"), page.attribute("ca-link", "download")),
        ("/ca.pem".into(), "site ca.pem".into())
    );
    assert!(page.text("curl").contains(" --cacert 'site ca.pem' "));
    world.browser.json = true;
    let page = stage_json(&mut world).await;
    assert_eq!((&page["ca"], &page["ca_path"]), (&"site ca.pem".into(), &"/ca.pem".into()));
}

async fn stage_json(world: &mut World) -> serde_json::Value {
    let csrf = world.browser.get("/downloads").await.json()["csrf"].as_str().unwrap().to_owned();
    world.browser.post("/stage", &[("csrf", &csrf), ("product", "maps"), ("version", "1.0")]).await.json()
}

#[tokio::test]
async fn without_a_certificate_there_is_none() {
    let mut world = world(vec![item("maps", "1.0", "europe.iso", 3)]).await;
    assert_eq!(world.browser.get("/ca.pem").await.status, 404);
    let page = stage(&mut world, "maps", "1.0").await;
    assert!(!page.body.contains("ca-link") && page.body.contains("you get from whoever runs this site"));
    world.browser.json = true;
    assert_eq!(stage_json(&mut world).await["ca_path"], serde_json::Value::Null);
}

/// Of a public authority: customers have its certificate already.
#[tokio::test]
async fn where_no_certificate_is_needed_none_is_named() {
    let pem = rcgen::generate_simple_self_signed(vec!["authority".to_owned()]).unwrap().cert.pem();
    let change = |config: String| with_authority(&pem)(config.replace("ca_hint = 'site ca.pem'\n", ""));
    let mut world = world_with(vec![item("maps", "1.0", "europe.iso", 3)], change).await;
    let page = stage(&mut world, "maps", "1.0").await;
    assert!(!page.body.contains("ca.pem") && !page.body.contains("cacert"), "{}", page.body);
    assert!(page.text("curl").contains(" --ssl-reqd "));
}

#[tokio::test]
async fn there_is_no_plain_link_where_it_would_be_refused() {
    let change = |config: String| config + "require_tls = true\n";
    let mut world = world_with(vec![item("maps", "1.0", "europe.iso", 3)], change).await;
    let page = stage(&mut world, "maps", "1.0").await;
    assert!(!page.body.contains("href=\"ftp:") && !page.body.contains("ftp-link") && !page.body.contains("in clear"));
    assert!(page.body.contains("lets nobody in without encryption"));
    assert!(page.text("curl").contains(" --ssl-reqd ") && page.text("lftp").contains("ftp:ssl-force yes"));
    assert_eq!(
        (page.text("ftp-user"), page.text("ftp-password")),
        ("t-0101".into(), SECRET.into()),
        "for other programs"
    );
    world.browser.json = true;
    assert_eq!(stage_json(&mut world).await["tls_required"], true);
}

#[tokio::test]
async fn a_link_in_clear_is_said_to_be_one() {
    for (from, to, rest) in [
        ("", "", "The commands below encrypt both."),
        ("tls = true", "tls = false", "So they do by the commands below."),
    ] {
        let change = |config: String| config.replacen(from, to, 1);
        let mut world = world_with(vec![item("maps", "1.0", "europe.iso", 3)], change).await;
        let page = stage(&mut world, "maps", "1.0").await;
        let link = page.body.find("id=\"ftp-link\"").unwrap();
        let said = page.body.find("By this link the password and the file cross the network in clear").unwrap();
        assert!(page.body[link..said].len() < 200 && page.body.contains(rest), "beside it: {}", page.body);
    }
}

//! A portal with real sockets in front of a commlinkd that is played by the test, and a small browser.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use daemon::ipc::{self, Peers};
use daemon::{Service, Shutdown, Trigger};
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tobj::{
    Body, CatalogueItem, Fault, FileName, Id, LeaseKind, Message, Name, Reply, Request, Secret, Text, Timestamp,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// No step of a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PASSWORD: &str = "correct horse & <battery>";
pub(crate) const TOKEN: &str = "5e55105e55105e55105e55105e55105e";
pub(crate) const SECRET: &str = "00112233445566778899aabbccddeeff";

/// How the played machines behave.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// What the customer is entitled to.
    pub(crate) items: Vec<CatalogueItem>,
    /// This request (by its tag) is answered so.
    pub(crate) faults: BTreeMap<&'static str, Fault>,
    /// Each order to stage gets, the first time it comes, an answer that belongs to another request.
    pub(crate) breaks_first_stage: bool,
    /// The hash that a standing lease claims to have, instead of the true one.
    pub(crate) standing_sha256: Option<[u8; 32]>,
}

/// The played machines behind commlinkd.
#[derive(Debug, Default)]
pub(crate) struct Machines {
    pub(crate) script: Mutex<Script>,
    /// Destination and request, as they came.
    pub(crate) asked: Mutex<Vec<(String, Message)>>,
}

impl Machines {
    pub(crate) fn tags(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(to, message)| format!("{to} {}", request(message).tag())).collect()
    }

    fn answer(&self, to: &str, message: &Message) -> Message {
        let script = self.script.lock().unwrap();
        let request = request(message);
        if let Some(&fault) = script.faults.get(request.tag().as_str()) {
            return message.fault(fault);
        }
        let entitled = |product: &Name, version: &Name| {
            script.items.iter().find(|i| i.product == *product && i.version == *version).cloned()
        };
        message.reply(match (to, request) {
            ("database", Request::Login { customer, password, .. }) => {
                if customer.as_str() != "alice" || password.expose() != PASSWORD {
                    return message.fault(Fault::Denied);
                }
                let expires = Timestamp::now().plus(600);
                Reply::Session { session: secret(TOKEN), customer: name("alice"), expires }
            }
            ("database", Request::Logout { .. }) => Reply::Done {},
            ("database", Request::Catalogue { session, .. } | Request::Grant { session, .. })
                if session.expose() != TOKEN =>
            {
                return message.fault(Fault::Expired);
            }
            ("database", Request::Catalogue { offset, .. }) => {
                let skip = usize::try_from(*offset).unwrap();
                let items: Vec<_> = script.items.iter().skip(skip).take(tobj::PAGE).cloned().collect();
                Reply::Catalogue { more: skip + items.len() < script.items.len(), items }
            }
            ("database", Request::Grant { product, version, kind, .. }) => match entitled(product, version) {
                // The played grant tells the played stager what it is for.
                Some(item) => {
                    Reply::Granted { grant: secret(&format!("{kind} {product} {version}")), download: item.download }
                }
                None => return message.fault(Fault::Denied),
            },
            ("download", Request::Stage { grant }) => {
                let times = self.asked.lock().unwrap().iter().filter(|(_, m)| m.id == message.id).count();
                if script.breaks_first_stage && times == 1 {
                    return Message { id: Id::from([0; 16]), literal: None, body: message.reply(Reply::Done {}).body };
                }
                let words: Vec<_> = grant.expose().split(' ').collect();
                let once = words[0] == LeaseKind::OneTime.as_str();
                let item = entitled(&name(words[1]), &name(words[2])).unwrap();
                let path = if once {
                    format!("/{}", item.file)
                } else {
                    format!("/{}/{}/{}", item.product, item.version, item.file)
                };
                let wrong = script.standing_sha256.filter(|_| !once);
                Reply::Staged {
                    lease: Id::from([if once { 1 } else { 2 }; 16]),
                    path: Text::new(&path).unwrap(),
                    size: item.size,
                    sha256: wrong.map_or(item.sha256, Into::into),
                    expires: Timestamp(1_795_493_100),
                    user: once.then(|| name("t-0101")),
                    secret: once.then(|| secret(SECRET)),
                }
            }
            _ => return message.fault(Fault::Invalid),
        })
    }
}

struct Link(Arc<Machines>);

impl Service for Link {
    async fn call(&self, from: &str, request: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        self.0.asked.lock().unwrap().push((from.to_owned(), request.clone()));
        self.0.answer(from, &request)
    }
}

pub(crate) fn request(message: &Message) -> &Request {
    let Body::Request(request) = &message.body else { panic!("{message:?}") };
    request
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

pub(crate) fn item(product: &str, version: &str, file: &str, size: u64) -> CatalogueItem {
    CatalogueItem {
        product: name(product),
        version: name(version),
        file: FileName::new(file).unwrap(),
        size,
        sha256: [0xab; 32].into(),
        download: name("download"),
        until: None,
    }
}

pub(crate) fn uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// Certificates, sockets and configuration of a portal in a folder of its own.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: CertificateDer<'static>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Self::certify(dir.path());
        Self { dir, ca }
    }

    /// Writes a new certificate.
    pub(crate) fn certify(dir: &std::path::Path) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
        made.cert.der().clone()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn config(&self) -> String {
        let path = |file: &str| toml::Value::String(self.path(file).to_str().unwrap().to_owned()).to_string();
        format!(
            "name = 'web'\nlisten = ['127.0.0.1:0']\ncert = {}\nkey = {}\ncommlink = {}\nsocket = {}\nallow_uids = [{}]\n\
             [downloads.download]\nhost = '127.0.0.1'\nport = 2121\ntls = true\nca_hint = 'site ca.pem'\n",
            path("cert.pem"),
            path("key.pem"),
            path("commlink"),
            path("status"),
            uid()
        )
    }

    /// Plays the other machines.
    pub(crate) fn machines(&self, shutdown: Shutdown) -> Arc<Machines> {
        let machines = Arc::new(Machines::default());
        let listener = ipc::bind(&self.path("commlink")).unwrap();
        tokio::spawn(ipc::serve(listener, Peers::mine(), Link(machines.clone()), shutdown));
        machines
    }
}

/// A portal that runs within the test.
pub(crate) struct World {
    pub(crate) site: Site,
    pub(crate) machines: Arc<Machines>,
    pub(crate) browser: Browser,
    pub(crate) trigger: Trigger,
    pub(crate) portal: tokio::task::JoinHandle<Result<(), portal::PortalError>>,
}

pub(crate) async fn world(items: Vec<CatalogueItem>) -> World {
    world_with(items, |config| config).await
}

/// The same with another configuration.
pub(crate) async fn world_with(items: Vec<CatalogueItem>, change: impl FnOnce(String) -> String) -> World {
    let site = Site::new();
    let (trigger, shutdown) = Shutdown::manual();
    let machines = site.machines(shutdown.clone());
    machines.script.lock().unwrap().items = items;
    let config: portal::Config = toml::from_str(&change(site.config())).unwrap();
    let listeners = portal::Listeners::bind(&config).unwrap();
    let address = listeners.https[0].local_addr().unwrap();
    let portal = tokio::spawn(portal::run(config, listeners, shutdown));
    let browser = Browser::new(address, &site.ca);
    World { site, machines, browser, trigger, portal }
}

impl World {
    /// Lets a request fail from now on.
    pub(crate) fn fail(&self, tag: &'static str, fault: Fault) {
        self.machines.script.lock().unwrap().faults.insert(tag, fault);
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The text of the element with this id, entities resolved.
    pub(crate) fn text(&self, id: &str) -> String {
        let tag = self.tag(id);
        let start = self.body.find(tag).unwrap() + tag.len();
        let text = self.body[start..].split('<').next().unwrap();
        unescape(text)
    }

    /// An attribute of the element with this id, entities resolved.
    pub(crate) fn attribute(&self, id: &str, name: &str) -> String {
        let value = self.tag(id).split(&format!("{name}=\"")).nth(1).unwrap();
        unescape(value.split('"').next().unwrap())
    }

    fn tag(&self, id: &str) -> &str {
        let at = self.body.find(&format!(" id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {}", self.body));
        let start = self.body[..at].rfind('<').unwrap();
        let end = start + self.body[start..].find('>').unwrap() + 1;
        &self.body[start..end]
    }

    /// The first hidden field of this name.
    pub(crate) fn hidden(&self, name: &str) -> String {
        let start = format!("type=\"hidden\" name=\"{name}\" value=\"");
        let value = self.body.split(&start).nth(1).unwrap_or_else(|| panic!("no {name} in {}", self.body));
        unescape(value.split('"').next().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_str(&self.body).unwrap()
    }
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// Percent-encodes a form.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    fields.join("&")
}

/// Sends requests, each on a connection of its own.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) address: SocketAddr,
    tls: TlsConnector,
    pub(crate) cookie: Option<String>,
    pub(crate) json: bool,
}

impl Browser {
    pub(crate) fn new(address: SocketAddr, ca: &CertificateDer<'static>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { address, tls: TlsConnector::from(Arc::new(config)), cookie: None, json: false }
    }

    pub(crate) async fn connect(&self) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        self.tls.connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// Sends bytes as they are and reads to the end.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Page {
        let exchange = async {
            let mut stream = self.connect().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            String::from_utf8(answer).unwrap()
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()));
        Page { status, headers: headers.collect(), body: body.to_owned() }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Page {
        let cookie = self.cookie.as_ref().map(|c| format!("Cookie: {c}\r\n")).unwrap_or_default();
        let accept = if self.json { "application/json" } else { "text/html,*/*;q=0.8" };
        let form = if method == "POST" {
            format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", body.len())
        } else {
            String::new()
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\n{cookie}{form}{headers}\r\n"
        );
        self.raw(format!("{head}{body}").as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Page {
        self.send("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.send("POST", path, "", &form(fields)).await
    }

    /// Logs in as the customer there is and keeps the cookie.
    pub(crate) async fn login(&mut self) -> Page {
        self.login_by("/login").await
    }

    /// The same by a form that leads there.
    pub(crate) async fn login_by(&mut self, action: &str) -> Page {
        let page = self.post(action, &[("user", "alice"), ("password", PASSWORD)]).await;
        self.cookie = page.header("set-cookie").map(|c| c.split(';').next().unwrap().to_owned());
        page
    }
}

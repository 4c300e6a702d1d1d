//! The crate itself: client and server, each with a runtime as the daemon has it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use commlink::dial::Ports;
use commlink::server::{self, Setup};
use commlink::{Bags, Client, Peer};
use daemon::{Service, Shutdown, Trigger};
use keys::site::Role;
use keys::{Bag, LinkKind};
use tobj::{Body, Message, Name, Reply, Request, Secret, Text};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

struct Answers;

impl Service for Answers {
    async fn call(&self, _: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let reply = match &request.body {
            Body::Request(Request::LoginCheck { customer, .. }) => {
                Reply::Verified { customer: Name::new(customer.as_str()).unwrap() }
            }
            _ => {
                let (mut piece, mut size) = (vec![0; 1 << 17], 0);
                while let Ok(n @ 1..) = literal.read(&mut piece).await {
                    size += n as u64;
                }
                Reply::Stored { sha256: [7; 32].into(), size, known: false }
            }
        };
        request.reply(reply)
    }
}

/// Two machines and an operator.
pub(super) struct Pair {
    runtime: Runtime,
    client: Client,
    operator: Client,
    _servers: (Runtime, Trigger),
}

fn serve(runtime: &Runtime, role: Role, bag: Bag, shutdown: Shutdown) -> Ports {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let setup = Setup { role, keyring: Bags::new([bag]).unwrap().into(), relay: None };
    runtime.spawn(server::serve(vec![listener], setup, Answers, shutdown));
    Ports::new(port, port).unwrap()
}

fn client(name: &str, ports: Ports, bag: Bag) -> Client {
    let peer = Peer { name: name.into(), host: Some("127.0.0.1".into()), ports: Some(ports), via: None, seal: true };
    Client::new(Arc::new(Bags::new([bag]).unwrap()), [peer]).unwrap()
}

impl Pair {
    pub(super) fn start() -> Self {
        let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (servers, own) = (runtime(), runtime());
        let (trigger, shutdown) = Shutdown::manual();
        let pair = |link, kind, ends| Bag::pair(link, kind, ends, 1).unwrap();
        let (download, database) = pair("link", LinkKind::DownloadDatabase, ("download", "database"));
        let ports = serve(&servers, Role::Database, database, shutdown.clone());
        let client_of_database = client("database", ports, download);
        let (alice, appliance) = pair("alice-download", LinkKind::Operator, ("operator:alice", "download"));
        let ports = serve(&servers, Role::Download, appliance, shutdown);
        let operator = client("download", ports, alice);
        Self { runtime: own, client: client_of_database, operator, _servers: (servers, trigger) }
    }

    /// Small transactions, one after the other, in a task of the runtime, where the daemon's callers are.
    pub(super) fn logins_per_second(&self) -> f64 {
        let client = self.client.clone();
        let asking = async move {
            let mut count = super::Count::start();
            loop {
                let request = Request::LoginCheck {
                    customer: Text::new(super::bare::CUSTOMER).unwrap(),
                    password: Secret::new(super::bare::PASSWORD).unwrap(),
                    address: Text::new(super::bare::ADDRESS).unwrap(),
                };
                let reply = client.call("database", request).await.unwrap();
                assert!(matches!(reply, Reply::Verified { .. }));
                if let Some(rate) = count.one() {
                    return rate;
                }
            }
        };
        self.runtime.block_on(self.runtime.spawn(asking)).unwrap()
    }

    /// One literal.
    pub(super) fn put(&self, length: u64) {
        let put = Message::request(Request::ObjectPut { sha256: None }).unwrap();
        let mut body = Zeros;
        let reply = self.runtime.block_on(self.operator.call_with_literal("download", put, length, &mut body)).unwrap();
        assert!(matches!(reply, Reply::Stored { size, .. } if size == length));
    }
}

/// A source that costs no more than memory does.
struct Zeros;

impl AsyncRead for Zeros {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let n = buf.remaining();
        buf.initialize_unfilled();
        buf.advance(n);
        std::task::Poll::Ready(Ok(()))
    }
}

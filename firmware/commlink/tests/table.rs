//! The table of what may be asked, in full and over the wire: each kind of link, each role that may be asked on it, each
//! transaction there is, with and without seal. Nothing in here says what is allowed: that is the table's to say, and a
//! test beside it says it the other way round.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use commlink::policy::{self, Opener};
use commlink::server::{self, Door, Setup};
use commlink::{Bags, Client};
use common::*;
use daemon::{Service, Shutdown};
use keys::site::Role;
use keys::{Bag, LinkKind};
use tobj::{Body, Fault, Message, Name, Reply, Request, RequestTag};
use tokio::io::AsyncRead;

const KINDS: [LinkKind; 4] =
    [LinkKind::WebDownload, LinkKind::WebDatabase, LinkKind::DownloadDatabase, LinkKind::Operator];

/// Keeps what it was asked, and does it.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<RequestTag>>>);

impl Service for Witness {
    async fn call(&self, _: &str, request: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let Body::Request(body) = &request.body else { panic!("only requests get here") };
        self.0.lock().unwrap().push(body.tag());
        request.reply(Reply::Done {})
    }
}

/// One request of each type, from the golden vectors.
fn samples() -> BTreeMap<RequestTag, Request> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/v1/tobj.json");
    let vectors: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let messages = vectors.iter().map(|vector| Message::decode(vector["text"].as_str().unwrap().as_bytes()).unwrap());
    let requests = messages.filter_map(|message| match message.body {
        // With a value that the server itself would do something with, where it is the server that answers.
        Body::Request(Request::BagRetire { .. }) => Some(Request::BagRetire { generation: 0 }),
        Body::Request(Request::Relay { .. }) => Some(Request::Relay { to: Name::new("database").unwrap() }),
        Body::Request(request) => Some(request),
        Body::Reply(_) => None,
    });
    requests.map(|request| (request.tag(), request)).collect()
}

/// What the server answers itself.
fn is_own(tag: RequestTag) -> bool {
    matches!(tag, RequestTag::Relay | RequestTag::Probe | RequestTag::BagRenew | RequestTag::BagRetire)
}

async fn ask(client: &Client, to: &str, request: Request) -> Reply {
    let mut message = Message::request(request).unwrap();
    let Body::Request(body) = &message.body else { unreachable!("it is a request") };
    if policy::takes_literal(body.tag()) {
        return client.call_with_literal(to, message, 0, &mut tokio::io::empty()).await.unwrap();
    }
    message.literal = None;
    client.call_message(to, message).await.unwrap()
}

#[tokio::test]
async fn every_link_opener_and_transaction() {
    within(async {
        let samples = samples();
        assert_eq!(samples.keys().copied().collect::<Vec<_>>().len(), RequestTag::ALL.len(), "a request of each type");
        let (mut allowed, mut denied) = (0, 0);
        for kind in KINDS {
            for asked in Role::ALL {
                for sealed in [true, false] {
                    let Some(opener) = policy::across(kind, asked) else { continue };
                    if !sealed && opener == Opener::Operator {
                        continue;
                    }
                    let name = match opener {
                        Opener::Operator => "operator:alice",
                        Opener::Machine(role) => role.as_str(),
                    };
                    let (own, its) = Bag::pair("the-link", kind, (name, asked.as_str()), 1).unwrap();
                    let (mut sockets, ports) = listeners(1).await;
                    let door = if sealed { Door::Sealed } else { Door::Unsealed("the-link".into()) };
                    let (_nobody, dead) = listeners(1).await;
                    drop(_nobody);
                    let setup = Setup {
                        role: asked,
                        keyring: Bags::new([its]).unwrap().into(),
                        relay: Some(target("database", dead)),
                    };
                    let witness = Witness::default();
                    let (_trigger, shutdown) = Shutdown::manual();
                    let doors = vec![(sockets.remove(0), door)];
                    tokio::spawn(server::serve_doors(doors, setup, witness.clone(), shutdown));
                    let peer = commlink::Peer { seal: sealed, ..direct(asked.as_str(), ports) };
                    let client = Client::new(Bags::new([own]).unwrap(), [peer]).unwrap();
                    for (&tag, request) in &samples {
                        let may = policy::allows(kind, opener, asked, tag) && (sealed || !policy::needs_seal(tag));
                        if !sealed && policy::takes_literal(tag) {
                            // The client does not even send it.
                            continue;
                        }
                        let before = witness.0.lock().unwrap().len();
                        let reply = ask(&client, asked.as_str(), request.clone()).await;
                        let seen = witness.0.lock().unwrap()[before..].to_vec();
                        let what = format!("{kind:?}, {name} asks {}, sealed {sealed}: {tag}", asked.as_str());
                        if may {
                            assert!(!is_fault(&reply, Fault::Denied), "{what}: {reply:?}");
                            assert_eq!(seen, if is_own(tag) { vec![] } else { vec![tag] }, "{what}");
                            allowed += 1;
                        } else {
                            assert_eq!(reply, Reply::refused(Fault::Denied, ""), "{what}");
                            assert!(seen.is_empty(), "{what} was done");
                            denied += 1;
                        }
                    }
                }
            }
        }
        let rows: usize = policy::TABLE.iter().map(|row| row.requests.len()).sum();
        assert!(allowed > rows && denied > 10 * rows / 2, "{allowed} allowed, {denied} denied, {rows} in the table");
    })
    .await;
}

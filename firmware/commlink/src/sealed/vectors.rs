//! The golden vector of a whole session: both streams byte by byte, with fixed ephemeral keys and vectors. If the test in
//! here fails, do not change the vector.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use commlink_proto::{Encoder, LineBuffer};
use keys::{Bag, LinkKind};
use serde::{Deserialize, Serialize};
use snow::Builder;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::handshake::{Prepare, initiate, respond};
use super::{SealedStream, Session};
use crate::Bags;

const PORT: u16 = 50_001;

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Vector {
    link: String,
    client: String,
    server: String,
    offered: Vec<u32>,
    port: u16,
    /// Entry P mod 128 of the bag of the newest generation.
    des_key: String,
    seal_key: String,
    client_ephemeral: String,
    server_ephemeral: String,
    /// The messages, with the vector of their one packet.
    request: String,
    request_iv: String,
    reply: String,
    reply_iv: String,
    /// All bytes of each direction.
    to_server: String,
    to_client: String,
}

struct Fixed([u8; 32]);

impl Prepare for Fixed {
    fn prepare<'a>(&'a self, builder: Builder<'a>) -> Builder<'a> {
        builder.fixed_ephemeral_key_for_testing_only(&self.0)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/v1")
}

fn path() -> PathBuf {
    folder().join("sealed-session.json")
}

/// The DES keys of another vector, and seal keys that can be told apart.
fn bag(generation: u32) -> Bag {
    let text = std::fs::read_to_string(folder().join("ffs1-key-index.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys = vectors[0]["des_keys"].as_array().unwrap();
    let entries: Vec<String> = keys
        .iter()
        .zip(0_u8..)
        .map(|(des, n)| {
            format!("{}{}", des.as_str().unwrap(), hex::encode([n.wrapping_add(u8::try_from(generation).unwrap()); 32]))
        })
        .collect();
    Bag::from_entries("web-database", LinkKind::WebDatabase, ("web", "database"), generation, &entries).unwrap()
}

/// What an end writes, kept on its way to the other.
async fn carry(mut from: tokio::io::ReadHalf<DuplexStream>, mut to: tokio::io::WriteHalf<DuplexStream>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = [0; 1000];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        all.extend_from_slice(&piece[..n]);
        to.write_all(&piece[..n]).await.unwrap();
    }
    to.shutdown().await.unwrap();
    all
}

fn line(session: &Session, text: &str, iv: [u8; 8]) -> LineBuffer {
    let mut line = LineBuffer::new();
    assert!(Encoder::new(text.as_bytes()).next(&session.packet_key(), &iv, &mut line));
    line
}

async fn say(stream: &mut SealedStream<DuplexStream>, text: &str, iv: [u8; 8]) {
    let line = line(stream.session(), text, iv);
    stream.write_all(&line).await.unwrap();
    stream.flush().await.unwrap();
}

async fn hear(stream: &mut SealedStream<DuplexStream>, text: &str, iv: [u8; 8]) {
    let line = line(stream.session(), text, iv);
    let mut got = vec![0; line.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, *line);
}

async fn run() -> Vector {
    let held = [bag(2), bag(1)];
    let bags = held.each_ref().map(|bag| Arc::new(bag.clone()));
    let others = Bags::new(held.each_ref().map(Bag::mirrored)).unwrap();
    let (client_key, server_key) = ([0x11; 32], [0x22; 32]);
    let (request_iv, reply_iv) = (*b"request!", *b"a reply!");
    let texts: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(folder().join("tobj.json")).unwrap()).unwrap();
    let text = |tag: &str| {
        let vector = texts.iter().find(|vector| vector["type"] == tag).unwrap();
        vector["text"].as_str().unwrap().to_owned()
    };
    let (request, reply) = (text("LOGIN-CHECK"), text("VERIFIED"));

    let ((client, near), (far, server)) = (duplex(1 << 16), duplex(1 << 16));
    let (near_in, near_out) = tokio::io::split(near);
    let (far_in, far_out) = tokio::io::split(far);
    let client = async {
        let mut stream = initiate(client, &bags, Fixed(client_key)).await.unwrap();
        say(&mut stream, &request, request_iv).await;
        hear(&mut stream, &reply, reply_iv).await;
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    };
    let server = async {
        let mut stream = respond(server, PORT, &others, Fixed(server_key)).await.unwrap();
        hear(&mut stream, &request, request_iv).await;
        say(&mut stream, &reply, reply_iv).await;
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        stream.shutdown().await.unwrap();
    };
    let ((), (), to_server, to_client) = tokio::join!(client, server, carry(near_in, far_out), carry(far_in, near_out));
    let entry = usize::from(PORT);
    Vector {
        link: held[0].link().to_owned(),
        client: held[0].local().to_owned(),
        server: held[0].peer().to_owned(),
        offered: vec![2, 1],
        port: PORT,
        des_key: hex::encode(held[0].des_key(entry)),
        seal_key: hex::encode(held[0].seal_key(entry)),
        client_ephemeral: hex::encode(client_key),
        server_ephemeral: hex::encode(server_key),
        request,
        request_iv: hex::encode(request_iv),
        reply,
        reply_iv: hex::encode(reply_iv),
        to_server: hex::encode(to_server),
        to_client: hex::encode(to_client),
    }
}

#[tokio::test]
async fn a_session_is_the_bytes_of_the_vector() {
    let made = run().await;
    if !path().exists() {
        assert!(std::env::var_os("FFS_BLESS").is_some(), "there is none: run the test with FFS_BLESS=1 to make it");
        std::fs::write(path(), serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let kept: Vector = serde_json::from_slice(&std::fs::read(path()).unwrap()).unwrap();
    assert_eq!(made, kept);
}

//! The same calls without anything around them: blocking sockets, two threads, no types, no limits.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cbc::{Decryptor, Encryptor};
use cipher::block_padding::Pkcs7;
use cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use des::Des;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};
use snow::TransportState;

pub(super) const CUSTOMER: &str = "a.customer@example.com";
pub(super) const PASSWORD: &str = "correct horse battery staple";
pub(super) const ADDRESS: &str = "192.0.2.77";

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

type Fields<'a> = &'a [(&'a str, &'a str)];

const REQUEST: Fields<'_> = &[("CUSTOMER", CUSTOMER), ("PASSWORD", PASSWORD), ("ADDRESS", ADDRESS)];
const REPLY: Fields<'_> = &[("CUSTOMER", CUSTOMER)];

/// One end.
struct End {
    socket: TcpStream,
    noise: TransportState,
    des: Des,
    record: Vec<u8>,
    plain: Vec<u8>,
}

fn sessions() -> (TransportState, TransportState) {
    let build = || snow::Builder::new(NOISE.parse().unwrap()).psk(0, &[7; 32]).unwrap();
    let (mut a, mut b) = (build().build_initiator().unwrap(), build().build_responder().unwrap());
    let (mut wire, mut none) = ([0; 128], [0; 128]);
    let n = a.write_message(&[], &mut wire).unwrap();
    b.read_message(&wire[..n], &mut none).unwrap();
    let n = b.write_message(&[], &mut wire).unwrap();
    a.read_message(&wire[..n], &mut none).unwrap();
    (a.into_transport_mode().unwrap(), b.into_transport_mode().unwrap())
}

fn xml(kind: &str, id: &str, fields: Fields<'_>) -> Vec<u8> {
    let mut writer = Writer::new(vec![b'.']);
    let mut root = BytesStart::new("TOBJ");
    root.push_attribute(("VERSION", "1"));
    root.push_attribute(("TYPE", kind));
    root.push_attribute(("ID", id));
    writer.write_event(Event::Start(root)).unwrap();
    for (name, value) in fields {
        writer.write_event(Event::Start(BytesStart::new(*name))).unwrap();
        writer.write_event(Event::Text(BytesText::new(value))).unwrap();
        writer.write_event(Event::End(BytesEnd::new(*name))).unwrap();
    }
    writer.write_event(Event::End(BytesEnd::new("TOBJ"))).unwrap();
    writer.into_inner()
}

/// All attributes and texts, in order.
fn values(text: &str) -> Vec<String> {
    let (mut reader, mut values) = (Reader::from_str(text), Vec::new());
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                for attribute in start.attributes() {
                    values.push(attribute.unwrap().value.as_ref().to_owned());
                }
            }
            Event::Text(piece) => values.push(piece.as_ref().to_owned()),
            Event::Eof => return values,
            _ => {}
        }
    }
}

impl End {
    fn new(socket: TcpStream, noise: TransportState) -> Self {
        socket.set_nodelay(true).unwrap();
        let des = Des::new(&0x1334_5779_9bbc_dff1_u64.to_be_bytes().into());
        Self { socket, noise, des, record: vec![0; 65537], plain: vec![0; 65537] }
    }

    fn send(&mut self, kind: &str, id: &str, fields: Fields<'_>) {
        let mut iv = [0; 8];
        getrandom::fill(&mut iv).unwrap();
        let mut packet = xml(kind, id, fields);
        let len = packet.len();
        packet.resize(len + 8, 0);
        let cipher = Encryptor::<&Des>::inner_iv_init(&self.des, (&iv).into())
            .encrypt_padded::<Pkcs7>(&mut packet, len)
            .unwrap();
        let mut line = STANDARD.encode([&iv[..], cipher].concat());
        line.push_str("\r\n");
        let n = self.noise.write_message(line.as_bytes(), &mut self.record[2..]).unwrap();
        self.record[..2].copy_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
        self.socket.write_all(&self.record[..2 + n]).unwrap();
    }

    /// `None` at the end.
    fn receive(&mut self) -> Option<Vec<String>> {
        let mut have = 0;
        loop {
            match self.socket.read(&mut self.record[have..]) {
                Ok(n @ 1..) => have += n,
                _ => return None,
            }
            let record = usize::from(u16::from_be_bytes([self.record[0], self.record[1]]));
            if have >= 2 && have == 2 + record {
                break;
            }
        }
        let n = self.noise.read_message(&self.record[2..have], &mut self.plain).unwrap();
        let mut bytes = STANDARD.decode(&self.plain[..n - 2]).unwrap();
        let (iv, body) = bytes.split_at_mut(8);
        let iv: &[u8; 8] = (&*iv).try_into().unwrap();
        let plain = Decryptor::<&Des>::inner_iv_init(&self.des, iv.into()).decrypt_padded::<Pkcs7>(body).unwrap();
        Some(values(std::str::from_utf8(&plain[1..]).unwrap()))
    }
}

/// A client, and a server on a thread of its own.
pub(super) struct Pair(End);

impl Pair {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (a, b) = sessions();
        let mut server = End::new(server, b);
        std::thread::spawn(move || {
            while let Some(values) = server.receive() {
                server.send("VERIFIED", &values[2], REPLY);
            }
        });
        Self(End::new(client, a))
    }

    pub(super) fn transaction(&mut self) {
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.send("LOGIN-CHECK", &id, REQUEST);
        let values = self.0.receive().unwrap();
        assert_eq!(values[2], id);
    }
}

/// Bytes of a request on the wire.
pub(super) fn request_size() -> usize {
    let padded = (xml("LOGIN-CHECK", &"0".repeat(32), REQUEST).len() / 8 + 1) * 8;
    2 + (padded + 8).div_ceil(3) * 4 + 2 + 16
}

/// Sealing from memory to memory.
pub(super) struct Sealing(TransportState, Vec<u8>, Vec<u8>);

impl Sealing {
    pub(super) fn new() -> Self {
        Self(sessions().0, vec![0; 65519], vec![0; 65535])
    }

    pub(super) fn seal(&mut self, length: u64) {
        for _ in 0..length.div_ceil(65519) {
            self.0.write_message(&self.1, &mut self.2).unwrap();
        }
    }
}

//! Greeting and handshake, for either end.

use std::sync::Arc;

use commlink_proto::greeting::{Answer, Hello, Line, LineReader, prologue};
use keys::Bag;
use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{ENTRIES, HANDSHAKE, NOISE, SealError, SealedStream, Session};
use crate::Bags;

/// Bytes of each handshake message: a public key and the authenticator of an empty payload.
const MESSAGE: usize = 32 + 16;

/// Opens a session as the client, with one of `bags`: the generations of one link, newest first.
///
/// # Errors
/// [`SealError`].
pub async fn open<S>(io: S, bags: &[Arc<Bag>]) -> Result<SealedStream<S>, SealError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(HANDSHAKE, initiate(io, bags, Plain)).await.map_err(|_| SealError::Late)?
}

/// Accepts a session as the server. `port` is P, from the transport's own knowledge of the client's address.
///
/// # Errors
/// [`SealError`]; the transport is then dropped without a byte about the reason.
pub async fn accept<S>(io: S, port: u16, bags: &Bags) -> Result<SealedStream<S>, SealError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(HANDSHAKE, respond(io, port, bags, Plain)).await.map_err(|_| SealError::Late)?
}

/// What is done to a handshake before it is built: nothing, except in a test that needs the same bytes each time.
pub(super) trait Prepare {
    fn prepare<'a>(&'a self, builder: Builder<'a>) -> Builder<'a>;
}

/// Nothing.
struct Plain;

impl Prepare for Plain {
    fn prepare<'a>(&'a self, builder: Builder<'a>) -> Builder<'a> {
        builder
    }
}

pub(super) async fn initiate<S, P>(mut io: S, bags: &[Arc<Bag>], prepare: P) -> Result<SealedStream<S>, SealError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Prepare,
{
    let newest = bags.first().ok_or_else(|| SealError::Generation(String::new()))?;
    let generations: Vec<u32> = bags.iter().map(|bag| bag.generation()).collect();
    let hello = Hello::new(newest.link(), &generations)?;
    io.write_all(&hello.line()).await?;
    io.flush().await?;
    let answer = Answer::parse(&read_line(&mut io).await?)?;
    let bag = bags
        .iter()
        .find(|bag| bag.generation() == answer.generation)
        .ok_or_else(|| SealError::Generation(newest.link().to_owned()))?;
    let session = Session::new(bag.clone(), answer.port);
    let prologue = prologue(&hello, &answer, bag.local(), bag.peer())?;
    let mut noise = prepare.prepare(builder(&session, &prologue)?).build_initiator()?;
    write_message(&mut io, &mut noise).await?;
    read_message(&mut io, &mut noise).await?;
    Ok(SealedStream::new(io, transport(noise)?, session))
}

pub(super) async fn respond<S, P>(mut io: S, port: u16, bags: &Bags, prepare: P) -> Result<SealedStream<S>, SealError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Prepare,
{
    let hello = Hello::parse(&read_line(&mut io).await?)?;
    let held = bags.of_link(hello.link()).ok_or_else(|| SealError::UnknownLink(hello.link().to_owned()))?;
    let bag = held
        .iter()
        .find(|bag| hello.generations().contains(&bag.generation()))
        .ok_or_else(|| SealError::Generation(hello.link().to_owned()))?;
    let answer = Answer { port, generation: bag.generation() };
    let session = Session::new(bag.clone(), port);
    let prologue = prologue(&hello, &answer, bag.peer(), bag.local())?;
    let mut noise = prepare.prepare(builder(&session, &prologue)?).build_responder()?;
    io.write_all(&answer.line()).await?;
    io.flush().await?;
    read_message(&mut io, &mut noise).await?;
    write_message(&mut io, &mut noise).await?;
    Ok(SealedStream::new(io, transport(noise)?, session))
}

fn builder<'a>(session: &'a Session, prologue: &'a [u8]) -> Result<Builder<'a>, SealError> {
    let params = NOISE.parse()?;
    let key = session.bag.seal_key(session.index() % ENTRIES);
    Ok(Builder::new(params).psk(0, key)?.prologue(prologue)?)
}

fn transport(noise: HandshakeState) -> Result<TransportState, SealError> {
    Ok(noise.into_transport_mode()?)
}

async fn read_line<S: AsyncRead + Unpin>(io: &mut S) -> Result<Line, SealError> {
    let mut reader = LineReader::new();
    let mut piece = [0; commlink_proto::greeting::MAX_GREETING];
    loop {
        let n = io.read(&mut piece).await?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(line) = reader.push(&piece[..n])? {
            return Ok(line.clone());
        }
    }
}

async fn write_message<S: AsyncWrite + Unpin>(io: &mut S, noise: &mut HandshakeState) -> Result<(), SealError> {
    let mut message = [0; 2 + MESSAGE];
    let n = noise.write_message(&[], &mut message[2..])?;
    let length = u16::try_from(n).map_err(|_| SealError::Size(n))?;
    message[..2].copy_from_slice(&length.to_be_bytes());
    io.write_all(&message[..2 + n]).await?;
    Ok(io.flush().await?)
}

async fn read_message<S: AsyncRead + Unpin>(io: &mut S, noise: &mut HandshakeState) -> Result<(), SealError> {
    let length = usize::from(io.read_u16().await?);
    if length != MESSAGE {
        return Err(SealError::Size(length));
    }
    let mut message = [0; MESSAGE];
    io.read_exact(&mut message).await?;
    // An empty payload: the size is exact, so nothing can be hidden in it.
    noise.read_message(&message, &mut [])?;
    Ok(())
}

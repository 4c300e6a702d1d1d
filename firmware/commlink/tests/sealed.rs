//! The sealed stream over transports in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use commlink::Bags;
use commlink::sealed::{HANDSHAKE, MAX_PLAIN, MAX_SESSION, SealError, SealedStream, accept, open};
use common::within;
use keys::{Bag, LinkKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};

const PORT: u16 = 50_001;

fn pair(generation: u32) -> (Bag, Bag) {
    Bag::pair("web-database", LinkKind::WebDatabase, ("web", "database"), generation).unwrap()
}

async fn session<A, B>(client: A, server: B) -> (SealedStream<A>, SealedStream<B>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (web, database) = pair(1);
    let (opened, accepted) = attempt(client, server, vec![web], vec![database]).await;
    (opened.unwrap(), accepted.unwrap())
}

async fn attempt<A, B>(
    client: A,
    server: B,
    clients: Vec<Bag>,
    servers: Vec<Bag>,
) -> (Result<SealedStream<A>, SealError>, Result<SealedStream<B>, SealError>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut bags: Vec<Arc<Bag>> = clients.into_iter().map(Arc::new).collect();
    bags.sort_by_key(|bag| std::cmp::Reverse(bag.generation()));
    let held = Bags::new(servers).unwrap();
    within(async { tokio::join!(open(client, &bags), accept(server, PORT, &held)) }).await
}

fn wire() -> (DuplexStream, DuplexStream) {
    duplex(100_000)
}

#[tokio::test]
async fn bytes_of_any_amount_go_both_ways_at_once() {
    let (a, b) = wire();
    let (client, server) = session(a, b).await;
    assert_eq!((client.session().port(), server.session().port()), (PORT, PORT));
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let (mut client_in, mut client_out) = tokio::io::split(client);
    let (mut server_in, mut server_out) = tokio::io::split(server);
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let ((), (), read, read_back) = within(async {
        tokio::join!(
            async {
                client_out.write_all(&data).await.unwrap();
                client_out.shutdown().await.unwrap();
            },
            async {
                // In pieces of many sizes.
                let (mut rest, mut size) = (&data[..], 1);
                while !rest.is_empty() {
                    let n = size.min(rest.len());
                    server_out.write_all(&rest[..n]).await.unwrap();
                    rest = &rest[n..];
                    size = (size * 3) % 100_003;
                }
                server_out.shutdown().await.unwrap();
            },
            server_in.read_to_end(&mut there),
            client_in.read_to_end(&mut back),
        )
    })
    .await;
    assert_eq!((read.unwrap(), read_back.unwrap()), (data.len(), data.len()));
    assert!(there == data && back == data);
}

#[tokio::test]
async fn a_session_runs_inside_another() {
    let (a, b) = wire();
    let (client, server) = session(a, b).await;
    let (mut client, mut server) = session(client, server).await;
    within(async {
        tokio::join!(
            async {
                client.write_all(b"inside").await.unwrap();
                client.shutdown().await.unwrap();
            },
            async {
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, b"inside");
            },
        )
    })
    .await;
}

#[tokio::test]
async fn an_end_is_told_from_a_cut() {
    let (a, b) = wire();
    let (mut client, mut server) = session(a, b).await;
    client.write_all(b"all").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"all");
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0, "the end stays");
    assert_eq!(client.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);

    let (a, b) = wire();
    let (mut client, mut server) = session(a, b).await;
    client.write_all(b"some").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut got = Vec::new();
    assert_eq!(server.read_to_end(&mut got).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(got, b"some");
    assert_eq!(server.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof, "the cut stays");
}

#[tokio::test]
async fn small_and_large_readers_get_the_same() {
    for size in [1, 2, 1000, MAX_PLAIN - 1, MAX_PLAIN, MAX_PLAIN + 1] {
        let (a, b) = wire();
        let (mut client, mut server) = session(a, b).await;
        let data = vec![b'd'; MAX_PLAIN + 10];
        let (mut got, mut piece) = (Vec::new(), vec![0; size]);
        within(async {
            tokio::join!(
                async {
                    client.write_all(&data).await.unwrap();
                    client.shutdown().await.unwrap();
                },
                async {
                    while let n @ 1.. = server.read(&mut piece).await.unwrap() {
                        got.extend_from_slice(&piece[..n]);
                    }
                },
            )
        })
        .await;
        assert!(got == data, "{size}");
    }
}

#[tokio::test]
async fn the_newest_generation_that_both_hold_is_used() {
    let (old, new, newer) = (pair(1), pair(2), pair(3));
    for (clients, servers, expected) in [
        (vec![&old.0, &new.0], vec![&old.1, &new.1], Some(2)),
        (vec![&old.0, &new.0], vec![&old.1], Some(1)),
        (vec![&old.0], vec![&old.1, &new.1], Some(1)),
        (vec![&new.0, &newer.0], vec![&old.1, &new.1], Some(2)),
        (vec![&old.0], vec![&new.1], None),
    ] {
        let own = |bags: Vec<&Bag>| bags.into_iter().cloned().collect::<Vec<_>>();
        let (a, b) = wire();
        let (opened, accepted) = attempt(a, b, own(clients), own(servers)).await;
        assert_eq!(opened.ok().map(|s| s.session().bag().generation()), expected);
        assert_eq!(accepted.ok().map(|s| s.session().bag().generation()), expected);
    }
}

#[tokio::test]
async fn other_keys_other_names_and_one_self_are_refused() {
    let (web, database) = pair(1);
    let refused = async |clients: Bag, servers: Bag| {
        let (a, b) = wire();
        let (opened, accepted) = attempt(a, b, vec![clients], vec![servers]).await;
        assert!(opened.is_err());
        matches!(accepted, Err(SealError::Noise(_)))
    };
    assert!(refused(web.clone(), pair(1).1).await, "another bag of the same names");
    assert!(refused(web.clone(), web.clone()).await, "a machine made to talk to itself");
    assert!(refused(database.clone(), database).await, "the same, the other end");
    let (_, other) = Bag::pair("other", LinkKind::WebDatabase, ("web", "database"), 1).unwrap();
    let (a, b) = wire();
    let (_, accepted) = attempt(a, b, vec![web], vec![other]).await;
    assert!(matches!(accepted, Err(SealError::UnknownLink(_))));
}

/// Runs a handshake in which a byte that goes to the server or to the client is altered.
async fn altered(to_server: bool, at: usize) -> (bool, bool) {
    let ((client, mut near), (mut far, server)) = (wire(), wire());
    let (web, database) = pair(1);
    let middle = async {
        let (mut up, mut down) = (0, 0);
        let (mut a, mut b) = ([0; 256], [0; 256]);
        loop {
            let (from_client, n, place, bytes) = tokio::select! {
                n = near.read(&mut a) => { let n = n.unwrap(); up += n; (true, n, up - n, &mut a) }
                n = far.read(&mut b) => { let n = n.unwrap(); down += n; (false, n, down - n, &mut b) }
            };
            if n == 0 {
                return;
            }
            if from_client == to_server && (place..place + n).contains(&at) {
                bytes[at - place] ^= 1;
            }
            let to = if from_client { &mut far } else { &mut near };
            if to.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    };
    let ends = async {
        let (opened, accepted) = attempt(client, server, vec![web], vec![database]).await;
        (opened.is_ok(), accepted.is_ok())
    };
    let ((), ends) = tokio::join!(middle, ends);
    ends
}

#[tokio::test(start_paused = true)]
async fn no_altered_byte_passes_the_handshake() {
    // "FFS/2 web-database 1\r\n" and "FFS/2 50001 1\r\n", then 50 bytes each. What a flip makes endless, the deadline ends.
    assert_eq!(altered(true, 1000).await, (true, true), "unaltered, it works");
    for at in 0..22 + 50 {
        assert_eq!(altered(true, at).await, (false, false), "byte {at} to the server");
    }
    for at in 0..15 + 50 {
        let (opened, accepted) = altered(false, at).await;
        assert!(!opened, "byte {at} to the client");
        // The server's last message is altered after it was sent: only the first record can tell it.
        assert_eq!(accepted, at >= 15, "byte {at} to the client");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let start = tokio::time::Instant::now();
    let (web, database) = pair(1);
    let (a, _b) = wire();
    assert!(matches!(open(a, &[Arc::new(web)]).await, Err(SealError::Late)));
    let (a, mut b) = wire();
    let held = Bags::new([database]).unwrap();
    b.write_all(b"FFS/2 web-database 1\r\n").await.unwrap();
    assert!(matches!(accept(a, PORT, &held).await, Err(SealError::Late)));
    assert!(start.elapsed() < HANDSHAKE * 2 + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_over_after_an_hour() {
    let (a, b) = wire();
    let (client, server) = session(a, b).await;
    tokio::time::advance(MAX_SESSION - Duration::from_millis(1)).await;
    assert!(!client.session().is_over() && !server.session().is_over());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(client.session().is_over() && server.session().is_over());
}

use super::*;
use crate::testkit::{CONTENT, Kit, content};
use tobj::{AuditEvent, Reply};

async fn put_from(
    kit: &Kit,
    length: u64,
    expected: Option<Sha256>,
    literal: &mut (dyn AsyncRead + Send + Unpin),
) -> Answer {
    put(&kit.tree, &kit.engine, length, expected, "operator:eve", 0, literal).await
}

fn left_over(kit: &Kit) -> usize {
    kit.tree.list_incoming().unwrap().len()
}

fn kit() -> Kit {
    Kit::open(tempfile::tempdir().unwrap()).0
}

#[tokio::test]
async fn an_object_comes_in_once() {
    let kit = kit();
    let length = CONTENT.len() as u64;
    for known in [false, true] {
        let reply = put_from(&kit, length, known.then(content), &mut &CONTENT[..]).await;
        assert_eq!(reply, Ok(Reply::Stored { sha256: content(), size: length, known }));
    }
    let name = content().to_string();
    let file = kit.path(&format!("storeroom/{}/{name}", &name[..2]));
    assert_eq!(std::fs::read(file).unwrap(), CONTENT);
    assert_eq!(left_over(&kit), 0);
    assert_eq!(kit.outcomes(AuditEvent::Stored), ["by operator:eve"]);
}

#[tokio::test]
async fn many_blocks_and_none() {
    let kit = kit();
    for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 6 * BLOCK + 5] {
        let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let expected: [u8; 32] = Hasher::digest(&bytes).into();
        let reply = put_from(&kit, length as u64, Some(expected.into()), &mut &bytes[..]).await;
        assert!(matches!(reply, Ok(Reply::Stored { size, .. }) if size == length as u64), "{length}: {reply:?}");
        let stat = kit.tree.object(expected.into()).unwrap().unwrap();
        assert_eq!((stat.size, stat.links), (length as u64, 1));
    }
}

#[tokio::test]
async fn what_is_not_as_announced_leaves_nothing() {
    let kit = kit();
    let length = CONTENT.len() as u64;
    let wrong = put_from(&kit, length, Some([1; 32].into()), &mut &CONTENT[..]).await;
    assert_eq!(wrong.unwrap_err().fault, Fault::Invalid);
    let short = put_from(&kit, length + 1, None, &mut &CONTENT[..]).await;
    assert_eq!(short.unwrap_err().fault, Fault::Invalid);
    let broken = put_from(&kit, length, None, &mut Broken).await;
    assert_eq!(broken.unwrap_err().fault, Fault::Invalid);
    let large = put_from(&kit, u64::MAX - 5, None, &mut tokio::io::repeat(0)).await;
    assert_eq!(large.unwrap_err().fault, Fault::Unavailable, "refused before a byte is read");
    assert_eq!(left_over(&kit), 0);
    assert!(kit.tree.is_empty().unwrap());
    assert_eq!(kit.outcomes(AuditEvent::Stored), [""; 0]);
}

/// A connection that fails.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

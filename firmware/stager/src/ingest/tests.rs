use super::*;
use crate::testkit::{CONTENT, Kit, NOW, PATIENCE, RULES, content};
use nix::errno::Errno;
use tobj::AuditEvent;

fn intake(kit: &Kit) -> Intake {
    Intake::new(kit.tree.clone(), kit.ledger.clone(), kit.engine.clone(), 0).with_checkpoints(2 * BLOCK as u64)
}

fn hash_of(bytes: &[u8]) -> Sha256 {
    let hash: [u8; 32] = Hasher::digest(bytes).into();
    hash.into()
}

fn some_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

async fn put_from(
    kit: &Kit,
    length: u64,
    expected: Option<Sha256>,
    literal: &mut (dyn AsyncRead + Send + Unpin),
) -> Answer {
    intake(kit).put(length, expected, "operator:eve", literal).await
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
        let bytes = some_bytes(length);
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

/// Bytes that end with a failure in place of the rest.
fn broken_after(bytes: &[u8]) -> impl AsyncRead + Send + Unpin {
    bytes.chain(Broken)
}

async fn offset_of(intake: &Intake, bytes: &[u8]) -> u64 {
    match intake.begin(hash_of(bytes), bytes.len() as u64).await {
        Ok(Reply::Upload { offset }) => offset,
        other => panic!("not to be gone on with: {other:?}"),
    }
}

async fn append(intake: &Intake, bytes: &[u8], from: u64, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Answer {
    intake.append(hash_of(bytes), from, bytes.len() as u64 - from, "operator:eve", literal).await
}

#[tokio::test]
async fn what_broke_off_goes_on_also_after_a_restart() {
    let mut kit = kit();
    let bytes = some_bytes(7 * BLOCK + 11);
    let mut done = 0;
    for stop in [1, BLOCK, 3 * BLOCK + 5, 6 * BLOCK] {
        let intake = intake(&kit);
        assert_eq!(offset_of(&intake, &bytes).await, done as u64);
        let part = &bytes[done..stop];
        let broken = append(&intake, &bytes, done as u64, &mut broken_after(part)).await;
        assert_eq!(broken.unwrap_err().fault, Fault::Invalid);
        done = stop;
        assert_eq!(offset_of(&intake, &bytes).await, done as u64, "all that came is kept");
        drop(intake);
        if stop > BLOCK {
            let (again, report) = tokio::task::spawn_blocking(move || kit.again()).await.unwrap();
            assert_eq!((report.uploads, report.incoming), (1, 0));
            kit = again;
        }
    }
    let intake = intake(&kit);
    let wrong = append(&intake, &bytes, 1, &mut &bytes[1..]).await.unwrap_err();
    assert!(wrong.fault == Fault::Invalid && wrong.why.contains("go on from there"), "{wrong:?}");
    let stored = append(&intake, &bytes, done as u64, &mut &bytes[done..]).await;
    let size = bytes.len() as u64;
    assert_eq!(stored, Ok(Reply::Stored { sha256: hash_of(&bytes), size, known: false }));
    let name = hash_of(&bytes).to_string();
    assert!(std::fs::read(kit.path(&format!("storeroom/{}/{name}", &name[..2]))).unwrap() == bytes);
    let again = intake.begin(hash_of(&bytes), size).await;
    assert_eq!(again, Ok(Reply::Stored { sha256: hash_of(&bytes), size, known: true }), "not a byte is sent");
    assert_eq!(left_over(&kit), 0);
    assert!(kit.ledger.read().unwrap().uploads().unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_that_is_another_object_leaves_nothing() {
    let kit = kit();
    let intake = intake(&kit);
    let (bytes, mut other) = (some_bytes(BLOCK), some_bytes(BLOCK));
    other[BLOCK / 2] ^= 1;
    append(&intake, &bytes, 0, &mut broken_after(&other[..BLOCK / 2 + 1])).await.unwrap_err();
    let from = offset_of(&intake, &bytes).await;
    let rest = usize::try_from(from).unwrap();
    let wrong = append(&intake, &bytes, from, &mut &bytes[rest..]).await.unwrap_err();
    assert!(wrong.fault == Fault::Invalid && wrong.why.contains("hash to"), "{wrong:?}");
    assert_eq!(offset_of(&intake, &bytes).await, 0, "the next try begins anew");
    // Another size under the same hash can only be a mistake; what was there of it is of no use.
    append(&intake, &bytes, 0, &mut broken_after(&bytes[..9])).await.unwrap_err();
    assert_eq!(intake.begin(hash_of(&bytes), 5).await, Ok(Reply::Upload { offset: 0 }));
    assert_eq!(left_over(&kit), 0);
    assert!(kit.tree.is_empty().unwrap());
}

#[tokio::test]
async fn one_upload_of_an_object_at_a_time() {
    let kit = kit();
    let intake = intake(&kit);
    let bytes = some_bytes(3 * BLOCK);
    let (mut sender, mut receiver) = tokio::io::duplex(64);
    let first = {
        let (intake, bytes) = (intake.clone(), bytes.clone());
        tokio::spawn(async move { append(&intake, &bytes, 0, &mut receiver).await })
    };
    tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes[..100]).await.unwrap(); // more than fits: the first is at work
    for second in
        [intake.begin(hash_of(&bytes), bytes.len() as u64).await, append(&intake, &bytes, 0, &mut &bytes[..]).await]
    {
        assert_eq!(second.unwrap_err().fault, Fault::Busy);
    }
    tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes[100..]).await.unwrap();
    assert!(first.await.unwrap().is_ok());
}

#[tokio::test]
async fn an_upload_that_comes_in_is_not_swept() {
    let kit = kit();
    let keep = RULES.upload_keep;
    kit.clock.anchor(NOW);
    let intake = intake(&kit);
    let bytes = some_bytes(3 * BLOCK);
    append(&intake, &bytes, 0, &mut broken_after(&bytes[..BLOCK])).await.unwrap_err();
    kit.time.pass(keep - 1);
    let (mut sender, mut receiver) = tokio::io::duplex(64);
    let resumed = {
        let (intake, bytes) = (intake.clone(), bytes.clone());
        tokio::spawn(async move { append(&intake, &bytes, BLOCK as u64, &mut receiver).await })
    };
    let (part, rest) = bytes[BLOCK..].split_at(100); // more than fits: it is at work
    tokio::io::AsyncWriteExt::write_all(&mut sender, part).await.unwrap();
    let at = || kit.ledger.read().unwrap().upload(hash_of(&bytes)).unwrap().map(|upload| upload.at);
    assert_eq!(at(), Some(NOW + keep - 1), "its time begins anew");
    for seconds in [2, 2 * keep] {
        kit.time.pass(seconds);
        kit.engine.ask(Work::Sweep).await.unwrap();
        assert_eq!(left_over(&kit), 1, "after {seconds} s");
    }
    tokio::io::AsyncWriteExt::write_all(&mut sender, rest).await.unwrap();
    let stored = resumed.await.unwrap();
    assert!(matches!(stored, Ok(Reply::Stored { known: false, .. })), "{stored:?}");
    // Nobody goes on with this one.
    append(&intake, b"another", 0, &mut broken_after(b"ano")).await.unwrap_err();
    kit.time.pass(keep + 1);
    kit.engine.ask(Work::Sweep).await.unwrap();
    assert_eq!(left_over(&kit), 0);
}

#[tokio::test]
async fn what_comes_in_breaks_off_at_the_end_and_goes_on_after_it() {
    let kit = kit();
    let (trigger, end) = Shutdown::manual();
    let (ending, next) = (intake(&kit).until(end), intake(&kit));
    let (bytes, came, on_its_way) = (some_bytes(3 * BLOCK), BLOCK + 500, 64);
    // Who sends goes on holding the connection, and sends nothing.
    let (mut sender, mut receiver) = tokio::io::duplex(on_its_way);
    let first = {
        let (ending, bytes) = (ending.clone(), bytes.clone());
        tokio::spawn(async move { append(&ending, &bytes, 0, &mut receiver).await })
    };
    tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes[..came]).await.unwrap();
    trigger.fire();
    let broken = tokio::time::timeout(PATIENCE, first).await.expect("it ends").unwrap().unwrap_err();
    assert!(broken.fault == Fault::Unavailable && broken.why == ENDED, "{broken:?}");
    let from = usize::try_from(offset_of(&next, &bytes).await).unwrap();
    assert!((came - on_its_way..=came).contains(&from), "what came is kept: {from}");
    assert!(append(&next, &bytes, from as u64, &mut &bytes[from..]).await.is_ok());
    // One that would begin only now leaves nothing.
    let late = ending.put(3, None, "operator:eve", &mut &b"abc"[..]).await;
    assert_eq!(late.unwrap_err().fault, Fault::Unavailable);
    assert_eq!(left_over(&kit), 0);
}

#[tokio::test]
async fn room_is_promised_once() {
    let kit = kit();
    let (free, _) = kit.tree.space().unwrap();
    // All but a little of what is free is the floor: two objects that fit alone do not fit together.
    let intake = Intake::new(kit.tree.clone(), kit.ledger.clone(), kit.engine.clone(), free - (256 << 20));
    let (first, second) = (intake.promise(100 << 20), intake.promise(100 << 20));
    assert!(first.is_ok());
    let Err(refusal) = second.and_then(|_held| intake.promise(100 << 20)).map(drop) else { panic!("too much") };
    assert!(refusal.fault == Fault::Unavailable && refusal.why.contains("min_free_bytes"), "{refusal:?}");
    drop(first);
    assert!(intake.promise(100 << 20).is_ok(), "what is not used is free again");
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_leaves_nothing() {
    let kit = kit();
    let intake = intake(&kit);
    let bytes = some_bytes(3 * BLOCK);
    for (op, errno, words) in [
        (Op::Write, Errno::ENOSPC, "full"),
        (Op::Write, Errno::EROFS, "read-only"),
        (Op::Write, Errno::EIO, "could not be written"),
        (Op::Sync, Errno::EIO, "sync"),
        (Op::Rename, Errno::ENOSPC, "full"),
    ] {
        kit.tree.faults().arm(op, 1, errno);
        let refusal = intake.put(bytes.len() as u64, None, "operator:eve", &mut &bytes[..]).await.unwrap_err();
        assert!(refusal.fault == Fault::Unavailable && refusal.why.contains(words), "{op:?} {errno}: {refusal:?}");
        assert!(intake.failure().is_some_and(|why| why.contains(words)), "{op:?} {errno}");
        kit.tree.faults().disarm();
        assert_eq!(left_over(&kit), 0, "{op:?} {errno}");
        assert_eq!(kit.tree.object(hash_of(&bytes)).unwrap(), None);
    }
    intake.put(bytes.len() as u64, None, "operator:eve", &mut &bytes[..]).await.unwrap();
    assert_eq!(intake.failure(), None, "it works again");
}

/// What the ledger has of an upload, once everything that rides along is committed.
async fn durable(kit: &Kit, bytes: &[u8]) -> Option<u64> {
    kit.engine.ask(Work::Sweep).await.unwrap();
    kit.ledger.read().unwrap().upload(hash_of(bytes)).unwrap().map(|upload| upload.durable)
}

#[tokio::test]
async fn a_sync_that_failed_is_not_tried_again() {
    let kit = kit();
    let intake = intake(&kit);
    let bytes = some_bytes(7 * BLOCK);
    for (begun, passed) in [(None, 2), (Some(2), 4)] {
        let from = begun.unwrap_or(0) * BLOCK;
        // As the kernel does it: one sync fails, and the next one has nothing to complain of.
        kit.tree.faults().arm_once(Op::Sync, 2, Errno::EIO);
        let refusal = append(&intake, &bytes, from as u64, &mut &bytes[from..]).await.unwrap_err();
        assert!(refusal.fault == Fault::Unavailable && refusal.why.contains("synced"), "{refusal:?}");
        assert_eq!(durable(&kit, &bytes).await, Some((passed * BLOCK) as u64), "what was synced before, and no more");
        assert!(intake.failure().is_some_and(|why| why.contains("synced")), "an operator hears of it");
    }
    // The sync that fails is that of a connection which breaks off.
    let from = 4 * BLOCK;
    kit.tree.faults().arm_once(Op::Sync, 1, Errno::EIO);
    append(&intake, &bytes, from as u64, &mut broken_after(&bytes[from..from + 9])).await.unwrap_err();
    assert_eq!(offset_of(&intake, &bytes).await, from as u64);
    let stored = append(&intake, &bytes, from as u64, &mut &bytes[from..]).await;
    assert!(matches!(stored, Ok(Reply::Stored { known: false, .. })), "{stored:?}");
    let name = hash_of(&bytes).to_string();
    assert!(std::fs::read(kit.path(&format!("storeroom/{}/{name}", &name[..2]))).unwrap() == bytes);
    assert_eq!(intake.failure(), None, "it works again");
}

#[tokio::test]
async fn an_upload_that_begins_anew_leaves_no_count_of_the_one_before() {
    let kit = kit();
    let intake = intake(&kit);
    let bytes = some_bytes(3 * BLOCK);
    append(&intake, &bytes, 0, &mut broken_after(&bytes[..BLOCK])).await.unwrap_err();
    assert_eq!(durable(&kit, &bytes).await, Some(BLOCK as u64));
    // Nothing of the new one becomes durable: what the file holds now is none of what was counted.
    kit.tree.faults().arm_once(Op::Sync, 1, Errno::EIO);
    append(&intake, &bytes, 0, &mut &bytes[..]).await.unwrap_err();
    assert_eq!(durable(&kit, &bytes).await, None);
    assert_eq!(offset_of(&intake, &bytes).await, 0);
    assert!(append(&intake, &bytes, 0, &mut &bytes[..]).await.is_ok());
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_else() {
    use crate::testkit::on_a_disk_that_hangs;
    let kit = kit();
    kit.clock.anchor(NOW);
    let intake = intake(&kit);
    let (bytes, length) = (some_bytes(2 * BLOCK), 2 * BLOCK as u64);
    let put = async |expected| intake.put(length, expected, "operator:eve", &mut &bytes[..]).await;
    let wrong = on_a_disk_that_hangs(&kit, put(Some(content())));
    assert_eq!(wrong.unwrap_err().fault, Fault::Invalid);
    // One that breaks off, is asked for with another size, is another object, breaks off again, and comes in.
    let broken = || async { append(&intake, &bytes, 0, &mut broken_after(&bytes[..9])).await };
    on_a_disk_that_hangs(&kit, broken()).unwrap_err();
    assert_eq!(on_a_disk_that_hangs(&kit, offset_of(&intake, &bytes)), 9);
    let another = on_a_disk_that_hangs(&kit, intake.begin(hash_of(&bytes), 5));
    assert_eq!(another, Ok(Reply::Upload { offset: 0 }));
    let zeros = vec![0; bytes.len()];
    let wrong = on_a_disk_that_hangs(&kit, async { append(&intake, &bytes, 0, &mut &zeros[..]).await });
    assert_eq!(wrong.unwrap_err().fault, Fault::Invalid);
    on_a_disk_that_hangs(&kit, broken()).unwrap_err();
    let stored = on_a_disk_that_hangs(&kit, async { append(&intake, &bytes, 9, &mut &bytes[9..]).await });
    assert!(matches!(stored, Ok(Reply::Stored { known: false, .. })), "{stored:?}");
    let known = on_a_disk_that_hangs(&kit, put(None));
    assert!(matches!(known, Ok(Reply::Stored { known: true, .. })), "{known:?}");
    assert_eq!(left_over(&kit), 0);
}

/// The writer drops an upload that nobody goes on with; others begin meanwhile.
#[test]
fn who_begins_does_not_wait_for_what_is_swept() {
    let kit = kit();
    kit.clock.anchor(NOW);
    let intake = intake(&kit);
    let runtime = crate::logins::tests::runtime();
    runtime.block_on(append(&intake, b"an upload", 0, &mut broken_after(b"an up"))).unwrap_err();
    kit.time.pass(RULES.upload_keep + 1);
    let begins = async {
        loop {
            drop(intake.claim(content()).unwrap());
            tokio::task::yield_now().await;
        }
    };
    let swept = crate::testkit::on_a_disk_that_hangs(&kit, async {
        tokio::select! { swept = kit.engine.ask(Work::Sweep) => swept, () = begins => Ok(Reply::Done {}) }
    });
    swept.unwrap();
    assert_eq!(left_over(&kit), 0);
}

#[tokio::test]
async fn an_object_that_is_not_whole_is_put_in_again() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use tobj::LeaseKind::{OneTime, Standing};
    let kit = tokio::task::spawn_blocking(|| {
        let kit = Kit::new();
        (kit.staged(1, Standing), kit.staged(2, OneTime), kit)
    });
    let (_, ticket, kit) = kit.await.unwrap();
    let name = content().to_string();
    let file = kit.path(&format!("storeroom/{}/{name}", &name[..2]));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    File::options().write(true).open(&file).unwrap().set_len(5).unwrap();
    let (kit, report) = tokio::task::spawn_blocking(move || kit.again()).await.unwrap();
    assert_eq!(report.missing, [content()], "an operator is told to put it in again");

    let size = CONTENT.len() as u64;
    let stored = put_from(&kit, size, Some(content()), &mut &CONTENT[..]).await;
    assert_eq!(stored, Ok(Reply::Stored { sha256: content(), size, known: true }));
    assert_eq!(std::fs::read(&file).unwrap(), CONTENT);
    let is_good = || {
        let object = kit.ledger.read().unwrap().object(content()).unwrap();
        object.is_some_and(|object| object.state == ObjectState::Good)
    };
    crate::testkit::eventually("its leases have it", is_good);
    let inode = std::fs::metadata(&file).unwrap().ino();
    for link in ["accounts/alice/maps/1.0/grüße 1.iso".to_owned(), format!("tickets/{ticket}/grüße 1.iso")] {
        assert_eq!(std::fs::metadata(kit.path(&link)).unwrap().ino(), inode, "{link}");
    }
    let left = kit.path(&format!("quarantine/{name}"));
    crate::testkit::eventually("what was left of the old one is dropped", || !left.exists());
    assert_eq!(left_over(&kit), 0);
}

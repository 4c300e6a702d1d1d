use super::*;
use proptest::prelude::*;
use redb::backends::InMemoryBackend;
use std::sync::Arc;

const LEN: u64 = *BOUNDS.start();
const BLOCKS: usize = 16;
const OURS: u64 = 7;

/// A store that stays when its log is dropped.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<InMemoryBackend>);

impl StorageBackend for Kept {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

impl Kept {
    fn made() -> Self {
        let store = Self::default();
        Log::make(&store, LEN).unwrap();
        store
    }

    fn open(&self, held: u64) -> Result<(Log, Vec<Vec<u8>>), LogError> {
        Log::open(Box::new(self.clone()), OURS, held)
    }

    /// Opened for records that follow these.
    fn begun(&self, held: u64) -> Log {
        let (mut log, found) = self.open(held).unwrap();
        assert_eq!(found, Vec::<Vec<u8>>::new());
        log.restart();
        log
    }

    fn flip(&self, at: usize) {
        let mut byte = [0];
        self.read(at as u64, &mut byte).unwrap();
        self.write(at as u64, &[byte[0] ^ 1]).unwrap();
    }
}

fn of(changes: &[u8]) -> Vec<u8> {
    [&[0; HEADER], changes].concat()
}

#[test]
fn a_record_is_as_described() {
    let store = Kept::made();
    assert!(store.begun(41).append(of(b"a change")).unwrap());
    let mut block = vec![0xff; UNIT];
    store.read(0, &mut block).unwrap();
    let described = "02bfd24cbdd2bffa512c65d755b4c2ac4bc7980c456043858d4729c8b8f3b636\
                     0700000000000000\
                     2a00000000000000\
                     08000000\
                     61206368616e6765";
    assert_eq!(hex::encode(&block[..60]), described);
    assert!(block[60..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_in_it_is_found_again() {
    let store = Kept::made();
    let mut log = store.begun(0);
    let long = vec![9; 3 * UNIT];
    for changes in [b"one".as_slice(), &long, b"three"] {
        assert!(log.append(of(changes)).unwrap());
    }
    assert_eq!(log.last(), 3);
    let all = [b"one".to_vec(), long, b"three".to_vec()];
    for held in 0..=3 {
        let (log, found) = store.open(held as u64).unwrap();
        assert_eq!((found.as_slice(), log.last()), (&all[held..], 3));
    }
    // A ledger that knows more numbers than there are: these are from before.
    let (log, found) = store.open(9).unwrap();
    assert_eq!((found.len(), log.last()), (0, 9));
}

#[test]
fn a_log_that_is_not_this_ledgers_is_told() {
    let store = Kept::made();
    assert!(!Log::has_records(&store).unwrap());
    let other = |held| Log::open(Box::new(store.clone()), OURS + 1, held).map(|(_, found)| found.len());
    assert!(matches!(other(0), Ok(0)), "it is nobody's before its first record");
    assert!(store.begun(7).append(of(b"one")).unwrap());
    assert!(Log::has_records(&store).unwrap());
    for held in [0, 7, 8, 9] {
        assert!(matches!(other(held), Err(LogError::Foreign)));
    }
    // Of the same one, but from before it: records that it does not have are not there.
    assert!(matches!(store.open(6), Err(LogError::Damaged(7))));
    for short in [0, LEN - 1] {
        store.set_len(short).unwrap();
        assert!(matches!(store.open(8), Err(LogError::Short(len)) if len == short));
    }
}

#[test]
fn a_number_may_be_passed_over_between_two_rounds() {
    let store = Kept::made();
    let mut log = store.begun(0);
    assert!(log.append(of(b"one")).unwrap());
    log.pass_over();
    log.restart();
    assert!(log.append(of(b"three")).unwrap());
    assert_eq!(store.open(2).unwrap().1, [b"three"]);
    assert!(matches!(store.open(1), Err(LogError::Damaged(2))), "the second one went to the ledger, which went back");
}

#[test]
fn it_is_written_to_its_last_block_and_not_beyond() {
    let store = Kept::made();
    let mut log = store.begun(0);
    let fills = |blocks: usize| of(&vec![1; blocks * UNIT - HEADER]);
    assert!(!log.append(fills(BLOCKS + 1)).unwrap());
    assert!(log.append(fills(BLOCKS - 1)).unwrap());
    assert!(!log.append(of(&vec![1; UNIT - HEADER + 1])).unwrap());
    assert!(log.append(fills(1)).unwrap());
    assert!(!log.append(of(b"x")).unwrap());
    assert_eq!((log.last(), store.len().unwrap()), (2, LEN));
    assert_eq!(store.open(0).unwrap().1.len(), 2);
    log.restart();
    assert!(log.append(fills(BLOCKS)).unwrap());
    assert_eq!(store.open(2).unwrap().1.len(), 1);
}

#[test]
fn a_cut_record_is_none_and_a_damaged_one_is_told() {
    let changes = vec![5; UNIT];
    for at in [0, HASH - 1, HASH, MARK, NUMBER, HEADER, UNIT, HEADER + UNIT - 1] {
        let store = Kept::made();
        let mut log = store.begun(0);
        assert!(log.append(of(&changes)).unwrap() && log.append(of(&changes)).unwrap());
        store.flip(2 * UNIT + at);
        assert_eq!(store.open(0).unwrap().1.len(), 1, "the last one is cut at {at}");
        store.flip(2 * UNIT + at);
        store.flip(at);
        assert!(matches!(store.open(0), Err(LogError::Damaged(1))), "the first one is damaged at {at}");
    }
}

#[test]
fn after_a_failure_there_are_no_more_records() {
    let store = Kept::made();
    let mut log = store.begun(0);
    log.hold().unwrap();
    log.release();
    log.hold().unwrap();
    assert!(matches!(log.hold(), Err(LogError::Failed)));
    log.restart();
    log.hold().unwrap();
}

proptest! {
    /// Records of any length, begun anew whenever it is full, cut at any point: what was acknowledged since is found, and nothing else.
    #[test]
    fn what_was_acknowledged_is_found(
        lengths in prop::collection::vec(0..3 * UNIT, 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let store = Kept::made();
        let mut log = store.begun(0);
        let (mut held, mut since) = (0, Vec::new());
        for (n, length) in lengths.iter().enumerate() {
            let changes = vec![u8::try_from(n).unwrap(); *length];
            if !log.append(of(&changes)).unwrap() {
                (held, since) = (log.last(), Vec::new());
                log.restart();
                prop_assert!(log.append(of(&changes)).unwrap());
            }
            since.push(changes);
        }
        // The last record reaches the disk in part only.
        let last = since.pop().unwrap();
        let begin: usize = since.iter().map(|changes| room(changes.len())).sum();
        store.flip(begin + cut.index(HEADER + last.len()));
        prop_assert_eq!(store.open(held).unwrap().1, since);
    }
}

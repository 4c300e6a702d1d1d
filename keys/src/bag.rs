//! Key bags.

use crate::files;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Entries in a bag: N of the document. Entry I = P mod N serves a connection with port P.
pub const ENTRIES: usize = 128;
/// Longest name of a link or of an end, in bytes; a link's must fit a greeting line of 64.
pub const MAX_NAME: usize = 40;
/// Bytes of an entry: a DES key and a seal key.
const ENTRY: usize = 8 + 32;
/// First line of a bag's file tells its format.
const FORMAT: &str = "ffs-bag-1";

/// Which two kinds of ends a bag joins. What may be asked over the link hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// A web and a download appliance.
    WebDownload,
    /// A web and a database appliance.
    WebDatabase,
    /// A download and a database appliance, used inside the web appliance's relay.
    DownloadDatabase,
    /// An operator and one appliance.
    Operator,
}

/// Why there is no bag.
#[derive(Debug, thiserror::Error)]
pub enum BagError {
    /// The file cannot be read or written.
    #[error("cannot read or write the key bag {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error(
        "the key bag {path} has mode {mode:03o}; only its owner may read it: chmod 600, and think of who read it meanwhile"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What came over a link is not a bag.
    #[error("these are not the keys of a bag: {0}")]
    Entries(&'static str),
    /// There is no generation after this one.
    #[error("generation {0} is the last there can be")]
    Last(u32),
    /// Its text is not a bag. Where exactly is not said, since the text is secret.
    #[error("{path} is not a key bag of this version: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The rule that was broken.
        why: &'static str,
    },
    /// A name that cannot be used.
    #[error("{0:?} cannot name a link or an end: 1 to {MAX_NAME} of A-Z a-z 0-9 . _ @ + : -")]
    Name(String),
    /// No randomness.
    #[error("the system gives no randomness")]
    Random(#[from] getrandom::Error),
}

#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
struct Entry {
    des: [u8; 8],
    seal: [u8; 32],
}

/// One end's copy of a bag.
#[derive(Clone, PartialEq, Eq)]
pub struct Bag {
    link: String,
    kind: LinkKind,
    local: String,
    peer: String,
    generation: u32,
    entries: Vec<Entry>,
}

/// The file: TOML, with each entry as 16 + 64 hex digits.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    link: String,
    kind: LinkKind,
    local: String,
    peer: String,
    generation: u32,
    entries: Vec<String>,
}

impl Bag {
    /// New keys for the link between two ends, who each know the other by the name given here.
    ///
    /// # Errors
    /// [`BagError::Name`], [`BagError::Random`].
    pub fn pair(link: &str, kind: LinkKind, ends: (&str, &str), generation: u32) -> Result<(Self, Self), BagError> {
        for name in [link, ends.0, ends.1] {
            if !valid_name(name) {
                return Err(BagError::Name(name.to_owned()));
            }
        }
        let (a, b) = (ends.0.to_owned(), ends.1.to_owned());
        let first = Bag { link: link.to_owned(), kind, local: a, peer: b, generation, entries: fresh()? };
        let second = first.mirrored();
        Ok((first, second))
    }

    /// The other end's copy.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        let Self { local, peer, .. } = self.clone();
        Self { local: peer, peer: local, ..self.clone() }
    }

    /// The next generation of the same link: new keys, the same ends.
    ///
    /// # Errors
    /// [`BagError::Last`], [`BagError::Random`].
    pub fn next(&self) -> Result<Self, BagError> {
        let generation = self.generation.checked_add(1).ok_or(BagError::Last(self.generation))?;
        Ok(Self { generation, entries: fresh()?, ..self.clone() })
    }

    /// This bag with the keys of another generation, as [`Bag::entries`] gave them at the other end.
    ///
    /// # Errors
    /// [`BagError::Entries`].
    pub fn renewed<T: AsRef<str>>(&self, generation: u32, entries: &[T]) -> Result<Self, BagError> {
        Self::from_entries(&self.link, self.kind, (&self.local, &self.peer), generation, entries)
    }

    /// A bag from keys that [`Bag::entries`] gave somewhere else; `ends` is one's own name and the other's.
    ///
    /// # Errors
    /// [`BagError::Name`], [`BagError::Entries`].
    pub fn from_entries<T: AsRef<str>>(
        link: &str,
        kind: LinkKind,
        ends: (&str, &str),
        generation: u32,
        entries: &[T],
    ) -> Result<Self, BagError> {
        for name in [link, ends.0, ends.1] {
            if !valid_name(name) {
                return Err(BagError::Name(name.to_owned()));
            }
        }
        if ends.0 == ends.1 || generation == 0 {
            return Err(BagError::Entries("both ends have the same name, or the generation is 0"));
        }
        let entries = parse_entries(entries).map_err(BagError::Entries)?;
        let (local, peer) = (ends.0.to_owned(), ends.1.to_owned());
        Ok(Self { link: link.to_owned(), kind, local, peer, generation, entries })
    }

    /// Its keys as text, entry by entry: 16 hex digits of the DES key and 64 of the seal key. As secret as the bag.
    pub fn entries(&self) -> impl Iterator<Item = Zeroizing<String>> {
        self.entries.iter().map(|entry| {
            let mut text = Zeroizing::new(vec![0; 2 * ENTRY]);
            hex::encode_to_slice(entry.des, &mut text[..16]).expect("16 digits are 8 bytes");
            hex::encode_to_slice(entry.seal, &mut text[16..]).expect("64 digits are 32 bytes");
            Zeroizing::new(std::str::from_utf8(&text).expect("hex is ASCII").to_owned())
        })
    }

    /// The link's name, as in the greeting.
    pub fn link(&self) -> &str {
        &self.link
    }
    /// What kinds of ends it joins.
    pub fn kind(&self) -> LinkKind {
        self.kind
    }
    /// One's own name on this link.
    pub fn local(&self) -> &str {
        &self.local
    }
    /// The other end's name.
    pub fn peer(&self) -> &str {
        &self.peer
    }
    /// Its generation; a rotation makes the next.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The DES key of an entry; the index is taken modulo [`ENTRIES`].
    pub fn des_key(&self, index: usize) -> &[u8; 8] {
        &self.entries[index % ENTRIES].des
    }

    /// The seal key of an entry: the pre-shared key of the Noise session. The index is taken modulo [`ENTRIES`].
    pub fn seal_key(&self, index: usize) -> &[u8; 32] {
        &self.entries[index % ENTRIES].seal
    }

    /// What two people may compare to know that they hold the same keys: the first 16 bytes of a SHA-256 over all of them, in hex.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(FORMAT);
        hash.update(self.link.as_bytes());
        hash.update(self.generation.to_be_bytes());
        for entry in &self.entries {
            hash.update(entry.des);
            hash.update(entry.seal);
        }
        hex::encode(&hash.finalize()[..16])
    }

    /// Reads a bag and checks every key.
    ///
    /// A file that others than its owner may read is refused, except in `$CREDENTIALS_DIRECTORY`, where systemd grants
    /// the service access by an ACL that shows in the mode of the group.
    ///
    /// # Errors
    /// [`BagError::Io`], [`BagError::Mode`], [`BagError::Invalid`].
    pub fn load(path: &Path) -> Result<Self, BagError> {
        Self::load_beside(path, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))
    }

    fn load_beside(path: &Path, credentials: Option<&Path>) -> Result<Self, BagError> {
        let io = |source| BagError::Io { path: path.into(), source };
        let mut file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 && credentials.is_none_or(|dir| path.parent() != Some(dir)) {
            return Err(BagError::Mode { path: path.into(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(io)?;
        Self::parse(&text).map_err(|why| BagError::Invalid { path: path.into(), why })
    }

    /// Writes it for its owner only (0600), durably.
    ///
    /// # Errors
    /// [`BagError::Io`], also when there is such a file already.
    pub fn save(&self, path: &Path) -> Result<(), BagError> {
        files::secret(path, self.render().as_bytes()).map_err(|source| BagError::Io { path: path.into(), source })
    }

    fn render(&self) -> Zeroizing<String> {
        let mut stored = Stored {
            format: FORMAT.to_owned(),
            link: self.link.clone(),
            kind: self.kind,
            local: self.local.clone(),
            peer: self.peer.clone(),
            generation: self.generation,
            entries: self.entries().map(|text| text.to_string()).collect(),
        };
        let text = toml::to_string_pretty(&stored).expect("a struct of strings and numbers is TOML");
        stored.entries.zeroize();
        Zeroizing::new(text)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut stored: Stored = toml::from_str(text).map_err(|_| "its fields are not those of a bag")?;
        let entries = parse_entries(&stored.entries);
        stored.entries.zeroize();
        let entries = entries?;
        if stored.format != FORMAT {
            return Err("its format is another");
        }
        if ![&stored.link, &stored.local, &stored.peer].into_iter().all(|name| valid_name(name)) {
            return Err("a name in it cannot be used");
        }
        if stored.local == stored.peer {
            return Err("both ends have the same name");
        }
        let Stored { link, kind, local, peer, generation, .. } = stored;
        Ok(Self { link, kind, local, peer, generation, entries })
    }
}

/// Keys for all entries of a bag.
fn fresh() -> Result<Vec<Entry>, getrandom::Error> {
    let mut entries: Vec<Entry> = Vec::with_capacity(ENTRIES);
    while entries.len() < ENTRIES {
        let mut entry = Entry { des: [0; 8], seal: [0; 32] };
        getrandom::fill(&mut entry.des)?;
        getrandom::fill(&mut entry.seal)?;
        entry.des.iter_mut().for_each(|b| *b = odd(*b));
        if usable(&entry, &entries).is_ok() {
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn parse_entries<T: AsRef<str>>(texts: &[T]) -> Result<Vec<Entry>, &'static str> {
    if texts.len() != ENTRIES {
        return Err("it does not have 128 entries");
    }
    let mut entries = Vec::with_capacity(ENTRIES);
    for text in texts {
        let mut bytes = Zeroizing::new([0u8; ENTRY]);
        hex::decode_to_slice(text.as_ref(), &mut *bytes).map_err(|_| "an entry is not hex of 40 bytes")?;
        let mut entry = Entry { des: [0; 8], seal: [0; 32] };
        entry.des.copy_from_slice(&bytes[..8]);
        entry.seal.copy_from_slice(&bytes[8..]);
        usable(&entry, &entries)?;
        entries.push(entry);
    }
    Ok(entries)
}

/// Sets the lowest bit so that the number of ones is odd (FIPS 46-3).
fn odd(byte: u8) -> u8 {
    let upper = byte & 0xfe;
    upper | u8::from(upper.count_ones().is_multiple_of(2))
}

fn usable(entry: &Entry, before: &[Entry]) -> Result<(), &'static str> {
    if entry.des.iter().any(|b| odd(*b) != *b) {
        return Err("a DES key in it has not odd parity");
    }
    if des::weak_key_test(&entry.des).is_err() {
        return Err("a DES key in it is weak or semi-weak");
    }
    if before.iter().any(|e| e.des == entry.des || e.seal == entry.seal) {
        return Err("a key stands in it twice");
    }
    Ok(())
}

fn valid_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@+:-".contains(c);
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['.', '-'])
}

impl fmt::Debug for Bag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bag")
            .field("link", &self.link)
            .field("local", &self.local)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Bag, Bag) {
        Bag::pair("web-database", LinkKind::WebDatabase, ("web", "database"), 3).unwrap()
    }

    #[test]
    fn both_ends_hold_the_same_keys() {
        let (a, b) = pair();
        assert_eq!((a.local(), a.peer()), (b.peer(), b.local()));
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_eq!(a.des_key(130), b.des_key(2));
        assert_ne!(a.seal_key(1), a.seal_key(2));
        assert_ne!(pair().0.fingerprint(), pair().0.fingerprint());
    }

    #[test]
    fn files_are_private_and_read_back() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bag");
        let (a, _) = pair();
        a.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(Bag::load(&path).unwrap() == a);
        assert!(a.save(&path).is_err(), "a bag is never overwritten");
        assert!(!format!("{a:?}").contains(&hex::encode(a.des_key(0))));
    }

    #[test]
    fn a_bag_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bag");
        pair().0.save(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o644, 0o440] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(Bag::load(&path), Err(BagError::Mode { mode: m, .. }) if m == mode), "{mode:o}");
            assert!(Bag::load_beside(&path, Some(dir.path())).is_ok(), "as a credential it may have mode {mode:o}");
            assert!(Bag::load_beside(&path, Some(Path::new("/run/credentials"))).is_err(), "{mode:o}");
        }
        for mode in [0o600, 0o400] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(Bag::load(&path).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn generations_and_copies() {
        let (a, b) = pair();
        assert!(a.mirrored() == b && b.mirrored() == a);
        let next = a.next().unwrap();
        assert_eq!((next.generation(), next.link(), next.peer()), (4, a.link(), a.peer()));
        assert!((0..ENTRIES).all(|i| next.des_key(i) != a.des_key(i) && next.seal_key(i) != a.seal_key(i)));
        let mut entries: Vec<_> = next.entries().collect();
        assert!(b.renewed(4, &entries).unwrap() == next.mirrored());
        assert!(matches!(b.renewed(0, &entries), Err(BagError::Entries(_))));
        entries.swap(0, 1);
        entries[2] = entries[3].clone();
        assert!(matches!(b.renewed(4, &entries), Err(BagError::Entries(_))));
        entries.pop();
        assert!(matches!(b.renewed(4, &entries), Err(BagError::Entries(_))));
        let last = Bag::pair("l", LinkKind::WebDatabase, ("a", "b"), u32::MAX).unwrap().0;
        assert!(matches!(last.next(), Err(BagError::Last(u32::MAX))));
    }

    #[test]
    fn bad_bags_are_refused() {
        let (a, _) = pair();
        let good = a.render().to_string();
        let key = hex::encode(a.des_key(0));
        for (what, from, to) in [
            ("weak", key.as_str(), "0101010101010101"),
            ("semi-weak", key.as_str(), "01fe01fe01fe01fe"),
            ("parity", key.as_str(), "0000000000000000"),
            ("twice", key.as_str(), hex::encode(a.des_key(1)).as_str()),
            ("short", key.as_str(), ""),
            ("format", FORMAT, "ffs-bag-9"),
            ("kind", "kind = \"web-database\"", "kind = \"web-web\""),
            ("name", "local = \"web\"", "local = \"w b\""),
            ("same", "local = \"web\"", "local = \"database\""),
        ] {
            assert!(good.contains(from), "{what}");
            assert!(Bag::parse(&good.replacen(from, to, 1)).is_err(), "{what}");
        }
        let (head, tail) = good.rsplit_once("    \"").unwrap();
        assert!(tail.len() > 80 && Bag::parse(&format!("{head}]")).is_err(), "127 entries");
        assert!(Bag::parse(&good).is_ok());
    }

    #[test]
    fn names_at_their_edges() {
        let make = |name: &str| Bag::pair(name, LinkKind::Operator, ("a", "b"), 1).is_ok();
        assert!(make(&"x".repeat(MAX_NAME)) && make("operator:al@x.y"));
        assert!(!make(&"x".repeat(MAX_NAME + 1)) && !make("") && !make("a b") && !make("ä") && !make("../x"));
    }
}

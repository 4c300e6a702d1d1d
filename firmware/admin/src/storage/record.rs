//! What the machine remembers of its array, and what an operator ordered.

use super::array::Array;
use super::plan::Level;
use super::superblock::Uuid;
use super::{StorageError, io_error};
use crate::block::Block;
use crate::durable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::io;
use std::path::Path;

/// Where the record is.
pub(crate) const RECORD: &str = "/state/storage.toml";
/// Where an order waits. Not on the state partition: an order to make an array does not outlive the boot that it was given in.
pub(crate) const ORDER: &str = "/run/ffs/admind/storage-order.toml";

/// Where the [disks that were up to date](Current) are remembered, in a file of its own: admind writes it at any time.
pub(crate) const CURRENT: &str = "/state/storage-current.toml";

/// How far the array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// It is being made: there is nothing on it yet.
    Creating,
    /// Its file system is in use.
    Ready,
}

/// The array of this machine. What a later version has written besides is passed over: a machine that went back from it still reads the
/// rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its identifier.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub(crate) array: Uuid,
    /// Its level.
    pub(crate) level: Level,
    /// How many spares it is made with.
    #[serde(default, skip_serializing_if = "none")]
    pub(crate) spares: usize,
    /// How far it is.
    pub(crate) progress: Progress,
    /// While it is being made: the serial numbers of its disks, where all of them have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) disks: Vec<String>,
    /// The request that ordered it, if one did: asked again, it gets the same answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<String>,
}

/// The disks of an array that were up to date when this machine last looked. None of the others has what was written since they left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Current {
    /// The array.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub(crate) array: Uuid,
    /// The disks, by serial number. Empty where one of them has none: then nobody knows.
    pub(crate) disks: Vec<String>,
}

impl Current {
    /// Those of an array that runs; none where there are none.
    pub(crate) fn of(array: &Array, blocks: &[Block]) -> Option<Self> {
        let members = array.members.iter().filter(|m| array.runs() && m.is("in_sync") && !m.is("faulty"));
        let serial = |disk: &str| blocks.iter().find(|b| b.name == disk)?.serial.clone();
        let disks: Vec<Option<String>> = members.map(|m| serial(&m.disk)).collect();
        let some = !disks.is_empty();
        let disks: Option<Vec<String>> = disks.into_iter().collect();
        some.then(|| Self { array: array.array, disks: disks.unwrap_or_default() })
    }
}

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// The level; by the number of disks if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) level: Option<Level>,
    /// The disks; all blank ones if they are not said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) disks: Vec<String>,
    /// How many of the disks are spares.
    #[serde(default, skip_serializing_if = "none")]
    pub(crate) spares: usize,
    /// To take the array that is found, instead of making one.
    #[serde(default)]
    pub(crate) adopt: bool,
    /// To start the array of this machine although its parity may be wrong, or its newest disks are lost.
    #[serde(default)]
    pub(crate) start: bool,
    /// The request that this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn none(number: &usize) -> bool {
    *number == 0
}

fn to_text<S: Serializer>(uuid: &Uuid, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(uuid)
}

fn from_text<'de, D: Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

/// Reads one of them; `None` where there is none.
pub(crate) fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StorageError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path)(error)),
    };
    let parsed = toml::from_str(&text);
    parsed.map(Some).map_err(|source| StorageError::Record { path: path.into(), source: Box::new(source) })
}

/// Writes one of them, durably.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), StorageError> {
    let text = toml::to_string(value).map_err(|e| io_error(path)(io::Error::other(e)))?;
    durable::write(path, text.as_bytes(), 0o600).map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use super::super::array::tests::sample;
    use super::*;

    #[test]
    fn which_disks_are_up_to_date() {
        let block = |name: &str, serial: Option<&str>| Block {
            name: name.into(),
            serial: serial.map(str::to_owned),
            ..Block::default()
        };
        let blocks = [block("a", Some("A")), block("b", Some("B")), block("n", None)];
        let of = |members: &[(&str, &str)]| Current::of(&sample(members), &blocks).map(|c| c.disks.join(" "));
        assert_eq!(of(&[("a", "in_sync"), ("b", "in_sync,write_mostly")]).as_deref(), Some("A B"));
        assert_eq!(of(&[("a", "in_sync"), ("b", "spare")]).as_deref(), Some("A"), "it is being filled");
        assert_eq!(of(&[("a", "in_sync"), ("b", "faulty,in_sync")]).as_deref(), Some("A"));
        assert_eq!(of(&[("a", "in_sync"), ("n", "in_sync")]).as_deref(), Some(""), "it cannot be told from others");
        assert_eq!(of(&[("a", "faulty")]), None);
        let stopped = Array { state: "inactive".into(), ..sample(&[("a", "in_sync")]) };
        assert_eq!(Current::of(&stopped, &blocks), None);
        let dir = tempfile::tempdir().unwrap();
        let current = Current { array: Uuid([1; 16]), disks: vec!["A".into()] };
        save(&dir.path().join("current"), &current).unwrap();
        assert_eq!(load(&dir.path().join("current")).unwrap(), Some(current));
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("storage.toml");
        assert_eq!(load::<Record>(&path).unwrap(), None);
        let record = Record {
            array: Uuid([0xa5; 16]),
            level: Level::Raid10,
            spares: 0,
            progress: Progress::Creating,
            disks: vec!["S1".into(), "S2".into()],
            request: None,
        };
        save(&path, &record).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "array = \"a5a5a5a5:a5a5a5a5:a5a5a5a5:a5a5a5a5\"\nlevel = \"raid10\"\nprogress = \"creating\"\n\
                        disks = [\"S1\", \"S2\"]\n";
        assert_eq!(text, expected);
        assert_eq!(load::<Record>(&path).unwrap().as_ref(), Some(&record));
        // A later version may know more.
        std::fs::write(&path, format!("{expected}later = true\n")).unwrap();
        assert_eq!(load::<Record>(&path).unwrap(), Some(record));
        std::fs::write(&path, "array = 1").unwrap();
        assert!(matches!(load::<Record>(&path), Err(StorageError::Record { .. })));
        let order = Order { disks: vec!["vdb".into()], spares: 1, request: Some("ab".into()), ..Order::default() };
        save(&path, &order).unwrap();
        assert_eq!(load::<Order>(&path).unwrap(), Some(order));
    }
}

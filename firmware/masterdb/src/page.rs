//! Pages of lists that fit into one Tobj.

use tobj::{MAX_BYTES, PAGE};

/// What the root of a reply and its other fields take at most, in bytes.
const HEAD: usize = 4 << 10;
/// What one character of text may become on the wire: a quotation mark is `&quot;`.
pub(crate) const ESCAPED: usize = 6;
/// What tags, names, numbers and hashes of one entry take at most, in bytes.
pub(crate) const ENTRY: usize = 1 << 10;

/// A page being filled.
pub(crate) struct Page<T> {
    items: Vec<T>,
    left: usize,
    more: bool,
}

impl<T> Page<T> {
    pub(crate) fn new() -> Self {
        Self { items: Vec::new(), left: MAX_BYTES - HEAD, more: false }
    }

    /// Adds an entry with this many bytes of free text; `false` when the page is full, which makes this entry the next page's.
    pub(crate) fn push(&mut self, item: T, text: usize) -> bool {
        let cost = text.saturating_mul(ESCAPED).saturating_add(ENTRY);
        if self.items.len() == PAGE || cost > self.left {
            self.more = true;
            return false;
        }
        self.left -= cost;
        self.items.push(item);
        true
    }

    /// The entries, and whether there are more.
    pub(crate) fn finish(self) -> (Vec<T>, bool) {
        (self.items, self.more)
    }
}

/// An offset as it is on this machine; one beyond its memory is beyond every list.
pub(crate) fn offset(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tobj::{AuditEntry, AuditEvent, AuditRecord, Id, Message, Name, Reply, Sha256, Text, Timestamp, TlsVersion};

    #[test]
    fn a_page_ends_at_its_count() {
        let mut page = Page::new();
        assert!((0..PAGE).all(|n| page.push(n, 0)));
        assert!(!page.push(0, 0));
        let (items, more) = page.finish();
        assert_eq!((items.len(), more), (PAGE, true));
    }

    #[test]
    fn the_largest_entries_still_fit_a_tobj() {
        let worst = Text::new(&"\"".repeat(Text::MAX)).unwrap();
        let entry = AuditEntry {
            index: u64::MAX,
            appliance: Name::new(&"x".repeat(Name::MAX)).unwrap(),
            record: AuditRecord {
                seq: u64::MAX,
                at: Timestamp(u64::MAX),
                event: AuditEvent::LoginRefused,
                customer: Some(worst.clone()),
                address: Some(worst.clone()),
                lease: Some(Id::from([0xff; 16])),
                sha256: Some(Sha256::from([0xff; 32])),
                offset: Some(u64::MAX),
                bytes: Some(u64::MAX),
                milliseconds: Some(u64::MAX),
                tls: Some(TlsVersion::Tls13),
                outcome: Some(worst),
            },
        };
        let mut page = Page::new();
        while page.push(entry.clone(), 3 * Text::MAX) {}
        let (items, more) = page.finish();
        assert!(!items.is_empty() && more);
        let request = Message::request(tobj::Request::AuditList { after: 0 }).unwrap();
        request.reply(Reply::AuditTrail { items, more }).encode().unwrap();
    }
}

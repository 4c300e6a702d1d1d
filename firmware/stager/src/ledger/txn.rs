//! Changes under way.

use super::changes::{self, Changes, Logged};
use super::{
    DUE, GRANTS, HOLDERS, LEASES, META, Number, OBJECTS, ORDER_NUMBERS, ORDERS, ORDERS_KEPT, OUTBOX, PATHS, Result,
    TRANSFERS, UPLOADS, WITHDRAWN, key, parse, path_key, render, unkey,
};
use crate::rows::{DoneOrder, Event, Lease, Object, State, Transfer, Upload, UsedGrant, Withdrawn};
use redb::ReadableTable;
use tobj::{Id, Sha256};

/// A change under way.
pub struct Txn<'t> {
    meta: Logged<'t, &'static str, u64>,
    objects: Logged<'t, &'static [u8; 32], &'static [u8]>,
    leases: Logged<'t, u128, &'static [u8]>,
    paths: Logged<'t, &'static str, u128>,
    due: Logged<'t, (u64, u128), ()>,
    holders: Logged<'t, (&'static [u8; 32], u128), ()>,
    uploads: Logged<'t, &'static [u8; 32], &'static [u8]>,
    withdrawn: Logged<'t, (&'static str, u64), &'static [u8]>,
    grants: Logged<'t, (u64, u128), &'static [u8]>,
    transfers: Logged<'t, u64, &'static [u8]>,
    outbox: Logged<'t, u64, &'static [u8]>,
    /// Once they were asked for; the last number is written at the end.
    audit: Option<Numbers>,
    changes: Changes,
}

/// How audit records are numbered.
#[derive(Clone, Copy)]
struct Numbers {
    last: u64,
    /// See [`Number::Others`].
    others: u64,
}

impl<'t> Txn<'t> {
    pub(super) fn new(write: &'t redb::WriteTransaction) -> Result<Self> {
        let changes = Changes::new();
        // The numbers of the tables stand in logs: they stay.
        Ok(Self {
            meta: Logged::new(write.open_table(META)?, 0, &changes),
            objects: Logged::new(write.open_table(OBJECTS)?, 1, &changes),
            leases: Logged::new(write.open_table(LEASES)?, 2, &changes),
            paths: Logged::new(write.open_table(PATHS)?, 3, &changes),
            due: Logged::new(write.open_table(DUE)?, 4, &changes),
            holders: Logged::new(write.open_table(HOLDERS)?, 5, &changes),
            uploads: Logged::new(write.open_table(UPLOADS)?, 6, &changes),
            withdrawn: Logged::new(write.open_table(WITHDRAWN)?, 7, &changes),
            grants: Logged::new(write.open_table(GRANTS)?, 8, &changes),
            transfers: Logged::new(write.open_table(TRANSFERS)?, 9, &changes),
            outbox: Logged::new(write.open_table(OUTBOX)?, 10, &changes),
            audit: None,
            changes,
        })
    }

    /// Ends it: what was changed, as a record of the log; nothing where nothing was.
    pub(super) fn finish(mut self) -> Result<Option<Vec<u8>>> {
        if let Some(numbers) = self.audit.take() {
            self.set_number(Number::Audit, numbers.last)?;
        }
        Ok(self.changes.take())
    }

    /// Makes the changes of a record again.
    pub(super) fn replay(&mut self, record: &[u8]) -> Result<()> {
        for change in changes::read(record) {
            let (table, key, value) = change?;
            match table {
                0 => self.meta.replay(key, value)?,
                1 => self.objects.replay(key, value)?,
                2 => self.leases.replay(key, value)?,
                3 => self.paths.replay(key, value)?,
                4 => self.due.replay(key, value)?,
                5 => self.holders.replay(key, value)?,
                6 => self.uploads.replay(key, value)?,
                7 => self.withdrawn.replay(key, value)?,
                8 => self.grants.replay(key, value)?,
                9 => self.transfers.replay(key, value)?,
                10 => self.outbox.replay(key, value)?,
                _ => return Err(changes::unreadable()),
            }
        }
        Ok(())
    }

    /// One of the numbers; 0 where it was never set.
    ///
    /// # Errors
    /// When the ledger cannot be read; so with all that follow.
    pub fn number(&self, which: Number) -> Result<u64> {
        Ok(self.meta.get(which.key())?.map_or(0, |n| n.value()))
    }

    /// Sets one of the numbers.
    pub fn set_number(&mut self, which: Number, value: u64) -> Result<()> {
        self.meta.insert(which.key(), value)?;
        Ok(())
    }

    /// An object.
    pub fn object(&self, sha256: Sha256) -> Result<Option<Object>> {
        self.objects.get(sha256.as_bytes())?.map(|row| parse("objects", row.value())).transpose()
    }

    /// Adds or changes an object.
    pub fn put_object(&mut self, sha256: Sha256, object: &Object) -> Result<()> {
        self.objects.insert(sha256.as_bytes(), &*render("objects", object)?)?;
        Ok(())
    }

    /// Drops an object.
    pub fn remove_object(&mut self, sha256: Sha256) -> Result<()> {
        self.objects.remove(sha256.as_bytes())?;
        Ok(())
    }

    /// The leases for an object from after this one on, at most `limit`.
    pub fn holders(&self, sha256: Sha256, after: Option<Id>, limit: usize) -> Result<Vec<Id>> {
        let first = after.map_or(Some(0), |id| key(id).checked_add(1));
        let Some(first) = first else { return Ok(Vec::new()) };
        let hash = sha256.as_bytes();
        let range = self.holders.range((hash, first)..=(hash, u128::MAX))?;
        range.take(limit).map(|entry| Ok(unkey(entry?.0.value().1))).collect()
    }

    /// Notes that a lease is for its object.
    pub(super) fn put_holder(&mut self, id: Id, lease: &Lease) -> Result<()> {
        self.holders.insert((lease.sha256.as_bytes(), key(id)), ())?;
        Ok(())
    }

    /// What is known of an object that has come in in part.
    pub fn upload(&self, sha256: Sha256) -> Result<Option<Upload>> {
        self.uploads.get(sha256.as_bytes())?.map(|row| parse("uploads", row.value())).transpose()
    }

    /// Notes how far an object has come in.
    pub fn put_upload(&mut self, sha256: Sha256, upload: &Upload) -> Result<()> {
        self.uploads.insert(sha256.as_bytes(), &*render("uploads", upload)?)?;
        Ok(())
    }

    /// Forgets that an object has come in in part.
    pub fn remove_upload(&mut self, sha256: Sha256) -> Result<()> {
        self.uploads.remove(sha256.as_bytes())?;
        Ok(())
    }

    /// The objects that have come in in part, and of which nothing came since before this time.
    pub fn uploads_before(&self, time: u64) -> Result<Vec<Sha256>> {
        let mut old = Vec::new();
        for entry in self.uploads.iter()? {
            let (sha256, row) = entry?;
            if parse::<Upload>("uploads", row.value())?.at < time {
                old.push(Sha256::from(*sha256.value()));
            }
        }
        Ok(old)
    }

    /// What was withdrawn from a customer lately.
    pub fn withdrawn(&self, customer: &str) -> Result<Vec<Withdrawn>> {
        let range = self.withdrawn.range((customer, 0)..=(customer, u64::MAX))?;
        range.map(|entry| parse("withdrawn", entry?.1.value())).collect()
    }

    /// Notes what was withdrawn from a customer, and forgets what was before `old`. Gives the row: one that was noted before stays,
    /// unless it is of a time after this one, when the database's clock was ahead.
    pub fn withdraw(&mut self, customer: &str, what: Withdrawn, old: u64) -> Result<Withdrawn> {
        let mut kept: Vec<Withdrawn> = self.withdrawn(customer)?;
        self.withdrawn.remove_range((customer, 0)..=(customer, u64::MAX))?;
        let what = kept.iter().find(|row| row.is(&what)).cloned().unwrap_or(what);
        kept.retain(|row| row.at >= old && *row != what && !what.corrects(row));
        kept.push(what.clone());
        for (number, row) in (0..).zip(&kept) {
            self.withdrawn.insert((customer, number), &*render("withdrawn", row)?)?;
        }
        Ok(what)
    }

    /// A lease.
    pub fn lease(&self, id: Id) -> Result<Option<Lease>> {
        self.leases.get(key(id))?.map(|row| parse("leases", row.value())).transpose()
    }

    /// The standing lease at this path.
    pub fn lease_at(&self, path: &str) -> Result<Option<(Id, Lease)>> {
        let Some(id) = self.paths.get(path)?.map(|id| unkey(id.value())) else { return Ok(None) };
        Ok(self.lease(id)?.map(|lease| (id, lease)))
    }

    /// Adds or changes a lease.
    pub fn put_lease(&mut self, id: Id, lease: &Lease) -> Result<()> {
        let row = render("leases", lease)?;
        let old: Option<Lease> =
            self.leases.insert(key(id), &*row)?.map(|row| parse("leases", row.value())).transpose()?;
        match &old {
            Some(old) if old.due() == lease.due() => {}
            Some(old) => {
                self.due.remove((old.due(), key(id)))?;
                self.due.insert((lease.due(), key(id)), ())?;
            }
            None => {
                self.due.insert((lease.due(), key(id)), ())?;
                self.paths.insert(&*path_key(id, lease), key(id))?;
                self.put_holder(id, lease)?;
            }
        }
        Ok(())
    }

    /// Drops a lease.
    pub fn remove_lease(&mut self, id: Id) -> Result<Option<Lease>> {
        let old: Option<Lease> = self.leases.remove(key(id))?.map(|row| parse("leases", row.value())).transpose()?;
        if let Some(old) = &old {
            self.due.remove((old.due(), key(id)))?;
            self.paths.remove(&*path_key(id, old))?;
            self.holders.remove((old.sha256.as_bytes(), key(id)))?;
        }
        Ok(old)
    }

    /// The leases that the sweep has to look at by this time, at most `limit`.
    pub fn due(&self, now: u64, limit: usize) -> Result<Vec<Id>> {
        let range = self.due.range(..=(now, u128::MAX))?;
        range.take(limit).map(|entry| Ok(unkey(entry?.0.value().1))).collect()
    }

    /// The leases of a customer that this withdrawal ends and that do not go yet, at most `limit`.
    pub fn ended_by(&self, customer: &str, what: &Withdrawn, limit: usize) -> Result<Vec<(Id, Lease)>> {
        let mut prefix = format!("{customer}/");
        for part in what.product.iter().chain(what.version.iter().filter(|_| what.product.is_some())) {
            prefix.push_str(part.as_str());
            prefix.push('/');
        }
        let mut found = Vec::new();
        for entry in self.paths.range(&*prefix..)? {
            let (path, id) = entry?;
            if found.len() == limit || !path.value().starts_with(&prefix) {
                break;
            }
            let id = unkey(id.value());
            let lease = self.lease(id)?.filter(|lease| lease.state != State::Removing && what.ends(lease.begun));
            found.extend(lease.map(|lease| (id, lease)));
        }
        Ok(found)
    }

    /// A used grant.
    pub fn grant(&self, use_by: u64, id: Id) -> Result<Option<UsedGrant>> {
        self.grants.get((use_by, key(id)))?.map(|row| parse("grants", row.value())).transpose()
    }

    /// Marks a grant as used.
    pub fn put_grant(&mut self, use_by: u64, id: Id, used: &UsedGrant) -> Result<()> {
        self.grants.insert((use_by, key(id)), &*render("grants", used)?)?;
        Ok(())
    }

    /// Makes a grant one that was not used.
    pub fn remove_grant(&mut self, use_by: u64, id: Id) -> Result<()> {
        self.grants.remove((use_by, key(id)))?;
        Ok(())
    }

    /// Forgets grants that could be used until before this time, at most `limit` of them; says how many.
    pub fn forget_grants(&mut self, before: u64, limit: usize) -> Result<usize> {
        let old: std::result::Result<Vec<_>, redb::StorageError> =
            self.grants.range(..(before, 0))?.take(limit).map(|entry| Ok(entry?.0.value())).collect();
        let old = old?;
        for grant in &old {
            self.grants.remove(*grant)?;
        }
        Ok(old.len())
    }

    /// The order that was done at this request.
    pub fn order(&self, request: Id) -> Result<Option<DoneOrder>> {
        self.grants.get((ORDERS, key(request)))?.map(|row| parse("grants", row.value())).transpose()
    }

    /// Remembers an order that is done with this transaction, and forgets the oldest where there are too many.
    pub fn put_order(&mut self, order: &DoneOrder) -> Result<()> {
        let row = render("grants", order)?;
        let (next, oldest) = self.order_numbers()?;
        if let Some((number, request)) = oldest.filter(|(number, _)| next - number >= ORDERS_KEPT) {
            self.grants.remove((ORDER_NUMBERS, number))?;
            self.grants.remove((ORDERS, key(request)))?;
        }
        self.grants.insert((ORDER_NUMBERS, next), &*row)?;
        self.grants.insert((ORDERS, key(order.request)), &*row)?;
        Ok(())
    }

    /// The number of the next order; that of the oldest, and its request.
    fn order_numbers(&self) -> Result<(u128, Option<(u128, Id)>)> {
        let all = || self.grants.range((ORDER_NUMBERS, 0)..=(ORDER_NUMBERS, u128::MAX));
        let next = all()?.next_back().transpose()?.map_or(0, |(last, _)| last.value().1 + 1);
        let Some((first, row)) = all()?.next().transpose()? else { return Ok((next, None)) };
        let order: DoneOrder = parse("grants", row.value())?;
        Ok((next, Some((first.value().1, order.request))))
    }

    /// Records a transfer that begins; its number is a new one.
    pub fn begin_transfer(&mut self, transfer: &Transfer) -> Result<u64> {
        let number = self.number(Number::Transfer)? + 1;
        self.set_number(Number::Transfer, number)?;
        self.transfers.insert(number, &*render("transfers", transfer)?)?;
        Ok(number)
    }

    /// Notes how far a transfer is; nothing when it has ended.
    pub fn note_transfer(&mut self, number: u64, bytes: u64, milliseconds: u64) -> Result<()> {
        let row = self.transfers.get(number)?.map(|row| parse::<Transfer>("transfers", row.value())).transpose()?;
        if let Some(mut transfer) = row {
            transfer.bytes = transfer.bytes.max(bytes);
            transfer.milliseconds = transfer.milliseconds.max(milliseconds);
            self.transfers.insert(number, &*render("transfers", &transfer)?)?;
        }
        Ok(())
    }

    /// Takes a transfer that ends.
    pub fn end_transfer(&mut self, number: u64) -> Result<Option<Transfer>> {
        self.transfers.remove(number)?.map(|row| parse("transfers", row.value())).transpose()
    }

    /// The transfers that have not ended.
    pub fn open_transfers(&self) -> Result<Vec<u64>> {
        self.transfers.iter()?.map(|entry| Ok(entry?.0.value())).collect()
    }

    /// Puts an event into the outbox, with the next number.
    pub fn log(&mut self, event: &Event) -> Result<u64> {
        let Numbers { last, others } = self.numbers()?;
        let seq = last + 1;
        self.outbox.insert(seq - others, &*render("outbox", event)?)?;
        self.audit = Some(Numbers { last: seq, others });
        Ok(seq)
    }

    /// The number of the last event.
    pub fn last_logged(&self) -> Result<u64> {
        Ok(self.numbers()?.last)
    }

    fn numbers(&self) -> Result<Numbers> {
        match self.audit {
            Some(numbers) => Ok(numbers),
            None => Ok(Numbers { last: self.number(Number::Audit)?, others: self.number(Number::Others)? }),
        }
    }

    /// Has the events of the outbox, and those to come, follow this number. For a ledger that has sent none of them. None of them is
    /// touched: there may be as many as the disk holds.
    pub fn number_after(&mut self, after: u64) -> Result<()> {
        let Numbers { last, others } = self.numbers()?;
        if after > 0 {
            self.set_number(Number::Others, others + after)?;
            self.audit = Some(Numbers { last: last + after, others: others + after });
        }
        self.set_number(Number::Unsent, 0)
    }

    /// Drops what the database has acknowledged.
    pub fn acknowledge(&mut self, upto: u64) -> Result<()> {
        let others = self.numbers()?.others;
        Ok(self.outbox.remove_range(..=upto.saturating_sub(others))?)
    }
}

//! What fields hold beyond plain values: records and words.

use crate::message::{record, word};
use crate::values::{FileName, Id, Name, Sha256, Text, Timestamp};

word! {
    /// What a lease is good for.
    LeaseKind {
        /// A path in the customer's own account, for as long as he is entitled to it.
        "STANDING" Standing,
        /// An account of its own with a secret of its own, until all bytes have been fetched.
        "ONE-TIME" OneTime,
    }

    /// Where a lease is in its life.
    LeaseState {
        /// Committed, its link not confirmed yet.
        "PENDING" Pending,
        /// Its link is there.
        "ACTIVE" Active,
        /// Expired, revoked or fully covered: only transfers under way and resumes go on.
        "ENDING" Ending,
    }

    /// Which two kinds of ends a key bag joins.
    BagKind {
        /// A web and a download appliance.
        "WEB-DOWNLOAD" WebDownload,
        /// A web and a database appliance.
        "WEB-DATABASE" WebDatabase,
        /// A download and a database appliance.
        "DOWNLOAD-DATABASE" DownloadDatabase,
        /// An operator and one appliance.
        "OPERATOR" Operator,
    }

    /// How an object of the storeroom is.
    ObjectState {
        /// As it came in, as far as is known.
        "GOOD" Good,
        /// Its bytes are not those that came in, or are gone; what is left of them is in quarantine. Nothing is served of it until
        /// it is put in again.
        "DAMAGED" Damaged,
        /// It was put in again, and its links are being made anew.
        "HEALING" Healing,
        /// It is on its way out.
        "RETIRING" Retiring,
    }

    /// A version of TLS.
    TlsVersion {
        /// TLS 1.2.
        "1.2" Tls12,
        /// TLS 1.3.
        "1.3" Tls13,
    }

    /// How urgent an entry of a log is; the most urgent first, as in syslog(3).
    Priority {
        /// The machine is of no use.
        "EMERG" Emergency,
        /// Somebody must do something at once.
        "ALERT" Alert,
        /// A part of it does not work at all.
        "CRIT" Critical,
        /// An error.
        "ERR" Error,
        /// What may become one.
        "WARNING" Warning,
        /// In order, but worth knowing.
        "NOTICE" Notice,
        /// What goes on.
        "INFO" Info,
        /// For whoever looks for a fault in the program.
        "DEBUG" Debug,
    }

    /// What an audit record tells.
    AuditEvent {
        /// A login that was accepted.
        "LOGIN" Login,
        /// A login that was refused.
        "LOGIN-REFUSED" LoginRefused,
        /// An object came into the storeroom.
        "STORED" Stored,
        /// An object was found to be damaged and taken out of use.
        "QUARANTINED" Quarantined,
        /// An object left the storeroom.
        "RETIRED" Retired,
        /// A lease was made or renewed.
        "STAGED" Staged,
        /// A request to stage was refused.
        "STAGE-REFUSED" StageRefused,
        /// Bytes of an object went to a customer.
        "TRANSFER" Transfer,
        /// A lease came to its end.
        "LEASE-ENDED" LeaseEnded,
        /// The database issued a grant.
        "GRANTED" Granted,
        /// The database refused a grant.
        "GRANT-REFUSED" GrantRefused,
        /// An operator changed something.
        "ADMIN" Admin,
    }
}

record! {
    /// One thing that a daemon looked at for its [`Reply::StatusReport`](crate::Reply::StatusReport).
    Check {
        /// What was looked at.
        "NAME" name: Name,
        /// Whether it is as it should be.
        "HEALTHY" healthy: bool,
        /// In words, for an operator.
        "DETAIL" detail: Text,
    }

    /// A disk of a machine.
    DiskInfo {
        /// The kernel's name of it.
        "NAME" name: Name,
        /// Bytes.
        "SIZE" size: u64,
        /// Model and serial number, as far as it says them.
        "MODEL" model: Text,
        /// Whether it is in the array.
        "MEMBER" member: bool,
        /// What it does there, or what is on it, in words.
        "STATE" state: Text,
        /// How it says itself that it is, in words; none where it says nothing.
        "HEALTH" health: Option<Text>,
    }

    /// Something that is counted.
    CountInfo {
        /// What.
        "NAME" name: Name,
        /// How often.
        "N" n: u64,
    }

    /// A boot entry of a machine.
    EntryInfo {
        /// Its version.
        "VERSION" version: Name,
        /// Whether it is what runs.
        "RUNNING" running: bool,
        /// Whether the next start takes it.
        "NEXT" next: bool,
        /// Whether it has proven itself, in words.
        "STATE" state: Text,
    }

    /// An entry of a machine's log.
    LogEntry {
        /// When, by the machine's clock, in microseconds since 1970-01-01 UTC.
        "AT" at: u64,
        /// The unit of systemd that wrote it, or of which systemd did; `kernel` for the kernel.
        "UNIT" unit: Text,
        /// How urgent it is.
        "PRIORITY" priority: Priority,
        /// What it says: without control characters, cut where it is longer than a text.
        "TEXT" text: Text,
    }

    /// An object that a customer may have.
    CatalogueItem {
        /// The product it belongs to.
        "PRODUCT" product: Name,
        /// The version of the product.
        "VERSION" version: Name,
        /// The name of the file.
        "FILE" file: FileName,
        /// Bytes.
        "SIZE" size: u64,
        /// The hash of its bytes.
        "SHA256" sha256: Sha256,
        /// The download appliance that has it.
        "DOWNLOAD" download: Name,
        /// When the customer's entitlement ends, if ever.
        "UNTIL" until: Option<Timestamp>,
    }

    /// An object of a storeroom as operators see it.
    StoredObject {
        /// Its hash.
        "SHA256" sha256: Sha256,
        /// Bytes.
        "SIZE" size: u64,
        /// How it is.
        "STATE" state: ObjectState,
        /// How many leases are for it.
        "LEASES" leases: u64,
        /// When it came in.
        "ADDED" added: Timestamp,
        /// When its bytes were last read and found right.
        "VERIFIED" verified: Option<Timestamp>,
    }

    /// A customer as operators see him.
    CustomerInfo {
        /// His name.
        "NAME" name: Name,
        /// Whether he may log in.
        "ENABLED" enabled: bool,
        /// Since when there is this customer.
        "ADDED" added: Timestamp,
    }

    /// A lease as operators see it.
    LeaseInfo {
        /// The lease.
        "LEASE" lease: Id,
        /// What it is good for.
        "KIND" kind: LeaseKind,
        /// Where it is in its life.
        "STATE" state: LeaseState,
        /// Whose it is.
        "CUSTOMER" customer: Name,
        /// The product.
        "PRODUCT" product: Name,
        /// The version of the product.
        "VERSION" version: Name,
        /// The name of the file.
        "FILE" file: FileName,
        /// The path as the customer sees it over ftp.
        "PATH" path: Text,
        /// Bytes of the object.
        "SIZE" size: u64,
        /// The object.
        "SHA256" sha256: Sha256,
        /// When it ends by itself.
        "EXPIRES" expires: Timestamp,
        /// Bytes that have been fetched at least once.
        "COVERED" covered: u64,
    }

    /// What the file system says about a staged file and its object.
    LinkInfo {
        /// Inode number of the staged file.
        "INODE" inode: u64,
        /// Inode number of the object in the storeroom.
        "STOREROOM-INODE" storeroom_inode: u64,
        /// How many names the inode has.
        "LINKS" links: u64,
        /// The number of the device both are on.
        "DEVICE" device: u64,
        /// The type of the file system, such as `xfs`.
        "FILESYSTEM" filesystem: Text,
    }

    /// One line of the audit trail. An appliance numbers its own from 1 without gaps.
    AuditRecord {
        /// The number; the database keeps each (appliance, number) once.
        "SEQ" seq: u64,
        /// When it happened, by the appliance's clock.
        "AT" at: Timestamp,
        /// What happened.
        "EVENT" event: AuditEvent,
        /// The customer, as far as known; for a refused login what was typed.
        "CUSTOMER" customer: Option<Text>,
        /// The address of the client.
        "ADDRESS" address: Option<Text>,
        /// The lease.
        "LEASE" lease: Option<Id>,
        /// The object.
        "SHA256" sha256: Option<Sha256>,
        /// The first byte of a transfer.
        "OFFSET" offset: Option<u64>,
        /// Bytes that were sent; with outcome `interrupted` at least so many.
        "BYTES" bytes: Option<u64>,
        /// How long a transfer took, from the question whether it may begin to its end; with outcome `interrupted` at least so long.
        "MILLISECONDS" milliseconds: Option<u64>,
        /// The TLS under which a transfer went; none in clear.
        "TLS" tls: Option<TlsVersion>,
        /// How it ended, or why it was refused.
        "OUTCOME" outcome: Option<Text>,
    }

    /// An audit record in the database, with who reported it.
    AuditEntry {
        /// Its place in the database's trail.
        "INDEX" index: u64,
        /// The appliance that reported it.
        "APPLIANCE" appliance: Name,
        /// The record.
        "RECORD" record: AuditRecord,
    }

    /// A right that was withdrawn. Without a product: everything of this customer, including what is cached of his password.
    Revocation {
        /// Its number; they grow.
        "SEQ" seq: u64,
        /// Whose right.
        "CUSTOMER" customer: Name,
        /// To which product.
        "PRODUCT" product: Option<Name>,
        /// To which version; without one, all of them.
        "VERSION" version: Option<Name>,
        /// When, by the database's clock: a grant that was issued before is worth nothing any more.
        "AT" at: Timestamp,
    }

    /// An entitlement as operators see it.
    EntitlementInfo {
        /// Whose.
        "CUSTOMER" customer: Name,
        /// To which product.
        "PRODUCT" product: Name,
        /// To which version; without one, all of them.
        "VERSION" version: Option<Name>,
        /// When it ends, if ever.
        "UNTIL" until: Option<Timestamp>,
    }
}

//! The typed transactions: what may be asked. What is answered is in [`replies`](crate::replies).

use crate::message::{types, word};
use crate::records::{AuditRecord, BagKind, LeaseKind, Priority, TlsVersion};
#[cfg(doc)]
use crate::replies::Reply;
use crate::values::{Cursor, FileName, Id, Name, Secret, Sha256, Text, Timestamp};

types! {
    /// What may be asked. Which link may ask what is a table in crate `commlink`.
    Request RequestTag {
        /// How are you? Answered by the role's daemon: [`Reply::StatusReport`].
        "STATUS" Status {}

        /// Web or download → database: a customer wants a session: [`Reply::Session`], `DENIED` (unknown and wrong alike) or `BUSY` (too
        /// many tries).
        "LOGIN" Login {
            /// Who he says he is.
            "CUSTOMER" customer: Text,
            /// His password.
            "PASSWORD" password: Secret,
            /// His address, for the audit trail.
            "ADDRESS" address: Text,
        }
        /// Web or download → database: the session ends: [`Reply::Done`], also for a session that is not known.
        "LOGOUT" Logout {
            /// The session.
            "SESSION" session: Secret,
        }
        /// Web or download → database: what may the customer of this session have? [`Reply::Catalogue`] or `EXPIRED`. A download
        /// appliance learns of its own objects only.
        "CATALOGUE" Catalogue {
            /// The session.
            "SESSION" session: Secret,
            /// How many entries to skip.
            "OFFSET" offset: u64,
        }
        /// Web or download → database: a grant for the customer of this session: [`Reply::Granted`], `EXPIRED` (the session) or `DENIED`
        /// (not entitled, or no such object: the two are not told apart). A download appliance gets grants for itself only, and only for
        /// standing leases.
        "GRANT" Grant {
            /// The session.
            "SESSION" session: Secret,
            /// The product.
            "PRODUCT" product: Name,
            /// The version of the product.
            "VERSION" version: Name,
            /// What kind of lease.
            "KIND" kind: LeaseKind,
        }

        /// Web → download: make the lease that this grant allows: [`Reply::Staged`], `DENIED` (forged, not for this appliance, used),
        /// `EXPIRED`, `NOT-FOUND` (no such object here).
        "STAGE" Stage {
            /// The grant, a PASETO v4.public token of the database.
            "GRANT" grant: Secret,
        }
        /// Download → web: join this connection to the machine named: [`Reply::Done`], after which the stream is the other machine's.
        "RELAY" Relay {
            /// The machine; only the database is allowed.
            "TO" to: Name,
        }

        /// Download → database: is this the customer's password? [`Reply::Verified`], `DENIED` or `BUSY`.
        "LOGIN-CHECK" LoginCheck {
            /// Who he says he is.
            "CUSTOMER" customer: Text,
            /// His password.
            "PASSWORD" password: Secret,
            /// His address, for throttling and the audit trail.
            "ADDRESS" address: Text,
        }
        /// Download → database: records for the audit trail, in order: [`Reply::Acknowledged`].
        "AUDIT" Audit {
            /// The records, numbered without gaps.
            "RECORD" records: Vec<AuditRecord>,
        }
        /// Download → database: answer once there are revocations after this one, or with none after a minute: [`Reply::Revocations`].
        "WAIT-REVOCATIONS" WaitRevocations {
            /// The last one seen; 0 for none.
            "AFTER" after: u64,
        }

        /// Operator → download: an object for the storeroom, in the literal that follows: [`Reply::Stored`] or `INVALID` (hash or length differ).
        "OBJECT-PUT" ObjectPut {
            /// What its hash must be, where that is known before.
            "SHA256" sha256: Option<Sha256>,
        }
        /// Operator → download: how much of this object is there? [`Reply::Stored`] when all of it is, otherwise [`Reply::Upload`].
        /// `BUSY` while it is coming in on another connection, `UNAVAILABLE` when there is no room for it.
        "OBJECT-BEGIN" ObjectBegin {
            /// The object.
            "SHA256" sha256: Sha256,
            /// All of its bytes.
            "SIZE" size: u64,
        }
        /// Operator → download: the rest of an object, in the literal that follows: [`Reply::Stored`]; `INVALID` when hash or offset are
        /// not right. What came before the connection broke is kept, so that `OBJECT-BEGIN` says where to go on.
        "OBJECT-APPEND" ObjectAppend {
            /// The object.
            "SHA256" sha256: Sha256,
            /// The first byte of the literal.
            "OFFSET" offset: u64,
        }
        /// Operator → download: what the storeroom holds, by hash: [`Reply::Storeroom`].
        "OBJECT-STORE" ObjectStore {
            /// How many entries to skip.
            "OFFSET" offset: u64,
        }
        /// Operator → download: read an object again, or all of them, and compare with the hash; in the background: [`Reply::Done`] or
        /// `NOT-FOUND`.
        "OBJECT-VERIFY" ObjectVerify {
            /// The object; without one, all of them.
            "SHA256" sha256: Option<Sha256>,
        }
        /// Operator → download: take an object out of the storeroom for good: [`Reply::Done`], `NOT-FOUND`, or `BUSY` while there are
        /// leases for it.
        "OBJECT-RETIRE" ObjectRetire {
            /// The object.
            "SHA256" sha256: Sha256,
            /// End its leases, too.
            "FORCE" force: bool,
        }
        /// Operator → download: the leases, oldest first: [`Reply::Leases`].
        "LEASE-LIST" LeaseList {
            /// How many entries to skip.
            "OFFSET" offset: u64,
        }
        /// Operator → download: one lease and what the file system says of it: [`Reply::Lease`] or `NOT-FOUND`.
        "LEASE-SHOW" LeaseShow {
            /// The lease.
            "LEASE" lease: Id,
        }
        /// Operator → download: end a lease now: [`Reply::Done`] or `NOT-FOUND`.
        "LEASE-REVOKE" LeaseRevoke {
            /// The lease.
            "LEASE" lease: Id,
        }

        /// Operator → machine, answered by the commlink itself: what is its clock? [`Reply::Probed`].
        "PROBE" Probe {}
        /// Client → server, answered by the commlink itself: keys of the next generation of this link: [`Reply::Done`] once they are durable, also if
        /// they were before; `INVALID` (not the next generation, other keys than before, keys that are unfit), `UNAVAILABLE` (cannot be kept).
        "BAG-RENEW" BagRenew {
            /// The new generation.
            "GENERATION" generation: u64,
            /// All entries in order: 16 hex digits of the DES key, then 64 of the seal key.
            "ENTRY" entries: Vec<Secret>,
        }
        /// Client → server, answered by the commlink itself: give this generation of this link up: [`Reply::Done`], also if it was given up before;
        /// `DENIED` unless the session that asks is of a newer one, `UNAVAILABLE` (cannot be kept).
        "BAG-RETIRE" BagRetire {
            /// The old generation.
            "GENERATION" generation: u64,
        }
        /// Operator → machine, answered by the commlink itself: a bag for a new operator, or a new one for a pair of machines: [`Reply::Done`],
        /// also if it is there already; `INVALID` (not of this machine, older than what is there, keys that are unfit), `UNAVAILABLE` (cannot be kept).
        "BAG-ADD" BagAdd {
            /// The link.
            "LINK" link: Name,
            /// What kinds of ends it joins.
            "KIND" kind: BagKind,
            /// The other end.
            "PEER" peer: Text,
            /// The generation.
            "GENERATION" generation: u64,
            /// All entries in order, as in [`Request::BagRenew`].
            "ENTRY" entries: Vec<Secret>,
        }
        /// Operator → machine, answered by the commlink itself: give all bags of another operator up and end his sessions: [`Reply::Done`],
        /// also if there are none; `INVALID` (not an operator's, or the link that asks), `UNAVAILABLE` (cannot be kept).
        "BAG-REVOKE" BagRevoke {
            /// The link.
            "LINK" link: Name,
        }
        /// Operator → machine, answered by the commlink itself: renew the bag of the link to that machine over this very link: [`Reply::Rotated`];
        /// `NOT-FOUND` (no such peer), `UNAVAILABLE` (cannot be kept, or the peer does not answer; asked again, it goes on where it was).
        "KEYS-ROTATE" KeysRotate {
            /// The machine at the other end.
            "PEER" peer: Name,
        }

        /// Operator → database: a new customer: [`Reply::Done`] or `INVALID` (there is one of that name).
        "CUSTOMER-ADD" CustomerAdd {
            /// His name.
            "CUSTOMER" customer: Name,
            /// His password.
            "PASSWORD" password: Secret,
        }
        /// Operator → database: another password for a customer; ends his sessions and leases: [`Reply::Done`] or `NOT-FOUND`.
        "CUSTOMER-PASSWORD" CustomerPassword {
            /// His name.
            "CUSTOMER" customer: Name,
            /// The new password.
            "PASSWORD" password: Secret,
        }
        /// Operator → database: whether a customer may log in; without it his sessions, passwords that are remembered and leases end:
        /// [`Reply::Done`] or `NOT-FOUND`.
        "CUSTOMER-ENABLE" CustomerEnable {
            /// His name.
            "CUSTOMER" customer: Name,
            /// Whether he may.
            "ENABLED" enabled: bool,
        }
        /// Operator → database: a customer and his entitlements go; what he had ends: [`Reply::Done`] or `NOT-FOUND`. The audit trail
        /// keeps what it says of him.
        "CUSTOMER-REMOVE" CustomerRemove {
            /// His name.
            "CUSTOMER" customer: Name,
        }
        /// Operator → database: the customers, by name: [`Reply::Customers`].
        "CUSTOMER-LIST" CustomerList {
            /// How many entries to skip.
            "OFFSET" offset: u64,
        }
        /// Operator → database: an object that is in a storeroom becomes a version of a product: [`Reply::Done`], also if it is that already;
        /// `INVALID` if that version is another object.
        "OBJECT-ADD" ObjectAdd {
            /// The product; made if it is new.
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
        }
        /// Operator → database: a version of a product is offered no more: [`Reply::Done`] or `NOT-FOUND`. Leases last until their end.
        "OBJECT-REMOVE" ObjectRemove {
            /// The product.
            "PRODUCT" product: Name,
            /// The version of the product.
            "VERSION" version: Name,
        }
        /// Operator → database: all objects, by product and version: [`Reply::Catalogue`].
        "OBJECT-LIST" ObjectList {
            /// How many entries to skip.
            "OFFSET" offset: u64,
        }
        /// Operator → database: the customer may have this: [`Reply::Done`] or `NOT-FOUND` (customer, product or version).
        "ENTITLEMENT-ADD" EntitlementAdd {
            /// Whose.
            "CUSTOMER" customer: Name,
            /// The product.
            "PRODUCT" product: Name,
            /// The version; without one, all of them, those to come included.
            "VERSION" version: Option<Name>,
            /// Until when, if not for ever.
            "UNTIL" until: Option<Timestamp>,
        }
        /// Operator → database: the customer may no longer have this: [`Reply::Done`] or `NOT-FOUND`.
        "ENTITLEMENT-REMOVE" EntitlementRemove {
            /// Whose.
            "CUSTOMER" customer: Name,
            /// The product.
            "PRODUCT" product: Name,
            /// The version, or all at once as it was given.
            "VERSION" version: Option<Name>,
        }
        /// Operator → database: the entitlements, by customer: [`Reply::Entitlements`].
        "ENTITLEMENT-LIST" EntitlementList {
            /// How many entries to skip.
            "OFFSET" offset: u64,
        }
        /// Operator → database: the audit trail after this place: [`Reply::AuditTrail`].
        "AUDIT-LIST" AuditList {
            /// The last index seen; 0 for none.
            "AFTER" after: u64,
        }

        /// Operator → download, database: the data disks: [`Reply::Storage`]. Answered by admind.
        "STORAGE-STATUS" StorageStatus {}
        /// Operator → download, database: bring the data disks into use, by making an array or by taking the one that is found:
        /// [`Reply::Done`] once they are in use, or `INVALID` (what is there does not allow it). Answered by admind.
        "STORAGE-CREATE" StorageCreate {
            /// The level: `raid1`, `raid5`, `raid6` or `raid10`; by the number of disks without one.
            "LEVEL" level: Option<Name>,
            /// The disks by the kernel's names; all blank ones without any.
            "DISK" disks: Vec<Name>,
            /// How many of the disks wait, as spares, for a member to fail; none without it.
            "SPARES" spares: Option<u64>,
            /// Whether the array that is found is this machine's from now on, instead of a new one.
            "ADOPT" adopt: bool,
        }
        /// Operator → download, database: the array that is found is started although it was not stopped in order and members are missing, so
        /// that what is derived from them may be wrong; every object is verified: [`Reply::Done`] once it is in use, or `INVALID`. Answered
        /// by admind.
        "STORAGE-START" StorageStart {}
        /// Operator → download, database: a disk comes into the array, in the place of a missing member or as a spare: [`Reply::Done`] once it
        /// is in, which is before it is up to date; `INVALID`. Answered by admind.
        "STORAGE-ADD" StorageAdd {
            /// The disk by the kernel's name.
            "DISK" disk: Name,
        }
        /// Operator → download, database: a disk takes the place of a member of the array: [`Reply::Done`] once that has begun; `INVALID`.
        /// Answered by admind.
        "STORAGE-REPLACE" StorageReplace {
            /// The member by the kernel's name.
            "OLD" old: Name,
            /// The disk.
            "NEW" new: Name,
        }
        /// Operator → download, database: all copies are read and compared, in the background: [`Reply::Done`]. Answered by admind.
        "STORAGE-SCRUB" StorageScrub {
            /// To stop one that is under way, instead.
            "PAUSE" pause: bool,
        }

        /// Operator → web, download: another certificate for what customers see, with its key: [`Reply::Done`] once it is durable and new
        /// connections get it, also if it is there already; `INVALID` (the two do not fit each other, it is not valid now, the order of the
        /// chain is wrong), `UNAVAILABLE` (cannot be kept). Answered by admind.
        "TLS-RENEW" TlsRenew {
            /// The chain in PEM, the server's own certificate first: a line in each element.
            "CERTIFICATE" certificate: Vec<Text>,
            /// The key of the first certificate in PEM, without a password: a line in each element.
            "KEY" key: Vec<Secret>,
        }

        /// Operator → every machine: an update file, in the literal that follows, is put beside what runs: [`Reply::Updates`], or `INVALID`
        /// (not signed, for another role, older, failed before, or what runs has not proven itself). Answered by admind.
        "UPDATE-PUSH" UpdatePush {
            /// Also an older version.
            "DOWNGRADE" downgrade: bool,
            /// Also a version that failed on this machine.
            "AGAIN" again: bool,
        }
        /// Operator → every machine: what runs, what starts next, what failed: [`Reply::Updates`]. Answered by admind.
        "UPDATE-STATUS" UpdateStatus {}
        /// Operator → every machine: the running version is good: [`Reply::Updates`]. Answered by admind.
        "UPDATE-CONFIRM" UpdateConfirm {}
        /// Operator → every machine: the other version starts next: [`Reply::Updates`], or `INVALID` (there is no good one). Answered by admind.
        "UPDATE-ROLLBACK" UpdateRollback {}
        /// Operator → every machine: start anew: [`Reply::Done`]. Answered by admind.
        "REBOOT" Reboot {}
        /// Operator → every machine: end all work in order and switch off: [`Reply::Done`]. Answered by admind.
        "POWER-OFF" PowerOff {}
        /// Operator → every machine: its log, oldest entries first: [`Reply::Log`]; `NOT-FOUND` (no such unit has written anything), `INVALID`
        /// (not a cursor of a log, both a cursor and a time, no lines). Answered by admind.
        "LOG-LIST" LogList {
            /// Only what follows this place.
            "AFTER" after: Option<Cursor>,
            /// Only what this unit of systemd wrote, or what was written of it; without an ending a service. `kernel` for the kernel's.
            "UNIT" unit: Option<Name>,
            /// Only what is at least as urgent.
            "PRIORITY" priority: Option<Priority>,
            /// Only from this time on; not with a place.
            "SINCE" since: Option<Timestamp>,
            /// No more than so many, which may be more than a page: those that follow the place, or without one the newest.
            "LINES" lines: Option<u64>,
        }
        /// Operator → every machine: settings and journal go, site, key bags and data disks stay; the machine starts anew for it:
        /// [`Reply::Done`] once that is sure to happen, or `INVALID` (another machine was meant). Answered by admind.
        "FACTORY-RESET" FactoryReset {
            /// The machine's name once more.
            "MACHINE" machine: Name,
        }

        /// ftpd → stagerd, first on a session's socket: where the client is: [`Reply::Done`].
        "FTP-SESSION" FtpSession {
            /// The client's address.
            "ADDRESS" address: Text,
        }
        /// ftpd → stagerd: may he come in? [`Reply::FtpAdmitted`] with two descriptors: the account's directory and the file whose first eight
        /// bytes (little-endian) count what the transfer under way has sent. Or `DENIED`, `UNAVAILABLE`.
        "FTP-LOGIN" FtpLogin {
            /// A customer, or the user of a one-time lease.
            "USER" user: Text,
            /// The password or the secret of the lease.
            "PASSWORD" password: Secret,
            /// Whether it came under TLS.
            "TLS" tls: bool,
        }
        /// ftpd → stagerd: a transfer is about to start: [`Reply::Transfer`] once its audit record is durable; `NOT-FOUND`, `EXPIRED`.
        "TRANSFER-BEGIN" TransferBegin {
            /// The path as the customer sees it.
            "PATH" path: Text,
            /// The first byte to be sent.
            "OFFSET" offset: u64,
            /// The TLS under which it is to go, which is that of the control connection; none in clear.
            "TLS" tls: Option<TlsVersion>,
        }
        /// ftpd → stagerd: the transfer is over: [`Reply::Done`].
        "TRANSFER-END" TransferEnd {
            /// The transfer.
            "TRANSFER" transfer: u64,
            /// Bytes that were sent.
            "BYTES" bytes: u64,
            /// The TLS of the data connection; none if it was in clear, or never came.
            "TLS" tls: Option<TlsVersion>,
            /// `complete`, `aborted` or `failed`.
            "OUTCOME" outcome: Text,
        }
        /// ftpd → stagerd: what is the hash of this file, which this login may fetch? [`Reply::Digest`]; `NOT-FOUND`, `EXPIRED`.
        "FTP-DIGEST" FtpDigest {
            /// The path as the customer sees it.
            "PATH" path: Text,
        }
    }
}

//! What is answered to the transactions.

use crate::message::{types, word};
use crate::records::{
    AuditEntry, CatalogueItem, Check, CountInfo, CustomerInfo, DiskInfo, EntitlementInfo, EntryInfo, LeaseInfo,
    LeaseKind, LinkInfo, LogEntry, Revocation, StoredObject,
};
#[cfg(doc)]
use crate::transactions::Request;
use crate::values::{Cursor, Id, Name, Secret, Sha256, Text, Timestamp};

word! {
    /// Why a request was not done. What a peer learns is no more than this; the reason in full is in our own log.
    Fault {
        /// Not allowed, or the secret is wrong.
        "DENIED" Denied,
        /// There is no such thing.
        "NOT-FOUND" NotFound,
        /// It was valid once.
        "EXPIRED" Expired,
        /// Try again later.
        "BUSY" Busy,
        /// The request makes no sense, or contradicts what is there.
        "INVALID" Invalid,
        /// A part of the system that this needs cannot be reached.
        "UNAVAILABLE" Unavailable,
    }
}

types! {
    /// What may be answered.
    Reply ReplyTag {
        /// It was not done.
        "FAULT" Fault {
            /// Why, as far as a peer may know.
            "CODE" fault: Fault,
            /// In words, to an operator only; empty to everybody else.
            "TEXT" text: Text,
        }
        /// It is done.
        "DONE" Done {}
        /// To [`Request::Status`].
        "STATUS-REPORT" StatusReport {
            /// The machine's name.
            "NAME" name: Name,
            /// Its role.
            "ROLE" role: Name,
            /// The version of the software.
            "VERSION" version: Text,
            /// What was looked at.
            "CHECK" checks: Vec<Check>,
        }
        /// To [`Request::Probe`].
        "PROBED" Probed {
            /// The machine's clock, in milliseconds since 1970-01-01 UTC.
            "CLOCK" clock: u64,
        }
        /// To [`Request::KeysRotate`]: the old generation is given up at both ends.
        "ROTATED" Rotated {
            /// The generation that is in use.
            "GENERATION" generation: u64,
            /// Its fingerprint.
            "FINGERPRINT" fingerprint: Text,
        }
        /// To [`Request::Login`].
        "SESSION" Session {
            /// Worth what the customer may do, until then.
            "SESSION" session: Secret,
            /// His name as the database has it.
            "CUSTOMER" customer: Name,
            /// When the session ends.
            "EXPIRES" expires: Timestamp,
        }
        /// To [`Request::Catalogue`] and [`Request::ObjectList`].
        "CATALOGUE-PAGE" Catalogue {
            /// The entries, by product and version.
            "ITEM" items: Vec<CatalogueItem>,
            /// Whether there is a next page.
            "MORE" more: bool,
        }
        /// To [`Request::Grant`].
        "GRANTED" Granted {
            /// The token.
            "GRANT" grant: Secret,
            /// The appliance that it is for.
            "DOWNLOAD" download: Name,
        }
        /// To [`Request::Stage`].
        "STAGED" Staged {
            /// The lease.
            "LEASE" lease: Id,
            /// The path as the customer sees it over ftp, absolute.
            "PATH" path: Text,
            /// Bytes.
            "SIZE" size: u64,
            /// The hash of its bytes.
            "SHA256" sha256: Sha256,
            /// When the lease ends by itself.
            "EXPIRES" expires: Timestamp,
            /// The user of a one-time lease.
            "USER" user: Option<Name>,
            /// The secret of a one-time lease.
            "SECRET" secret: Option<Secret>,
        }
        /// To [`Request::LoginCheck`].
        "VERIFIED" Verified {
            /// His name as the database has it.
            "CUSTOMER" customer: Name,
        }
        /// To [`Request::Audit`]: all records up to this one are durable.
        "ACKNOWLEDGED" Acknowledged {
            /// The number.
            "UPTO" upto: u64,
        }
        /// To [`Request::WaitRevocations`].
        "REVOCATIONS" Revocations {
            /// What was withdrawn.
            "REVOCATION" items: Vec<Revocation>,
            /// What to ask after next.
            "UPTO" upto: u64,
            /// The database's clock.
            "NOW" now: Timestamp,
        }
        /// To [`Request::ObjectPut`], [`Request::ObjectAppend`] and [`Request::ObjectBegin`].
        "STORED" Stored {
            /// The hash of the bytes as they were stored.
            "SHA256" sha256: Sha256,
            /// How many they are.
            "SIZE" size: u64,
            /// Whether the object was there already.
            "KNOWN" known: bool,
        }
        /// To [`Request::ObjectBegin`].
        "UPLOAD" Upload {
            /// How many bytes are there for good: the next one is at this offset.
            "OFFSET" offset: u64,
        }
        /// To [`Request::ObjectStore`].
        "STOREROOM" Storeroom {
            /// The objects.
            "OBJECT" items: Vec<StoredObject>,
            /// Whether there is a next page.
            "MORE" more: bool,
        }
        /// To [`Request::LeaseList`].
        "LEASES" Leases {
            /// The leases.
            "LEASE" items: Vec<LeaseInfo>,
            /// Whether there is a next page.
            "MORE" more: bool,
        }
        /// To [`Request::LeaseShow`].
        "LEASE" Lease {
            /// The lease.
            "LEASE" lease: LeaseInfo,
            /// What the file system says; absent when the link is gone.
            "LINK" link: Option<LinkInfo>,
        }
        /// To [`Request::CustomerList`].
        "CUSTOMERS" Customers {
            /// The customers.
            "CUSTOMER" items: Vec<CustomerInfo>,
            /// Whether there is a next page.
            "MORE" more: bool,
        }
        /// To [`Request::EntitlementList`].
        "ENTITLEMENTS" Entitlements {
            /// The entitlements.
            "ENTITLEMENT" items: Vec<EntitlementInfo>,
            /// Whether there is a next page.
            "MORE" more: bool,
        }
        /// To [`Request::AuditList`].
        "AUDIT-TRAIL" AuditTrail {
            /// The entries, in order.
            "ENTRY" items: Vec<AuditEntry>,
            /// Whether there is a next page.
            "MORE" more: bool,
        }
        /// To [`Request::StorageStatus`].
        "STORAGE" Storage {
            /// The array in use, as the kernel names it; none while there is none.
            "DEVICE" device: Option<Name>,
            /// Its identifier.
            "ARRAY" array: Option<Text>,
            /// Its level, as the kernel names it.
            "LEVEL" level: Option<Name>,
            /// Whether all of it is well.
            "HEALTHY" healthy: bool,
            /// How it is, in words.
            "DETAIL" detail: Text,
            /// The disks that are in it, or could be.
            "DISK" disks: Vec<DiskInfo>,
            /// What has happened to the array since the machine was started, counted.
            "COUNT" counts: Vec<CountInfo>,
        }
        /// To [`Request::UpdatePush`] and the other requests about updates.
        "UPDATES" Updates {
            /// The version that runs.
            "RUNNING" running: Name,
            /// The boot entries; none where the machine was not started from its boot disk.
            "ENTRY" entries: Vec<EntryInfo>,
            /// Versions that failed on this machine, and why.
            "FAILED" failed: Vec<Text>,
        }
        /// To [`Request::LogList`].
        "LOG" Log {
            /// The entries, in order; fewer than a page has, where their texts are long.
            "ENTRY" items: Vec<LogEntry>,
            /// The place of the last one, to go on after; that of the request where there is no entry.
            "NEXT" next: Option<Cursor>,
            /// Whether there are further entries by now.
            "MORE" more: bool,
        }
        /// To [`Request::FtpLogin`].
        "FTP-ADMITTED" FtpAdmitted {
            /// Whose account it is.
            "CUSTOMER" customer: Name,
            /// Whether it is that of one lease only.
            "KIND" kind: LeaseKind,
        }
        /// To [`Request::TransferBegin`].
        "TRANSFER" Transfer {
            /// Names it on this socket.
            "TRANSFER" transfer: u64,
        }
        /// To [`Request::FtpDigest`].
        "DIGEST" Digest {
            /// The hash under which the storeroom keeps the object.
            "SHA256" sha256: Sha256,
        }
    }
}

impl Reply {
    /// A fault with a text that an operator may read.
    pub fn refused(fault: Fault, text: &str) -> Self {
        Self::Fault { fault, text: Text::lossy(text) }
    }

    /// This reply as others than operators may see it: a fault keeps only its code.
    #[must_use]
    pub fn opaque(self) -> Self {
        match self {
            Self::Fault { fault, .. } => Self::Fault { fault, text: Text::default() },
            other => other,
        }
    }
}

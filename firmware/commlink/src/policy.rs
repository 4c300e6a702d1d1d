//! What may be asked, and by whom.
//!
//! Of each link between machines only one end renews the bag, so that the two can never make the same generation apart.
//!
//! The one table of it: rows for each kind of link and each end that may open a connection on it. What is not in a row
//! is denied. The server asks it for every request that comes in; the client asks it too before it sends one for a
//! local daemon.

use keys::LinkKind;
use keys::site::Role;
use tobj::RequestTag;

/// Which end opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// An appliance of this role.
    Machine(Role),
    /// An operator.
    Operator,
}

/// One row: on a link of this kind, opened by this end, this role answers these.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The link.
    pub kind: LinkKind,
    /// Who opened the connection.
    pub opener: Opener,
    /// The role that is asked.
    pub asked: Role,
    /// What may be asked.
    pub requests: &'static [RequestTag],
}

use Opener::{Machine, Operator};
use RequestTag as Tag;

/// What the commlink of every machine answers operators by itself.
const COMMLINK: &[RequestTag] =
    &[Tag::Probe, Tag::BagRenew, Tag::BagRetire, Tag::BagAdd, Tag::BagRevoke, Tag::KeysRotate];

/// What admind of every machine answers operators.
const MACHINE: &[RequestTag] = &[
    Tag::UpdatePush,
    Tag::UpdateStatus,
    Tag::UpdateConfirm,
    Tag::UpdateRollback,
    Tag::Reboot,
    Tag::PowerOff,
    Tag::FactoryReset,
    Tag::LogList,
];

/// What admind of a machine with data disks answers operators.
const STORAGE: &[RequestTag] = &[
    Tag::StorageStatus,
    Tag::StorageCreate,
    Tag::StorageStart,
    Tag::StorageAdd,
    Tag::StorageReplace,
    Tag::StorageScrub,
];

/// What admind of a machine that customers reach answers operators.
const CERTIFICATES: &[RequestTag] = &[Tag::TlsRenew];

/// The table.
pub const TABLE: &[Row] = &[
    Row {
        kind: LinkKind::WebDatabase,
        opener: Machine(Role::Web),
        asked: Role::Database,
        requests: &[Tag::Login, Tag::Logout, Tag::Catalogue, Tag::Grant, Tag::BagRenew, Tag::BagRetire],
    },
    Row {
        kind: LinkKind::WebDownload,
        opener: Machine(Role::Web),
        asked: Role::Download,
        requests: &[Tag::Stage, Tag::BagRenew, Tag::BagRetire],
    },
    Row { kind: LinkKind::WebDownload, opener: Machine(Role::Download), asked: Role::Web, requests: &[Tag::Relay] },
    Row {
        kind: LinkKind::DownloadDatabase,
        opener: Machine(Role::Download),
        asked: Role::Database,
        requests: &[
            Tag::Login,
            Tag::LoginCheck,
            Tag::Catalogue,
            Tag::Grant,
            Tag::Logout,
            Tag::Audit,
            Tag::WaitRevocations,
            Tag::BagRenew,
            Tag::BagRetire,
        ],
    },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Download, requests: COMMLINK },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Web, requests: COMMLINK },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Database, requests: COMMLINK },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Download, requests: MACHINE },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Web, requests: MACHINE },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Database, requests: MACHINE },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Download, requests: STORAGE },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Database, requests: STORAGE },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Download, requests: CERTIFICATES },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Web, requests: CERTIFICATES },
    Row {
        kind: LinkKind::Operator,
        opener: Operator,
        asked: Role::Download,
        requests: &[
            Tag::Status,
            Tag::ObjectPut,
            Tag::ObjectBegin,
            Tag::ObjectAppend,
            Tag::ObjectStore,
            Tag::ObjectVerify,
            Tag::ObjectRetire,
            Tag::LeaseList,
            Tag::LeaseShow,
            Tag::LeaseRevoke,
        ],
    },
    Row { kind: LinkKind::Operator, opener: Operator, asked: Role::Web, requests: &[Tag::Status] },
    Row {
        kind: LinkKind::Operator,
        opener: Operator,
        asked: Role::Database,
        requests: &[
            Tag::Status,
            Tag::CustomerAdd,
            Tag::CustomerPassword,
            Tag::CustomerEnable,
            Tag::CustomerRemove,
            Tag::CustomerList,
            Tag::ObjectAdd,
            Tag::ObjectRemove,
            Tag::ObjectList,
            Tag::EntitlementAdd,
            Tag::EntitlementRemove,
            Tag::EntitlementList,
            Tag::AuditList,
        ],
    },
];

/// Whether `asked` answers `request` on a link of this kind that was opened by `opener`.
pub fn allows(kind: LinkKind, opener: Opener, asked: Role, request: RequestTag) -> bool {
    TABLE
        .iter()
        .any(|row| (row.kind, row.opener, row.asked) == (kind, opener, asked) && row.requests.contains(&request))
}

/// The end at the other side of a link of this kind from `here`; `None` where the link does not touch that role.
pub fn across(kind: LinkKind, here: Role) -> Option<Opener> {
    let (a, b) = match kind {
        LinkKind::Operator => return Some(Operator),
        LinkKind::WebDownload => (Role::Web, Role::Download),
        LinkKind::WebDatabase => (Role::Web, Role::Database),
        LinkKind::DownloadDatabase => (Role::Download, Role::Database),
    };
    match here {
        _ if here == a => Some(Machine(b)),
        _ if here == b => Some(Machine(a)),
        _ => None,
    }
}

/// Whether this request may come with a literal.
pub fn takes_literal(request: RequestTag) -> bool {
    matches!(request, Tag::ObjectPut | Tag::ObjectAppend | Tag::UpdatePush)
}

/// Whether this request is about the machine, not about what its role does: admind answers it.
pub fn for_admind(request: RequestTag) -> bool {
    MACHINE.contains(&request) || STORAGE.contains(&request) || CERTIFICATES.contains(&request)
}

/// Whether this request is answered only once something happens: a shutdown need not wait for that.
pub fn waits(request: RequestTag) -> bool {
    matches!(request, Tag::WaitRevocations)
}

/// Whether this request may be sent a second time, under the same ID, when it may have been carried out already: each try of
/// a password counts, and so does each session.
pub fn is_repeatable(request: RequestTag) -> bool {
    !matches!(request, Tag::Login | Tag::LoginCheck)
}

/// Whether a link of this kind carries literals.
pub fn carries_literals(kind: LinkKind) -> bool {
    TABLE.iter().any(|row| row.kind == kind && row.requests.iter().any(|&request| takes_literal(request)))
}

/// Whether this request is one for sealed links only: raw bytes follow it, or keys are in it or made by it.
pub fn needs_seal(request: RequestTag) -> bool {
    let keys = matches!(request, Tag::BagRenew | Tag::BagRetire | Tag::BagAdd | Tag::BagRevoke | Tag::KeysRotate);
    keys || request == Tag::TlsRenew || request == Tag::Relay || takes_literal(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [LinkKind; 4] =
        [LinkKind::WebDownload, LinkKind::WebDatabase, LinkKind::DownloadDatabase, LinkKind::Operator];
    const OPENERS: [Opener; 4] = [Operator, Machine(Role::Download), Machine(Role::Web), Machine(Role::Database)];

    /// The table once more, written the other way round: for each request all that may ask it, by link, opener, asked.
    fn askers(tag: RequestTag) -> &'static [&'static str] {
        match tag {
            Tag::BagRenew | Tag::BagRetire => &[
                "operator operator web",
                "operator operator download",
                "operator operator database",
                "web-database web database",
                "web-download web download",
                "download-database download database",
            ],
            Tag::Status
            | Tag::Probe
            | Tag::BagAdd
            | Tag::BagRevoke
            | Tag::KeysRotate
            | Tag::UpdatePush
            | Tag::UpdateStatus
            | Tag::UpdateConfirm
            | Tag::UpdateRollback
            | Tag::Reboot
            | Tag::PowerOff
            | Tag::FactoryReset
            | Tag::LogList => &["operator operator web", "operator operator download", "operator operator database"],
            Tag::Login | Tag::Logout | Tag::Catalogue | Tag::Grant => {
                &["web-database web database", "download-database download database"]
            }
            Tag::Stage => &["web-download web download"],
            Tag::Relay => &["web-download download web"],
            Tag::LoginCheck | Tag::Audit | Tag::WaitRevocations => &["download-database download database"],
            Tag::ObjectPut
            | Tag::ObjectBegin
            | Tag::ObjectAppend
            | Tag::ObjectStore
            | Tag::ObjectVerify
            | Tag::ObjectRetire
            | Tag::LeaseList
            | Tag::LeaseShow
            | Tag::LeaseRevoke => &["operator operator download"],
            Tag::CustomerAdd
            | Tag::CustomerPassword
            | Tag::CustomerEnable
            | Tag::CustomerRemove
            | Tag::CustomerList
            | Tag::ObjectAdd
            | Tag::ObjectRemove
            | Tag::ObjectList
            | Tag::EntitlementAdd
            | Tag::EntitlementRemove
            | Tag::EntitlementList
            | Tag::AuditList => &["operator operator database"],
            Tag::StorageStatus
            | Tag::StorageCreate
            | Tag::StorageStart
            | Tag::StorageAdd
            | Tag::StorageReplace
            | Tag::StorageScrub => &["operator operator download", "operator operator database"],
            Tag::TlsRenew => &["operator operator web", "operator operator download"],
            Tag::FtpSession | Tag::FtpLogin | Tag::TransferBegin | Tag::TransferEnd | Tag::FtpDigest => &[],
        }
    }

    fn words(kind: LinkKind, opener: Opener, asked: Role) -> String {
        let kind = match kind {
            LinkKind::WebDownload => "web-download",
            LinkKind::WebDatabase => "web-database",
            LinkKind::DownloadDatabase => "download-database",
            LinkKind::Operator => "operator",
        };
        let opener = match opener {
            Operator => "operator",
            Machine(role) => role.as_str(),
        };
        format!("{kind} {opener} {}", asked.as_str())
    }

    #[test]
    fn every_combination_is_as_the_design_says() {
        let mut allowed = 0;
        for kind in KINDS {
            for opener in OPENERS {
                for asked in Role::ALL {
                    for &tag in RequestTag::ALL {
                        let expected = askers(tag).contains(&&*words(kind, opener, asked));
                        assert_eq!(allows(kind, opener, asked, tag), expected, "{} {tag}", words(kind, opener, asked));
                        allowed += usize::from(expected);
                    }
                }
            }
        }
        assert_eq!(allowed, TABLE.iter().map(|row| row.requests.len()).sum::<usize>(), "no row is out of reach");
    }

    #[test]
    fn literals_are_the_operators() {
        let carry: Vec<LinkKind> = KINDS.into_iter().filter(|&kind| carries_literals(kind)).collect();
        assert_eq!(carry, [LinkKind::Operator]);
    }

    #[test]
    fn rows_are_of_ends_that_the_link_has() {
        for row in TABLE {
            assert_eq!(across(row.kind, row.asked), Some(row.opener), "{row:?}");
        }
        assert_eq!(across(LinkKind::WebDatabase, Role::Download), None);
        assert_eq!(across(LinkKind::DownloadDatabase, Role::Web), None);
        assert_eq!(across(LinkKind::WebDownload, Role::Database), None);
    }
}

//! Where links are.

use super::{ACCOUNTS, TICKETS};
use crate::rows::Lease;
use tobj::{FileName, Id, LeaseKind, Name};

/// Where the link of a lease is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the account of a customer.
    Account {
        /// Whose.
        customer: Name,
        /// The product.
        product: Name,
        /// Its version.
        version: Name,
        /// The file.
        file: FileName,
    },
    /// In the directory of a one-time lease.
    Ticket {
        /// The lease.
        lease: Id,
        /// The file.
        file: FileName,
    },
}

impl Place {
    /// Where the link of this lease belongs.
    pub fn of(id: Id, lease: &Lease) -> Self {
        match lease.kind {
            LeaseKind::Standing => Self::Account {
                customer: lease.customer.clone(),
                product: lease.product.clone(),
                version: lease.version.clone(),
                file: lease.file.clone(),
            },
            LeaseKind::OneTime => Self::Ticket { lease: id, file: lease.file.clone() },
        }
    }

    /// The file below the root of the tree.
    pub fn path(&self) -> String {
        let (dirs, file) = self.parts();
        format!("{}/{file}", dirs.join("/"))
    }

    /// The directories from the root to the file, and the file.
    pub(super) fn parts(&self) -> (Vec<String>, &str) {
        match self {
            Self::Account { customer, product, version, file } => {
                (vec![ACCOUNTS.into(), customer.to_string(), product.to_string(), version.to_string()], file.as_str())
            }
            Self::Ticket { lease, file } => (vec![TICKETS.into(), lease.to_string()], file.as_str()),
        }
    }

    /// How many of the directories go with the last file in them: a customer's own stays.
    pub(super) fn prunable(&self) -> usize {
        match self {
            Self::Account { .. } => 2,
            Self::Ticket { .. } => 1,
        }
    }
}

//! `target/ffs/endpoints.json`: where a running system is reached, for people and scripts.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// The customers' pages.
    pub portal: Portal,
    /// The ftp daemon.
    pub ftp: Ftp,
    /// The operators' links.
    pub commlink: Commlinks,
    /// The customers that were filled in.
    pub customers: Vec<Customer>,
    /// The objects that were filled in.
    pub objects: Vec<Object>,
}

/// The customers' pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Portal {
    /// Where they start.
    pub url: String,
    /// The certificate of the authority that vouches for them (PEM file).
    pub ca: PathBuf,
}

/// The ftp daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ftp {
    /// Name or address.
    pub host: String,
    /// Control port.
    pub port: u16,
    /// The certificate of the authority that vouches for it (PEM file).
    pub ca: PathBuf,
}

/// The operators' links.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commlinks {
    /// To the download appliance.
    pub download: Commlink,
    /// To the web appliance.
    pub web: Commlink,
    /// To the database appliance.
    pub database: Commlink,
}

/// An operator's link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commlink {
    /// Name or address.
    pub host: String,
    /// Every port that it listens on.
    pub ports: Vec<u16>,
    /// The operator's key bag for this appliance (file).
    pub bag: PathBuf,
}

/// A customer that was filled in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Customer {
    /// His name.
    pub user: String,
    /// His password.
    pub password: String,
    /// What he may have.
    pub entitled: Vec<Release>,
}

/// A version of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The product.
    pub product: String,
    /// The version.
    pub version: String,
}

/// An object that was filled in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    /// The product.
    pub product: String,
    /// The version.
    pub version: String,
    /// The name of the file.
    pub file: String,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

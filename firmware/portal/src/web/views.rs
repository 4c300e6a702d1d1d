//! What pages and JSON show, ready to be shown.

use crate::backend::{CataloguePage, Lease};
use crate::config::Download;
use crate::links::{Target, file_name, human_size, sha256sum};
use crate::session::Session;
use serde::Serialize;
use tobj::{CatalogueItem, Name, PAGE, Timestamp};

/// A time as RFC 3339 has it, in UTC; `None` for one that never comes.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Until(pub Option<String>);

impl From<Timestamp> for Until {
    fn from(at: Timestamp) -> Self {
        let at = i64::try_from(at.0).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
        Self(at.map(|at| at.to_string()))
    }
}

/// One entry of the list.
#[derive(Serialize)]
pub(crate) struct Item {
    pub product: String,
    pub version: String,
    pub file: String,
    pub size: u64,
    #[serde(skip)]
    pub human_size: String,
    pub sha256: String,
    pub until: Until,
}

/// One page of what a customer is entitled to.
#[derive(Serialize)]
pub(crate) struct Listing {
    pub customer: String,
    pub csrf: String,
    pub offset: u64,
    /// The one product that is shown, where there is one.
    pub product: Option<String>,
    /// Where the page before this one starts.
    pub previous: Option<u64>,
    /// Where the next page starts.
    pub next: Option<u64>,
    pub items: Vec<Item>,
}

impl Listing {
    /// What is shown of the page that starts here: all of it, or what is of one product.
    pub(crate) fn new(session: &Session, offset: u64, page: &CataloguePage, only: Option<&Name>) -> Self {
        let shown = |item: &CatalogueItem| only.is_none_or(|only| *only == item.product);
        // What comes after another product is of another one, too.
        let more = page.more && page.items.last().is_some_and(shown);
        let count = u64::try_from(page.items.len()).unwrap_or(u64::MAX);
        let step = u64::try_from(PAGE).unwrap_or(u64::MAX);
        let items = page.items.iter().filter(|item| shown(item)).map(|item| Item {
            product: item.product.to_string(),
            version: item.version.to_string(),
            file: item.file.to_string(),
            size: item.size,
            human_size: human_size(item.size),
            sha256: item.sha256.to_string(),
            until: item.until.map_or(Until(None), Until::from),
        });
        Self {
            customer: session.customer.to_string(),
            csrf: session.csrf(),
            offset,
            product: only.map(Name::to_string),
            previous: (offset > 0 && only.is_none()).then(|| offset.saturating_sub(step)),
            next: more.then(|| offset.saturating_add(count)),
            items: items.collect(),
        }
    }
}

/// The path of a staged file in the customer's own account.
#[derive(Serialize)]
pub(crate) struct Account {
    pub user: String,
    pub path: String,
    pub url: String,
    pub lease: String,
    pub expires: Until,
    pub curl: String,
}

/// A staged file and how to fetch it. It holds the secret of the lease, hence no `Debug`.
#[derive(Serialize)]
pub(crate) struct Staged {
    pub product: String,
    pub version: String,
    pub file: String,
    pub size: u64,
    #[serde(skip)]
    pub human_size: String,
    pub sha256: String,
    pub lease: String,
    pub expires: Until,
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub tls_required: bool,
    pub ca: Option<String>,
    /// Where at this portal the certificate is to be had that the commands expect.
    pub ca_path: Option<&'static str>,
    pub user: String,
    pub password: String,
    pub path: String,
    pub url: String,
    pub curl: String,
    pub lftp: String,
    #[serde(rename = "sha256sum")]
    pub check: String,
    pub account: Account,
}

impl Staged {
    /// From a one-time lease and the standing one of the same object; `None` if they are not that.
    pub(crate) fn new(
        customer: &Name,
        product: &Name,
        version: &Name,
        at: &Download,
        once: &Lease,
        standing: &Lease,
    ) -> Option<Self> {
        let (user, secret) = once.login.as_ref()?;
        if standing.login.is_some() || once.sha256 != standing.sha256 || once.size != standing.size {
            return None;
        }
        let path = once.path.as_str();
        let target = Target { at, user: user.as_str(), password: Some(secret.expose()), path };
        let own = Target { at, user: customer.as_str(), password: None, path: standing.path.as_str() };
        let (file, sha256) = (file_name(path).to_owned(), once.sha256.to_string());
        Some(Self {
            product: product.to_string(),
            version: version.to_string(),
            size: once.size,
            human_size: human_size(once.size),
            lease: once.id.to_string(),
            expires: once.expires.into(),
            host: at.host.clone(),
            port: at.port,
            tls: at.tls,
            tls_required: at.tls && at.require_tls,
            ca_path: None,
            ca: at.ca_hint.clone().filter(|_| at.tls),
            user: user.to_string(),
            password: secret.expose().to_owned(),
            path: path.to_owned(),
            url: target.url(),
            curl: target.curl(),
            lftp: target.lftp(),
            check: sha256sum(&sha256, &file),
            account: Account {
                user: customer.to_string(),
                path: standing.path.to_string(),
                url: own.url(),
                lease: standing.id.to_string(),
                expires: standing.expires.into(),
                curl: own.curl(),
            },
            file,
            sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(Until::from(Timestamp(1_795_493_100)).0.as_deref(), Some("2026-11-24T04:05:00Z"));
        assert!(Until::from(Timestamp(u64::MAX)).0.is_none());
    }

    #[test]
    fn paging() {
        let session = Session::new(tobj::Secret::random().unwrap(), Name::new("alice").unwrap()).unwrap();
        let item = tobj::CatalogueItem {
            product: Name::new("p").unwrap(),
            version: Name::new("1").unwrap(),
            file: tobj::FileName::new("f").unwrap(),
            size: 1,
            sha256: [0; 32].into(),
            download: Name::new("d").unwrap(),
            until: None,
        };
        let ends = |offset, count, more| {
            let page = CataloguePage { items: vec![item.clone(); count], more };
            let listing = Listing::new(&session, offset, &page, None);
            (listing.previous, listing.next)
        };
        assert_eq!(ends(0, 3, false), (None, None));
        assert_eq!(ends(0, 200, true), (None, Some(200)));
        assert_eq!(ends(100, 200, true), (Some(0), Some(300)));
        assert_eq!(ends(400, 1, false), (Some(200), None));
        assert_eq!(ends(u64::MAX, 0, true), (Some(u64::MAX - 200), None));

        // Of one product: there is more only where the page ends with it.
        let other = CatalogueItem { product: Name::new("q").unwrap(), ..item.clone() };
        let of = |name: &str, more| {
            let page = CataloguePage { items: [vec![item.clone(); 3], vec![other.clone(); 2]].concat(), more };
            let listing = Listing::new(&session, 10, &page, Some(&Name::new(name).unwrap()));
            (listing.items.len(), listing.previous, listing.next)
        };
        assert_eq!(
            (of("p", true), of("q", true), of("q", false)),
            ((3, None, None), (2, None, Some(15)), (2, None, None))
        );
        assert_eq!(of("r", true), (0, None, None));
    }
}

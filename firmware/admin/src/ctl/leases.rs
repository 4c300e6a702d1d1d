//! Leases.

use super::args::Lease;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::{Value, json};
use tobj::{LeaseInfo, LinkInfo, Reply, Request};

pub(crate) async fn run(operator: &Operator, command: Lease, as_json: bool) -> Result<(), CtlError> {
    match command {
        Lease::List { download } => {
            let machine = operator.download(download.as_deref())?;
            let items =
                show::pages(async |offset| match operator.ask(machine, Request::LeaseList { offset }).await? {
                    Reply::Leases { items, more } => Ok((items, more)),
                    _ => Err(CtlError::Mismatch(machine.to_owned())),
                })
                .await?;
            if as_json {
                return show::json(&items.iter().map(fields).collect());
            }
            let rows: Vec<_> = items.iter().map(row).collect();
            show::table(&["LEASE", "KIND", "STATE", "CUSTOMER", "EXPIRES", "COVERED", "PATH"], &rows)
        }
        Lease::Show { lease, download } => {
            let machine = operator.download(download.as_deref())?;
            let Reply::Lease { lease, link } = operator.ask(machine, Request::LeaseShow { lease }).await? else {
                return Err(CtlError::Mismatch(machine.to_owned()));
            };
            if as_json { show::json(&with_link(&lease, link.as_ref())) } else { print(&lease, link.as_ref()) }
        }
        Lease::Revoke { lease, download } => {
            operator.ask(operator.download(download.as_deref())?, Request::LeaseRevoke { lease }).await?;
            eprintln!("lease {lease} was ended");
            Ok(())
        }
    }
}

fn row(l: &LeaseInfo) -> Vec<String> {
    let covered = format!("{} of {}", show::size(l.covered), show::size(l.size));
    vec![
        l.lease.to_string(),
        l.kind.to_string(),
        l.state.to_string(),
        l.customer.to_string(),
        show::time(l.expires),
        covered,
        l.path.to_string(),
    ]
}

fn fields(l: &LeaseInfo) -> Value {
    json!({
        "lease": l.lease.to_string(), "kind": l.kind.as_str(), "state": l.state.as_str(),
        "customer": l.customer.as_str(), "product": l.product.as_str(), "version": l.version.as_str(),
        "file": l.file.as_str(), "path": l.path.as_str(), "size": l.size, "sha256": l.sha256.to_string(),
        "expires": l.expires.0, "covered": l.covered,
    })
}

/// A device by its number: arrays of md by name, for their major number is 9 (the kernel's devices.txt); others as `major:minor`.
fn block_device(number: u64) -> String {
    const MD: u64 = 9;
    match (nix::sys::stat::major(number), nix::sys::stat::minor(number)) {
        (MD, minor) => format!("/dev/md{minor}"),
        (major, minor) => format!("{major}:{minor}"),
    }
}

/// The lease's fields and, beside them, what the file system says.
fn with_link(lease: &LeaseInfo, link: Option<&LinkInfo>) -> Value {
    let mut value = fields(lease);
    value["inode"] = json!(link.map(|l| l.inode));
    value["storeroom_inode"] = json!(link.map(|l| l.storeroom_inode));
    value["links"] = json!(link.map(|l| l.links));
    value["device"] = json!(link.map(|l| l.device));
    value["block_device"] = json!(link.map(|l| block_device(l.device)));
    value["filesystem"] = json!(link.map(|l| l.filesystem.as_str()));
    value
}

fn print(l: &LeaseInfo, link: Option<&LinkInfo>) -> Result<(), CtlError> {
    let mut lines = vec![
        ("lease", l.lease.to_string()),
        ("kind", l.kind.to_string()),
        ("state", l.state.to_string()),
        ("customer", l.customer.to_string()),
        ("product", format!("{} {}", l.product, l.version)),
        ("path", l.path.to_string()),
        ("size", format!("{} ({} bytes)", show::size(l.size), l.size)),
        ("sha256", l.sha256.to_string()),
        ("expires", show::time(l.expires)),
        ("covered", format!("{} bytes", l.covered)),
    ];
    match link {
        None => lines.push(("link", "gone".into())),
        Some(link) => lines.extend([
            ("inode", link.inode.to_string()),
            ("storeroom inode", link.storeroom_inode.to_string()),
            ("links", link.links.to_string()),
            ("device", block_device(link.device)),
            ("file system", link.filesystem.to_string()),
        ]),
    }
    lines.iter().try_for_each(|(name, value)| show::line(&format!("{name:<16} {value}")))
}

#[cfg(test)]
mod tests {
    use super::block_device;

    #[test]
    fn devices_by_number() {
        assert_eq!(block_device(nix::sys::stat::makedev(9, 127)), "/dev/md127");
        assert_eq!(block_device(nix::sys::stat::makedev(259, 3)), "259:3");
    }
}

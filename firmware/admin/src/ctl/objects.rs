//! Objects.

use super::args::Object;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tobj::{CatalogueItem, Name, Reply, Request, Sha256, StoredObject};

mod put;

pub(crate) async fn run(operator: &Operator, command: Object, as_json: bool) -> Result<(), CtlError> {
    match command {
        Object::Put { file, product, version, name, download } => {
            let download = operator.download(download.as_deref())?;
            put::put(operator, download, &file, (product, version), name, as_json).await
        }
        Object::List { stored: false, .. } => list(operator, as_json).await,
        Object::List { stored: true, download } => {
            list_stored(operator, operator.download(download.as_deref())?, as_json).await
        }
        Object::Verify { sha256, download } => {
            operator.ask(operator.download(download.as_deref())?, Request::ObjectVerify { sha256 }).await?;
            eprintln!("it is being verified in the background; see `ffsctl object list`");
            Ok(())
        }
        Object::Retire { sha256: Some(sha256), force, download, .. } => {
            let download = operator.download(download.as_deref())?;
            if let Some(item) =
                catalogue(operator).await?.iter().find(|i| i.sha256 == sha256 && i.download.as_str() == download)
            {
                return Err(CtlError::Usage(format!(
                    "{sha256} is {} {}: retire that, with --product and --version",
                    item.product, item.version
                )));
            }
            take_out(operator, download, sha256, force).await
        }
        Object::Retire { product: Some(product), version: Some(version), force, .. } => {
            retire(operator, &product, &version, force).await
        }
        Object::Retire { .. } => Err(CtlError::Usage("name a product and a version, or a hash".into())),
    }
}

/// Everything that is offered.
async fn catalogue(operator: &Operator) -> Result<Vec<CatalogueItem>, CtlError> {
    let database = operator.database()?;
    show::pages(async |offset| match operator.ask(database, Request::ObjectList { offset }).await? {
        Reply::Catalogue { items, more } => Ok((items, more)),
        _ => Err(CtlError::Mismatch(database.to_owned())),
    })
    .await
}

/// Everything that a storeroom holds.
async fn storeroom(operator: &Operator, download: &str) -> Result<Vec<StoredObject>, CtlError> {
    show::pages(async |offset| match operator.ask(download, Request::ObjectStore { offset }).await? {
        Reply::Storeroom { items, more } => Ok((items, more)),
        _ => Err(CtlError::Mismatch(download.to_owned())),
    })
    .await
}

/// What storerooms say of the objects that are offered. One that does not answer leaves its objects without.
async fn storerooms(
    operator: &Operator,
    items: &[CatalogueItem],
) -> BTreeMap<String, Option<BTreeMap<Sha256, StoredObject>>> {
    let mut all = BTreeMap::new();
    for item in items {
        let machine = item.download.as_str();
        if !all.contains_key(machine) {
            let objects = match storeroom(operator, machine).await {
                Ok(objects) => Some(objects.into_iter().map(|object| (object.sha256, object)).collect()),
                Err(error) => {
                    eprintln!("what {machine} holds is not known: {}", daemon::report(&error));
                    None
                }
            };
            all.insert(machine.to_owned(), objects);
        }
    }
    all
}

async fn retire(operator: &Operator, product: &Name, version: &Name, force: bool) -> Result<(), CtlError> {
    let (all, database) = (catalogue(operator).await?, operator.database()?);
    let refused = |text: String| CtlError::Refused { machine: database.to_owned(), text };
    let found = all.iter().find(|item| (&item.product, &item.version) == (product, version));
    let Some(item) = found else { return Err(refused("there is no such product or version".into())) };
    let (download, sha256) = (item.download.as_str(), item.sha256);
    let others = |i: &&CatalogueItem| i.sha256 == sha256 && i.download == item.download && !std::ptr::eq(*i, item);
    let other = all.iter().find(others);
    if other.is_none() && !force {
        // Before the version goes: who is refused has changed nothing.
        let held = storeroom(operator, download).await?.iter().find(|o| o.sha256 == sha256).map_or(0, |o| o.leases);
        if held > 0 {
            let text = format!("{held} leases are for it; wait for their end, or end them with --force");
            return Err(CtlError::Refused { machine: download.to_owned(), text });
        }
    }
    let remove = Request::ObjectRemove { product: product.clone(), version: version.clone() };
    operator.ask(database, remove).await?;
    eprintln!("{product} {version} is offered no more");
    match other {
        Some(other) => {
            eprintln!("its bytes stay: they are {} {}, too", other.product, other.version);
            Ok(())
        }
        None => take_out(operator, download, sha256, force).await,
    }
}

async fn take_out(operator: &Operator, download: &str, sha256: Sha256, force: bool) -> Result<(), CtlError> {
    match operator.ask(download, Request::ObjectRetire { sha256, force }).await {
        Ok(_) => {
            eprintln!("{sha256} leaves the storeroom of {download}");
            Ok(())
        }
        Err(CtlError::Refused { machine, text }) => Err(CtlError::Refused {
            machine,
            text: format!("{text}; to take it out later: ffsctl object retire --sha256 {sha256} [--force]"),
        }),
        Err(error) => Err(error),
    }
}

async fn list(operator: &Operator, as_json: bool) -> Result<(), CtlError> {
    let items = catalogue(operator).await?;
    let stored = storerooms(operator, &items).await;
    // `None` for one that is not known, `Some(None)` for one that is not there.
    let of = |o: &CatalogueItem| {
        let machine = stored.get(o.download.as_str()).and_then(Option::as_ref)?;
        Some(machine.get(&o.sha256))
    };
    if as_json {
        let all = items.iter().map(|o| {
            let mut value = json!({
                "product": o.product.as_str(), "version": o.version.as_str(), "file": o.file.as_str(), "size": o.size,
                "sha256": o.sha256.to_string(), "download": o.download.as_str(),
            });
            match of(o) {
                None => value["state"] = Value::Null,
                Some(None) => value["state"] = json!("MISSING"),
                Some(Some(object)) => describe(&mut value, object),
            }
            value
        });
        return show::json(&all.collect());
    }
    let rows: Vec<_> = items
        .iter()
        .map(|o| {
            let [state, leases, verified] = match of(o) {
                None => ["-".to_owned(), "-".to_owned(), "-".to_owned()],
                Some(None) => ["MISSING".to_owned(), "-".to_owned(), "-".to_owned()],
                Some(Some(object)) => cells(object),
            };
            let (product, version, on) = (o.product.to_string(), o.version.to_string(), o.download.to_string());
            let (file, hash) = (o.file.to_string(), o.sha256.to_string());
            vec![product, version, show::size(o.size), on, state, leases, verified, hash, file]
        })
        .collect();
    show::table(&["PRODUCT", "VERSION", "SIZE", "ON", "STATE", "LEASES", "VERIFIED", "SHA256", "FILE"], &rows)
}

async fn list_stored(operator: &Operator, download: &str, as_json: bool) -> Result<(), CtlError> {
    let objects = storeroom(operator, download).await?;
    let offered = catalogue(operator).await?;
    let versions = |object: &StoredObject| -> Vec<String> {
        let its = offered.iter().filter(|i| i.sha256 == object.sha256 && i.download.as_str() == download);
        its.map(|item| format!("{} {}", item.product, item.version)).collect()
    };
    if as_json {
        let all = objects.iter().map(|object| {
            let mut value = json!({
                "sha256": object.sha256.to_string(), "size": object.size, "versions": versions(object),
            });
            describe(&mut value, object);
            value
        });
        return show::json(&all.collect());
    }
    let rows: Vec<_> = objects
        .iter()
        .map(|object| {
            let [state, leases, verified] = cells(object);
            let versions = versions(object);
            let versions = if versions.is_empty() { "-".to_owned() } else { versions.join(", ") };
            let added = show::time(object.added);
            vec![object.sha256.to_string(), show::size(object.size), state, leases, added, verified, versions]
        })
        .collect();
    show::table(&["SHA256", "SIZE", "STATE", "LEASES", "ADDED", "VERIFIED", "VERSIONS"], &rows)
}

fn cells(object: &StoredObject) -> [String; 3] {
    let verified = object.verified.map_or_else(|| "-".to_owned(), show::time);
    [object.state.to_string(), object.leases.to_string(), verified]
}

fn describe(value: &mut Value, object: &StoredObject) {
    value["state"] = json!(object.state.as_str());
    value["leases"] = json!(object.leases);
    value["added"] = json!(object.added.0);
    value["verified"] = json!(object.verified.map(|at| at.0));
}

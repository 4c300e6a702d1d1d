//! The certificate of a machine that customers reach, renewed over the commlink.

use super::Desk;
use crate::certificate::{Facts, Pair, day, facts, now};
use crate::ctl::{CtlError, show};
use keys::Certified;
use keys::site::{self, AUTHORITY, AUTHORITY_KEY, Machine, Role};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Gives a machine the pair in these files, or a new one of the site's authority; then the site's copy is this one.
pub(super) async fn renew(
    desk: &Desk,
    name: &str,
    files: Option<(PathBuf, PathBuf)>,
    as_json: bool,
) -> Result<(), CtlError> {
    let machine = served(desk, name)?;
    let (pair, facts) = match files {
        Some((certificate, key)) => of_files(&certificate, &key)?,
        None => new(desk, machine)?,
    };
    let host = machine.customers_host();
    if !pair.covers(host) {
        eprintln!("warning: {name} is {host} to customers, for which this certificate is not valid");
    }
    let request = pair.request().map_err(|error| CtlError::Usage(error.to_string()))?;
    desk.done(name, request).await?;
    if let Some(site) = desk.site.as_ref().filter(|site| site.join(name).is_dir()) {
        let copy = Certified { certificate: pair.chain().to_owned(), key: pair.key().to_owned().into() };
        let failed = format!("{name} has the new certificate, but its part of the site was not renewed; try again");
        site::keep(site, name, &copy).map_err(CtlError::failed(failed))?;
    }
    let (until, fingerprint) = (day(facts.ends), facts.fingerprint);
    if as_json {
        return show::json(&json!({ "machine": name, "ends": facts.ends, "fingerprint": fingerprint }));
    }
    show::line(&format!("{name}: certificate until {until} fingerprint {fingerprint}"))
}

/// The machine of this name, if it has a certificate.
fn served<'a>(desk: &'a Desk, name: &str) -> Result<&'a Machine, CtlError> {
    let all = || desk.plan().machines.iter().filter(|machine| machine.role != Role::Database);
    all().find(|machine| machine.name == name).ok_or_else(|| {
        let names: Vec<&str> = all().map(|machine| &*machine.name).collect();
        CtlError::Usage(format!("{name} is no machine that customers reach: {}", names.join(", ")))
    })
}

fn read(path: &Path) -> Result<Zeroizing<String>, CtlError> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    text.map_err(|error| CtlError::Usage(format!("{}: {error}", path.display())))
}

fn of_files(certificate: &Path, key: &Path) -> Result<(Pair, Facts), CtlError> {
    let pair = Pair::new(&read(certificate)?, &read(key)?);
    let checked = pair.and_then(|pair| pair.check(now(), None).map(|facts| (pair, facts)));
    checked.map_err(|why| {
        let why = daemon::report(&why);
        CtlError::Usage(format!("{} and {} are not sent: {why}", certificate.display(), key.display()))
    })
}

fn new(desk: &Desk, machine: &Machine) -> Result<(Pair, Facts), CtlError> {
    let Some(dir) = desk.site.as_ref().filter(|site| site.join(AUTHORITY_KEY).is_file()) else {
        return Err(CtlError::Usage(format!(
            "the key of the site's authority ({AUTHORITY_KEY}) is not here; give the command where the whole site is, or send a \
             certificate with --certificate and --key"
        )));
    };
    let unfit = "no certificate could be made";
    let made = site::certify(dir, machine).map_err(CtlError::failed(unfit))?;
    let authority = read(&dir.join(AUTHORITY))?;
    let pair = Pair::new(&made.certificate, &made.key).map_err(CtlError::failed(unfit))?;
    let checked = pair.check(now(), Some(&authority)).map_err(CtlError::failed(unfit))?;
    let ends = facts(authority.as_bytes()).map_err(CtlError::failed(unfit))?.ends;
    if ends < checked.ends {
        eprintln!(
            "warning: the site's authority ends on {}, and with it what customers know this certificate by",
            day(ends)
        );
    }
    Ok((pair, checked))
}

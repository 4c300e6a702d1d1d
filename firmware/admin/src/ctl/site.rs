//! Sites on the operator's own machine.

use super::CtlError;
use super::args::Site;
use crate::setup::{self, SetupError};
use keys::site::{Machine, Plan, Role, SiteError};

pub(crate) fn run(command: Site) -> Result<(), CtlError> {
    let Site::New { dir, plan, name, operators, download, web, database } = command;
    let plan = match plan {
        Some(path) => Plan::load(&path).map_err(|e| CtlError::Usage(daemon::report(&e)))?,
        None => {
            let hosts = [(Role::Download, download), (Role::Web, web), (Role::Database, database)];
            let machines = hosts.map(|(role, host)| Machine::new(role, &host)).to_vec();
            Plan { name, operators, time: Vec::new(), machines }
        }
    };
    plan.create(&dir).map_err(|error| match error {
        SiteError::Plan(_) | SiteError::Exists(_) => CtlError::Usage(error.to_string()),
        other => CtlError::failed("the site was not made")(other),
    })?;
    warn_of_names(&plan);
    eprintln!(
        "{} holds the site {}; each machine's folder goes into that machine, and nowhere else",
        dir.display(),
        plan.name
    );
    Ok(())
}

/// A site of names serves programs on a host; an appliance has nobody to ask for an address before it is set up.
fn warn_of_names(plan: &Plan) {
    for machine in &plan.machines {
        if let Err(error @ SetupError::Address { .. }) = setup::render(plan, &machine.name, &[]) {
            eprintln!("warning: {} cannot be flashed from this site: {error}", machine.name);
        }
    }
}

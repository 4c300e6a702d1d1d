//! A running site as its operator and its customers see it, whether its machines are processes or VMs.

use crate::local::run_with_input;
use anyhow::Result;
use keys::site::{Machine, Plan, Role};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The operator of the sites that we make.
pub const OPERATOR: &str = "operator";

/// A running site, from the outside.
#[derive(Debug, Clone)]
pub struct Access {
    dir: PathBuf,
    ffsctl: PathBuf,
    plan: Plan,
}

impl Access {
    /// The site in `dir/site`, made by this plan, which the operator's tool at `ffsctl` reaches.
    pub(crate) fn new(dir: &Path, ffsctl: &Path, plan: &Plan) -> Self {
        Self { dir: dir.into(), ffsctl: ffsctl.into(), plan: plan.clone() }
    }

    /// Where everything about it is on this host.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The site's folder.
    pub fn site(&self) -> PathBuf {
        self.dir.join("site")
    }
    /// The certificate that vouches for portal and ftps.
    pub fn ca(&self) -> PathBuf {
        self.site().join("ca.pem")
    }
    /// The operator's folder.
    pub fn operator(&self) -> PathBuf {
        self.site().join("operators").join(OPERATOR)
    }
    /// The plan of the site.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The machine of a role.
    pub fn machine(&self, role: Role) -> &Machine {
        self.plan.machines.iter().find(|m| m.role == role).expect("a plan has every role")
    }

    /// Where customers start.
    pub fn portal_url(&self) -> String {
        let web = self.machine(Role::Web);
        format!("https://{}:{}", public(web), web.https)
    }

    /// Host and port of the ftp daemon.
    pub fn ftp(&self) -> (&str, u16) {
        let download = self.machine(Role::Download);
        (public(download), download.ftp)
    }

    /// The operator's tool, for this site.
    pub fn ffsctl(&self) -> Command {
        let mut command = Command::new(&self.ffsctl);
        command.env("FFS_SITE", self.operator()).stdin(Stdio::null());
        command
    }

    /// Runs the operator's tool with something on its standard input.
    ///
    /// # Errors
    /// When it cannot be run or fails; its message is in the error.
    pub fn operate(&self, args: &[&str], input: &str) -> Result<Output> {
        run_with_input(self.ffsctl().args(args), input)
    }
}

/// Where customers reach a machine.
fn public(machine: &Machine) -> &str {
    machine.public.as_deref().unwrap_or(&machine.host)
}

/// The machines behind an [`Access`], as long as we keep them running.
pub(crate) trait Running {
    /// How operator and customers reach them.
    fn access(&self) -> &Access;
    /// Where to look when something goes wrong.
    fn logs(&self) -> PathBuf;
    /// The first that ended although nobody asked it to.
    fn failed(&mut self) -> Option<String>;
    /// Ends them.
    fn stop(&mut self);
    /// What was measured about them: names and values, for a summary.
    fn measured(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

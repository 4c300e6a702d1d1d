//! The operator's folder, and asking appliances over the links in it.

use super::CtlError;
use commlink::dial::Ports;
use commlink::{CallError, Client, Keyring, Peer};
use keys::site::{Plan, Role};
use std::path::{Path, PathBuf};
use tobj::{Fault, Message, Reply, Request, RequestTag};
use tokio::io::AsyncRead;

/// An operator with the site's plan and his links.
pub(crate) struct Operator {
    plan: Plan,
    client: Client,
}

impl Operator {
    /// Opens the folder that `--site` and `--operator` name.
    pub(crate) fn open(site: Option<&Path>, operator: Option<&str>) -> Result<Self, CtlError> {
        let dir = home(site, operator)?;
        Self::with(&dir, Keyring::open(&dir.join("bags"), None).map_err(|e| CtlError::Usage(daemon::report(&e)))?)
    }

    /// An operator's folder, with its bags.
    pub(crate) fn with(dir: &Path, keyring: Keyring) -> Result<Self, CtlError> {
        let usage = |error: &(dyn std::error::Error + 'static)| CtlError::Usage(daemon::report(error));
        let plan = Plan::load(&dir.join("site.toml")).map_err(|e| usage(&e))?;
        let peers = plan.machines.iter().map(|m| Peer {
            name: m.name.clone(),
            host: Some(m.operators_host().to_owned()),
            ports: Ports::new(m.ports.0, m.ports.1).ok(),
            via: None,
            seal: true,
        });
        let client = Client::new(keyring, peers.collect::<Vec<_>>()).map_err(|e| usage(&e))?;
        Ok(Self { plan, client })
    }

    /// The site's plan.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// His links.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The name of the database appliance.
    pub(crate) fn database(&self) -> Result<&str, CtlError> {
        self.only(Role::Database, None)
    }

    /// The name of the download appliance, or of the one that is meant.
    pub(crate) fn download<'a>(&'a self, wanted: Option<&'a str>) -> Result<&'a str, CtlError> {
        self.only(Role::Download, wanted)
    }

    fn only<'a>(&'a self, role: Role, wanted: Option<&'a str>) -> Result<&'a str, CtlError> {
        let names: Vec<&str> = self.plan.machines.iter().filter(|m| m.role == role).map(|m| &*m.name).collect();
        match (wanted, &names[..]) {
            (None, [name]) => Ok(name),
            (Some(wanted), names) if names.contains(&wanted) => Ok(wanted),
            (Some(wanted), names) => Err(CtlError::Usage(format!(
                "{wanted} is no {} machine of this site: {}",
                role.as_str(),
                names.join(", ")
            ))),
            (None, names) => Err(CtlError::Usage(format!("choose one with --download: {}", names.join(", ")))),
        }
    }

    /// Asks; a fault is an error.
    pub(crate) async fn ask(&self, machine: &str, request: Request) -> Result<Reply, CtlError> {
        let asked = request.tag();
        answer(machine, asked, self.client.call(machine, request).await)
    }

    /// The same with a body behind the request.
    pub(crate) async fn send<R>(
        &self,
        machine: &str,
        request: Request,
        length: u64,
        body: &mut R,
    ) -> Result<Reply, CtlError>
    where
        R: AsyncRead + Send + Unpin,
    {
        let asked = request.tag();
        let message = Message::request(request).map_err(CtlError::failed("no request could be made"))?;
        answer(machine, asked, self.client.call_with_literal(machine, message, length, body).await)
    }
}

fn answer(machine: &str, asked: RequestTag, outcome: Result<Reply, CallError>) -> Result<Reply, CtlError> {
    match outcome {
        Ok(Reply::Fault { fault, text }) => {
            let text = if text.as_str().is_empty() { meaning(fault).to_owned() } else { text.to_string() };
            Err(CtlError::Refused { machine: machine.to_owned(), text })
        }
        Ok(reply) => Ok(reply),
        Err(CallError::UnknownPeer(name)) => Err(CtlError::Usage(format!("{name} is no machine of this site"))),
        Err(source) => {
            let what = match &source {
                CallError::Late { .. } | CallError::Broken { asked: true, .. } => unanswered(machine, asked),
                _ => format!("{machine} was not asked"),
            };
            Err(CtlError::Failed { what, source: source.into() })
        }
    }
}

/// That there was no answer to what may have been heard.
fn unanswered(machine: &str, asked: RequestTag) -> String {
    match look(asked) {
        Some(command) => {
            format!(
                "{machine} gave no answer; the order may have been carried out, or may still be: see `ffsctl {command}`"
            )
        }
        None => format!("{machine} gave no answer"),
    }
}

/// The command that shows what came of an order; none for what only asks.
fn look(order: RequestTag) -> Option<&'static str> {
    use RequestTag as Tag;
    Some(match order {
        Tag::StorageCreate | Tag::StorageStart | Tag::StorageAdd | Tag::StorageReplace | Tag::StorageScrub => {
            "storage status"
        }
        Tag::UpdatePush | Tag::UpdateConfirm | Tag::UpdateRollback => "update status",
        Tag::ObjectPut | Tag::ObjectAppend | Tag::ObjectVerify | Tag::ObjectRetire => "object list --stored",
        Tag::ObjectAdd | Tag::ObjectRemove => "object list",
        Tag::CustomerAdd | Tag::CustomerPassword | Tag::CustomerEnable | Tag::CustomerRemove => "customer list",
        Tag::EntitlementAdd | Tag::EntitlementRemove => "entitlement list",
        Tag::LeaseRevoke => "lease list",
        Tag::BagRenew | Tag::BagRetire | Tag::BagAdd | Tag::BagRevoke | Tag::KeysRotate => "status",
        Tag::Reboot | Tag::PowerOff | Tag::FactoryReset => "status",
        _ => return None,
    })
}

fn meaning(fault: Fault) -> &'static str {
    match fault {
        Fault::Denied => "this operator may not do that",
        Fault::NotFound => "there is no such thing",
        Fault::Expired => "it has expired",
        Fault::Busy => "it is busy; try again later",
        Fault::Invalid => "the request makes no sense, or contradicts what is there",
        Fault::Unavailable => "a part of the system that this needs cannot be reached",
    }
}

/// The operator's folder that `--site` and `--operator` name.
pub(crate) fn home(site: Option<&Path>, operator: Option<&str>) -> Result<PathBuf, CtlError> {
    folder(&site.map_or_else(default_site, |dir| Ok(dir.to_owned()))?, operator)
}

fn default_site() -> Result<PathBuf, CtlError> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("ffs/site"))
        .ok_or_else(|| CtlError::Usage("name the site with --site DIR".into()))
}

/// The operator's folder: the one named, or the only one there is.
fn folder(site: &Path, operator: Option<&str>) -> Result<PathBuf, CtlError> {
    if operator.is_none() && site.join("bags").is_dir() {
        return Ok(site.to_owned());
    }
    let all = site.join("operators");
    let names: Vec<String> = match std::fs::read_dir(&all) {
        Ok(entries) => entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect(),
        Err(error) => {
            return Err(CtlError::Usage(format!(
                "{} is neither a site nor an operator's folder ({error}); make one with `ffsctl site new`, or name it with --site",
                site.display()
            )));
        }
    };
    match (operator, &names[..]) {
        (Some(name), names) if names.iter().any(|n| n == name) => Ok(all.join(name)),
        (None, [name]) => Ok(all.join(name)),
        _ => Err(CtlError::Usage(format!("choose one with --operator: {}", names.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use commlink::connection::ConnectionError;
    use std::time::Duration;

    #[test]
    fn an_order_without_an_answer_may_have_been_carried_out() {
        let peer = || "download".to_owned();
        let told = |order, error| daemon::report(&answer("download", order, Err(error)).unwrap_err());
        let broken = |asked| CallError::Broken { peer: peer(), asked, source: ConnectionError::Ended };
        let late = || CallError::Late { peer: peer(), limit: Duration::from_secs(30) };
        let may = "gave no answer; the order may have been carried out, or may still be: see `ffsctl storage status`";
        for error in [late(), broken(true)] {
            let told = told(RequestTag::StorageAdd, error);
            assert!(told.contains(may) && !told.contains("not asked"), "{told}");
        }
        assert!(told(RequestTag::UpdatePush, late()).contains("`ffsctl update status`"));
        let question = told(RequestTag::StorageStatus, late());
        assert!(question.contains("gave no answer") && !question.contains("order"), "{question}");
        assert!(told(RequestTag::StorageAdd, broken(false)).contains("download was not asked"));
        let stranger = told(RequestTag::StorageAdd, CallError::UnknownPeer(peer()));
        assert_eq!(stranger, "download is no machine of this site");
    }

    #[test]
    fn whose_folder_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path();
        assert!(folder(site, None).is_err());
        std::fs::create_dir_all(site.join("operators/ann/bags")).unwrap();
        assert_eq!(folder(site, None).unwrap(), site.join("operators/ann"));
        assert_eq!(folder(&site.join("operators/ann"), None).unwrap(), site.join("operators/ann"));
        std::fs::create_dir_all(site.join("operators/bob/bags")).unwrap();
        assert!(matches!(folder(site, None), Err(CtlError::Usage(_))));
        assert_eq!(folder(site, Some("bob")).unwrap(), site.join("operators/bob"));
        assert!(folder(site, Some("eve")).is_err());
    }
}

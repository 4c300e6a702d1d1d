//! Updates of machines.

use super::args::Update;
use super::link::Operator;
use super::progress::Counted;
use super::{CtlError, show};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tobj::{EntryInfo, Name, Reply, Request, Text};

/// How long a machine may take to settle: a start, its health gate, twice more, and the way back.
const SETTLES: Duration = Duration::from_secs(30 * 60);
/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);

/// What a machine says of its versions.
struct Versions {
    running: Name,
    entries: Vec<EntryInfo>,
    failed: Vec<Text>,
}

impl Versions {
    /// Whether what runs has proven itself.
    fn good(&self) -> bool {
        self.entries.iter().any(|e| e.running && e.state.as_str() == "good")
    }

    /// The version that the next start takes.
    fn next(&self) -> Option<&Name> {
        self.entries.iter().find(|e| e.next).map(|e| &e.version)
    }

    fn json(&self, machine: &str) -> Value {
        json!({
            "machine": machine, "running": self.running.as_str(),
            "entries": self.entries.iter().map(|e| json!({
                "version": e.version.as_str(), "running": e.running, "next": e.next, "state": e.state.as_str(),
            })).collect::<Vec<_>>(),
            "failed": self.failed.iter().map(Text::as_str).collect::<Vec<_>>(),
        })
    }

    fn rows(&self, machine: &str) -> Vec<Vec<String>> {
        let mark = |yes: bool, word: &str| if yes { word.to_owned() } else { "-".to_owned() };
        let row = |e: &EntryInfo| {
            let (running, next) = (mark(e.running, "running"), mark(e.next, "next"));
            vec![machine.to_owned(), e.version.to_string(), running, next, e.state.to_string()]
        };
        let mut rows: Vec<Vec<String>> = self.entries.iter().map(row).collect();
        if self.entries.is_empty() {
            let state = "started without its boot disk".to_owned();
            rows.push(vec![machine.to_owned(), self.running.to_string(), "running".into(), "-".into(), state]);
        }
        rows.extend(self.failed.iter().map(|text| {
            let (version, reason) = text.as_str().split_once(": ").unwrap_or(("-", text.as_str()));
            vec![machine.to_owned(), version.to_owned(), "-".into(), "-".into(), format!("failed: {reason}")]
        }));
        rows
    }
}

pub(crate) async fn run(operator: &Operator, command: Update, as_json: bool) -> Result<(), CtlError> {
    match command {
        Update::Status { machine: Some(machine) } => {
            let versions = ask(operator, &machine, Request::UpdateStatus {}).await?;
            print(&[(machine, versions)], as_json)
        }
        Update::Status { machine: None } => {
            let (mut all, mut silent) = (Vec::new(), false);
            for machine in &operator.plan().machines {
                match ask(operator, &machine.name, Request::UpdateStatus {}).await {
                    Ok(versions) => all.push((machine.name.clone(), versions)),
                    // What the others say is worth no less.
                    Err(error) => {
                        eprintln!("{}", daemon::report(&error));
                        silent = true;
                    }
                }
            }
            print(&all, as_json)?;
            if silent { Err(CtlError::Unhealthy) } else { Ok(()) }
        }
        Update::Confirm { machine } => {
            let versions = ask(operator, &machine, Request::UpdateConfirm {}).await?;
            print(&[(machine, versions)], as_json)
        }
        Update::Push { machine, file, downgrade, again, no_reboot } => {
            let versions = push(operator, &machine, &file, Request::UpdatePush { downgrade, again }).await?;
            restarted(operator, machine, versions, no_reboot, as_json).await
        }
        Update::Rollback { machine, no_reboot } => {
            let versions = ask(operator, &machine, Request::UpdateRollback {}).await?;
            restarted(operator, machine, versions, no_reboot, as_json).await
        }
    }
}

pub(crate) async fn reboot(operator: &Operator, machine: &str) -> Result<(), CtlError> {
    done(operator, machine, Request::Reboot {}).await
}

pub(crate) async fn power_off(operator: &Operator, machine: &str) -> Result<(), CtlError> {
    done(operator, machine, Request::PowerOff {}).await
}

async fn done(operator: &Operator, machine: &str, request: Request) -> Result<(), CtlError> {
    match operator.ask(machine, request).await? {
        Reply::Done {} => Ok(()),
        _ => Err(CtlError::Mismatch(machine.to_owned())),
    }
}

/// A machine becomes what it was when its disk was written.
pub(crate) async fn factory_reset(operator: &Operator, machine: &str, confirm: &str) -> Result<(), CtlError> {
    if machine != confirm {
        return Err(CtlError::Usage(format!(
            "{machine} is to be reset, and {confirm} was confirmed; nothing was done"
        )));
    }
    let name = machine.parse().map_err(|_| CtlError::Usage(format!("{machine:?} is no name of a machine")))?;
    done(operator, machine, Request::FactoryReset { machine: name }).await
}

fn versions(machine: &str, reply: Reply) -> Result<Versions, CtlError> {
    match reply {
        Reply::Updates { running, entries, failed } => Ok(Versions { running, entries, failed }),
        _ => Err(CtlError::Mismatch(machine.to_owned())),
    }
}

async fn ask(operator: &Operator, machine: &str, request: Request) -> Result<Versions, CtlError> {
    versions(machine, operator.ask(machine, request).await?)
}

async fn push(operator: &Operator, machine: &str, path: &Path, request: Request) -> Result<Versions, CtlError> {
    let unusable = |why: String| CtlError::Usage(format!("{}: {why}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(|e| unusable(e.to_string()))?;
    let size = file.metadata().await.map_err(|e| unusable(e.to_string()))?.len();
    let mut body = Counted::new(file, size);
    let reply = operator.send(machine, request, size, &mut body).await?;
    body.finish();
    versions(machine, reply)
}

fn print(all: &[(String, Versions)], as_json: bool) -> Result<(), CtlError> {
    if as_json {
        return show::json(&all.iter().map(|(machine, versions)| versions.json(machine)).collect());
    }
    let rows: Vec<_> = all.iter().flat_map(|(machine, versions)| versions.rows(machine)).collect();
    show::table(&["MACHINE", "VERSION", "RUNNING", "NEXT", "STATE"], &rows)
}

/// Starts the machine anew, unless that is for later, and waits for what comes of it.
async fn restarted(
    operator: &Operator,
    machine: String,
    ordered: Versions,
    later: bool,
    as_json: bool,
) -> Result<(), CtlError> {
    if later {
        return print(&[(machine, ordered)], as_json);
    }
    let wanted = ordered.next().cloned().ok_or_else(|| CtlError::Mismatch(machine.clone()))?;
    let before = ordered.running;
    let mut gone = match reboot(operator, &machine).await {
        Ok(()) => false,
        // It may have been faster to go than to answer.
        Err(CtlError::Failed { .. }) => true,
        Err(refused) => return Err(refused),
    };
    eprintln!("{machine} starts anew; waiting until {wanted} has proven itself");
    let begin = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        match ask(operator, &machine, Request::UpdateStatus {}).await {
            // It says so of a start that is over, too: only one that was away in between counts, or another version.
            Ok(now) if now.good() && (gone || now.running != before) => {
                let arrived = now.running == wanted;
                print(&[(machine.clone(), now)], as_json)?;
                if arrived {
                    return Ok(());
                }
                let text = format!("{wanted} did not prove itself; the machine went back");
                return Err(CtlError::Refused { machine, text });
            }
            // One that says no, such as that it is busy with another order, has not gone.
            Ok(_) | Err(CtlError::Refused { .. }) => {}
            Err(_) => gone = true,
        }
        if begin.elapsed() > SETTLES {
            let text = format!("did not settle within {} minutes", SETTLES.as_secs() / 60);
            return Err(CtlError::Refused { machine, text });
        }
    }
}

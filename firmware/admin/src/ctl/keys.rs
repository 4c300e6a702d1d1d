//! Key bags: those of operators and, by order to the machines, those between machines; and certificates.
//!
//! Where the whole site is at hand, the machines' parts in it are kept in step, so that a machine that has to be written
//! anew gets the operators' present keys. Those between machines are known to the machines alone once they were renewed;
//! `keys new --link` gives such a machine and its neighbour a new one.

mod certificate;

use super::args::Keys;
use super::link::{Operator, home};
use super::{CtlError, show};
use commlink::{Bags, Keyring, rotation};
use keys::site::{Machine, Plan, Role};
use keys::{Bag, LinkKind};
use serde_json::json;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use tobj::{BagKind, Name, Reply, Request, Text};

pub(crate) async fn run(
    site: Option<&Path>,
    operator: Option<&str>,
    command: Keys,
    as_json: bool,
) -> Result<(), CtlError> {
    if let Keys::Show { bag: Some(bag) } = &command {
        let bag = Bag::load(bag).map_err(|e| CtlError::Usage(daemon::report(&e)))?;
        return present(&[Row::of(&bag)], as_json, false);
    }
    let dir = home(site, operator)?;
    let desk = Desk::open(&dir)?;
    match command {
        Keys::Show { .. } => {
            let rows: Vec<Row> = desk.keyring.current().iter().map(|bag| Row::of(bag)).collect();
            present(&rows, as_json, true)
        }
        Keys::Rotate { links } => desk.rotate(&links, as_json).await,
        Keys::Revoke { name } => desk.revoke(&name).await,
        Keys::Certificate { machine, certificate, key } => {
            certificate::renew(&desk, &machine, certificate.zip(key), as_json).await
        }
        Keys::New { name: Some(name), dir: Some(dir), .. } => desk.new_operator(&name, &dir).await,
        Keys::New { link: Some(link), .. } => desk.new_pair(&link).await,
        Keys::New { .. } => Err(CtlError::Usage("name an operator and a folder, or a link".into())),
    }
}

/// What is shown of a bag.
struct Row {
    link: String,
    peer: String,
    generation: u64,
    fingerprint: String,
}

impl Row {
    fn of(bag: &Bag) -> Self {
        Self {
            link: bag.link().to_owned(),
            peer: bag.peer().to_owned(),
            generation: bag.generation().into(),
            fingerprint: bag.fingerprint(),
        }
    }
}

fn present(rows: &[Row], as_json: bool, list: bool) -> Result<(), CtlError> {
    let value =
        |r: &Row| json!({ "link": r.link, "peer": r.peer, "generation": r.generation, "fingerprint": r.fingerprint });
    match rows {
        [row] if as_json && !list => show::json(&value(row)),
        _ if as_json => show::json(&rows.iter().map(value).collect::<Vec<_>>().into()),
        [row] if !list => {
            show::line(&format!("{} generation {} fingerprint {}", row.link, row.generation, row.fingerprint))
        }
        _ => {
            let cells = |r: &Row| vec![r.link.clone(), r.peer.clone(), r.generation.to_string(), r.fingerprint.clone()];
            show::table(&["LINK", "PEER", "GENERATION", "FINGERPRINT"], &rows.iter().map(cells).collect::<Vec<_>>())
        }
    }
}

/// An operator's folder while its bags are changed.
struct Desk {
    dir: PathBuf,
    /// The site that it is in, if it is.
    site: Option<PathBuf>,
    keyring: Keyring,
    operator: Operator,
    /// Two who renew the same bag would come apart.
    _lock: File,
}

impl Desk {
    fn open(dir: &Path) -> Result<Self, CtlError> {
        let bags = dir.join("bags");
        let lock = File::open(&bags).map_err(CtlError::failed(format!("cannot open {}", bags.display())))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => CtlError::Usage(format!("{} is in use by another ffsctl", bags.display())),
            TryLockError::Error(error) => CtlError::failed("the folder could not be locked")(error),
        })?;
        let keyring = Keyring::open(&bags, Some(&bags)).map_err(|e| CtlError::Usage(daemon::report(&e)))?;
        let operator = Operator::with(dir, keyring.clone())?;
        let above = dir.parent().filter(|all| all.ends_with("operators")).and_then(Path::parent);
        let site = above.filter(|site| site.join("site.toml").is_file()).map(Path::to_owned);
        Ok(Self { dir: dir.to_owned(), site, keyring, operator, _lock: lock })
    }

    fn plan(&self) -> &Plan {
        self.operator.plan()
    }

    async fn rotate(&self, links: &[String], as_json: bool) -> Result<(), CtlError> {
        let bags = self.keyring.current();
        let own: Vec<(String, String)> = own_links(&bags);
        let pairs = pairs(self.plan());
        let known = || own.iter().map(|(link, _)| link).chain(pairs.iter().map(|pair| &pair.link));
        if let Some(unknown) = links.iter().find(|link| !known().any(|known| known == *link)) {
            let all: Vec<&str> = known().map(String::as_str).collect();
            return Err(CtlError::Usage(format!("{unknown} is no link of this site: {}", all.join(", "))));
        }
        let wanted = |link: &String| links.is_empty() || links.contains(link);
        let mut rows = Vec::new();
        for pair in pairs.iter().filter(|pair| wanted(&pair.link)) {
            rows.push(self.rotate_pair(pair).await?);
            eprintln!("{} is renewed", pair.link);
        }
        for (link, machine) in own.iter().filter(|(link, _)| wanted(link)) {
            let renewed = rotation::rotate(self.operator.client(), machine).await;
            let bag =
                renewed.map_err(CtlError::failed(format!("{link} was not renewed; try again, it goes on there")))?;
            self.keep_copy(machine, &bag.mirrored())?;
            rows.push(Row::of(&bag));
            eprintln!("{link} is renewed");
        }
        present(&rows, as_json, true)
    }

    async fn rotate_pair(&self, pair: &Pair<'_>) -> Result<Row, CtlError> {
        let peer = name(&pair.second.name)?;
        match self.operator.ask(&pair.first.name, Request::KeysRotate { peer }).await? {
            Reply::Rotated { generation, fingerprint } => Ok(Row {
                link: pair.link.clone(),
                peer: format!("{} and {}", pair.first.name, pair.second.name),
                generation,
                fingerprint: fingerprint.to_string(),
            }),
            _ => Err(CtlError::Mismatch(pair.first.name.clone())),
        }
    }

    async fn new_operator(&self, who: &str, dir: &Path) -> Result<(), CtlError> {
        // The folder first: keys that only machines hold would be of no use to anybody.
        if !dir.exists() {
            self.new_folder(who, dir)?;
        }
        // Also one that was made by an order of which not every machine heard: it goes on there.
        let bags = self.bags_in(who, dir)?;
        let mut left = Vec::new();
        for (machine, his) in &bags {
            let given = self.add(machine, his, BagKind::Operator).await;
            if let Err(error) = given.and_then(|()| self.keep_copy(machine, &his.mirrored())) {
                eprintln!("{machine}: {}", daemon::report(&error));
                left.push(&**machine);
            }
        }
        if !left.is_empty() {
            return Err(CtlError::Unfinished(format!(
                "{who} does not come in at {} yet; the same order goes on there, and `ffsctl keys revoke {who}` takes it back",
                left.join(", ")
            )));
        }
        eprintln!("{} is {who}'s; give it to nobody else", dir.display());
        Ok(())
    }

    /// Makes a new operator's folder, whole or not at all.
    fn new_folder(&self, who: &str, dir: &Path) -> Result<(), CtlError> {
        let failed = || CtlError::failed::<std::io::Error>("the folder cannot be made");
        let mut partial = dir.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if partial.exists() {
            // Left by a run that was cut; no machine has heard of these keys.
            fs::remove_dir_all(&partial).map_err(failed())?;
        }
        let text = fs::read_to_string(self.dir.join("site.toml")).map_err(failed())?;
        fs::create_dir(&partial).map_err(|e| CtlError::Usage(format!("{}: {e}", partial.display())))?;
        private(&partial)
            .and_then(|()| {
                fs::create_dir(partial.join("bags"))?;
                private(&partial.join("bags"))?;
                fs::write(partial.join("site.toml"), text)?;
                fs::copy(self.dir.join("ca.pem"), partial.join("ca.pem")).map(drop)
            })
            .map_err(failed())?;
        for machine in &self.plan().machines {
            let link = format!("{who}-{}", machine.name);
            let ends = (&*format!("operator:{who}"), &*machine.name);
            let pair = Bag::pair(&link, LinkKind::Operator, ends, 1).map_err(|e| CtlError::Usage(e.to_string()))?;
            let saved = pair.0.save(&bag_in(&partial, &link));
            saved.map_err(CtlError::failed("a bag cannot be written"))?;
        }
        fs::rename(&partial, dir).map_err(failed())
    }

    /// An operator's bags in his folder, with the machines that they are for.
    fn bags_in(&self, who: &str, dir: &Path) -> Result<Vec<(String, Bag)>, CtlError> {
        let mut bags = Vec::new();
        for machine in &self.plan().machines {
            let path = bag_in(dir, &format!("{who}-{}", machine.name));
            let bag = Bag::load(&path).map_err(|error| {
                let why = daemon::report(&error);
                CtlError::Usage(format!("{} is there, and is no folder of {who} at this site: {why}", dir.display()))
            })?;
            bags.push((machine.name.clone(), bag));
        }
        Ok(bags)
    }

    async fn new_pair(&self, link: &str) -> Result<(), CtlError> {
        let all = pairs(self.plan());
        let Some(pair) = all.iter().find(|pair| pair.link == link) else {
            let all: Vec<&str> = all.iter().map(|pair| &*pair.link).collect();
            return Err(CtlError::Usage(format!(
                "{link} is no link between machines of this site: {}",
                all.join(", ")
            )));
        };
        let newest = self.newest(&pair.first.name, link).await?.max(self.newest(&pair.second.name, link).await?);
        let ends = (&*pair.first.name, &*pair.second.name);
        let (first, second) =
            Bag::pair(link, pair.kind, ends, newest + 1).map_err(CtlError::failed("no keys could be made"))?;
        // What is sent to a machine has the other end's name in it: its own copy seen from the other side.
        self.add(&pair.first.name, &second, kind(pair.kind)).await?;
        self.add(&pair.second.name, &first, kind(pair.kind)).await?;
        self.keep_copy(&pair.first.name, &first)?;
        self.keep_copy(&pair.second.name, &second)?;
        // What came before goes once a session under the new keys has run.
        let row = if newest == 0 { Row::of(&first) } else { self.rotate_pair(pair).await? };
        eprintln!("{link} has new keys: generation {} fingerprint {}", row.generation, row.fingerprint);
        Ok(())
    }

    /// The newest generation of a link that a machine holds; 0 for none.
    async fn newest(&self, machine: &str, link: &str) -> Result<u32, CtlError> {
        let Reply::StatusReport { checks, .. } = self.operator.ask(machine, Request::Status {}).await? else {
            return Err(CtlError::Mismatch(machine.to_owned()));
        };
        let prefix = format!("bag-{link}-");
        let held = checks.iter().filter_map(|check| check.name.as_str().strip_prefix(&prefix)?.parse().ok());
        Ok(held.max().unwrap_or(0))
    }

    /// Gives a machine its copy of a bag, of which this is the other end's.
    async fn add(&self, machine: &str, others: &Bag, kind: BagKind) -> Result<(), CtlError> {
        let unfit = |error: tobj::Invalid| CtlError::Usage(error.to_string());
        let request = Request::BagAdd {
            link: name(others.link())?,
            kind,
            peer: Text::new(others.local()).map_err(unfit)?,
            generation: others.generation().into(),
            entries: rotation::entries(others).map_err(unfit)?,
        };
        self.done(machine, request).await
    }

    async fn revoke(&self, who: &str) -> Result<(), CtlError> {
        let (mut known, mut left) = (false, Vec::new());
        // Also those behind one that does not answer: he is to come in at as few of them as can be.
        for machine in &self.plan().machines {
            let link = name(&format!("{who}-{}", machine.name))?;
            match self.revoke_at(&machine.name, link).await {
                Ok(held) => known |= held,
                Err(error) => {
                    eprintln!("{}: {}", machine.name, daemon::report(&error));
                    left.push(&*machine.name);
                }
            }
        }
        if !left.is_empty() {
            let left = left.join(", ");
            return Err(CtlError::Unfinished(format!(
                "{who} may still come in at {left}; give the order again once they answer"
            )));
        }
        if !known {
            return Err(CtlError::Usage(format!(
                "no machine knows keys of an operator {who}; `ffsctl status` shows whose there are"
            )));
        }
        eprintln!("{who} opens nothing any more");
        Ok(())
    }

    /// Has a machine forget an operator's keys; whether it held some.
    async fn revoke_at(&self, machine: &str, link: Name) -> Result<bool, CtlError> {
        let held = self.newest(machine, link.as_str()).await? > 0;
        let copy = self.copy(machine, link.as_str());
        if held {
            self.done(machine, Request::BagRevoke { link }).await?;
        }
        if let Some(path) = copy.filter(|path| path.exists()) {
            fs::remove_file(&path).map_err(CtlError::failed(format!("cannot remove {}", path.display())))?;
        }
        Ok(held)
    }

    async fn done(&self, machine: &str, request: Request) -> Result<(), CtlError> {
        match self.operator.ask(machine, request).await? {
            Reply::Done {} => Ok(()),
            _ => Err(CtlError::Mismatch(machine.to_owned())),
        }
    }

    /// Where the site keeps a machine's copy of a bag, if the site is here.
    fn copy(&self, machine: &str, link: &str) -> Option<PathBuf> {
        let bags = self.site.as_ref()?.join(machine).join("bags");
        bags.is_dir().then(|| bags.join(format!("{link}.bag")))
    }

    /// Puts a machine's copy of a bag in place of the one before, if the site is here.
    fn keep_copy(&self, machine: &str, its: &Bag) -> Result<(), CtlError> {
        let Some(path) = self.copy(machine, its.link()) else { return Ok(()) };
        let new = path.with_extension("new");
        let failed = format!("the machine's part of the site was not renewed: {}", path.display());
        // Left by a run that was cut.
        let _ = fs::remove_file(&new);
        its.save(&new).map_err(CtlError::failed(failed.clone()))?;
        fs::rename(&new, &path).map_err(CtlError::failed(failed))
    }
}

fn bag_in(dir: &Path, link: &str) -> PathBuf {
    dir.join("bags").join(format!("{link}.bag"))
}

fn own_links(bags: &Bags) -> Vec<(String, String)> {
    let mut own: Vec<_> = bags.iter().map(|bag| (bag.link().to_owned(), bag.peer().to_owned())).collect();
    own.dedup();
    own
}

/// A link between machines; the first is the one that renews its bag.
struct Pair<'a> {
    link: String,
    kind: LinkKind,
    first: &'a Machine,
    second: &'a Machine,
}

fn pairs(plan: &Plan) -> Vec<Pair<'_>> {
    let mut all = Vec::new();
    for first in &plan.machines {
        for second in &plan.machines {
            let kind = match (first.role, second.role) {
                (Role::Web, Role::Download) => LinkKind::WebDownload,
                (Role::Web, Role::Database) => LinkKind::WebDatabase,
                (Role::Download, Role::Database) => LinkKind::DownloadDatabase,
                _ => continue,
            };
            all.push(Pair { link: format!("{}-{}", first.name, second.name), kind, first, second });
        }
    }
    all
}

fn kind(kind: LinkKind) -> BagKind {
    match kind {
        LinkKind::WebDownload => BagKind::WebDownload,
        LinkKind::WebDatabase => BagKind::WebDatabase,
        LinkKind::DownloadDatabase => BagKind::DownloadDatabase,
        LinkKind::Operator => BagKind::Operator,
    }
}

fn name(text: &str) -> Result<Name, CtlError> {
    Name::new(text).map_err(|error| CtlError::Usage(format!("{text:?}: {error}")))
}

fn private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

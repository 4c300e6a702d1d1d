//! Three machines with disks that can lose what was not flushed, and at the download machine be pulled, fail and hang; customers who stage
//! and download meanwhile; and what must hold afterwards.

use super::load::{
    Download, LARGE, LARGE_BYTES, LARGE_VERSIONS, Load, SMALL, SMALL_BYTES, SMALL_VERSIONS, stage_large,
};
use keys::site::Role;
use qemu::machine::{Bus, Machine};
use qemu::nbd::{Loss, Lost};
use qemu::{Patience, Waited};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tests::{Desk, PASSWORD};
use xtask::customer::{Customer, Ftp, Staged, download, download_staged, sha256};
use xtask::local::temporary;
use xtask::vm::{Bays, Setup, Vms};

/// How long machines may take for anything.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// Customers, each of whom stages one thing after the other.
const CUSTOMERS: [&str; 3] = ["paula", "quentin", "ruth"];
/// What a start must not have had to repair: a power cut leaves none of this.
const DAMAGE: [&str; 6] = [
    "stagings given up",
    "links made again",
    "links that cannot be made",
    "names without a lease removed",
    "objects without their file",
    "damaged objects",
];

/// The site.
pub(crate) struct Lab {
    pub(crate) vms: Vms,
    desk: Desk,
    dir: PathBuf,
    /// What was acknowledged and not fetched yet.
    acknowledged: Vec<Staged>,
    seed: u64,
}

impl Deref for Lab {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.vms.vm(Role::Download).last_words());
            eprintln!("the seed is {}; the files are in {}", self.seed, self.dir.display());
        } else {
            // Nobody needs it any more.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn volatile(bays: Bays) -> Bays {
    Bays { volatile: true, ..bays }
}

impl Lab {
    /// With an array that the machine has made of its blank disks by itself.
    pub(crate) fn start() -> Self {
        let mut lab = Self::boot(volatile(Bays::default()));
        lab.vms.wait_healthy().unwrap_or_else(|error| panic!("{error:#}"));
        lab.fill();
        lab
    }

    /// With an array of this level, made on an operator's order of disks that are plugged one after the other.
    /// There is room for two disks more, which are twice as large.
    pub(crate) fn with_level(level: &str, disks: usize, bus: Bus) -> Self {
        Self::with_room(level, disks, 2, bus)
    }

    /// The same with room for so many disks more.
    pub(crate) fn with_room(level: &str, disks: usize, more: usize, bus: Bus) -> Self {
        let count = disks + more;
        let mut lab = Self::boot(volatile(Bays { count, filled: 1, larger_from: disks, bus, ..Bays::default() }));
        // One disk is too little: the machine waits for an operator. Before it has given up, it would take a second one.
        lab.eventually("a machine that waits for an operator", |lab| {
            lab.check_named("units").is_some_and(|said| said.contains("ffs-storage.service"))
        });
        for n in 1..disks {
            lab.plug(&format!("data{n}"));
        }
        let storage = lab.storage().unwrap();
        let names = (0..disks).map(|n| storage.disk(&format!("data{n}")).unwrap().name.clone());
        let mut order = ["storage", "create", "download", "--level", level].map(str::to_owned).to_vec();
        order.extend(names.flat_map(|name| ["--disk".to_owned(), name]));
        lab.operate(&order.iter().map(String::as_str).collect::<Vec<_>>());
        lab.vms.wait_healthy().unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(lab.storage().unwrap().level.as_deref(), Some(level));
        lab.fill();
        lab
    }

    fn boot(bays: Bays) -> Self {
        let dir = temporary().unwrap();
        let test = std::env::current_exe().unwrap();
        let ffsctl = test.ancestors().nth(2).unwrap().join("ffsctl");
        let vms = Setup { bays, ..Setup::new(&ffsctl, &dir) }.boot().unwrap_or_else(|error| panic!("{error:#}"));
        let desk = Desk::new(vms.access(), &dir);
        let seed = std::env::var("FFS_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        Self { vms, desk, dir, acknowledged: Vec::new(), seed }
    }

    /// Objects, and customers who are entitled to them.
    fn fill(&mut self) {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let objects = SMALL_VERSIONS.map(|v| (SMALL, v, SMALL_BYTES)).into_iter();
        for (product, version, length) in objects.chain(LARGE_VERSIONS.map(|v| (LARGE, v, LARGE_BYTES))) {
            let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
            self.object(product, version, &format!("{product}-{version}.bin"), &bytes);
        }
        for name in CUSTOMERS {
            self.customer(name, &[SMALL, LARGE]);
        }
    }

    /// The customers, logged in for one load: a session ends after half an hour, and a test with many cuts takes longer.
    fn log_in(&self) -> Vec<Customer> {
        CUSTOMERS.map(|name| self.logged_in(name)).into()
    }

    /// Waits for what is sure to come, also on a busy host.
    pub(crate) fn eventually(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> bool) {
        let patience = Patience::of(LONG);
        while !look(self) {
            let ended = self.vms.vm(Role::Download).ended();
            assert!(ended.is_none(), "the download machine ended while we waited for {what}");
            if let Err(waited @ (Waited::InVain(_) | Waited::Cancelled)) = patience.pause(Duration::from_millis(100)) {
                panic!("{what}: {waited}; {:?}", self.storage());
            }
        }
    }

    /// What `ffsctl storage status` says; none while it cannot be asked.
    pub(crate) fn storage(&self) -> Option<Storage> {
        let output = self.access().ffsctl().args(["--json", "storage", "status", "download"]).output().unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).ok()?;
        let storage = Storage::of(all.get(0)?);
        assert_eq!(output.status.success(), storage.healthy, "the exit code says whether all is well");
        Some(storage)
    }

    /// Waits until it says so.
    pub(crate) fn until(&mut self, what: &str, is: impl Fn(&Storage) -> bool) -> Storage {
        let mut last = None;
        self.eventually(what, |lab| {
            last = lab.storage();
            last.as_ref().is_some_and(&is)
        });
        last.unwrap()
    }

    /// Waits until the array is well, or is not.
    pub(crate) fn until_healthy(&mut self, healthy: bool) -> Storage {
        self.until(if healthy { "a whole array" } else { "a degraded array" }, |s| s.healthy == healthy)
    }

    /// Pulls a disk.
    pub(crate) fn unplug(&mut self, disk: &str) {
        self.vms.vm(Role::Download).unplug(disk, &Patience::of(LONG)).unwrap();
    }

    /// Puts a disk in, and waits until the machine has seen it; its name there.
    pub(crate) fn plug(&mut self, disk: &str) -> String {
        self.vms.vm(Role::Download).plug(disk).unwrap();
        let mut name = String::new();
        self.eventually("the disk that was put in", |lab| {
            let found = lab.storage().and_then(|s| Some(s.disk(disk)?.name.clone()));
            found.is_some_and(|found| {
                name = found;
                true
            })
        });
        name
    }

    /// Stages on behalf of all customers at once until so many stagings were acknowledged, then cuts the power of the download
    /// machine and starts it again, changed or not, until it serves a file.
    pub(crate) fn cut_under_load(&mut self, stagings: usize, change: impl FnOnce(Machine) -> Machine) -> Cut {
        self.cut_while(stagings, |_| {}, change)
    }

    /// The same, and something happens before the power goes.
    pub(crate) fn cut_while(
        &mut self,
        stagings: usize,
        before: impl FnOnce(&mut Self),
        change: impl FnOnce(Machine) -> Machine,
    ) -> Cut {
        let load = Load::start(self.log_in());
        self.eventually("stagings", |_| load.acknowledged() >= stagings);
        before(self);
        self.something_to_lose(Role::Download);
        load.stop();
        let lost = self.lose_power(Role::Download);
        let at = UNIX_EPOCH.elapsed().unwrap().as_secs();
        let (begin, first, to) = (Instant::now(), load.first(), self.path("first"));
        self.vms.start_again(Role::Download, change).unwrap();
        let mut refused = None;
        self.eventually("the first file", |lab| {
            if refused.is_none()
                && let Some(storage) = lab.storage()
                && storage.asks()
            {
                refused = Some(storage.detail);
                lab.operate(&["storage", "start", "download"]);
            }
            download_staged(lab.access(), Ftp::Clear, &first, &to).is_ok()
        });
        let cut = Cut { at, took: begin.elapsed(), lost, refused };
        assert_eq!(sha256(&to).unwrap(), first.sha256);
        // Those that were asked for when the power went may have been answered since.
        self.acknowledged.extend(load.finish().into_iter().filter(|staged| staged.lease != first.lease));
        cut
    }

    /// Cuts the power of the download machine and starts it again, changed or not.
    pub(crate) fn cut(&mut self, change: impl FnOnce(Machine) -> Machine) {
        self.lose_power(Role::Download);
        self.vms.start_again(Role::Download, change).unwrap();
    }

    /// Cuts the power of the database under stagings. What is staged is served without it, and it comes back with every grant of what
    /// was acknowledged.
    pub(crate) fn cut_the_database(&mut self, stagings: usize) -> Lost {
        let granted = |lab: &Self| lab.audit("GRANTED", None).len();
        let before = granted(self);
        let load = Load::start(self.log_in());
        self.eventually("stagings", |_| load.acknowledged() >= stagings);
        self.something_to_lose(Role::Database);
        load.stop();
        let lost = self.lose_power(Role::Database);
        let mut acknowledged = load.finish();
        let count = acknowledged.len();
        let (staged, to) = (acknowledged.swap_remove(0), self.path("without"));
        let fetched = download_staged(self.access(), Ftp::Clear, &staged, &to);
        fetched.unwrap_or_else(|error| panic!("what is staged is not served without the database: {error:#}"));
        assert_eq!(sha256(&to).unwrap(), staged.sha256);
        let own = |lab: &Self| {
            let (site, customer) = (lab.access(), CUSTOMERS[0]);
            download(site, Ftp::Clear, customer, PASSWORD, &format!("/{SMALL}/{}/none", SMALL_VERSIONS[0]), &to)
                .map_err(|error| format!("{error:#}"))
                .unwrap_err()
        };
        let refused = own(self);
        self.vms.start_again(Role::Database, |machine| machine).unwrap();
        self.eventually("logins", |lab| {
            lab.browser(CUSTOMERS[0]).login(CUSTOMERS[0], PASSWORD).is_ok_and(|p| p.status == 200)
        });
        // A login that nobody could check is not one with a wrong password, and with the database there is only no such file.
        assert_ne!(refused, own(self));
        assert!(
            granted(self) >= before + 2 * count,
            "{before}, then {count} stagings of two leases: {}",
            granted(self)
        );
        self.acknowledged.extend(acknowledged);
        lost
    }

    /// Waits for a moment at which there is something to lose; such moments are short.
    fn something_to_lose(&self, role: Role) {
        let patience = Patience::of(LONG);
        while self.vms.unflushed(role) == 0 {
            patience.check().expect("nothing was ever written without a flush");
            std::thread::yield_now();
        }
    }

    fn lose_power(&mut self, role: Role) -> Lost {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut loss = || if rng.u8(..4) == 0 { Loss::All } else { Loss::Part(rng.u64(..)) };
        let lost = self.vms.cut(role, &mut loss).unwrap();
        self.seed = rng.u64(..);
        lost
    }

    /// Has all copies read and compared, by order; how many sectors differed.
    pub(crate) fn scrub(&mut self) -> u64 {
        self.operate(&["storage", "scrub", "download"]);
        let mut differed = None;
        self.eventually("the end of the scrub", |lab| {
            let detail = lab.storage().map(|s| s.detail).unwrap_or_default();
            let said = detail.split_once("scrubbed 0 days ago, ").and_then(|(_, said)| said.split(' ').next());
            differed = said.map(|n| n.parse().unwrap());
            differed.is_some()
        });
        differed.unwrap()
    }

    /// Twenty downloads, and stagings beside them; `during` happens when all downloads are under way.
    pub(crate) fn under_downloads(&mut self, during: impl FnOnce(&mut Self)) {
        let browsers = self.log_in();
        let staged = stage_large(&browsers);
        let load = Load::start(browsers);
        let mut before = 0;
        self.fetch(&staged, |lab| {
            before = load.acknowledged();
            during(lab);
        });
        self.eventually("stagings after that", |_| load.acknowledged() > before + CUSTOMERS.len());
        load.stop();
        self.acknowledged.extend(load.finish());
    }

    fn fetch(&mut self, staged: &[Staged], during: impl FnOnce(&mut Self)) {
        let (host, port) = self.access().ftp();
        let url = |staged: &Staged| format!("ftp://{host}:{port}/{}", staged.file);
        // One after the other: what QEMU forwards has a queue of one, and who does not get into it is not told.
        let start = |(n, staged): (usize, &Staged)| {
            let download = Download::start(&url(staged), staged, self.path(&format!("download-{n}")));
            download.has_begun();
            download
        };
        let downloads: Vec<Download> = staged.iter().enumerate().map(start).collect();
        assert!(downloads.iter().all(|d| !d.is_over()), "a download was over before all had begun");
        downloads.iter().for_each(Download::go_on);
        during(self);
        for (download, staged) in downloads.into_iter().zip(staged) {
            assert_eq!(sha256(&download.end()).unwrap(), staged.sha256);
        }
    }

    /// Every lease that was acknowledged is there with the right bytes, each has its link and no link is without one, and the audit
    /// trail has everything once.
    pub(crate) fn check(&mut self) {
        self.eventually("a machine that is up", |lab| lab.check_named("start-up").is_some());
        let repaired = self.check_named("start-up").unwrap();
        for damage in DAMAGE {
            assert!(!repaired.contains(damage), "{repaired}");
        }
        self.leases_are_links();
        let to = self.path("fetched");
        for staged in std::mem::take(&mut self.acknowledged) {
            let fetched = download_staged(self.access(), Ftp::Clear, &staged, &to);
            fetched.unwrap_or_else(|error| panic!("an acknowledged lease is lost: {error:#}"));
            assert_eq!(sha256(&to).unwrap(), staged.sha256);
        }
        self.trail_is_whole();
    }

    /// The detail of a check of the download machine.
    pub(crate) fn check_named(&self, name: &str) -> Option<String> {
        let output = self.access().ffsctl().args(["--json", "status"]).output().unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).ok()?;
        let download = all.as_array()?.iter().find(|m| m["machine"] == "download")?;
        let check = download["checks"].as_array()?.iter().find(|c| c["name"] == name)?;
        Some(check["detail"].as_str()?.to_owned())
    }

    /// Whether every object that is offered was read again after this time of the host (seconds since 1970) and found right.
    pub(crate) fn verified_since(&self, then: u64) -> bool {
        let objects = self.operate_json(&["object", "list"]);
        let objects = objects.as_array().unwrap();
        // The clocks of machines are set to the second; none of them starts within one.
        let is_verified = |object: &Value| object["verified"].as_u64().is_some_and(|at| at > then + 1);
        assert!(!objects.is_empty());
        objects.iter().all(|object| object["state"] == "GOOD" && is_verified(object))
    }

    /// The file system counts as many names of each object as there are leases of it, and one in the storeroom.
    fn leases_are_links(&self) {
        let leases = self.leases();
        let mut of_object = BTreeMap::<&str, Vec<&str>>::new();
        for lease in &leases {
            of_object.entry(lease["sha256"].as_str().unwrap()).or_default().push(lease["lease"].as_str().unwrap());
        }
        for (object, of_it) in &of_object {
            let shown = self.operate_json(&["lease", "show", of_it[0]]);
            assert_eq!(shown["links"], of_it.len() + 1, "{object}: {shown}");
            assert_eq!(shown["inode"], shown["storeroom_inode"], "{shown}");
        }
        let there: BTreeSet<&str> = of_object.into_values().flatten().collect();
        for staged in &self.acknowledged {
            assert!(there.contains(&*staged.lease), "an acknowledged lease is lost: {}", staged.lease);
        }
    }

    /// The database has every record of the download machine and of itself once, and one of each lease's begin.
    fn trail_is_whole(&mut self) {
        self.eventually("all audit records", |lab| {
            lab.check_named("outbox").is_some_and(|said| said.starts_with("the database has every"))
        });
        let trail = self.operate_json(&["audit", "list"]);
        let (mut of_machine, mut begun) = (BTreeMap::<&str, Vec<u64>>::new(), BTreeMap::<&str, usize>::new());
        for entry in trail.as_array().unwrap() {
            of_machine.entry(entry["appliance"].as_str().unwrap()).or_default().push(entry["seq"].as_u64().unwrap());
            if entry["event"] == "STAGED" {
                *begun.entry(entry["lease"].as_str().unwrap()).or_default() += 1;
            }
        }
        assert!(["database", "download"].iter().all(|machine| of_machine.contains_key(machine)));
        for (machine, mut numbers) in of_machine {
            numbers.sort_unstable();
            let is_whole = numbers.windows(2).all(|w| w[1] == w[0] + 1);
            assert!(is_whole, "a record of {machine} is missing or doubled: {numbers:?}");
        }
        for lease in self.leases().iter().filter(|lease| lease["kind"] == "ONE-TIME") {
            let id = lease["lease"].as_str().unwrap();
            assert_eq!(begun.get(id), Some(&1), "{lease}");
        }
    }
}

/// A power cut.
#[derive(Debug)]
pub(crate) struct Cut {
    /// When the power was gone (seconds since 1970).
    pub(crate) at: u64,
    /// From the start of the machine to the first file that it served.
    pub(crate) took: Duration,
    /// What its disks lost.
    pub(crate) lost: Lost,
    /// What the machine said where the array waited for an operator.
    pub(crate) refused: Option<String>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { pending, gone, torn } = self.lost;
        write!(f, "{pending} writes were not flushed, {gone} of them are gone, {torn} are torn; ")?;
        write!(f, "the first file {:.1} s after the start", self.took.as_secs_f64())
    }
}

/// What `ffsctl storage status` says of a machine.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) healthy: bool,
    pub(crate) detail: String,
    pub(crate) level: Option<String>,
    pub(crate) disks: Vec<Shown>,
    pub(crate) counts: BTreeMap<String, u64>,
}

/// A disk in it.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) name: String,
    /// With its serial number, which is its name in QEMU.
    pub(crate) model: String,
    pub(crate) member: bool,
    pub(crate) state: String,
    /// What it says of itself.
    pub(crate) health: String,
}

impl Shown {
    /// Whether it is a member that has all of its part.
    pub(crate) fn is_in(&self) -> bool {
        self.member && self.state.starts_with("in_sync")
    }
}

impl Storage {
    fn of(value: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let disk = |d: &Value| Shown {
            name: text(&d["name"]),
            model: text(&d["model"]),
            member: d["member"] == true,
            state: text(&d["state"]),
            health: text(&d["health"]),
        };
        Self {
            healthy: value["healthy"] == true,
            detail: text(&value["detail"]),
            level: value["level"].as_str().map(str::to_owned),
            disks: value["disks"].as_array().unwrap().iter().map(disk).collect(),
            counts: serde_json::from_value(value["counts"].clone()).unwrap(),
        }
    }

    /// Whether the machine has its array and serves what is on it.
    pub(crate) fn in_use(&self) -> bool {
        self.level.is_some() && self.detail.contains("MiB free")
    }

    /// Whether the machine waits for an operator to say that it may start what it has.
    pub(crate) fn asks(&self) -> bool {
        self.detail.contains("`ffsctl storage start`")
    }

    /// How large the file system is, in MiB.
    pub(crate) fn mebibytes(&self) -> u64 {
        let said = self.detail.split(" MiB free").next().and_then(|text| text.rsplit(' ').next());
        said.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no size: {}", self.detail))
    }

    /// The one with this name in QEMU.
    pub(crate) fn disk(&self, id: &str) -> Option<&Shown> {
        self.disks.iter().find(|d| d.model.split(' ').any(|word| word == id))
    }
}

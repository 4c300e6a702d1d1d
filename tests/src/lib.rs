//! What tests across crates share: a desk with a running site before it, whose daemons run for real, on loopback or in VMs, and
//! what is tried on both ([`scenarios`]).
//!
//! The programs are those that `cargo build --workspace --bins` made; `cargo xtask test` does that first.

pub mod certificates;
pub mod scenarios;
pub mod streams;

use serde_json::Value;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xtask::access::Access;
use xtask::customer::Customer;
use xtask::local::{Lifetimes, Local, Setup, temporary};

/// The password of every customer in tests.
pub const PASSWORD: &str = "correct horse battery staple";

/// How long an event may take that is sure to come.
const EVENT: Duration = Duration::from_secs(60);

/// What an operator and his customers have before them: a site, from the outside, and a place for files.
#[derive(Debug)]
pub struct Desk {
    access: Access,
    dir: PathBuf,
}

/// A site of processes on this host. Its files are removed at the end of a test that passed.
#[derive(Debug)]
pub struct Site {
    /// The daemons.
    pub local: Local,
    desk: Desk,
}

impl Deref for Site {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl Site {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start() -> Self {
        Self::with(Lifetimes::default())
    }

    /// Starts one with other lifetimes.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn with(lifetimes: Lifetimes) -> Self {
        Self::of(|setup| Setup { lifetimes, ..setup })
    }

    /// Starts one whose certificates can be renewed.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn with_admind() -> Self {
        Self::of(|setup| Setup { admind: true, ..setup })
    }

    fn of(change: impl FnOnce(Setup) -> Setup) -> Self {
        let dir = temporary().expect("a temporary directory");
        let test = std::env::current_exe().expect("the path of this test");
        let bins = test.ancestors().nth(2).expect("tests are in target/PROFILE/deps");
        let setup = change(Setup::new(bins, &dir));
        let local = setup.start().unwrap_or_else(|error| panic!("{error:#}; logs are in {}", dir.display()));
        let desk = Desk::new(local.access(), &dir);
        Self { local, desk }
    }

    /// The path of an object in the storeroom.
    pub fn stored(&self, sha256: &str) -> PathBuf {
        self.local.storage().join("storeroom").join(&sha256[..2]).join(sha256)
    }
}

impl Desk {
    /// Before this site; files of the test go to this directory.
    pub fn new(access: &Access, dir: &Path) -> Self {
        Self { access: access.clone(), dir: dir.into() }
    }

    /// The site.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// A path for a file of the test's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs `ffsctl`, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn operate(&self, args: &[&str]) -> String {
        let output = self.access.operate(args, &format!("{PASSWORD}\n")).unwrap_or_else(|error| panic!("{error:#}"));
        String::from_utf8(output.stdout).expect("ffsctl prints text")
    }

    /// Runs `ffsctl --json`, which must succeed.
    ///
    /// # Panics
    /// When it fails or prints something else.
    pub fn operate_json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["--json"].into_iter().chain(args.iter().copied()).collect();
        serde_json::from_str(&self.operate(&args)).expect("--json prints JSON")
    }

    /// Puts an object of these bytes into the storeroom.
    ///
    /// # Panics
    /// When that fails.
    pub fn object(&self, product: &str, version: &str, file: &str, bytes: &[u8]) {
        let path = self.path(file);
        fs::write(&path, bytes).expect("a file of the test's");
        self.operate(&["object", "put", path.to_str().expect("UTF-8"), "--product", product, "--version", version]);
    }

    /// Adds a customer who is entitled to these products.
    ///
    /// # Panics
    /// When that fails.
    pub fn customer(&self, name: &str, products: &[&str]) {
        self.operate(&["customer", "add", name]);
        for product in products {
            self.operate(&["entitlement", "add", name, product]);
        }
    }

    /// A customer's browser, not logged in.
    pub fn browser(&self, name: &str) -> Customer {
        Customer::new(&self.access.portal_url(), &self.access.ca(), &self.path(&format!("{name}.jar")))
    }

    /// A customer's browser, logged in.
    ///
    /// # Panics
    /// When the portal does not let him in.
    pub fn logged_in(&self, name: &str) -> Customer {
        let browser = self.browser(name);
        let page = browser.login(name, PASSWORD).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(page.status, 200, "{}", page.body);
        browser
    }

    /// The leases of the download machine.
    ///
    /// # Panics
    /// When `ffsctl` fails.
    pub fn leases(&self) -> Vec<Value> {
        self.operate_json(&["lease", "list"]).as_array().expect("a list").clone()
    }

    /// Those of one customer.
    ///
    /// # Panics
    /// When `ffsctl` fails.
    pub fn leases_of(&self, customer: &str) -> Vec<Value> {
        self.leases().into_iter().filter(|lease| lease["customer"] == customer).collect()
    }

    /// The audit trail's records with this event, of one customer if he is known.
    ///
    /// # Panics
    /// When `ffsctl` fails.
    pub fn audit(&self, event: &str, customer: Option<&str>) -> Vec<Value> {
        let trail = self.operate_json(&["audit", "list"]);
        let all = trail.as_array().expect("a list").iter().filter(|e| e["event"] == event);
        all.filter(|e| customer.is_none_or(|name| e["customer"] == name)).cloned().collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.local.stop();
        if std::thread::panicking() {
            eprintln!("logs are in {}", self.local.logs().display());
        } else {
            // Nobody needs it any more.
            let _ = fs::remove_dir_all(&self.desk.dir);
        }
    }
}

/// Waits for what is sure to come.
///
/// # Panics
/// When it does not come.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + EVENT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {EVENT:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All regular files below a directory.
///
/// # Panics
/// When it cannot be read.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found
}

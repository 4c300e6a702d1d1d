//! The command line.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use tobj::{Cursor, FileName, Id, Name, Priority, Sha256, Timestamp};

/// Make sites, and administer their appliances over the commlink.
#[derive(Debug, Parser)]
#[command(name = "ffsctl", version)]
pub(crate) struct Args {
    /// The site, or one operator's folder in it [default: ffs/site in the data directory of this user].
    #[arg(long, global = true, env = "FFS_SITE", value_name = "DIR")]
    pub(crate) site: Option<PathBuf>,
    /// The operator, where the site has several.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) operator: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sites.
    Site {
        #[command(subcommand)]
        command: Site,
    },
    /// Key bags and certificates.
    Keys {
        #[command(subcommand)]
        command: Keys,
    },
    /// The links to the appliances.
    Commlink {
        #[command(subcommand)]
        command: Commlink,
    },
    /// Objects: the files that customers may be entitled to.
    Object {
        #[command(subcommand)]
        command: Object,
    },
    /// Customers.
    Customer {
        #[command(subcommand)]
        command: Customer,
    },
    /// Who may have what.
    Entitlement {
        #[command(subcommand)]
        command: Entitlement,
    },
    /// What is staged.
    Lease {
        #[command(subcommand)]
        command: Lease,
    },
    /// The data disks of download and database machines.
    Storage {
        #[command(subcommand)]
        command: Storage,
    },
    /// Write the disk of a machine: an image, with the machine's part of the site (--site DIR/MACHINE).
    Flash(Flash),
    /// Updates of machines.
    Update {
        #[command(subcommand)]
        command: Update,
    },
    /// Start a machine anew.
    Reboot {
        /// The machine.
        machine: String,
    },
    /// Switch a machine off, in order: who wants it back has to go there.
    Poweroff {
        /// The machine.
        machine: String,
    },
    /// Make a machine what it was when its disk was written: settings and journal go; site, keys and data disks stay.
    FactoryReset {
        /// The machine.
        machine: String,
        /// The machine's name once more: what goes does not come back.
        #[arg(long, value_name = "MACHINE")]
        confirm: String,
    },
    /// The audit trail.
    Audit {
        #[command(subcommand)]
        command: Audit,
    },
    /// The log of a machine: of its daemons, of systemd, of the kernel.
    Log(Log),
    /// How all appliances are; exit code 1 when not all is well.
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// Make a site: key bags, certificates, grant keys; one folder per machine and operator.
    New {
        /// The folder to make; it must not be there yet.
        dir: PathBuf,
        /// A plan (TOML) with machines, hosts and ports, instead of the options below.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "operators", "download", "web", "database"])]
        plan: Option<PathBuf>,
        /// The site's name, as in its certificates.
        #[arg(long, default_value = "ffs")]
        name: String,
        /// An operator; may be repeated.
        #[arg(long = "add-operator", value_name = "NAME", default_value = "operator")]
        operators: Vec<String>,
        /// Host or address of the download appliance.
        #[arg(long, value_name = "HOST", default_value = "download")]
        download: String,
        /// Host or address of the web appliance.
        #[arg(long, value_name = "HOST", default_value = "web")]
        web: String,
        /// Host or address of the database appliance.
        #[arg(long, value_name = "HOST", default_value = "database")]
        database: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make the bags of a new operator and give each appliance its part; or a new bag for a pair of machines.
    New {
        /// The new operator's name.
        #[arg(requires = "dir", required_unless_present = "link")]
        name: Option<String>,
        /// The folder to make for him; he uses it with --site.
        dir: Option<PathBuf>,
        /// The link between two machines whose keys were lost, such as web-database, instead of an operator.
        #[arg(long, value_name = "LINK", conflicts_with_all = ["name", "dir"])]
        link: Option<String>,
    },
    /// Links, generations and fingerprints of one's bags, or of one file, to compare with the other end's.
    Show {
        /// A bag's file.
        bag: Option<PathBuf>,
    },
    /// Renew bags: both ends take the next generation into use, then the old one opens nothing any more.
    Rotate {
        /// The links, such as web-database or OPERATOR-download [default: all links of the site, one's own included].
        links: Vec<String>,
    },
    /// Take another operator's bags from each appliance; his sessions end at once.
    Revoke {
        /// The operator.
        name: String,
    },
    /// Renew the certificate that customers see, while work goes on: by a new one of the site's authority, or by one of another's.
    Certificate {
        /// The web or download machine.
        machine: String,
        /// The chain of another authority's certificate (PEM), the machine's own first.
        #[arg(long, value_name = "FILE", requires = "key")]
        certificate: Option<PathBuf>,
        /// The key of that certificate (PEM, without a password).
        #[arg(long, value_name = "FILE", requires = "certificate")]
        key: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Commlink {
    /// Open a connection: generation and fingerprint of the bag, seal, latency, and how far apart the clocks are.
    Probe {
        /// The appliance.
        appliance: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Object {
    /// Put a file into the storeroom and make it a version of a product. What broke off goes on where it was, also when the
    /// command is given again; bytes that the storeroom has already are not sent.
    Put {
        /// The file.
        file: PathBuf,
        /// The product.
        #[arg(long)]
        product: Name,
        /// The version of the product.
        #[arg(long)]
        version: Name,
        /// The name customers see [default: the file's own].
        #[arg(long, value_parser = FileName::normalised)]
        name: Option<FileName>,
        /// The download appliance, where the site has several.
        #[arg(long, value_name = "MACHINE")]
        download: Option<String>,
    },
    /// All objects: what is offered, and how it is where it is stored.
    List {
        /// Instead, all that the storeroom holds, by hash, offered or not.
        #[arg(long)]
        stored: bool,
        /// The download appliance whose storeroom that is, where the site has several.
        #[arg(long, value_name = "MACHINE", requires = "stored")]
        download: Option<String>,
    },
    /// Have objects read again and compared with their hashes, in the background; `object list` and `status` tell what came of it.
    Verify {
        /// Only this object.
        sha256: Option<Sha256>,
        /// The download appliance, where the site has several.
        #[arg(long, value_name = "MACHINE")]
        download: Option<String>,
    },
    /// Offer a version of a product no more and take its object out of the storeroom, unless it is another version, too.
    Retire {
        /// The product.
        #[arg(long, requires = "version", required_unless_present = "sha256")]
        product: Option<Name>,
        /// The version of the product.
        #[arg(long, requires = "product")]
        version: Option<Name>,
        /// An object of the storeroom that is no version of a product.
        #[arg(long, conflicts_with = "product")]
        sha256: Option<Sha256>,
        /// End the leases for it, too.
        #[arg(long)]
        force: bool,
        /// The download appliance, where the site has several.
        #[arg(long, value_name = "MACHINE", requires = "sha256")]
        download: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Customer {
    /// Add a customer. The password is asked for, or read as one line from standard input.
    Add {
        /// His name.
        name: Name,
    },
    /// Change a customer's password, asked for in the same way; ends his sessions and what is staged for him.
    Passwd {
        /// His name.
        name: Name,
    },
    /// Keep a customer out for the time being: his sessions and leases end.
    Disable {
        /// His name.
        name: Name,
    },
    /// Let him in again.
    Enable {
        /// His name.
        name: Name,
    },
    /// Remove a customer and what he is entitled to; what he has ends.
    Remove {
        /// His name.
        name: Name,
    },
    /// All customers.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Entitlement {
    /// Let a customer have a product.
    Add {
        /// The customer.
        customer: Name,
        /// The product.
        product: Name,
        /// Only this version.
        #[arg(long)]
        version: Option<Name>,
        /// Until this day or time (2027-01-31, 2027-01-31T12:00:00Z).
        #[arg(long, value_parser = super::show::parse_time)]
        until: Option<Timestamp>,
    },
    /// Withdraw what was given; leases that came of it end.
    Remove {
        /// The customer.
        customer: Name,
        /// The product.
        product: Name,
        /// The version, if it was given for one.
        #[arg(long)]
        version: Option<Name>,
    },
    /// All entitlements.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    /// All leases.
    List {
        /// The download appliance, where the site has several.
        #[arg(long, value_name = "MACHINE")]
        download: Option<String>,
    },
    /// One lease, with inode, link count, device and file system of the staged file.
    Show {
        /// The lease.
        lease: Id,
        /// The download appliance, where the site has several.
        #[arg(long, value_name = "MACHINE")]
        download: Option<String>,
    },
    /// End a lease now.
    Revoke {
        /// The lease.
        lease: Id,
        /// The download appliance, where the site has several.
        #[arg(long, value_name = "MACHINE")]
        download: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Flash {
    /// The image of the machine's role.
    pub(crate) image: PathBuf,
    /// The disk, or the file to make.
    #[arg(value_name = "DEVICE-or-FILE")]
    pub(crate) target: PathBuf,
    /// Do not ask before a disk is written over.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Replace a file that is there already.
    #[arg(long)]
    pub(crate) force: bool,
    /// Bytes of a new file [default: those of the image].
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Storage {
    /// The array and its disks, and the disks beside it; exit code 1 when not all is well.
    Status {
        /// The machine [default: all that have data disks].
        machine: Option<String>,
        /// As Prometheus reads it: whether all is well, and how often each kind of event has happened.
        #[arg(long, conflicts_with = "json")]
        prometheus: bool,
    },
    /// Bring data disks into use where the machine did not do so by itself.
    Create {
        /// The machine.
        machine: String,
        /// raid1, raid5, raid6 or raid10 [default: raid1 of two disks, raid10 of more].
        #[arg(long)]
        level: Option<Name>,
        /// A disk, by the name that `storage status` shows; may be repeated [default: all blank ones].
        #[arg(long = "disk", value_name = "NAME")]
        disks: Vec<Name>,
        /// How many of the disks, the last ones, are spares: one takes the place of a member that fails by itself.
        #[arg(long, value_name = "N")]
        spares: Option<u64>,
        /// Take the array that is found on the disks, with all that is on it, instead of making one.
        #[arg(long, conflicts_with_all = ["level", "disks", "spares"])]
        adopt: bool,
    },
    /// Start the array although its parity may be wrong, or its newest disks are not there, since a disk is lost for good. Where the parity
    /// may be wrong, every object is then verified.
    Start {
        /// The machine.
        machine: String,
    },
    /// Add a disk: in the place of a missing member, else as a spare that takes the next one's place by itself.
    AddSpare {
        /// The machine.
        machine: String,
        /// The disk, by the name that `storage status` shows.
        disk: Name,
    },
    /// Let a disk take the place of a member; one that still works is copied before it leaves.
    Replace {
        /// The machine.
        machine: String,
        /// The member.
        old: Name,
        /// The disk that takes its place.
        new: Name,
    },
    /// Read and compare all copies now, in the background; every month it happens by itself, at night.
    Scrub {
        /// The machine.
        machine: String,
        /// Stop one that is under way; it goes on another time.
        #[arg(long)]
        pause: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Update {
    /// Put an update onto a machine, start it, and wait until it has proven itself or is given up.
    Push {
        /// The machine.
        machine: String,
        /// The update file (.ffsup).
        file: PathBuf,
        /// Also a version that is older than what runs.
        #[arg(long)]
        downgrade: bool,
        /// Also a version that failed on this machine.
        #[arg(long)]
        again: bool,
        /// Leave it to the next start of the machine.
        #[arg(long)]
        no_reboot: bool,
    },
    /// What runs, what starts next, and what failed.
    Status {
        /// The machine; all of them, if none is named.
        machine: Option<String>,
    },
    /// Take the running version as good.
    Confirm {
        /// The machine.
        machine: String,
    },
    /// Go back to the other version on the machine.
    Rollback {
        /// The machine.
        machine: String,
        /// Leave it to the next start of the machine.
        #[arg(long)]
        no_reboot: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Log {
    /// The machine.
    pub(crate) machine: String,
    /// Only what is of this daemon or other unit of systemd, or of `kernel`.
    #[arg(long)]
    pub(crate) unit: Option<Name>,
    /// Only what is as urgent or more: emerg, alert, crit, err, warning, notice, info or debug.
    #[arg(long, value_parser = super::log::parse_priority)]
    pub(crate) priority: Option<Priority>,
    /// Only from this day or time on (2027-01-31, 2027-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = super::show::parse_time)]
    pub(crate) since: Option<Timestamp>,
    /// Only what follows this place: the `cursor` that `--json` told.
    #[arg(long, value_name = "CURSOR", conflicts_with = "since")]
    pub(crate) after: Option<Cursor>,
    /// No more entries than so many: the newest, or those that follow the place [default: 100; with --since or --after all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) lines: Option<u64>,
    /// Go on with what is written from now on.
    #[arg(long, conflicts_with = "json")]
    pub(crate) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// The trail that the database keeps.
    List {
        /// Only what came after this index.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        super::Args::command().debug_assert();
    }

    fn log(args: &[&str]) -> Result<super::Log, clap::error::ErrorKind> {
        use clap::Parser;
        let args = super::Args::try_parse_from(["ffsctl", "log"].iter().chain(args)).map_err(|e| e.kind())?;
        let super::Command::Log(log) = args.command else { panic!("{args:?}") };
        Ok(log)
    }

    #[test]
    fn what_of_a_log_is_asked_for() {
        use clap::error::ErrorKind;
        let plain = log(&["web"]).unwrap();
        assert_eq!((&*plain.machine, plain.unit, plain.priority, plain.lines), ("web", None, None, None));
        assert_eq!((plain.since, plain.after, plain.follow), (None, None, false));
        let args = "web --unit commlinkd --priority err --since 2027-01-31 --lines 5 --follow".split(' ');
        let all = log(&args.collect::<Vec<_>>()).unwrap();
        assert_eq!((all.unit.unwrap().as_str(), all.priority), ("commlinkd", Some(tobj::Priority::Error)));
        assert_eq!((all.since, all.lines, all.follow), (Some(tobj::Timestamp(1_801_353_600)), Some(5), true));
        let after = log(&["web", "--after", "s=1;i=2", "--json"]).unwrap().after.unwrap();
        assert_eq!(after.as_str(), "s=1;i=2");
        for (args, kind) in [
            (vec![], ErrorKind::MissingRequiredArgument),
            (vec!["web", "--unit", "--flush"], ErrorKind::UnknownArgument),
            (vec!["web", "--unit=--flush"], ErrorKind::ValueValidation),
            (vec!["web", "--unit=a b"], ErrorKind::ValueValidation),
            (vec!["web", "--after=--flush"], ErrorKind::ValueValidation),
            (vec!["web", "--priority=loud"], ErrorKind::ValueValidation),
            (vec!["web", "--since=yesterday"], ErrorKind::ValueValidation),
            (vec!["web", "--lines=0"], ErrorKind::ValueValidation),
            (vec!["web", "--lines=-1"], ErrorKind::ValueValidation),
            (vec!["web", "--after=s=1", "--since=2027-01-31"], ErrorKind::ArgumentConflict),
            (vec!["web", "--follow", "--json"], ErrorKind::ArgumentConflict),
        ] {
            assert_eq!(log(&args).unwrap_err(), kind, "{args:?}");
        }
    }
}

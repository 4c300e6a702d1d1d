//! Data disks, where tests want more of them than that they are there.

use anyhow::{Context, Result};
use qemu::Patience;
use qemu::machine::{Bus, Disk, Medium};
use qemu::nbd::{Loss, Lost, Server};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long the end of a machine may take to reach its disks.
const ENDS: Duration = Duration::from_secs(60);

/// The data disks of the download machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bays {
    /// How many there are room for.
    pub count: usize,
    /// How many of them are there at the start.
    pub filled: usize,
    /// From which on they are twice as large.
    pub larger_from: usize,
    /// What they are.
    pub bus: Bus,
    /// Whether what was not flushed can get lost, also on the disk with the machine's state; and whether disks can be made to fail. This
    /// is of the database, too.
    pub volatile: bool,
}

impl Default for Bays {
    /// Four, for RAID10.
    fn default() -> Self {
        Self { count: 4, filled: 4, larger_from: 4, bus: Bus::Virtio, volatile: false }
    }
}

/// The servers of volatile disks.
#[derive(Debug, Default)]
pub(super) struct Servers(Vec<Served>);

#[derive(Debug)]
struct Served {
    machine: String,
    disk: String,
    server: Server,
}

impl Servers {
    /// The same disk from a server, whose socket is in this directory.
    pub(super) fn serve(&mut self, machine: &str, disk: Disk, run: &Path) -> Result<Disk> {
        let Medium::File(file) = &disk.medium else { return Ok(disk) };
        fs::create_dir_all(run)?;
        let server = Server::start(file, &run.join(format!("{machine}-{}.nbd", disk.id)))?;
        let served = disk.clone().served(server.socket());
        self.0.push(Served { machine: machine.to_owned(), disk: disk.id, server });
        Ok(served)
    }

    fn of(&self, machine: &str) -> impl Iterator<Item = &Served> {
        self.0.iter().filter(move |served| served.machine == machine)
    }

    pub(super) fn get(&self, machine: &str, disk: &str) -> Option<&Server> {
        self.of(machine).find(|served| served.disk == disk).map(|served| &served.server)
    }

    /// The power of a machine goes.
    pub(super) fn off(&self, machine: &str) {
        self.of(machine).for_each(|served| served.server.off());
    }

    /// Writes of a machine that were not flushed.
    pub(super) fn unflushed(&self, machine: &str) -> usize {
        self.of(machine).map(|served| served.server.unflushed()).sum()
    }

    /// The machine has lost its power: what its disks lose by that, added up.
    pub(super) fn cut(&self, machine: &str, mut loss: impl FnMut() -> Loss) -> Result<Lost> {
        let (mut all, patience) = (Lost::default(), Patience::of(ENDS));
        for Served { disk, server, .. } in self.of(machine) {
            let lost = server.cut(loss(), &patience).with_context(|| format!("the disk {disk} of {machine}"))?;
            all.pending += lost.pending;
            all.gone += lost.gone;
            all.torn += lost.torn;
        }
        Ok(all)
    }
}

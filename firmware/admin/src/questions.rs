//! Questions to disks. One that hangs keeps who asks it waiting until its driver gives it up, which takes minutes: nobody else waits for
//! that, and it is not asked again meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The disks that were asked and have not answered yet, by the kernel's names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Questions(Arc<Mutex<BTreeSet<String>>>);

impl Questions {
    /// What these disks have answered within that time, each to a call of `of` in a thread of its own.
    pub(crate) fn ask<A: Send + 'static>(
        &self,
        disks: &[String],
        within: Duration,
        of: impl Fn(&str) -> A + Clone + Send + 'static,
    ) -> BTreeMap<String, A> {
        let (until, (tell, told)) = (Instant::now() + within, channel());
        for disk in disks {
            if !self.open().insert(disk.clone()) {
                continue;
            }
            let (disk, asked, tell, of) = (disk.clone(), self.clone(), tell.clone(), of.clone());
            std::thread::spawn(move || {
                let answer = of(&disk);
                asked.open().remove(&disk);
                // Who asked may have given up.
                let _ = tell.send((disk, answer));
            });
        }
        drop(tell);
        std::iter::from_fn(|| told.recv_timeout(until.saturating_duration_since(Instant::now())).ok()).collect()
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One disk hangs, the other does not.
    #[test]
    fn nobody_waits_for_a_disk_that_hangs() {
        let (answer, hangs) = channel::<()>();
        let (hangs, calls) = (Arc::new(Mutex::new(hangs)), Arc::new(Mutex::new(Vec::new())));
        let (questions, disks) = (Questions::default(), ["sda".to_owned(), "sdb".to_owned()]);
        let of = {
            let (hangs, calls) = (hangs.clone(), calls.clone());
            move |disk: &str| {
                calls.lock().unwrap().push(disk.to_owned());
                if disk == "sda" {
                    hangs.lock().unwrap().recv().unwrap();
                }
                format!("of {disk}")
            }
        };
        let some = BTreeMap::from([("sdb".to_owned(), "of sdb".to_owned())]);
        for _ in 0..2 {
            assert_eq!(questions.ask(&disks, Duration::from_millis(200), of.clone()), some);
        }
        let asked = std::mem::take(&mut *calls.lock().unwrap());
        assert_eq!(asked.iter().filter(|disk| *disk == "sda").count(), 1, "it was asked again: {asked:?}");
        // It answers in the end, and is asked again from then on.
        answer.send(()).unwrap();
        while questions.open().contains("sda") {
            std::thread::yield_now();
        }
        answer.send(()).unwrap();
        assert_eq!(questions.ask(&disks, Duration::from_secs(60), of).len(), 2);
    }
}

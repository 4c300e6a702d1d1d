//! The certificate that customers see: how long it is good for, and another one in its place.
//!
//! A renewal has an order of steps; what comes before the first has changed nothing:
//! 1. the pair is kept, durably and in one file, which `admind setup` takes at each start;
//! 2. chain and key are replaced where the daemon reads them, each whole;
//! 3. so is the fingerprint that the console shows.
//!
//! A power cut after the first is mended by the next start, what fails after it by the same request again. Nobody tells the daemon: both
//! look at their files before each handshake, take no pair that does not fit, and leave the connections that are there alone.

use super::Tls;
use super::service::{Answer, Refused, unavailable};
use crate::certificate::{self, Facts, Pair, Unfit};
use crate::durable;
use crate::setup::{OF_DAEMON, put};
use std::fs;
use tobj::{Fault, Reply};

/// How many days before its end a certificate wants to be renewed.
const RENEW_DAYS: i64 = 30;
/// Seconds of a day.
const DAY: i64 = 86_400;

/// Takes another pair.
pub(super) fn renew(tls: &Tls, from: &str, pair: &Pair) -> Answer {
    let facts = pair.check(certificate::now(), None);
    let facts = facts.map_err(|why| Refused(Fault::Invalid, daemon::report(&why)))?;
    let until = certificate::day(facts.ends);
    tracing::warn!(from, until, fingerprint = facts.fingerprint, "another certificate is put in");
    durable::write(&tls.renewed, pair.to_text().as_bytes(), 0o600).map_err(unavailable)?;
    put(&tls.key, pair.key().as_bytes(), OF_DAEMON, Some(tls.uid)).map_err(unavailable)?;
    put(&tls.certificate, pair.chain().as_bytes(), OF_DAEMON, Some(tls.uid)).map_err(unavailable)?;
    put(&tls.fingerprint, facts.fingerprint.as_bytes(), 0o644, None).map_err(unavailable)?;
    Ok(Reply::Done {})
}

/// How long the certificate is good for, in words; `machine` is the one that is to get another.
pub(super) fn end(tls: &Tls, machine: &str) -> (bool, String) {
    match fs::read(&tls.certificate) {
        Ok(pem) => describe(certificate::facts(&pem), certificate::now(), machine),
        Err(error) => (false, format!("{} cannot be read: {error}", tls.certificate.display())),
    }
}

fn describe(facts: Result<Facts, Unfit>, now: i64, machine: &str) -> (bool, String) {
    let advice = format!("renew it with `ffsctl keys certificate {machine}`");
    let ends = match facts {
        Ok(facts) => facts.ends,
        Err(why) => return (false, format!("{why}; {advice}")),
    };
    let day = certificate::day(ends);
    match ends - now {
        left if left > RENEW_DAYS * DAY => (true, format!("ends on {day}")),
        left if left >= 0 => (false, format!("ends on {day}, in {} days; {advice}", left / DAY)),
        _ => (false, format!("has ended on {day}, and customers are warned or turned away; {advice}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::renewed;
    use keys::site::{Machine, Plan, Role, certify};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    /// A site, and the places of its web machine.
    fn site(home: &Path) -> Tls {
        let machines = Role::ALL.map(|role| Machine::new(role, "127.0.0.1")).to_vec();
        let plan = Plan { name: "example".into(), operators: vec!["ann".into()], time: Vec::new(), machines };
        plan.create(&home.join("site")).unwrap();
        let at = |path: &str| home.join(path);
        Tls {
            certificate: at("tls/tls.pem"),
            key: at("tls/tls.key"),
            uid: nix::unistd::geteuid().as_raw(),
            renewed: at("site/web/tls.renewed"),
            fingerprint: at("certificate"),
        }
    }

    fn pair(home: &Path) -> Pair {
        let made = certify(&home.join("site"), &Machine::new(Role::Web, "127.0.0.1")).unwrap();
        Pair::new(&made.certificate, &made.key).unwrap()
    }

    #[test]
    fn a_renewal_is_kept_and_served() {
        let home = tempfile::tempdir().unwrap();
        let tls = site(home.path());
        assert!(renewed(&tls.renewed).is_none() && !end(&tls, "web").0);
        for _ in 0..2 {
            let pair = pair(home.path());
            assert!(matches!(renew(&tls, "operator:ann", &pair), Ok(Reply::Done {})));
            let read = |path: &Path| fs::read_to_string(path).unwrap();
            assert_eq!((&*read(&tls.certificate), &*read(&tls.key)), (pair.chain(), pair.key()));
            assert_eq!(read(&tls.fingerprint), pair.fits().unwrap().fingerprint);
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&tls.certificate), mode(&tls.key), mode(&tls.renewed)), (0o400, 0o400, 0o600));
            assert_eq!(fs::metadata(&tls.key).unwrap().uid(), tls.uid);
            assert_eq!(renewed(&tls.renewed).unwrap().chain(), pair.chain(), "the next start takes it");
            let (healthy, words) = end(&tls, "web");
            assert!(healthy && words.starts_with("ends on 20"), "{words}");
        }
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let tls = site(home.path());
        let (first, other) = (pair(home.path()), pair(home.path()));
        assert!(renew(&tls, "operator:ann", &first).is_ok());
        let mixed = Pair::new(first.chain(), other.key()).unwrap();
        let Err(Refused(fault, why)) = renew(&tls, "operator:ann", &mixed) else { panic!("a mixture was taken") };
        assert_eq!(fault, Fault::Invalid);
        assert!(why.starts_with("the key is not that of the first certificate"), "{why}");
        assert_eq!(fs::read_to_string(&tls.key).unwrap(), first.key());
        assert_eq!(renewed(&tls.renewed).unwrap().key(), first.key());
        // What cannot be kept is not served either.
        let nowhere = Tls { renewed: home.path().join("none/x"), ..tls.clone() };
        assert!(matches!(renew(&nowhere, "operator:ann", &other), Err(Refused(Fault::Unavailable, _))));
        assert_eq!(fs::read_to_string(&tls.key).unwrap(), first.key());
    }

    #[test]
    fn ends_in_words() {
        let facts = || Ok(Facts { ends: 1_800_014_400, fingerprint: String::new() });
        let at = |left: i64| describe(facts(), 1_800_014_400 - left, "web");
        assert_eq!(at(RENEW_DAYS * DAY + 1), (true, "ends on 2027-01-15".into()));
        let advice = "renew it with `ffsctl keys certificate web`";
        assert_eq!(at(RENEW_DAYS * DAY), (false, format!("ends on 2027-01-15, in 30 days; {advice}")));
        assert_eq!(at(0), (false, format!("ends on 2027-01-15, in 0 days; {advice}")));
        let (healthy, words) = at(-1);
        assert!(!healthy && words.starts_with("has ended on 2027-01-15") && words.ends_with(advice), "{words}");
        let (healthy, words) = describe(Err(Unfit::NoCertificate), 0, "web");
        assert!(!healthy && words.ends_with(advice), "{words}");
    }
}

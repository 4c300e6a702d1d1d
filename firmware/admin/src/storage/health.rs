//! How disks say themselves that they are: SMART of ATA and SCSI disks, the health log of NVMe, as smartctl reads them.

use crate::tools;
use serde_json::Value;

/// Attributes of ATA disks that are told, by number: sectors that were replaced, that wait for it, that could not be read.
const SECTORS: [(u64, &str); 3] =
    [(5, "sectors reallocated"), (197, "sectors pending"), (198, "sectors uncorrectable")];

/// What a disk says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// Whether it expects to fail.
    pub(crate) failing: bool,
    /// In words.
    pub(crate) said: String,
}

/// Asks a disk, by the kernel's name; none where it says nothing, as virtual disks do.
pub(crate) fn of(disk: &str) -> Option<Health> {
    if disk.starts_with("vd") {
        return None;
    }
    let smartctl = tools::find("smartctl")?;
    let device = format!("/dev/{disk}");
    // Its exit status tells of the disk as well as of itself; what it says tells more.
    let said = tools::output(&smartctl, &["--json=c", "--info", "--health", "--attributes", &device]).ok()?;
    parse(&said)
}

fn parse(said: &[u8]) -> Option<Health> {
    let all: Value = serde_json::from_slice(said).ok()?;
    let passed = all["smart_status"]["passed"].as_bool()?;
    let mut words = vec![if passed { "says that it is well" } else { "SAYS THAT IT FAILS: replace it" }.to_owned()];
    let mut tell = |value: &Value, what: &str| {
        if let Some(n) = value.as_u64() {
            words.push(format!("{n} {what}"));
        }
    };
    let nvme = &all["nvme_smart_health_information_log"];
    tell(&nvme["percentage_used"], "% of its life used");
    tell(&nvme["available_spare"], "% spare");
    tell(&nvme["media_errors"], "media errors");
    for attribute in all["ata_smart_attributes"]["table"].as_array().into_iter().flatten() {
        for (_, what) in SECTORS.iter().filter(|(id, _)| attribute["id"] == *id) {
            tell(&attribute["raw"]["value"], what);
        }
    }
    tell(&all["scsi_grown_defect_list"], "defects grown");
    tell(&all["temperature"]["current"], "°C");
    Some(Health { failing: !passed, said: words.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(json: &str) -> Option<Health> {
        parse(json.as_bytes())
    }

    #[test]
    fn what_disks_say() {
        let nvme = r#"{"smart_status": {"passed": true, "nvme": {"value": 0}}, "temperature": {"current": 50},
            "nvme_smart_health_information_log": {"critical_warning": 0, "available_spare": 98, "percentage_used": 3,
            "media_errors": 0}}"#;
        let expected = "says that it is well, 3 % of its life used, 98 % spare, 0 media errors, 50 °C";
        assert_eq!(said(nvme), Some(Health { failing: false, said: expected.into() }));
        let ata = r#"{"smart_status": {"passed": false}, "ata_smart_attributes": {"table": [
            {"id": 1, "raw": {"value": 7}}, {"id": 5, "raw": {"value": 12}}, {"id": 197, "raw": {"value": 1}}]}}"#;
        let expected = "SAYS THAT IT FAILS: replace it, 12 sectors reallocated, 1 sectors pending";
        assert_eq!(said(ata), Some(Health { failing: true, said: expected.into() }));
        let scsi = r#"{"smart_status": {"passed": true}, "scsi_grown_defect_list": 4}"#;
        assert_eq!(said(scsi).unwrap().said, "says that it is well, 4 defects grown");
        // A disk that has no SMART, and something that is not smartctl's.
        assert_eq!(said(r#"{"smartctl": {"exit_status": 1}}"#), None);
        assert_eq!(said("smartctl 7.4"), None);
        assert_eq!(of("vda"), None);
    }
}

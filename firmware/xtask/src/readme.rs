//! What the README tells people and scripts to rely on, as the programs take it.

use crate::endpoints::Endpoints;
use admin::setup;
use keys::site::{Interface, NetworkRole, Plan, Role};
use serde_json::Value;
use std::collections::BTreeSet;

/// The first block of this language below a line that holds these words.
fn block(language: &str, words: &str) -> String {
    let text = std::fs::read_to_string(crate::root().join("README.md")).unwrap();
    let (_, after) = text.split_once(words).unwrap_or_else(|| panic!("README.md has no {words:?}"));
    let (_, block) = after.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_plan_of_the_readme_makes_a_site() {
    let (home, text) = (tempfile::tempdir().unwrap(), block("toml", "### The plan\n"));
    let file = home.path().join("plan.toml");
    std::fs::write(&file, &text).unwrap();
    let plan = Plan::load(&file).unwrap();
    plan.create(&home.path().join("site")).unwrap();
    for machine in &plan.machines {
        // As flash and the machine itself read it: each finds the others.
        setup::render(&plan, &machine.name, &[]).unwrap();
        let macs = machine.networks.iter().filter(|n| matches!(n.interface, Interface::Mac(_))).count();
        assert!(macs > 0 && macs == machine.networks.len(), "{}: as is advised", machine.name);
    }
    let of = |role| plan.machines.iter().find(|m| m.role == role).unwrap();
    let roles: BTreeSet<_> = of(Role::Download).networks.iter().map(|n| n.role).collect();
    assert_eq!(roles, [NetworkRole::Public, NetworkRole::Lan, NetworkRole::Management].into());
    // All keys are there by name, also those that say what is so without them.
    for key in [
        "time",
        "ports",
        "public",
        "public_ipv4",
        "management",
        "https",
        "ftp",
        "passive",
        "metrics",
        "operators_from",
        "match",
        "address",
        "gateway",
    ] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
    assert!(of(Role::Download).ftp_rules.is_some());
}

#[test]
fn the_endpoints_of_the_readme_are_those_of_up() {
    let told: Value = serde_json::from_str(&block("json", "`endpoints.json` is there")).unwrap();
    let read: Endpoints = serde_json::from_value(told.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), told);
}

#[test]
fn the_rows_of_the_readme_are_those_of_bench() {
    let told: Value = serde_json::from_str(&block("json", "`bench --json` writes")).unwrap();
    assert_eq!(crate::bench::judged_again(&told), told);
}

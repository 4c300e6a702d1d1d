//! What the documents promise about the source tree.

#![allow(clippy::unwrap_used, reason = "a test")]

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

type Table = BTreeMap<String, BTreeSet<String>>;

/// The rows of the table under "Who may depend on whom".
fn promised() -> Table {
    let text = fs::read_to_string(xtask::root().join("firmware/ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once("## Who may depend on whom").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let ticked = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (ticked(cells[1])[0].clone(), ticked(cells[2]).into_iter().collect())
    })
    .collect()
}

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() {
    let metadata = MetadataCommand::new().no_deps().manifest_path(xtask::root().join("Cargo.toml")).exec().unwrap();
    let ours: BTreeSet<_> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    let actual: Table = metadata
        .packages
        .iter()
        .map(|p| {
            let normal = p.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
            (p.name.to_string(), normal.map(|d| d.name.clone()).filter(|name| ours.contains(name)).collect())
        })
        .collect();
    assert_eq!(actual, promised());
}

#[test]
fn the_top_level_is_the_agreed_one() {
    let allowed =
        "Cargo.toml Cargo.lock firmware image buildroot keys tests qemu README.md LICENSE CHANGELOG.md target";
    let allowed: BTreeSet<&str> = allowed.split(' ').collect();
    for entry in fs::read_dir(xtask::root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.contains(name.as_str()), "{name} is not in the layout");
    }
}

#[test]
fn files_stay_readable() {
    for dir in ["firmware", "keys", "qemu", "tests"] {
        for file in tests::files(&xtask::root().join(dir)) {
            if file.extension().is_some_and(|e| e == "rs") {
                let lines = fs::read_to_string(&file).unwrap().lines().count();
                let most = if file.ends_with("src/main.rs") { 30 } else { 700 };
                assert!(lines <= most, "{} has {lines} lines", file.display());
            }
        }
    }
}

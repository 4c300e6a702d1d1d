//! The tests of the full counts: those marked `#[ignore]`.

use super::{cargo, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// Runs those whose name holds `name`, or all of them.
pub(super) fn run_all(name: Option<&str>) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--"]).args(name).args(["--ignored", "--test-threads", "1"]);
    if run(&mut command)? { Ok(()) } else { bail!("a long test failed") }
}

/// Whether one of them in this file or folder of the work tree has a name that holds `name`, as far as the source tells: it is asked
/// before anything is built.
pub(super) fn any(top: &Path, of: &str, name: &str) -> Result<bool> {
    let mut todo = vec![top.join(of)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let module = module(path.strip_prefix(top)?);
            if ignored(&text).any(|test| format!("{module}{test}").contains(name)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The modules of a file's tests, as the test harness names them, with those that it leaves out: `a::b::`.
fn module(path: &Path) -> String {
    path.with_extension("").iter().map(|part| format!("{}::", part.to_string_lossy())).collect()
}

/// The names of the functions that follow `#[ignore]`.
fn ignored(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[ignore").skip(1).filter_map(|after| {
        let (_, name) = after.split_once("fn ")?;
        name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_tests_of_a_source() {
        let text = "#[test]\nfn a() {}\n#[test]\n#[ignore = \"why\"]\nasync fn b_1() {}\n#[ignore]\n#[test]\nfn c() {}\nfn d() {}\n";
        assert_eq!(ignored(text).collect::<Vec<_>>(), ["b_1", "c"]);
        assert_eq!(module(Path::new("tests/tests/firmware/cuts.rs")), "tests::tests::firmware::cuts::");
    }
}

//! Programs of the system that do a part of the work.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Why a program did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not there, or cannot be run.
    #[error("cannot run {0}")]
    Start(String, #[source] io::Error),
    /// It failed.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said, in one line.
        said: String,
    },
}

/// Where a program of the system administrator is on this host.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's path often has no sbin.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Runs a program to its end, with this on its standard input; gives what it said.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, ToolError> {
    run_with(program, arguments, &[], input)
}

/// The same with these variables in its environment, beside those that all programs get.
pub(crate) fn run_with(
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    input: &[u8],
) -> Result<Vec<u8>, ToolError> {
    let output = ended(program, arguments, environment, input)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
    Err(ToolError::Failed { program: program.to_string_lossy().into_owned(), status: output.status, said })
}

/// Runs a program to its end; gives what it said, however it ended.
pub(crate) fn output(program: &Path, arguments: &[&str]) -> Result<Vec<u8>, ToolError> {
    ended(program, arguments, &[], b"").map(|output| output.stdout)
}

fn ended(program: &Path, arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Result<Output, ToolError> {
    let name = || program.to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin").env("LC_ALL", "C.UTF-8");
    command.envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| ToolError::Start(name(), e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading all; its status tells.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().map_err(|e| ToolError::Start(name(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_failure_and_absence() {
        let cat = find("cat").unwrap();
        assert_eq!(run(&cat, &[], b"text").unwrap(), b"text");
        let failed = run(&cat, &["/nonexistent/x"], b"").unwrap_err();
        assert!(failed.to_string().contains("No such file"), "{failed}");
        assert!(matches!(run(Path::new("/nonexistent/x"), &[], b""), Err(ToolError::Start(..))));
        assert_eq!(output(&cat, &["/nonexistent/x"]).unwrap(), b"", "however it ended");
        assert_eq!(find("no-such-program-here"), None);
    }
}

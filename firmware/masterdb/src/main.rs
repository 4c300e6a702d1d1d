//! The database daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::run("masterd", |path, shutdown| async move {
        let config: masterdb::Config = daemon::config::load(&path)?;
        let listener = daemon::ipc::bind(&config.socket)?;
        masterdb::run(&config, listener, shutdown, daemon::notify::ready).await?;
        Ok(())
    })
}

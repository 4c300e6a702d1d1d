//! The portal daemon of the web appliance.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::run("portald", |path, shutdown| async move {
        let config: portal::Config = daemon::config::load(&path)?;
        let listeners = portal::Listeners::bind(&config)?;
        Ok(portal::run(config, listeners, shutdown).await?)
    })
}

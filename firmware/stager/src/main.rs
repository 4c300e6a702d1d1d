//! The stager's daemon.

fn main() -> std::process::ExitCode {
    daemon::run("stagerd", |config, shutdown| async move { stager::start(&config, shutdown).await.map_err(Into::into) })
}

//! A transfer from its announcement to its end.

use super::client::{ABORTED, Client};
use super::data::{Data, Passive};
use crate::config::Config;
use crate::metrics::Limit;
use std::io::{self, ErrorKind};
use tokio::time::timeout;

/// Why a transfer did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// ABOR.
    Aborted,
    /// No data connection in time.
    Unconnected,
    /// The data connection has no TLS.
    Untrusted,
    /// The data connection does not resume the control connection's TLS session.
    Foreign,
    /// The file cannot be read.
    Unreadable,
    /// The file became shorter.
    Shorter,
    /// The client takes nothing.
    Stalled,
    /// The data connection broke.
    Broken,
}

impl Failure {
    /// What the client is told.
    pub(super) fn reply(self) -> &'static str {
        match self {
            Self::Aborted => ABORTED,
            Self::Unconnected => "425 No data connection",
            Self::Untrusted => "425 No TLS on the data connection",
            Self::Foreign => "425 The data connection must resume the TLS session of the control connection",
            Self::Unreadable => "451 The file cannot be read now",
            Self::Shorter => "451 The file became shorter",
            Self::Stalled => "426 Transfer stalled",
            Self::Broken => "426 Data connection broken",
        }
    }

    /// The limit that it was, if it was one.
    pub(super) fn limit(self) -> Option<Limit> {
        match self {
            Self::Unconnected => Some(Limit::Passive),
            Self::Untrusted | Self::Foreign => Some(Limit::Handshake),
            Self::Stalled | Self::Unreadable => Some(Limit::Stall),
            Self::Aborted | Self::Shorter | Self::Broken => None,
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            // A socket never fails with it.
            _ if error.raw_os_error() == Some(libc::EIO) => Self::Unreadable,
            ErrorKind::UnexpectedEof => Self::Shorter,
            ErrorKind::TimedOut => Self::Stalled,
            _ => Self::Broken,
        }
    }
}

/// Waits for the data connection, announces it, which `announced` is told, and lets `send` use it. The outer error is of the control
/// connection.
pub(super) async fn transfer(
    client: &mut Client,
    passive: Passive,
    config: &Config,
    announced: impl FnOnce(),
    send: impl AsyncFnOnce(Data) -> io::Result<()>,
) -> io::Result<Result<(), Failure>> {
    // The announcement comes with the connection, before the handshake: most clients begin TLS only then.
    match client.attend(timeout(config.connect(), passive.connected)).await? {
        None => return Ok(Err(Failure::Aborted)),
        Some(Ok(Ok(()))) => {
            client.say("150 Here it comes").await?;
            announced();
        }
        Some(_) => return Ok(Err(Failure::Unconnected)),
    }
    let data = match client.attend(timeout(config.handshake(), passive.data)).await? {
        None => return Ok(Err(Failure::Aborted)),
        Some(Ok(Ok(Ok(data)))) => data,
        Some(Ok(Ok(Err(error)))) if error.kind() == ErrorKind::PermissionDenied => return Ok(Err(Failure::Foreign)),
        Some(_) => return Ok(Err(Failure::Untrusted)),
    };
    Ok(match client.attend(send(data)).await? {
        None => Err(Failure::Aborted),
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(Failure::of(&error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_reply() {
        let rows = [
            (ErrorKind::UnexpectedEof, 451),
            (ErrorKind::TimedOut, 426),
            (ErrorKind::ConnectionReset, 426),
            (ErrorKind::BrokenPipe, 426),
        ];
        for (kind, code) in rows {
            assert!(Failure::of(&kind.into()).reply().starts_with(&code.to_string()), "{kind}");
        }
        assert_eq!(Failure::of(&io::Error::from_raw_os_error(libc::EIO)), Failure::Unreadable);
        assert_eq!(Failure::Aborted.reply().lines().map(|l| &l[..3]).collect::<Vec<_>>(), ["426", "226"]);
    }
}

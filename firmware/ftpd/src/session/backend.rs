//! libunftp's storage: read-only, in the account that has become the root of this process. Files and listings are handed to the
//! gate; libunftp's own data connection, which any local process could reach, carries not a byte.

use super::listing::{self, ASK_THE_DISK, Entry, Meta, Missing, ROOT, Wait, write_facts};
use super::shared::{Body, Shared, Verdict, Work};
use crate::confine::confine;
use async_trait::async_trait;
use std::fmt::{Debug, Write};
use std::io::{self, Cursor, ErrorKind};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use unftp_core::auth::DefaultUser;
use unftp_core::storage::{self, FEATURE_RESTART, Metadata, Result, StorageBackend};

/// The account's files.
#[derive(Debug)]
pub(super) struct Depot(pub(super) Arc<Shared>);

/// What is asked of it. The gate lets none of these through; should one come, the answer is no.
const READ_ONLY: Missing = Missing { kind: storage::ErrorKind::CommandNotImplemented, why: "Read-only" };

/// A question about a name, which may or may not wait.
type Question<T> = fn(BorrowedFd<'_>, &Path, Wait) -> std::result::Result<T, Missing>;

/// The disk does not answer, or cannot be asked.
const SILENT: Missing =
    Missing { kind: storage::ErrorKind::LocalError, why: "The disk does not answer, try again later" };

impl Depot {
    /// Keeps code and reason for the gate.
    fn explained<T>(&self, outcome: std::result::Result<T, Missing>) -> Result<T> {
        outcome.map_err(|missing| {
            self.0.reason.put((missing.code(), missing.why));
            missing.into()
        })
    }

    /// Asks about a name: the kernel's memory, where most answers are, and only then the disk.
    async fn look<T: Send + 'static>(&self, path: &Path, question: Question<T>) -> Result<T> {
        match question(ROOT, path, Wait::Never) {
            Err(ASK_THE_DISK) => self.ask_the_disk(path, move |path| question(ROOT, path, Wait::Allowed)).await,
            answer => self.explained(answer),
        }
    }

    /// Asks the disk.
    async fn ask_the_disk<T: Send + 'static>(
        &self,
        path: &Path,
        question: impl FnOnce(&Path) -> std::result::Result<T, Missing> + Send + 'static,
    ) -> Result<T> {
        let path = path.to_owned();
        let answer = self.0.disk.ask(move || question(&path)).await;
        self.explained(answer.unwrap_or_else(|error| {
            tracing::error!(%error, "the disk cannot be asked");
            Err(SILENT)
        }))
    }

    async fn hand_over(&self, body: Body) -> io::Result<()> {
        let (done, over) = oneshot::channel();
        let closed = || io::Error::from(ErrorKind::BrokenPipe);
        self.0.work.send(Work { body, done }).await.map_err(|_| closed())?;
        over.await.map_err(|_| closed())
    }

    async fn list_as(&self, path: &Path, line: fn(&mut Vec<u8>, &Entry)) -> Result<()> {
        let bytes = self.ask_the_disk(path, move |path| listing::lines(ROOT, path, line)).await?;
        Ok(self.hand_over(Body::Bytes(bytes)).await?)
    }
}

fn long_line(out: &mut Vec<u8>, entry: &Entry) {
    let mut line = String::new();
    // Display fails for a path without a last component, which an entry does not have.
    if write!(line, "{entry}\r\n").is_ok() {
        out.extend_from_slice(line.as_bytes());
    }
}

/// A line of STAT; the space keeps a name from being taken for the end of the reply.
fn status_line(out: &mut Vec<u8>, entry: &Entry) {
    out.push(b' ');
    long_line(out, entry);
}

fn name_line(out: &mut Vec<u8>, entry: &Entry) {
    out.extend_from_slice(entry.path.as_os_str().as_encoded_bytes());
    out.extend_from_slice(b"\r\n");
}

#[async_trait]
impl StorageBackend<DefaultUser> for Depot {
    type Metadata = Meta;

    /// After the yes: the account becomes the root and the last capability goes.
    fn enter(&mut self, _: &DefaultUser) -> io::Result<()> {
        let Some(admission) = self.0.admission.take() else { return Err(ErrorKind::PermissionDenied.into()) };
        if let Err(error) = confine(admission.directory) {
            tracing::error!("a session cannot be confined: {}", daemon::report(&error));
            self.0.verdict.put(Verdict::Unconfined);
            return Err(io::Error::other(error));
        }
        self.0.counter.put(admission.counter);
        self.0.verdict.put(Verdict::Admitted(admission.customer));
        Ok(())
    }

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }

    async fn metadata<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, path: P) -> Result<Meta> {
        let meta = self.look(path.as_ref(), listing::metadata).await?;
        if self.0.size.load(Relaxed) && !meta.is_file() {
            return self.explained(Err(Missing::gone("Not a plain file")));
        }
        Ok(meta)
    }

    async fn list<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, path: P) -> Result<Vec<Entry>> {
        // MLSD is of a directory (RFC 3659 section 7.2); libunftp's other listings do not come here.
        if !self.look(path.as_ref(), listing::metadata).await?.is_dir() {
            return self.explained(Err(Missing::gone("Not a directory")));
        }
        self.list_as(path.as_ref(), write_facts).await?;
        Ok(Vec::new())
    }

    async fn list_fmt<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, path: P) -> Result<Cursor<Vec<u8>>> {
        self.list_as(path.as_ref(), long_line).await?;
        Ok(Cursor::default())
    }

    async fn nlst<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, path: P) -> io::Result<Cursor<Vec<u8>>> {
        self.list_as(path.as_ref(), name_line).await.map_err(io::Error::other)?;
        Ok(Cursor::default())
    }

    /// STAT of a name: over the control connection, so it goes through libunftp.
    async fn list_vec<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, path: P) -> Result<Vec<String>> {
        let bytes = self.ask_the_disk(path.as_ref(), |path| listing::lines(ROOT, path, status_line)).await?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(str::to_owned);
        Ok(std::iter::once("Status:".to_owned()).chain(lines).chain(["End".to_owned()]).collect())
    }

    /// Opens the file and lets the gate send it over the client's own data connection.
    async fn get_into<'a, P, W: ?Sized>(&self, _: &DefaultUser, path: P, _: u64, _: &'a mut W) -> Result<u64>
    where
        W: AsyncWrite + Unpin + Sync + Send,
        P: AsRef<Path> + Send + Debug,
    {
        // A file system may make open(2) itself wait, even of a name that it knows.
        let (file, to) = self.ask_the_disk(path.as_ref(), |path| listing::file(ROOT, path)).await?;
        let from = self.0.offset.load(Relaxed);
        if from > to {
            return self.explained(Err(Missing::gone("The offset lies beyond the end")));
        }
        self.hand_over(Body::File { file, from, to }).await?;
        Ok(to - from)
    }

    async fn get<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        _: P,
        _: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        Err(READ_ONLY.into())
    }

    async fn put<P: AsRef<Path> + Send + Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        _: &DefaultUser,
        _: R,
        _: P,
        _: u64,
    ) -> Result<u64> {
        Err(READ_ONLY.into())
    }

    async fn del<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, _: P) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn mkd<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, _: P) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn rename<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, _: P, _: P) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn rmd<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, _: P) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn cwd<P: AsRef<Path> + Send + Debug>(&self, _: &DefaultUser, path: P) -> Result<()> {
        if self.look(path.as_ref(), listing::metadata).await?.is_dir() {
            return Ok(());
        }
        self.explained(Err(Missing::gone("Not a directory")))
    }
}

//! Objects.

use super::args::Object;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tobj::{FileName, Name, Reply, Request};
use tokio::io::{AsyncRead, ReadBuf};

pub(crate) async fn run(operator: &Operator, command: Object, as_json: bool) -> Result<(), CtlError> {
    match command {
        Object::Put { file, product, version, name, download } => {
            let download = operator.download(download.as_deref())?;
            put(operator, download, &file, (product, version), name, as_json).await
        }
        Object::List => list(operator, as_json).await,
    }
}

async fn put(
    operator: &Operator,
    download: &str,
    path: &Path,
    (product, version): (Name, Name),
    name: Option<FileName>,
    as_json: bool,
) -> Result<(), CtlError> {
    let unusable = |why: String| CtlError::Usage(format!("{}: {why}", path.display()));
    let name = match name {
        Some(name) => name,
        None => {
            let own = path.file_name().and_then(|n| n.to_str());
            let own = own.ok_or_else(|| unusable("its name is not UTF-8; give one with --name".into()))?;
            FileName::new(own).map_err(|e| unusable(format!("{e}; give another with --name")))?
        }
    };
    let file = tokio::fs::File::open(path).await.map_err(|e| unusable(e.to_string()))?;
    let metadata = file.metadata().await.map_err(|e| unusable(e.to_string()))?;
    if !metadata.is_file() {
        return Err(unusable("not a regular file".into()));
    }
    let database = operator.database()?;
    let size = metadata.len();
    let mut body = Counted::new(file, size);
    let reply = operator.send(download, Request::ObjectPut { sha256: None }, size, &mut body).await?;
    body.finish();
    let Reply::Stored { sha256, size: stored, known } = reply else {
        return Err(CtlError::Mismatch(download.to_owned()));
    };
    // An object that the appliance had already may be acknowledged before all of it was sent.
    if stored != size || body.sent == size && body.hash.clone().finalize()[..] != sha256.as_bytes()[..] {
        return Err(CtlError::Refused {
            machine: download.to_owned(),
            text: format!("what it stored is another file (sha256 {sha256}); did this one change meanwhile?"),
        });
    }
    let machine = Name::new(download).map_err(CtlError::failed("the machine's name cannot be used"))?;
    let (file, hash) = (name.clone(), sha256);
    let (p, v) = (product.clone(), version.clone());
    let add = Request::ObjectAdd { product: p, version: v, file, size, sha256: hash, download: machine };
    operator.ask(database, add).await?;
    if as_json {
        return show::json(&json!({
            "product": product.as_str(), "version": version.as_str(), "file": name.as_str(), "size": size,
            "sha256": sha256.to_string(), "download": download, "known": known,
        }));
    }
    let note = if known { "; the storeroom had these bytes already" } else { "" };
    show::line(&format!("{product} {version}: {name}, {}, sha256 {sha256}{note}", show::size(size)))
}

async fn list(operator: &Operator, as_json: bool) -> Result<(), CtlError> {
    let database = operator.database()?;
    let items = show::pages(async |offset| match operator.ask(database, Request::ObjectList { offset }).await? {
        Reply::Catalogue { items, more } => Ok((items, more)),
        _ => Err(CtlError::Mismatch(database.to_owned())),
    })
    .await?;
    if as_json {
        let all = items.iter().map(|o| {
            json!({
                "product": o.product.as_str(), "version": o.version.as_str(), "file": o.file.as_str(), "size": o.size,
                "sha256": o.sha256.to_string(), "download": o.download.as_str(),
            })
        });
        return show::json(&all.collect());
    }
    let rows: Vec<_> = items
        .iter()
        .map(|o| {
            let (file, hash) = (o.file.to_string(), o.sha256.to_string());
            vec![o.product.to_string(), o.version.to_string(), show::size(o.size), o.download.to_string(), hash, file]
        })
        .collect();
    show::table(&["PRODUCT", "VERSION", "SIZE", "ON", "SHA256", "FILE"], &rows)
}

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);

/// Hashes what passes and shows how far it is.
pub(super) struct Counted {
    file: tokio::fs::File,
    hash: Sha256,
    sent: u64,
    size: u64,
    begin: Instant,
    shown: Option<Instant>,
}

impl Counted {
    pub(super) fn new(mut file: tokio::fs::File, size: u64) -> Self {
        file.set_max_buf_size(1 << 20);
        let shown = io::stderr().is_terminal().then(Instant::now);
        Self { file, hash: Sha256::new(), sent: 0, size, begin: Instant::now(), shown }
    }

    fn show(&self) {
        let percent = u128::from(self.sent) * 100 / u128::from(self.size.max(1));
        let rate = u128::from(self.sent) * 1000 / self.begin.elapsed().as_millis().max(1);
        let rate = show::size(u64::try_from(rate).unwrap_or(u64::MAX));
        eprint!("\r{percent:>3} %  {} of {}  {rate}/s   ", show::size(self.sent), show::size(self.size));
    }

    pub(super) fn finish(&self) {
        if self.shown.is_some() {
            self.show();
            eprintln!();
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        ready!(Pin::new(&mut this.file).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        this.hash.update(new);
        this.sent += u64::try_from(new.len()).unwrap_or(0);
        if this.shown.is_some_and(|at| at.elapsed() > PROGRESS) {
            this.shown = Some(Instant::now());
            this.show();
        }
        Poll::Ready(Ok(()))
    }
}

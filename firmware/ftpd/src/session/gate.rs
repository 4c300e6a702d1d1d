//! The gate: what the client says goes through its table, and only well-formed questions with absolute paths go on to libunftp.

mod retrieve;

use super::client::Client;
use super::data::{Passive, Private};
use super::disk::{self, Disk};
use super::inner::Inner;
use super::shared::{Body, Shared, Slot, Verdict, Work};
use super::transfer::transfer;
use super::{Context, Public};
use crate::command::{Action, Listing, Query, View, decide, keeps_restart};
use crate::confine::no_more_threads;
use crate::facts::Facts;
use crate::gatekeeper::{Gatekeeper, Refusal};
use crate::line::Line;
use crate::metrics::{Event, Limit, Login};
use crate::path::{quoted, resolve};
use crate::reply::Reply;
use crate::tls::DataAcceptor;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tobj::{Fault, Secret};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

/// Commands that may come to nothing between the beginnings of two transfers, before each further one of them waits: errors, and ports
/// that nothing is fetched by.
const FRUITLESS: u32 = 32;
/// How long it waits. Who pipelines garbage, or has ports opened without end, keeps no processor busy.
const PENANCE: Duration = Duration::from_millis(100);

/// The end of the wait for a next command.
enum Next {
    Line(Line),
    TimedOut,
    Stopping,
}

/// A reply, and whether it is the last. An empty one was given already.
struct Answer {
    text: String,
    last: bool,
}

impl<T: Into<String>> From<T> for Answer {
    fn from(text: T) -> Self {
        Self { text: text.into(), last: false }
    }
}

fn farewell(text: &str) -> Answer {
    Answer { text: text.to_owned(), last: true }
}

/// A session's state.
pub(super) struct Gate {
    client: Client,
    inner: Option<Inner>,
    work: mpsc::Receiver<Work>,
    shared: Arc<Shared>,
    context: Arc<Context>,
    stopping: watch::Receiver<bool>,
    /// A transfer is asked for or under way.
    busy: watch::Sender<bool>,
    local: IpAddr,
    user: Option<String>,
    /// Where bytes are counted; there from the login on.
    counter: Option<Arc<File>>,
    failures: u32,
    /// Commands that came to nothing since a transfer last began.
    fruitless: u32,
    buffer_size: bool,
    private: bool,
    epsv_only: bool,
    offset: u64,
    cwd: String,
    facts: Facts,
    passive: Option<Passive>,
    /// From the first private data connection on.
    data_acceptor: Option<DataAcceptor>,
}

impl Gate {
    pub(super) fn new(
        client: TcpStream,
        gatekeeper: Box<dyn Gatekeeper>,
        context: Arc<Context>,
        stopping: watch::Receiver<bool>,
        busy: watch::Sender<bool>,
    ) -> io::Result<Self> {
        let (peer, local) = (client.peer_addr()?.ip().to_canonical(), client.local_addr()?.ip().to_canonical());
        let (sender, work) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            peer,
            tls: false.into(),
            size: false.into(),
            offset: 0.into(),
            password: Slot::default(),
            verdict: Slot::default(),
            admission: Slot::default(),
            counter: Slot::default(),
            reason: Slot::default(),
            disk: Disk::new(no_more_threads, disk::ANSWER),
            gatekeeper: tokio::sync::Mutex::new(gatekeeper),
            work: sender,
        });
        Ok(Self {
            client: Client::new(client, context.config.stall()),
            inner: None,
            work,
            shared,
            context,
            stopping,
            busy,
            local,
            user: None,
            counter: None,
            failures: 0,
            fruitless: 0,
            buffer_size: false,
            private: false,
            epsv_only: false,
            offset: 0,
            cwd: "/".to_owned(),
            facts: Facts::default(),
            passive: None,
            data_acceptor: None,
        })
    }

    /// From the greeting to the end. An error means that the client is told nothing more.
    pub(super) async fn run(mut self) -> io::Result<()> {
        if let Err(refusal) = self.shared.gatekeeper.lock().await.open().await {
            tracing::warn!("a session was refused: {}", daemon::report(&refusal));
            self.client.say("421 The service is not available, try again later").await?;
            return Ok(());
        }
        self.client.say("220 Ready").await?;
        let login = Instant::now() + self.context.config.login();
        loop {
            let next = self.next(login).await.inspect_err(|error| {
                if error.kind() == io::ErrorKind::InvalidData {
                    self.context.note(Event::Limit(Limit::Line));
                }
            });
            let line = match next? {
                Next::Line(line) => line,
                Next::TimedOut => {
                    let limit = if self.counter.is_some() { Limit::Idle } else { Limit::Login };
                    self.context.note(Event::Limit(limit));
                    return self.end("421 Timed out").await;
                }
                Next::Stopping => return self.end("421 The service stops, try again later").await,
            };
            if !matches!(line, Line::Command { .. }) {
                // It may have been the RETR that REST was for.
                self.offset = 0;
            }
            match line {
                Line::TooLong => self.say("500 Line too long").await?,
                Line::NotText => self.say("501 Not valid UTF-8, or a control character").await?,
                Line::Command { verb, argument } => {
                    let action = decide(&verb, &argument, self.view());
                    if !keeps_restart(&verb) && !matches!(action, Action::Retrieve(_)) {
                        self.offset = 0;
                    }
                    if action == Action::StartTls {
                        self.secure().await?;
                        continue;
                    }
                    self.busy.send_replace(matches!(action, Action::Retrieve(_) | Action::List(..)));
                    let answer = self.act(action).await?;
                    self.busy.send_replace(false);
                    if answer.last {
                        return self.end(&answer.text).await;
                    }
                    self.say(&answer.text).await?;
                }
            }
        }
    }

    /// Gives a reply, unless it was given already, and has those wait who ask for nothing that they use.
    async fn say(&mut self, text: &str) -> io::Result<()> {
        // What was answered already was given up before it came to anything.
        let code = text.get(..3).unwrap_or("426");
        if code.starts_with(['4', '5']) || ["227", "229"].contains(&code) {
            self.fruitless += 1;
            if self.fruitless > FRUITLESS {
                sleep(PENANCE).await;
            }
        }
        if text.is_empty() { Ok(()) } else { self.client.say(text).await }
    }

    async fn next(&mut self, login: Instant) -> io::Result<Next> {
        let idle = Instant::now() + self.context.config.idle();
        let deadline = if self.counter.is_some() { idle } else { login.min(idle) };
        tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stop| *stop) => Ok(Next::Stopping),
            line = timeout_at(deadline, self.client.line()) => match line {
                Ok(line) => Ok(Next::Line(line?)),
                Err(_) => Ok(Next::TimedOut),
            },
        }
    }

    async fn end(&mut self, text: &str) -> io::Result<()> {
        self.client.say(text).await?;
        self.client.close().await;
        Ok(())
    }

    fn view(&self) -> View {
        View {
            tls: self.shared.tls.load(Relaxed),
            tls_offered: self.context.tls.is_some(),
            tls_required: self.context.config.require_tls,
            user: self.user.is_some(),
            logged_in: self.counter.is_some(),
            buffer_size: self.buffer_size,
            private: self.private,
            epsv_only: self.epsv_only,
            ipv6: self.local.is_ipv6(),
        }
    }

    async fn secure(&mut self) -> io::Result<()> {
        let Some(tls) = self.context.tls.clone() else { return Err(io::ErrorKind::Unsupported.into()) };
        self.client.say("234 Begin").await?;
        let secured = self.client.secure(&tls, self.context.config.handshake()).await;
        secured.inspect_err(|_| self.context.note(Event::Limit(Limit::Handshake)))?;
        self.shared.tls.store(true, Relaxed);
        self.user = None;
        Ok(())
    }

    async fn act(&mut self, action: Action) -> io::Result<Answer> {
        Ok(match action {
            Action::Reply(text) => text.into(),
            Action::Quit => farewell("221 Goodbye"),
            // Handled by the caller, which must not give a reply after the handshake.
            Action::StartTls => "503 Too late".into(),
            Action::BufferSize => {
                self.buffer_size = true;
                "200 PBSZ=0".into()
            }
            Action::Protection(private) => {
                (self.private, self.passive) = (private, None);
                "200 So be it".into()
            }
            Action::Features => self.features().into(),
            Action::Help => "214 Read-only; RFC 959, 2228, 2389, 2428, 3659, 4217, 7151; SITE SHA256 name".into(),
            Action::User(name) => {
                self.user = Some(name);
                "331 Password?".into()
            }
            Action::Password(password) => self.login(password).await?,
            Action::WorkingDirectory => format!("257 {}", quoted(&self.cwd)).into(),
            Action::ChooseFacts(list) => {
                self.facts = Facts::chosen(&list);
                format!("200 MLST OPTS {}", self.facts.list()).into()
            }
            Action::Status => {
                let tls = if self.shared.tls.load(Relaxed) { "under TLS" } else { "in clear" };
                format!("211 Client {}, {tls}, directory {}", self.shared.peer, self.cwd).into()
            }
            Action::Abort => {
                self.passive = None;
                "226 No transfer".into()
            }
            Action::Restart(offset) => {
                self.offset = offset;
                format!("350 The next RETR starts at {offset}").into()
            }
            Action::EpsvOnly => {
                self.epsv_only = true;
                "200 EPSV only".into()
            }
            Action::Listen(extended) => self.listen(extended).await?.into(),
            Action::Ask(query, name) => self.ask(query, &name).await?.into(),
            Action::Retrieve(name) => self.retrieve(&name).await?,
            Action::Digest(name) => self.digest(&name).await?,
            Action::List(kind, name) => self.list(kind, &name).await?,
            Action::RefuseUpload => {
                self.passive = None;
                "550 Read-only".into()
            }
        })
    }

    fn features(&self) -> String {
        let tls = if self.context.tls.is_some() { " AUTH TLS\r\n" } else { "" };
        let protection = if self.context.tls.is_some() { " PBSZ\r\n PROT\r\n" } else { "" };
        let facts = self.facts.feature();
        format!(
            "211-Features\r\n{tls} CLNT\r\n EPSV\r\n HOST\r\n LANG EN*\r\n MDTM\r\n MLST {facts}\r\n PASV\r\n{protection} \
             REST STREAM\r\n SITE SHA256\r\n SIZE\r\n TVFS\r\n UTF8\r\n211 End"
        )
    }

    async fn inner(&mut self) -> io::Result<&mut Inner> {
        if self.inner.is_none() {
            self.inner = Some(Inner::start(&self.shared).await?);
        }
        self.inner.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    async fn login(&mut self, password: Option<Secret>) -> io::Result<Answer> {
        let Some(user) = self.user.take() else { return Ok("503 USER comes first".into()) };
        let Some(password) = password else { return Ok(self.failed_login().await) };
        self.shared.verdict.take();
        let inner = self.inner().await?;
        if inner.ask(&format!("USER {user}")).await?.code != 331 {
            return Ok(self.failed_login().await);
        }
        self.shared.password.put(password);
        // The authenticator takes the password from where it was just put; libunftp gets a word in its place.
        let reply = self.inner().await?.ask("PASS -").await?;
        let tls = self.shared.tls.load(Relaxed);
        match (self.shared.verdict.take(), self.shared.counter.take()) {
            (Some(Verdict::Admitted(customer)), Some(counter)) if reply.code == 230 => {
                self.counter = Some(counter.into());
                self.context.note(Event::Login(Login::Admitted));
                self.client.trust();
                tracing::info!(%customer, address = %self.shared.peer, tls, "logged in");
                Ok("230 Welcome".into())
            }
            (Some(Verdict::Refused(Refusal::Fault(Fault::Busy))), _) => {
                self.context.note(Event::Login(Login::Busy));
                Ok(farewell("421 Too many logins, try again later"))
            }
            (Some(Verdict::Refused(refusal)), _) if refusal.is_passing() => {
                self.context.note(Event::Login(Login::Unavailable));
                tracing::warn!(address = %self.shared.peer, "a login could not be checked: {}", daemon::report(&refusal));
                Ok(farewell("421 Logins cannot be checked now, try again later"))
            }
            (Some(Verdict::Refused(_)), _) => {
                // stagerd has it in the audit trail. A line for each would let any stranger push all others out of the journal.
                tracing::debug!(address = %self.shared.peer, tls, "login refused");
                Ok(self.failed_login().await)
            }
            // stagerd said yes to a session that is not confined, or whose state nobody knows: it ends here.
            _ => {
                self.context.note(Event::Login(Login::Unavailable));
                Ok(farewell("421 The account cannot be opened"))
            }
        }
    }

    async fn failed_login(&mut self) -> Answer {
        self.failures += 1;
        self.context.note(Event::Login(Login::Refused));
        sleep(self.context.failed_login_delay).await;
        let last = self.failures >= self.context.config.max_failed_logins;
        if last {
            self.context.note(Event::Limit(Limit::FailedLogins));
        }
        Answer { text: "530 Login incorrect".to_owned(), last }
    }

    async fn listen(&mut self, extended: bool) -> io::Result<String> {
        self.passive = None;
        // A task that was aborted keeps its listener until the runtime comes round to it.
        tokio::task::yield_now().await;
        let config = &self.context.config;
        let tls = self.context.tls.clone().filter(|_| self.private).map(|control| Private {
            acceptor: self.data_acceptor.get_or_insert_with(|| DataAcceptor::new(control)).clone(),
            resumed: config.require_data_resumption,
        });
        let Some((passive, port)) = Passive::open(self.local, &self.context, self.shared.peer, tls)? else {
            self.context.note(Event::Limit(Limit::Passive));
            return Ok("425 No free port".to_owned());
        };
        self.passive = Some(passive);
        if extended {
            return Ok(format!("229 Extended passive mode (|||{port}|)"));
        }
        let address = match self.context.public {
            Public::Local => self.local,
            Public::At(public) => IpAddr::V4(public),
            Public::Unknown => return Ok("425 The public address is not known yet, use EPSV".to_owned()),
        };
        let address = address.to_string().replace('.', ",");
        let [high, low] = port.to_be_bytes();
        Ok(format!("227 Passive mode ({address},{high},{low})"))
    }

    /// libunftp's error with our code and words, where the storage left some.
    fn explained(&self, reply: &Reply) -> String {
        match self.shared.reason.take() {
            Some((code, reason)) => format!("{code} {reason}"),
            None => reply.with_code(if reply.code == 451 { 550 } else { reply.code }),
        }
    }

    async fn ask(&mut self, query: Query, name: &str) -> io::Result<String> {
        let path = resolve(&self.cwd, name);
        self.shared.reason.take();
        self.shared.size.store(query == Query::Size, Relaxed);
        let reply = self.inner().await?.ask(&format!("{} {path}", query.verb())).await?;
        self.shared.size.store(false, Relaxed);
        Ok(match (query, reply.code) {
            (_, 400..) => self.explained(&reply),
            (Query::Cwd, 250) => {
                self.cwd = path;
                "250 Done".to_owned()
            }
            (Query::Mlst, 250) => self.one_entry(&reply),
            (Query::Stat, 200) => reply.with_code(213),
            _ => reply.text,
        })
    }

    /// The reply to MLST with the wanted facts only; the entry is the line that begins with a space.
    fn one_entry(&self, reply: &Reply) -> String {
        let line = |line: &str| match line.strip_prefix(' ') {
            Some(entry) => format!(" {}", self.facts.filter(entry.trim_start())),
            None => line.to_owned(),
        };
        reply.text.split_inclusive('\n').map(line).collect()
    }

    /// Lets libunftp begin a transfer; see [`begun`]. The inner error is the reply to the client.
    async fn begin(&mut self, verb: &str, path: &str) -> io::Result<Result<(Work, TcpStream), Answer>> {
        self.shared.reason.take();
        let Self { client, inner: Some(inner), work, .. } = self else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (begun, aborted) = client.settle(begun(inner, work, verb, path)).await?;
        match begun? {
            Ok((work, _loopback)) if aborted => {
                self.over(work.done).await?;
                Ok(Err(Answer::from("")))
            }
            Ok(begun) => Ok(Ok(begun)),
            Err(_) if aborted => Ok(Err(Answer::from(""))),
            Err(reply) => Ok(Err(self.explained(&reply).into())),
        }
    }

    /// Lets libunftp end its transfer. What it says of it is not the client's.
    async fn over(&mut self, work: tokio::sync::oneshot::Sender<()>) -> io::Result<()> {
        // If the storage no longer waits, libunftp's reply or its end tells.
        let _ = work.send(());
        self.inner().await?.answer().await?;
        Ok(())
    }

    /// SITE SHA256: the storeroom keeps objects by their hash, so nothing has to be read for it.
    async fn digest(&mut self, name: &str) -> io::Result<Answer> {
        let path = resolve(&self.cwd, name);
        let asked = async { self.shared.gatekeeper.lock().await.digest(&path).await };
        let (answer, aborted) = self.client.settle(asked).await?;
        Ok(match answer {
            _ if aborted => "".into(),
            Ok(sha256) => format!("213 {sha256}").into(),
            Err(refusal) => refused(&refusal),
        })
    }

    async fn list(&mut self, kind: Listing, name: &str) -> io::Result<Answer> {
        let Some(passive) = self.passive.take() else { return Ok("425 PASV or EPSV comes first".into()) };
        let path = resolve(&self.cwd, name);
        let (work, _loopback) = match self.begin(kind.verb(), &path).await? {
            Ok(begun) => begun,
            Err(answer) => return Ok(answer),
        };
        let Body::Bytes(mut bytes) = work.body else { return Err(io::Error::other("a listing of a file's bytes")) };
        if kind == Listing::Mlsd && self.facts != Facts::default() {
            let text = String::from_utf8_lossy(&bytes);
            bytes = text.split_inclusive('\n').map(|entry| self.facts.filter(entry)).collect::<String>().into_bytes();
        }
        let stall = self.context.config.stall();
        let announced = || self.fruitless = 0;
        let sent = transfer(&mut self.client, passive, &self.context.config, announced, async |mut data| {
            data.send_bytes(&bytes, stall).await
        })
        .await?;
        self.over(work.done).await?;
        Ok(sent.map_or_else(|failure| failure.reply(), |()| "226 Sent").into())
    }
}

/// The answer to a client of whom stagerd wants to hear nothing, or cannot be asked.
fn refused(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::Gone(error) => {
            tracing::warn!("stagerd could not be asked: {}", daemon::report(error));
            farewell("421 The service is not available, try again later")
        }
        refusal if refusal.is_passing() => "450 Not now, try again later".into(),
        Refusal::Fault(_) => "550 Not available".into(),
    }
}

/// Lets libunftp begin a transfer, up to the point where its storage hands over what is to be sent. The socket is its own data
/// connection, which has to live until it has given its last reply. The inner error is its reply.
async fn begun(
    inner: &mut Inner,
    work: &mut mpsc::Receiver<Work>,
    verb: &str,
    path: &str,
) -> io::Result<Result<(Work, TcpStream), Reply>> {
    let loopback = inner.data().await?;
    let reply = inner.ask(&format!("{verb} {path}")).await?;
    if reply.code != 150 {
        return Ok(Err(reply));
    }
    tokio::select! {
        Some(work) = work.recv() => Ok(Ok((work, loopback))),
        reply = inner.answer() => Ok(Err(reply?)),
    }
}

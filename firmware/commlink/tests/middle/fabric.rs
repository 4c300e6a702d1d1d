//! The wire between the ends, as he holds it: what comes in, in units, and what he lets go.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::tricks::Attacker;

/// One direction of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) session: usize,
    /// Towards the server.
    pub(crate) up: bool,
}

/// His ends of one session.
pub(crate) struct Link {
    /// Towards the client.
    pub(crate) near: DuplexStream,
    /// Towards the server.
    pub(crate) far: DuplexStream,
}

/// What he does.
pub(crate) enum Action {
    Send(Flow, Vec<u8>),
    /// Everything on this flow that comes later waits as long.
    Wait(Flow, Duration),
    /// This direction ends.
    Close(Flow),
}

/// All links.
pub(crate) struct Fabric(Vec<Link>);

impl Fabric {
    pub(crate) fn new(links: Vec<Link>) -> Self {
        Self(links)
    }

    /// Carries until all senders have ended; gives what each sender sent, in units.
    pub(crate) async fn run(self, mut attacker: Attacker) -> BTreeMap<Flow, Vec<Vec<u8>>> {
        let (events, mut incoming) = unbounded_channel();
        let (mut readers, mut writers) = (JoinSet::new(), JoinSet::new());
        let mut out = BTreeMap::new();
        let mut sent = BTreeMap::new();
        for (session, Link { near, far }) in self.0.into_iter().enumerate() {
            let ((near_in, near_out), (far_in, far_out)) = (tokio::io::split(near), tokio::io::split(far));
            for (up, from, to) in [(true, near_in, far_out), (false, far_in, near_out)] {
                let flow = Flow { session, up };
                let (queue, actions) = unbounded_channel();
                readers.spawn(read(flow, from, events.clone()));
                writers.spawn(write(to, actions));
                out.insert(flow, queue);
                sent.insert(flow, Vec::new());
            }
        }
        drop(events);
        while let Some((flow, unit)) = incoming.recv().await {
            let actions = match unit {
                Some(unit) => {
                    sent.get_mut(&flow).unwrap().push(unit.clone());
                    attacker.unit(flow, unit)
                }
                None => attacker.end(flow),
            };
            for action in actions {
                let (Action::Send(to, _) | Action::Wait(to, _) | Action::Close(to)) = &action;
                // An end that is gone takes nothing more.
                let _ = out[to].send(action);
            }
        }
        drop(out);
        while writers.join_next().await.is_some() {}
        sent
    }
}

/// A line, then frames: two bytes of length and as many more.
async fn unit(from: &mut (impl AsyncRead + Unpin), first: bool) -> Option<Vec<u8>> {
    let mut unit = Vec::new();
    if first {
        while unit.last() != Some(&b'\n') {
            unit.push(from.read_u8().await.ok()?);
        }
        return Some(unit);
    }
    let length = from.read_u16().await.ok()?;
    unit.extend_from_slice(&length.to_be_bytes());
    unit.resize(2 + usize::from(length), 0);
    from.read_exact(&mut unit[2..]).await.ok()?;
    Some(unit)
}

async fn read(flow: Flow, mut from: ReadHalf<DuplexStream>, events: UnboundedSender<(Flow, Option<Vec<u8>>)>) {
    let mut first = true;
    while let Some(unit) = unit(&mut from, first).await {
        first = false;
        let _ = events.send((flow, Some(unit)));
    }
    let _ = events.send((flow, None));
}

async fn write(mut to: WriteHalf<DuplexStream>, mut actions: UnboundedReceiver<Action>) {
    while let Some(action) = actions.recv().await {
        match action {
            Action::Send(_, bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Action::Wait(_, time) => tokio::time::sleep(time).await,
            Action::Close(_) => break,
        }
    }
    let _ = to.shutdown().await;
}

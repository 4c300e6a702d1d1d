use super::*;
use tobj::{Fault, Id, RequestTag, Text};

/// Counts what it gets: the reply's text has the label, the type and the length of the literal.
struct Echo {
    read_literal: bool,
}

impl Service for Echo {
    async fn call(&self, from: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let mut bytes = 0;
        if self.read_literal {
            bytes = tokio::io::copy(literal, &mut tokio::io::sink()).await.unwrap();
        }
        let Body::Request(body) = &request.body else { return request.fault(Fault::Invalid) };
        request.reply(Reply::refused(Fault::NotFound, &format!("{from} {} {bytes}", body.tag())))
    }
}

struct Running {
    _dir: tempfile::TempDir,
    path: PathBuf,
    trigger: crate::Trigger,
    task: tokio::task::JoinHandle<io::Result<()>>,
}

fn start(allowed: Peers, read_literal: bool) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (trigger, shutdown) = Shutdown::manual();
    let task = tokio::spawn(serve(bind(&path).unwrap(), allowed, Echo { read_literal }, shutdown));
    Running { _dir: dir, path, trigger, task }
}

fn text(reply: Reply) -> String {
    let Reply::Fault { text, .. } = reply else { panic!("{reply:?}") };
    text.to_string()
}

#[tokio::test]
async fn calls_and_literals() {
    let server = start(Peers::mine(), true);
    let client = Client::new(&server.path);
    assert_eq!(text(client.call("web", Request::Status {}).await.unwrap()), "web STATUS 0");
    let message = Message::request(Request::ObjectPut { sha256: None }).unwrap();
    let mut body = tokio::io::repeat(7);
    let reply = client.call_with_literal("operator:a", message, 3_000_000, &mut body).await.unwrap();
    assert_eq!(text(reply), "operator:a OBJECT-PUT 3000000");
    server.trigger.fire();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_early_answer_ends_the_sending() {
    let server = start(Peers::mine(), false);
    let message = Message::request(Request::ObjectPut { sha256: None }).unwrap();
    let mut endless = tokio::io::repeat(7);
    let reply = Client::new(&server.path).call_with_literal("x", message, u64::MAX, &mut endless).await.unwrap();
    assert_eq!(text(reply), format!("x {} 0", RequestTag::ObjectPut));
}

#[tokio::test]
async fn a_literal_that_ends_early_is_an_error() {
    let server = start(Peers::mine(), true);
    let message = Message::request(Request::ObjectPut { sha256: None }).unwrap();
    let outcome = Client::new(&server.path).call_with_literal("x", message, 10, &mut &b"short"[..]).await;
    assert!(matches!(outcome, Err(IpcError::Io(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_wrong_uid_is_turned_away() {
    let server = start(Peers::uids(&[u32::MAX - 1]), true);
    let outcome = Client::new(&server.path).call("x", Request::Status {}).await;
    assert!(matches!(outcome, Err(IpcError::Closed | IpcError::Io(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_silent_daemon_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = bind(&path).unwrap();
    let limit = Duration::from_millis(20);
    let outcome = Client::new(&path).with_answer_within(limit).call("x", Request::Status {}).await;
    assert!(matches!(outcome, Err(IpcError::Late(_))), "{outcome:?}");
}

#[tokio::test]
async fn frames_that_are_none() {
    let message = Message { id: Id::from([1; 16]), literal: None, body: Body::Request(Request::Status {}) };
    let frame = Frame { label: "l".repeat(MAX_LABEL), message };
    let good = frame.encode().unwrap();
    assert_eq!(read_frame(&mut &good[..]).await.unwrap(), Some(frame.clone()));
    assert!(read_frame(&mut &b""[..]).await.unwrap().is_none());
    assert!(Frame { label: "l".repeat(MAX_LABEL + 1), ..frame }.encode().is_err());
    for cut in 1..good.len() {
        assert!(read_frame(&mut &good[..cut]).await.is_err(), "cut at {cut}");
    }
    for header in [0u32, u32::try_from(MAX_FRAME).unwrap() + 1, u32::MAX] {
        assert!(matches!(read_frame(&mut &header.to_be_bytes()[..]).await, Err(IpcError::NotAFrame)));
    }
    let mut long_label = [0, 0, 0, 3, 9, b'a', b'b'];
    assert!(matches!(read_frame(&mut &long_label[..]).await, Err(IpcError::NotAFrame)));
    long_label[4] = 2;
    assert!(matches!(read_frame(&mut &long_label[..]).await, Err(IpcError::Invalid(_))));
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(bind(&path).unwrap());
    assert!(path.exists());
    bind(&path).unwrap();
    assert!(Text::new("x").is_ok());
}

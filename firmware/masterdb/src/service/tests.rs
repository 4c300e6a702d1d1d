use super::*;
use pasetors::claims::ClaimsValidationRules;
use pasetors::keys::{AsymmetricKeyPair, Generate};
use pasetors::paserk::FormatAsPaserk;
use pasetors::token::UntrustedToken;
use pasetors::version4::V4;
use pasetors::{Public, public};
use std::sync::Arc;
use tobj::{AuditEvent, AuditRecord, FileName, Id, LeaseKind, RequestTag, Secret, Sha256, Timestamp, TlsVersion};

const ALICE: &str = "correct horse";
const OPERATOR: &str = "operator:ada";
const PATIENCE: Duration = Duration::from_secs(30);

mod empty;
mod slow;
mod space;

struct Site {
    db: Arc<MasterDb>,
    trigger: daemon::Trigger,
    folder: tempfile::TempDir,
}

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

fn secret(s: &str) -> Secret {
    Secret::new(s).unwrap()
}

fn text(s: &str) -> Text {
    Text::new(s).unwrap()
}

/// Comes after [`PATIENCE`] by the real clock: where the runtime's stands still, a timer of its own would make it jump while the
/// store's thread works.
async fn late() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let (_still_waiting, given_up) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if given_up.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = tell.send(());
        }
    });
    told.await.unwrap();
}

fn key() -> Signer {
    let mut paserk = String::new();
    AsymmetricKeyPair::<V4>::generate().unwrap().secret.fmt(&mut paserk).unwrap();
    Signer::from_paserk(&paserk).unwrap()
}

fn config(folder: &std::path::Path) -> Config {
    Config {
        name: name("database"),
        store: folder.join("m.redb"),
        socket: "unused".into(),
        allow_uids: vec![],
        grant_key: "unused".into(),
        web: Some(name("web")),
        min_free_bytes: 0,
        reserve_bytes: 0,
        lifetimes: Lifetimes::default(),
    }
}

impl Site {
    /// A database without anything in it.
    async fn empty() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with another configuration.
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let store = Store::open(&config.store).await.unwrap();
        let (trigger, shutdown) = Shutdown::manual();
        let db = Arc::new(MasterDb::new(&config, store, key(), shutdown).await.unwrap());
        Self { db, trigger, folder }
    }

    /// A database with a customer, `alice`, two objects, `maps` 1 and 2, and her right to the first.
    async fn new() -> Self {
        Self::empty().await.filled().await
    }

    async fn filled(self) -> Self {
        self.order(Request::CustomerAdd { customer: name("alice"), password: secret(ALICE) }).await;
        for version in ["1", "2"] {
            self.order(object_add(version, 1)).await;
        }
        self.order(entitlement_add(Some("1"), None)).await;
        self
    }

    async fn send(&self, from: &str, message: Message) -> Reply {
        let id = message.id;
        let mut nothing = tokio::io::empty();
        let answer = tokio::select! {
            answer = self.db.call(from, message, &mut nothing) => answer,
            _ = late() => panic!("no answer"),
        };
        let Message { id: of, body: Body::Reply(reply), literal: None } = answer else { panic!("{answer:?}") };
        assert_eq!(of, id);
        reply
    }

    async fn ask(&self, from: &str, request: Request) -> Reply {
        self.send(from, Message::request(request).unwrap()).await
    }

    async fn order(&self, request: Request) {
        assert_eq!(self.ask(OPERATOR, request).await, Reply::Done {});
    }

    async fn login(&self, customer: &str, password: &str) -> Reply {
        let (customer, password, address) = (text(customer), secret(password), text("192.0.2.1"));
        self.ask("web", Request::Login { customer, password, address }).await
    }

    async fn session(&self) -> Secret {
        match self.login("alice", ALICE).await {
            Reply::Session { session, customer, .. } if customer == name("alice") => session,
            other => panic!("{other:?}"),
        }
    }

    async fn check(&self, customer: &str, password: &str) -> Reply {
        let (customer, password, address) = (text(customer), secret(password), text("192.0.2.1"));
        self.ask("download", Request::LoginCheck { customer, password, address }).await
    }

    /// The database's trail: event, customer, words.
    async fn trail(&self) -> Vec<(AuditEvent, Option<String>, String)> {
        match self.ask(OPERATOR, Request::AuditList { after: 0 }).await {
            Reply::AuditTrail { items, more: false } => items
                .into_iter()
                .map(|e| e.record)
                .map(|r| (r.event, r.customer.map(|c| c.to_string()), r.outcome.unwrap().to_string()))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn events(&self, event: AuditEvent) -> usize {
        self.trail().await.iter().filter(|(e, ..)| *e == event).count()
    }
}

fn object_add(version: &str, sha256: u8) -> Request {
    Request::ObjectAdd {
        product: name("maps"),
        version: name(version),
        file: FileName::new("the map.bin").unwrap(),
        size: 7,
        sha256: Sha256::from([sha256; 32]),
        download: name("download"),
    }
}

fn entitlement_add(version: Option<&str>, until: Option<Timestamp>) -> Request {
    Request::EntitlementAdd { customer: name("alice"), product: name("maps"), version: version.map(name), until }
}

fn entitlement_remove(version: Option<&str>) -> Request {
    Request::EntitlementRemove { customer: name("alice"), product: name("maps"), version: version.map(name) }
}

fn password(new: &str) -> Request {
    Request::CustomerPassword { customer: name("alice"), password: secret(new) }
}

fn grant(session: &Secret, version: &str) -> Request {
    Request::Grant {
        session: session.clone(),
        product: name("maps"),
        version: name(version),
        kind: LeaseKind::Standing,
    }
}

fn catalogue(session: &Secret) -> Request {
    Request::Catalogue { session: session.clone(), offset: 0 }
}

fn is_fault(reply: Reply, expected: Fault) {
    match reply {
        Reply::Fault { fault, .. } => assert_eq!(fault, expected),
        other => panic!("{other:?} in place of {expected}"),
    }
}

fn is_opaque(reply: Reply, expected: Fault) {
    assert_eq!(reply, fault(expected), "no words for a peer");
}

#[tokio::test]
async fn the_customers_way() {
    let site = Site::new().await;
    let session = site.session().await;
    let Reply::Catalogue { items, more: false } = site.ask("web", catalogue(&session)).await else { panic!() };
    assert_eq!(items.iter().map(|i| i.version.as_str()).collect::<Vec<_>>(), ["1"]);

    let message = Message::request(grant(&session, "1")).unwrap();
    let first = site.send("web", message.clone()).await;
    let Reply::Granted { grant: token, download } = first.clone() else { panic!("{first:?}") };
    assert_eq!(download, name("download"));
    let public = site.db.signer.public().unwrap();
    let untrusted = UntrustedToken::<Public, V4>::try_from(token.expose()).unwrap();
    let mut rules = ClaimsValidationRules::new();
    rules.validate_subject_with("alice");
    rules.validate_audience_with("download");
    public::verify(&public, &untrusted, &rules, None, Some(crate::grant::ASSERTION)).unwrap();

    assert_eq!(site.send("web", message.clone()).await, first, "asked again, the same grant");
    assert_eq!(site.events(AuditEvent::Granted).await, 1);
    let other = Message { body: Body::Request(grant(&session, "2")), ..message };
    is_opaque(site.send("web", other).await, Fault::Invalid);

    assert_eq!(site.ask("web", Request::Logout { session: session.clone() }).await, Reply::Done {});
    assert_eq!(site.ask("web", Request::Logout { session: session.clone() }).await, Reply::Done {});
    is_opaque(site.ask("web", grant(&session, "1")).await, Fault::Expired);
    is_opaque(site.ask("web", catalogue(&session)).await, Fault::Expired);
}

#[tokio::test]
async fn what_is_not_his_is_denied_and_told() {
    let site = Site::new().await;
    let session = site.session().await;
    is_opaque(site.ask("web", grant(&session, "2")).await, Fault::Denied);
    is_opaque(site.ask("web", grant(&session, "9")).await, Fault::Denied);
    site.order(entitlement_add(None, None)).await;
    is_opaque(site.ask("web", grant(&session, "9")).await, Fault::Denied);
    assert!(matches!(site.ask("web", grant(&session, "2")).await, Reply::Granted { .. }));
    let refused: Vec<_> = site.trail().await.into_iter().filter(|(e, ..)| *e == AuditEvent::GrantRefused).collect();
    let words: Vec<_> = refused.iter().map(|(_, _, words)| words.as_str()).collect();
    let expected =
        ["STANDING maps 2: not entitled", "STANDING maps 9: not entitled", "STANDING maps 9: no such object"];
    assert_eq!(words, expected);
    assert!(refused.iter().all(|(_, customer, _)| customer.as_deref() == Some("alice")));

    site.order(entitlement_remove(None)).await;
    site.order(entitlement_add(Some("1"), Some(Timestamp(Timestamp::now().0 - 1)))).await;
    is_opaque(site.ask("web", grant(&session, "1")).await, Fault::Denied);
    let Reply::Catalogue { items, .. } = site.ask("web", catalogue(&session)).await else { panic!() };
    assert!(items.is_empty(), "its end has come");
}

#[tokio::test]
async fn wrong_and_unknown_are_not_told_apart() {
    let site = Site::new().await;
    for (customer, password) in
        [("alice", "wrong"), ("bob", ALICE), ("no name at all", ALICE), ("", ""), ("Alice", ALICE)]
    {
        is_opaque(site.login(customer, password).await, Fault::Denied);
        is_opaque(site.check(customer, password).await, Fault::Denied);
    }
    let refused: Vec<_> = site.trail().await.into_iter().filter(|(e, ..)| *e == AuditEvent::LoginRefused).collect();
    let typed: Vec<_> = refused.iter().filter_map(|(_, customer, _)| customer.as_deref()).collect();
    assert_eq!(typed, ["alice", "bob", "no name at all", "", "Alice"], "of the portal; a check is not ours to tell");
    let Reply::Verified { customer } = site.check("alice", ALICE).await else { panic!() };
    assert_eq!(customer, name("alice"));
    site.session().await;
    assert_eq!(site.events(AuditEvent::Login).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_time() {
    let site = Site::new().await;
    let session = site.session().await;
    let life = Duration::from_secs(Lifetimes::default().session);
    tokio::time::advance(life - Duration::from_secs(1)).await;
    assert!(matches!(site.ask("web", catalogue(&session)).await, Reply::Catalogue { .. }));
    tokio::time::advance(Duration::from_secs(1)).await;
    is_opaque(site.ask("web", catalogue(&session)).await, Fault::Expired);
    is_opaque(site.ask("web", grant(&session, "1")).await, Fault::Expired);
    assert_eq!(site.events(AuditEvent::Granted).await, 0);
}

#[tokio::test]
async fn a_new_password_ends_sessions_and_what_is_cached() {
    let site = Site::new().await;
    let session = site.session().await;
    site.order(password("battery staple")).await;
    is_opaque(site.ask("web", grant(&session, "1")).await, Fault::Expired);
    is_opaque(site.check("alice", ALICE).await, Fault::Denied);
    assert!(matches!(site.check("alice", "battery staple").await, Reply::Verified { .. }));
    let Reply::Revocations { items, upto: 1, .. } = site.ask("download", Request::WaitRevocations { after: 0 }).await
    else {
        panic!()
    };
    assert_eq!((items[0].customer.clone(), items[0].product.clone()), (name("alice"), None));
}

#[tokio::test]
async fn a_download_appliance_gets_grants_for_itself_while_its_customer_is_there() {
    let site = Site::new().await;
    site.order(Request::ObjectAdd {
        product: name("maps"),
        version: name("3"),
        file: FileName::new("the map.bin").unwrap(),
        size: 7,
        sha256: Sha256::from([3; 32]),
        download: name("elsewhere"),
    })
    .await;
    site.order(entitlement_add(None, None)).await;
    let (customer, address) = (text("alice"), text("192.0.2.1"));
    let login = |password: &str| Request::Login {
        customer: customer.clone(),
        password: secret(password),
        address: address.clone(),
    };
    is_opaque(site.ask("download", login("wrong")).await, Fault::Denied);
    let Reply::Session { session, .. } = site.ask("download", login(ALICE)).await else { panic!() };
    let logins = site.events(AuditEvent::Login).await + site.events(AuditEvent::LoginRefused).await;
    assert_eq!(logins, 0, "the appliance tells the trail itself");
    let versions = async |machine| match site.ask(machine, catalogue(&session)).await {
        Reply::Catalogue { items, more: false } => items.into_iter().map(|i| i.version.to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(versions("download").await, ["1", "2"], "what is elsewhere is not told");
    for (version, allowed) in [("1", true), ("2", true), ("3", false), ("4", false)] {
        let reply = site.ask("download", grant(&session, version)).await;
        assert_eq!(
            matches!(&reply, Reply::Granted { download, .. } if *download == name("download")),
            allowed,
            "{version}"
        );
    }
    let one_time = Request::Grant {
        session: session.clone(),
        product: name("maps"),
        version: name("1"),
        kind: LeaseKind::OneTime,
    };
    is_opaque(site.ask("download", one_time).await, Fault::Denied);
    // The session is of no use to another machine, nor after its end.
    for machine in ["web", "elsewhere"] {
        is_opaque(site.ask(machine, grant(&session, "1")).await, Fault::Expired);
    }
    site.ask("download", Request::Logout { session: session.clone() }).await;
    is_opaque(site.ask("download", grant(&session, "1")).await, Fault::Expired);
}

#[tokio::test]
async fn a_customer_is_kept_out_and_let_in_again_and_removed() {
    let site = Site::new().await;
    let session = site.session().await;
    let enable = |enabled| Request::CustomerEnable { customer: name("alice"), enabled };
    site.order(enable(false)).await;
    is_opaque(site.ask("web", catalogue(&session)).await, Fault::Expired);
    is_opaque(site.login("alice", ALICE).await, Fault::Denied);
    is_opaque(site.check("alice", ALICE).await, Fault::Denied);
    let enabled = async || match site.ask(OPERATOR, Request::CustomerList { offset: 0 }).await {
        Reply::Customers { items, more: false } => items.into_iter().map(|c| c.enabled).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(enabled().await, [false]);
    site.order(enable(true)).await;
    is_opaque(site.ask("web", catalogue(&session)).await, Fault::Expired);
    assert_eq!(enabled().await, [true]);
    let session = site.session().await;
    site.order(Request::CustomerRemove { customer: name("alice") }).await;
    is_opaque(site.ask("web", catalogue(&session)).await, Fault::Expired);
    is_opaque(site.login("alice", ALICE).await, Fault::Denied);
    is_fault(site.ask(OPERATOR, Request::CustomerRemove { customer: name("alice") }).await, Fault::NotFound);
    is_fault(site.ask(OPERATOR, enable(true)).await, Fault::NotFound);
    // Another one of that name has nothing of hers.
    site.order(Request::CustomerAdd { customer: name("alice"), password: secret(ALICE) }).await;
    let session = site.session().await;
    let reply = site.ask("web", catalogue(&session)).await;
    assert!(matches!(reply, Reply::Catalogue { items, .. } if items.is_empty()));
    let admin = site.trail().await.into_iter().filter(|(e, ..)| *e == AuditEvent::Admin).map(|(.., words)| words);
    let words: Vec<_> = admin.filter(|w| w.contains("customer")).collect();
    assert_eq!(
        words,
        [
            "ada: customer added",
            "ada: customer disabled",
            "ada: customer enabled",
            "ada: customer removed",
            "ada: customer added"
        ]
    );
}

#[tokio::test]
async fn what_is_in_the_way_of_a_name_is_told() {
    let site = Site::new().await;
    let Reply::Fault { fault: Fault::Invalid, text } = site.ask(OPERATOR, object_add("1", 9)).await else { panic!() };
    let words = text.as_str();
    assert!(words.contains("the map.bin, 7 bytes, sha256 0101") && words.contains("retire"), "{words}");
    let remove = Request::ObjectRemove { product: name("maps"), version: name("1") };
    site.order(remove.clone()).await;
    is_fault(site.ask(OPERATOR, remove).await, Fault::NotFound);
    site.order(object_add("1", 9)).await;
}

#[tokio::test]
async fn a_session_that_a_new_password_overtook_is_worth_nothing() {
    let site = Site::new().await;
    // As a login would that was checked before the change and opens its session after it.
    site.order(password("battery staple")).await;
    let late = site.db.sessions.open(name("alice"), 1, name("web"), Instant::now()).unwrap().unwrap();
    is_opaque(site.ask("web", catalogue(&late)).await, Fault::Expired);
    is_opaque(site.ask("web", grant(&late, "1")).await, Fault::Expired);
}

#[tokio::test]
async fn revocations_come_when_they_happen() {
    let site = Site::new().await;
    let db = site.db.clone();
    let waiting = tokio::spawn(async move {
        let message = Message::request(Request::WaitRevocations { after: 0 }).unwrap();
        db.call("download", message, &mut tokio::io::empty()).await
    });
    tokio::time::timeout(PATIENCE, async {
        while site.db.revoked.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(!waiting.is_finished());
    site.order(entitlement_remove(Some("1"))).await;
    let answer = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    let Body::Reply(Reply::Revocations { items, upto: 1, .. }) = answer.body else { panic!("{answer:?}") };
    assert_eq!(
        (items.len(), items[0].product.clone(), items[0].version.clone()),
        (1, Some(name("maps")), Some(name("1")))
    );
}

#[tokio::test(start_paused = true)]
async fn without_revocations_the_answer_comes_within_a_minute() {
    let site = Site::new().await;
    let begun = Instant::now();
    let reply = site.ask("download", Request::WaitRevocations { after: 0 }).await;
    assert!(matches!(reply, Reply::Revocations { ref items, upto: 0, .. } if items.is_empty()), "{reply:?}");
    assert!(begun.elapsed() >= machine::WAIT && begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let reply = site.ask("download", Request::WaitRevocations { after: 5 }).await;
    assert!(matches!(reply, Reply::Revocations { upto: 0, .. }) && begun.elapsed().is_zero(), "{reply:?}");
    site.trigger.fire();
    let begun = Instant::now();
    site.ask("download", Request::WaitRevocations { after: 0 }).await;
    assert!(begun.elapsed().is_zero(), "a shutdown does not wait for it");
}

#[tokio::test]
async fn orders_are_done_once_and_told_once() {
    let site = Site::new().await;
    let before = site.events(AuditEvent::Admin).await;
    let orders = [
        Request::CustomerAdd { customer: name("bob"), password: secret("long enough") },
        password("long enough"),
        object_add("3", 3),
        entitlement_add(Some("3"), None),
        entitlement_remove(Some("3")),
    ];
    for (n, order) in orders.into_iter().enumerate() {
        let message = Message::request(order).unwrap();
        for _ in 0..2 {
            assert_eq!(site.send(OPERATOR, message.clone()).await, Reply::Done {}, "{n}");
        }
        assert_eq!(site.events(AuditEvent::Admin).await, before + n + 1);
        let other = Message { body: Body::Request(object_add("4", 4)), ..message.clone() };
        is_fault(site.send(OPERATOR, other).await, Fault::Invalid);
        is_fault(site.send("operator:bob", message).await, Fault::Invalid);
    }
    let trail = site.trail().await;
    let words: Vec<_> = trail[before..].iter().map(|(_, _, words)| words.as_str()).collect();
    let expected = [
        "ada: customer added",
        "ada: password set",
        "ada: object added: maps 3 the map.bin on download",
        "ada: entitled to maps 3",
        "ada: no longer entitled to maps 3",
    ];
    assert_eq!(words, expected);
}

#[tokio::test]
async fn orders_that_make_no_sense_change_nothing() {
    let site = Site::new().await;
    let before = site.trail().await.len();
    let add =
        |customer: &str, password: &str| Request::CustomerAdd { customer: name(customer), password: secret(password) };
    let unknown = |customer: &str, product: &str| Request::EntitlementAdd {
        customer: name(customer),
        product: name(product),
        version: None,
        until: None,
    };
    let refused = [
        (add("alice", ALICE), Fault::Invalid),
        (add("bob", "1234567"), Fault::Invalid),
        (Request::CustomerPassword { customer: name("bob"), password: secret(ALICE) }, Fault::NotFound),
        (password(""), Fault::Invalid),
        (object_add("1", 9), Fault::Invalid),
        (entitlement_add(Some("9"), None), Fault::NotFound),
        (unknown("bob", "maps"), Fault::NotFound),
        (unknown("alice", "music"), Fault::NotFound),
        (entitlement_remove(Some("2")), Fault::NotFound),
        (entitlement_remove(None), Fault::NotFound),
    ];
    for (request, expected) in refused {
        let reply = site.ask(OPERATOR, request.clone()).await;
        match &reply {
            Reply::Fault { text, .. } => assert!(!text.as_str().is_empty(), "an operator learns why: {request:?}"),
            other => panic!("{request:?}: {other:?}"),
        }
        is_fault(reply, expected);
    }
    site.order(object_add("1", 1)).await;
    assert_eq!(site.trail().await.len(), before);
    site.order(add("bob", "12345678")).await;
}

/// What a download machine tells of a transfer.
fn transfer(seq: u64) -> AuditRecord {
    AuditRecord {
        seq,
        at: Timestamp(5),
        event: AuditEvent::Transfer,
        customer: Some(text("alice")),
        address: None,
        lease: Some(Id::from([3; 16])),
        sha256: None,
        offset: Some(0),
        bytes: Some(7),
        milliseconds: Some(1500),
        tls: Some(TlsVersion::Tls13),
        outcome: Some(text("complete")),
    }
}

#[tokio::test]
async fn audit_records_come_once_and_without_gaps() {
    let site = Site::new().await;
    let audit = |seqs: &[u64]| Request::Audit { records: seqs.iter().map(|seq| transfer(*seq)).collect() };
    is_opaque(site.ask("download", audit(&[2])).await, Fault::Invalid);
    assert_eq!(site.ask("download", audit(&[1, 2])).await, Reply::Acknowledged { upto: 2 });
    assert_eq!(site.ask("download", audit(&[1, 2, 3])).await, Reply::Acknowledged { upto: 3 });
    is_opaque(site.ask("download", audit(&[5])).await, Fault::Invalid);
    assert_eq!(site.ask("download2", audit(&[1])).await, Reply::Acknowledged { upto: 1 });
    for (appliance, upto) in [("download", 3), ("download2", 1), ("download3", 0)] {
        assert_eq!(site.ask(appliance, audit(&[])).await, Reply::Acknowledged { upto }, "without a record it is asked");
    }
    is_opaque(site.ask("database", audit(&[99])).await, Fault::Denied);
    assert_eq!(site.events(AuditEvent::Transfer).await, 4);
}

/// One request of each type that the database could be asked.
fn one_of_each() -> Vec<Request> {
    let (session, address, record) = (secret("none"), text("192.0.2.1"), Vec::new());
    let (customer, password) = (text("alice"), secret(ALICE));
    vec![
        Request::Status {},
        Request::Login { customer: customer.clone(), password: password.clone(), address: address.clone() },
        Request::Logout { session: session.clone() },
        catalogue(&session),
        grant(&session, "1"),
        Request::LoginCheck { customer, password, address: address.clone() },
        Request::Audit { records: record },
        Request::WaitRevocations { after: 7 },
        Request::CustomerAdd { customer: name("eve"), password: secret("long enough") },
        self::password("long enough"),
        Request::CustomerEnable { customer: name("alice"), enabled: true },
        Request::CustomerRemove { customer: name("nobody") },
        Request::CustomerList { offset: 0 },
        Request::ObjectRemove { product: name("maps"), version: name("9") },
        Request::ObjectBegin { sha256: Sha256::from([0; 32]), size: 1 },
        Request::ObjectAppend { sha256: Sha256::from([0; 32]), offset: 0 },
        Request::ObjectStore { offset: 0 },
        Request::ObjectVerify { sha256: None },
        Request::ObjectRetire { sha256: Sha256::from([0; 32]), force: false },
        object_add("5", 5),
        Request::ObjectList { offset: 0 },
        entitlement_add(Some("1"), None),
        entitlement_remove(Some("1")),
        Request::EntitlementList { offset: 0 },
        Request::AuditList { after: 0 },
        Request::Stage { grant: secret("x") },
        Request::Relay { to: name("database") },
        Request::ObjectPut { sha256: None },
        Request::LeaseList { offset: 0 },
        Request::LeaseShow { lease: Id::from([0; 16]) },
        Request::LeaseRevoke { lease: Id::from([0; 16]) },
        Request::FtpSession { address },
    ]
}

#[tokio::test]
async fn who_may_ask_what() {
    use RequestTag::*;
    let web = [Status, Login, Logout, Catalogue, Grant].as_slice();
    let download = &[Status, Login, Logout, Catalogue, Grant, LoginCheck, Audit, WaitRevocations];
    let operator = &[
        Status,
        CustomerAdd,
        CustomerPassword,
        CustomerEnable,
        CustomerRemove,
        CustomerList,
        ObjectAdd,
        ObjectRemove,
        ObjectList,
        EntitlementAdd,
        EntitlementRemove,
        EntitlementList,
        AuditList,
    ];
    let nobody: &[RequestTag] = &[];
    let rows: [(&str, &[RequestTag]); 9] = [
        ("web", web),
        ("download", download),
        (OPERATOR, operator),
        ("database", &[Status]),
        ("", nobody),
        ("operator:", nobody),
        ("operator:a b", nobody),
        ("operator", download),
        ("no/machine", nobody),
    ];
    for (from, allowed) in rows {
        let site = Site::new().await;
        for request in one_of_each() {
            let tag = request.tag();
            let reply = site.ask(from, request).await;
            let denied = matches!(reply, Reply::Fault { fault: Fault::Denied, .. });
            assert_eq!(denied, !allowed.contains(&tag), "{from} {tag}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn what_is_no_plain_request_is_invalid() {
    let site = Site::empty().await;
    let message = Message::request(Request::Status {}).unwrap();
    is_opaque(site.send("web", Message { literal: Some(1), ..message.clone() }).await, Fault::Invalid);
    is_opaque(site.send("web", message.reply(Reply::Done {})).await, Fault::Invalid);
}

#[tokio::test]
async fn the_status_tells_of_the_store() {
    let site = Site::new().await;
    site.session().await;
    let Reply::StatusReport { name: of, role, checks, .. } = site.ask("web", Request::Status {}).await else {
        panic!()
    };
    assert_eq!((of, role), (name("database"), name("database")));
    let told: Vec<_> = checks.iter().map(|c| (c.name.as_str(), c.healthy, c.detail.as_str())).collect();
    let disk = checks[1].detail.as_str();
    assert!(disk.ends_with(" bytes are free"), "{disk}");
    let day = super::day(Timestamp::now());
    let store = format!("1 customers, 2 objects, 5 audit records, since {day}");
    let expected = [("store", true, store.as_str()), ("disk", true, disk), ("sessions", true, "1 sessions")];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn without_a_store_nothing_is_acknowledged() {
    let site = Site::new().await;
    let broken = site.db.store.write(|_| -> Result<(), StoreError> {
        Err(StoreError::Redb(Box::new(redb::Error::Corrupted("for a test".into()))))
    });
    assert!(broken.await.is_err());
    tokio::time::timeout(PATIENCE, site.db.store_stopped()).await.unwrap();
    is_opaque(site.login("alice", ALICE).await, Fault::Unavailable);
    is_opaque(site.ask("download", Request::Audit { records: vec![] }).await, Fault::Unavailable);
    is_fault(site.ask(OPERATOR, entitlement_remove(Some("1"))).await, Fault::Unavailable);
}

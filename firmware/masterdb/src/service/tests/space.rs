//! What strangers can make the database keep.

use super::super::REFUSALS_RECORDED;
use super::*;
use daemon::log::RECORDED;

impl Site {
    /// A refused login as the portal would ask for it, each from an address of its own.
    async fn refuse(&self, n: u32, customer: &str) {
        let address = text(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string());
        let login = Request::Login { customer: text(customer), password: secret("wrong"), address };
        is_opaque(self.ask("web", login).await, Fault::Denied);
    }

    async fn refused(&self) -> Vec<(Option<String>, String)> {
        let trail = self.trail().await.into_iter();
        trail.filter(|(event, ..)| *event == AuditEvent::LoginRefused).map(|(_, who, words)| (who, words)).collect()
    }

    async fn disk(&self) -> Check {
        let Reply::StatusReport { checks, .. } = self.ask("web", Request::Status {}).await else { panic!() };
        checks.into_iter().find(|check| check.name.as_str() == "disk").unwrap()
    }
}

#[tokio::test]
async fn of_a_name_that_was_typed_the_beginning_is_recorded() {
    let site = Site::empty().await;
    let (longest, longer, wide) = ("x".repeat(RECORDED), "x".repeat(RECORDED + 1), format!("x{}", "ü".repeat(2000)));
    for (n, typed) in (0..).zip([&longest, &longer, &wide]) {
        site.refuse(n, typed).await;
    }
    let recorded: Vec<_> = site.refused().await.into_iter().filter_map(|(who, _)| who).collect();
    assert_eq!(recorded, [longest.clone(), longest, format!("x{}", "ü".repeat(RECORDED / 2 - 1))]);
}

#[tokio::test(start_paused = true)]
async fn refused_logins_beyond_their_number_are_one_record() {
    let site = Site::empty().await;
    for _ in 1..REFUSALS_RECORDED {
        site.db.refused.pass(Instant::now());
    }
    for n in 0..4 {
        site.refuse(n, &format!("c{n}")).await;
    }
    let recorded = |who: &str| (Some(who.to_owned()), "wrong name or password".to_owned());
    assert_eq!(site.refused().await, [recorded("c0")]);
    tokio::time::advance(daemon::RateLimit::INTERVAL).await;
    site.refuse(4, "c4").await;
    let counted = "3 that were not recorded one by one: too many a minute, or no space for them";
    assert_eq!(site.refused().await, [recorded("c0"), (None, counted.to_owned()), recorded("c4")]);
}

#[tokio::test]
async fn what_was_counted_only_is_recorded_at_the_end() {
    let site = Site::with(|config| config.reserve_bytes = u64::MAX).await;
    site.refuse(1, "alice").await;
    site.refuse(2, "bob").await;
    site.db.record_suppressed().await.unwrap();
    site.db.record_suppressed().await.unwrap();
    let refused = site.refused().await;
    assert!(refused.len() == 1 && refused[0].1.starts_with("2 that were not recorded"), "{refused:?}");
}

#[tokio::test]
async fn without_space_customers_leave_nothing_and_all_others_go_on() {
    let site = Site::with(|config| config.reserve_bytes = u64::MAX).await.filled().await;
    let session = site.session().await;
    let before = site.trail().await.len();
    is_opaque(site.ask("web", grant(&session, "1")).await, Fault::Unavailable);
    is_opaque(site.ask("web", grant(&session, "2")).await, Fault::Unavailable);
    site.refuse(1, "bob").await;
    assert_eq!(site.trail().await.len(), before);
    assert!(matches!(site.ask("web", catalogue(&session)).await, Reply::Catalogue { .. }));
    assert!(matches!(site.check("alice", ALICE).await, Reply::Verified { .. }));

    site.order(object_add("3", 3)).await;
    let audit = Request::Audit { records: vec![transfer(1)] };
    assert_eq!(site.ask("download", audit).await, Reply::Acknowledged { upto: 1 });
    assert_eq!(site.trail().await.len(), before + 2);

    let check = site.disk().await;
    assert!(!check.healthy && check.detail.as_str().contains("no grants are issued"), "{check:?}");
}

/// A grant that was issued is told again also without space: its request is not a new one.
#[tokio::test]
async fn a_grant_from_before_is_told_again() {
    let mut site = Site::new().await;
    let session = site.session().await;
    let message = Message::request(grant(&session, "1")).unwrap();
    let first = site.send("web", message.clone()).await;
    assert!(matches!(first, Reply::Granted { .. }));
    let db = Arc::get_mut(&mut site.db).unwrap();
    db.space = Space::new(&Config { reserve_bytes: u64::MAX, ..config(site.folder.path()) });
    assert_eq!(site.send("web", message).await, first);
    is_opaque(site.ask("web", grant(&session, "1")).await, Fault::Unavailable);
}

#[tokio::test]
async fn it_is_told_before_it_is_full() {
    let site = Site::with(|config| config.min_free_bytes = u64::MAX).await.filled().await;
    let check = site.disk().await;
    assert!(!check.healthy && check.detail.as_str().contains("ffsctl storage replace"), "{check:?}");
    let session = site.session().await;
    assert!(matches!(site.ask("web", grant(&session, "1")).await, Reply::Granted { .. }));
}

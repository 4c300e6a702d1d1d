//! Logins that are slowed, or too many.

use super::*;

#[tokio::test(start_paused = true)]
async fn failures_slow_the_next_login_and_success_ends_that() {
    let site = Site::new().await;
    let mut waited = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        is_opaque(site.login("alice", "wrong").await, Fault::Denied);
        waited.push(begun.elapsed());
    }
    assert!(waited[..3].iter().all(|w| w.is_zero()), "{waited:?}");
    assert!(waited[3] >= crate::throttle::PAIR_FIRST && waited[4] >= 2 * crate::throttle::PAIR_FIRST, "{waited:?}");
    let begun = Instant::now();
    site.session().await;
    assert!(begun.elapsed() >= 4 * crate::throttle::PAIR_FIRST, "slow, and yet let in");
    let begun = Instant::now();
    site.session().await;
    assert!(begun.elapsed().is_zero());
}

#[tokio::test]
async fn too_many_at_once_are_told_to_come_later() {
    let site = Site::new().await;
    let admit = || site.db.throttle.admit("alice", "192.0.2.1", Instant::now());
    let held: Vec<_> = std::iter::from_fn(admit).collect();
    is_opaque(site.login("alice", ALICE).await, Fault::Busy);
    is_opaque(site.check("alice", ALICE).await, Fault::Busy);
    drop(held);
    site.session().await;
}

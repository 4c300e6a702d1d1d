//! What is withdrawn with a right, and what is not because another right covers it.

use super::*;
use entitlements::ONE_BY_ONE;
use std::collections::BTreeSet;

/// No lease that is granted now ends later.
const LAST: u64 = LIVES.standing;

/// A database with a customer and a product of three versions, within one transaction.
struct Shop {
    txn: WriteTransaction,
    now: Timestamp,
    request: u128,
}

fn shop() -> Shop {
    let database = Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
    tables::prepare(&database).unwrap();
    let txn = database.begin_write().unwrap();
    for customer in ["alice", "bob"] {
        customers::add(&txn, &name(customer), "h".into(), NOW).unwrap();
    }
    for (product, version) in [("maps", "1"), ("maps", "2"), ("maps", "3"), ("music", "1")] {
        objects::add(&txn, &name(product), &name(version), &object(1)).unwrap();
    }
    Shop { txn, now: NOW, request: 0 }
}

impl Shop {
    fn give(&self, version: Option<&str>, until: Option<u64>) -> Vec<Option<String>> {
        let (version, until) = (version.map(name), until.map(|s| NOW.plus(s)));
        let (alice, maps) = (name("alice"), name("maps"));
        self.withdrawn(|txn| {
            assert!(entitlements::add(txn, &alice, &maps, version.as_ref(), until, &LIVES, self.now).unwrap());
        })
    }

    fn take(&self, version: Option<&str>) -> Vec<Option<String>> {
        let (version, alice, maps) = (version.map(name), name("alice"), name("maps"));
        self.withdrawn(|txn| {
            assert!(entitlements::remove(txn, &alice, &maps, version.as_ref(), &LIVES, self.now).unwrap());
        })
    }

    /// The versions that a change withdraws; `None` for all.
    fn withdrawn(&self, change: impl FnOnce(&WriteTransaction)) -> Vec<Option<String>> {
        let before = revocations::last(&self.txn).unwrap();
        change(&self.txn);
        let table = self.txn.open_table(tables::REVOCATIONS).unwrap();
        let rows = table.range(before + 1..).unwrap().map(|row| {
            let row: rows::RevocationRow = rows::read("revocations", row.unwrap().1.value()).unwrap();
            assert_eq!((row.customer, row.product), (name("alice"), Some(name("maps"))));
            row.version.map(|version| version.to_string())
        });
        rows.collect()
    }

    fn stage(&mut self, customer: &str, product: &str, version: &str) -> Outcome {
        self.request += 1;
        let (request, kind) = (Id::from(self.request.to_be_bytes()), LeaseKind::Standing);
        let (customer, product) = (name(customer), name(product));
        let wish = Wish { request, customer, product, kind, ..super::wish(0, version) };
        grants::issue(&self.txn, &wish, &LIVES, self.now).unwrap()
    }
}

fn one(version: &str) -> Vec<Option<String>> {
    vec![Some(version.to_owned())]
}

const NOTHING: Vec<Option<String>> = Vec::new();

#[test]
fn a_version_goes_while_all_of_them_remain() {
    let shop = shop();
    for until in [None, Some(LAST)] {
        assert_eq!(shop.give(None, until), NOTHING);
        shop.give(Some("1"), None);
        assert_eq!(shop.take(Some("1")), NOTHING, "all versions until {until:?}");
        shop.give(Some("1"), Some(LAST * 2));
        assert_eq!(shop.give(Some("1"), Some(1)), NOTHING, "it ends before those");
        shop.take(Some("1"));
    }
    // What remains ends before a lease may.
    assert_eq!(shop.give(None, Some(LAST - 1)), vec![None]);
    shop.give(Some("1"), None);
    assert_eq!(shop.take(Some("1")), one("1"));
    // For what remains is as good as what went.
    shop.give(Some("1"), Some(LAST - 1));
    assert_eq!(shop.take(Some("1")), NOTHING);
    // Alone it is withdrawn as ever.
    assert_eq!(shop.take(None), vec![None]);
    shop.give(Some("1"), None);
    assert_eq!((shop.give(Some("1"), Some(LAST)), shop.give(Some("1"), Some(LAST - 1))), (NOTHING, one("1")));
    assert_eq!(shop.take(Some("1")), one("1"));
}

#[test]
fn all_versions_go_while_one_of_them_remains() {
    let mut shop = shop();
    shop.give(None, None);
    shop.give(Some("1"), None);
    // Of versions that are not offered any more, of other customers and products.
    for (customer, product, version) in [("bob", "maps", "8"), ("alice", "music", "7"), ("alice", "maps", "0.9")] {
        objects::add(&shop.txn, &name(product), &name(version), &object(1)).unwrap();
        entitlements::add(&shop.txn, &name(customer), &name(product), None, None, &LIVES, NOW).unwrap();
        assert!(matches!(shop.stage(customer, product, version), Outcome::Issued(_)), "{customer} {product}");
        assert!(objects::remove(&shop.txn, &name(product), &name(version)).unwrap());
    }
    let others = ["0.9", "2", "3"].map(|v| Some(v.to_owned())).to_vec();
    assert_eq!(shop.take(None), others);
    assert!(matches!(shop.stage("alice", "maps", "1"), Outcome::Issued(_)));
    assert_eq!(shop.stage("alice", "maps", "2"), Outcome::NotEntitled);
    assert_eq!(shop.take(Some("1")), one("1"), "and now that one");
}

#[test]
fn all_versions_end_earlier_than_one_of_them() {
    let shop = shop();
    shop.give(None, None);
    shop.give(Some("1"), Some(LAST));
    shop.give(Some("2"), Some(LAST - 1));
    assert_eq!(shop.give(None, Some(LAST)), NOTHING, "no lease lasts longer");
    let others = ["2", "3"].map(|v| Some(v.to_owned())).to_vec();
    assert_eq!(shop.give(None, Some(10)), others, "the second one not as long as before");
    // Where none is covered as long, it is one word for all.
    shop.give(None, Some(LAST - 1));
    shop.take(Some("1"));
    shop.give(Some("2"), Some(LAST - 2));
    assert_eq!(shop.take(None), vec![None]);
}

/// A clock that was ahead has granted a lease that ends long after those of today.
#[test]
fn leases_of_a_clock_that_was_ahead_count() {
    let mut shop = shop();
    shop.give(None, None);
    shop.give(Some("1"), None);
    shop.now = NOW.plus(1_000_000);
    assert!(matches!(shop.stage("alice", "maps", "1"), Outcome::Issued(_)));
    shop.now = NOW;
    let ends = 1_000_000 + LAST;
    assert_eq!((shop.give(Some("1"), Some(ends)), shop.take(None).len()), (NOTHING, 2));
    assert_eq!(shop.give(Some("1"), Some(ends - 1)), one("1"));
}

#[test]
fn too_many_versions_are_withdrawn_as_all() {
    for (count, expected) in [(ONE_BY_ONE, ONE_BY_ONE), (ONE_BY_ONE + 1, 1)] {
        let shop = shop();
        // Three are there, one of which is spared.
        for n in 2..count {
            objects::add(&shop.txn, &name("maps"), &name(&format!("v{n}")), &object(1)).unwrap();
        }
        shop.give(None, None);
        shop.give(Some("1"), None);
        let withdrawn = shop.take(None);
        assert_eq!((withdrawn.len(), withdrawn.contains(&None)), (expected, expected == 1));
    }
}

#[derive(Debug, Clone)]
enum Order {
    Give { version: Option<u8>, until: Option<u64> },
    Take { version: Option<u8> },
    Stage { version: u8 },
    Pass(u64),
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    let version = || prop::option::of(1..=3u8);
    let order = prop_oneof![
        3 => (version(), prop::option::of(0..3 * LAST)).prop_map(|(version, until)| Order::Give { version, until }),
        2 => version().prop_map(|version| Order::Take { version }),
        3 => (1..=3u8).prop_map(|version| Order::Stage { version }),
        1 => (1..LAST).prop_map(Order::Pass),
    ];
    prop::collection::vec(order, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever orders come: no lease outlasts the right to it, and none ends whose right lasts as long as a lease may.
    #[test]
    fn leases_end_with_their_right_and_not_before(orders in orders()) {
        let mut shop = shop();
        // Version and end of each.
        let mut leases: BTreeSet<(String, u64)> = BTreeSet::new();
        for order in orders {
            let name_of = |version: Option<u8>| version.map(|v| name(&v.to_string()));
            let (alice, maps, now) = (name("alice"), name("maps"), shop.now);
            let withdrawn = shop.withdrawn(|txn| match &order {
                Order::Give { version, until } => {
                    let until = until.map(|s| now.plus(s));
                    entitlements::add(txn, &alice, &maps, name_of(*version).as_ref(), until, &LIVES, now).unwrap();
                }
                Order::Take { version } => {
                    entitlements::remove(txn, &alice, &maps, name_of(*version).as_ref(), &LIVES, now).unwrap();
                }
                Order::Stage { .. } | Order::Pass(_) => {}
            });
            match &order {
                Order::Stage { version } => {
                    if let Outcome::Issued(row) = shop.stage("alice", "maps", &version.to_string()) {
                        leases.insert((version.to_string(), row.lease_expires.0));
                    }
                }
                Order::Pass(seconds) => shop.now = shop.now.plus(*seconds),
                Order::Give { .. } | Order::Take { .. } => {}
            }
            let now = shop.now.0;
            leases.retain(|(_, end)| *end > now);
            let rights = shop.txn.open_table(tables::ENTITLEMENTS).unwrap();
            for (version, end) in leases.clone() {
                let right = entitlements::right(&rights, &alice, &maps, &name(&version), shop.now).unwrap();
                let covered = |until| right.is_some_and(|right| right >= entitlements::End::At(Timestamp(until)));
                let over = withdrawn.iter().any(|v| v.as_ref().is_none_or(|v| *v == version));
                prop_assert!(over || covered(end), "{version} until {end} stays after {order:?}");
                prop_assert!(!over || !covered(now + LAST), "{version} ends with {order:?}");
                if over {
                    leases.remove(&(version, end));
                }
            }
        }
    }
}

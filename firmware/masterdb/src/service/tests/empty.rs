//! A store without customers.

use super::super::EMPTY;
use super::*;

/// Fresh from the box, or not the store that it should be: an operator can tell.
#[tokio::test]
async fn an_empty_store_is_said_to_be_one() {
    let site = Site::empty().await;
    let detail = async || match site.ask(OPERATOR, Request::Status {}).await {
        Reply::StatusReport { checks, .. } => {
            assert!(checks[0].healthy && checks[0].name == name("store"));
            checks[0].detail.to_string()
        }
        other => panic!("{other:?}"),
    };
    let empty = detail().await;
    assert!(empty.starts_with("0 customers, 0 objects, 0 audit records, since 2") && empty.ends_with(EMPTY), "{empty}");
    site.order(Request::CustomerAdd { customer: name("alice"), password: secret(ALICE) }).await;
    assert!(!detail().await.contains("nobody can log in"));
}

//! What the commlink costs beside its ciphers alone: a benchmark of the crate itself, which prints its rows.

use super::{Row, of_crate};
use anyhow::Result;

/// Transactions and literals.
pub(super) fn measure() -> Result<Vec<Row>> {
    of_crate("commlink", "commlink")
}

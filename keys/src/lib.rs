//! Keys of a site: the bags of the commlink, certificates, the pair that signs grants, and the folders they are kept in.
//!
//! A [`Bag`] is what two ends share before they ever speak: 128 pairs of a DES key and a seal key, of which each connection
//! uses the one that its port selects. There is one for each pair of ends, so that no machine holds what opens another.
//! A [`Site`](site::Plan) is everything that makes machines belong together; `create` writes it as one folder per machine, to be
//! written into that machine before it goes on line, and one for the operator.

mod bag;
mod certificates;
mod files;
mod grants;
pub mod site;

pub use bag::{Bag, BagError, ENTRIES, LinkKind, MAX_NAME};
pub use certificates::Certified;

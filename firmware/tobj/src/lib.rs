//! Tobj, the tagged objects that FFS carries: an SGML-style encapsulation of transactions.
//!
//! # Wire format
//!
//! A Tobj is one well-formed element in UTF-8, without declaration, comments, processing instructions or DTD:
//!
//! ```
//! use tobj::{Body, Message, Request};
//!
//! let text = r#"<TOBJ VERSION="1" TYPE="STAGE" ID="000102030405060708090a0b0c0d0e0f"><GRANT>v4.public.x</GRANT></TOBJ>"#;
//! let message = Message::decode(text.as_bytes())?;
//! assert!(matches!(&message.body, Body::Request(Request::Stage { .. })));
//! assert_eq!(message.encode()?, text);
//! # Ok::<(), tobj::Invalid>(())
//! ```
//!
//! - The root is `TOBJ` with the attributes `VERSION` (always `1`), `TYPE` (a tag of [`Request`] or [`Reply`]), `ID` (128 bits in
//!   lower-case hex) and, where a binary body follows, `LITERAL` (its length in bytes, decimal).
//! - Below it stand the fields of that type, each an element in upper case that holds either text or elements, never both.
//!   A field that may be absent is left out; a field that may be repeated stands once for each value; a field that the type
//!   does not know makes the whole Tobj invalid.
//! - Text knows the five entities and character references of XML 1.0 and no others; it holds no control characters.
//! - A Tobj has at most [`MAX_BYTES`] bytes, [`MAX_ELEMENTS`] elements and [`MAX_DEPTH`] levels.
//!
//! # Transactions
//!
//! All of them, with their fields, are in [`spec`]. Each [`Request`] is answered by one [`Reply`] with the same ID: the one that its documentation names, or [`Reply::Fault`].
//! Whoever changes something for a request keeps its ID with the effect, so that a retry gets the first answer.
//! Lists are answered in pages of at most [`PAGE`] entries; `OFFSET` or `AFTER` says from where, `MORE` whether there is a next page.

mod element;
mod message;
mod records;
mod replies;
#[cfg(test)]
mod sample;
pub mod spec;
mod transactions;
mod values;
#[cfg(test)]
mod vectors;

pub use element::{Element, MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS};
#[cfg(any(test, fuzzing))]
pub mod fuzz;

pub use message::{Body, Message};
pub use records::*;
pub use replies::{Fault, Reply, ReplyTag};
pub use transactions::{Request, RequestTag};
pub use values::{Cursor, FileName, Id, Name, Secret, Sha256, Text, Timestamp};

/// Most entries in one page of a list.
pub const PAGE: usize = 200;

/// Why something is not a Tobj of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The text is not what the wire format allows.
    #[error("not well-formed: {0}")]
    Malformed(&'static str),
    /// A limit of the wire format was passed.
    #[error("more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much of it is allowed.
        limit: usize,
    },
    /// The type is not one that this version knows.
    #[error("unknown type of Tobj")]
    UnknownType,
    /// A field is absent, there too often, or not known to the type.
    #[error("field {0} is missing, repeated or unknown")]
    Field(String),
    /// The text of a field is not a value of its type.
    #[error("{what}: {why}")]
    Value {
        /// The type of value that was expected.
        what: &'static str,
        /// The rule that was broken.
        why: &'static str,
    },
}

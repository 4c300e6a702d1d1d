//! One value of each type, and what the documentation says of it: what the golden vectors and the text of
//! [`spec`](crate::spec) are made of, so that neither can forget a transaction.

use crate::values::{Cursor, FileName, Id, Name, Secret, Sha256, Text, Timestamp};
use crate::{Body, Message, ReplyTag, RequestTag};

/// A type of Tobj, or a record, with its documentation.
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) doc: &'static [&'static str],
    /// Element, type and documentation of each field.
    pub(crate) fields: &'static [(&'static str, &'static str, &'static [&'static str])],
}

/// A value with nothing left out.
pub(crate) trait Sample {
    fn sample() -> Self;
}

impl<T: Sample> Sample for Option<T> {
    fn sample() -> Self {
        Some(T::sample())
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample() -> Self {
        vec![T::sample(), T::sample()]
    }
}

macro_rules! samples {
    ($($type:ty: $value:expr;)*) => {$(
        impl Sample for $type {
            fn sample() -> Self {
                $value
            }
        }
    )*};
}

samples! {
    Text: Text::new("Grüße & <Küsse>").unwrap();
    Name: Name::new("alice").unwrap();
    FileName: FileName::new("ein Bild \"1\".iso").unwrap();
    Cursor: Cursor::new("s=5a;i=1f;t=62a5").unwrap();
    Secret: Secret::new("correct horse 'battery' staple").unwrap();
    Id: Id::from([0x5a; 16]);
    Sha256: Sha256::from([0xa5; 32]);
    Timestamp: Timestamp(1_700_000_000);
    u64: u64::MAX;
    bool: true;
}

/// One message of each type, requests first, named by its type.
pub(crate) fn messages() -> impl Iterator<Item = (&'static str, Message)> {
    let id = Id::from(*b"0123456789abcdef");
    let requests = RequestTag::ALL.iter().map(|tag| (tag.as_str(), Body::Request(tag.sample())));
    let replies = ReplyTag::ALL.iter().map(|tag| (tag.as_str(), Body::Reply(tag.sample())));
    requests.chain(replies).map(move |(tag, body)| {
        let literal = ["OBJECT-PUT", "OBJECT-APPEND", "UPDATE-PUSH"].contains(&tag).then_some(1 << 40);
        (tag, Message { id, literal, body })
    })
}

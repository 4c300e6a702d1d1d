//! A Tobj with its typed body, and how fields become elements.

use crate::element::Element;
use crate::replies::{Fault, Reply};
use crate::transactions::Request;
use crate::values::{Cursor, FileName, Id, Name, Secret, Sha256, Text, Timestamp, number};
use crate::{Invalid, values};

/// What a Tobj says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A question or an order.
    Request(Request),
    /// The answer to one.
    Reply(Reply),
}

/// One Tobj: its ID, its body, and the length of the binary body that follows it, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The transaction; a reply repeats that of its request.
    pub id: Id,
    /// Bytes that follow this Tobj outside of it.
    pub literal: Option<u64>,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// A request with a new ID.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn request(request: Request) -> Result<Self, getrandom::Error> {
        Ok(Self { id: Id::random()?, literal: None, body: Body::Request(request) })
    }

    /// The answer to this message.
    pub fn reply(&self, reply: Reply) -> Self {
        Self { id: self.id, literal: None, body: Body::Reply(reply) }
    }

    /// The answer that something went wrong.
    pub fn fault(&self, fault: Fault) -> Self {
        self.reply(Reply::Fault { fault, text: Text::default() })
    }

    /// The text form.
    ///
    /// # Errors
    /// [`Invalid::TooLarge`] when it passes a limit of the wire format.
    pub fn encode(&self) -> Result<String, Invalid> {
        let (tag, children) = match &self.body {
            Body::Request(r) => (r.tag().as_str(), r.fields()),
            Body::Reply(r) => (r.tag().as_str(), r.fields()),
        };
        let mut attributes = vec![
            ("VERSION".to_owned(), "1".to_owned()),
            ("TYPE".to_owned(), tag.to_owned()),
            ("ID".to_owned(), self.id.to_string()),
        ];
        if let Some(n) = self.literal {
            attributes.push(("LITERAL".to_owned(), n.to_string()));
        }
        Element { attributes, children, ..Element::new("TOBJ") }.render()
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`Invalid`] with the first rule that was broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let root = Element::parse(bytes)?;
        if root.name != "TOBJ" || root.attribute("VERSION") != Some("1") {
            return Err(Invalid::Malformed("not a TOBJ of version 1"));
        }
        if root.attributes.iter().any(|(k, _)| !["VERSION", "TYPE", "ID", "LITERAL"].contains(&k.as_str())) {
            return Err(Invalid::Malformed("unknown attribute"));
        }
        if !root.text.is_empty() {
            return Err(Invalid::Malformed("text outside of a field"));
        }
        let id = root.attribute("ID").ok_or(Invalid::Malformed("no ID"))?.parse()?;
        let literal = root.attribute("LITERAL").map(number).transpose()?;
        let tag = root.attribute("TYPE").ok_or(Invalid::Malformed("no TYPE"))?.to_owned();
        let mut fields = Fields(root.children);
        let body = match Request::take(&tag, &mut fields)? {
            Some(request) => Body::Request(request),
            None => Body::Reply(Reply::take(&tag, &mut fields)?.ok_or(Invalid::UnknownType)?),
        };
        fields.end()?;
        Ok(Self { id, literal, body })
    }
}

/// The elements of a record that have not been taken yet.
pub(crate) struct Fields(Vec<Element>);

impl Fields {
    pub(crate) fn end(self) -> Result<(), Invalid> {
        self.0.into_iter().next().map_or(Ok(()), |e| Err(Invalid::Field(e.name)))
    }

    pub(crate) fn of(element: Element) -> Result<Self, Invalid> {
        if element.text.is_empty() { Ok(Self(element.children)) } else { Err(Invalid::Field(element.name)) }
    }

    fn named(&mut self, tag: &str) -> Vec<Element> {
        self.0.extract_if(.., |e| e.name == tag).collect()
    }
}

/// What one element can hold.
pub(crate) trait Item: Sized {
    fn to_element(&self, tag: &str) -> Element;
    fn from_element(element: Element) -> Result<Self, Invalid>;
}

/// What a field can be: one item, perhaps one, or any number of them.
pub(crate) trait Field: Sized {
    fn put(&self, tag: &str, out: &mut Vec<Element>);
    fn take(tag: &str, fields: &mut Fields) -> Result<Self, Invalid>;
}

impl<T: Item> Field for T {
    fn put(&self, tag: &str, out: &mut Vec<Element>) {
        out.push(self.to_element(tag));
    }
    fn take(tag: &str, fields: &mut Fields) -> Result<Self, Invalid> {
        <Option<T> as Field>::take(tag, fields)?.ok_or_else(|| Invalid::Field(tag.to_owned()))
    }
}

impl<T: Item> Field for Option<T> {
    fn put(&self, tag: &str, out: &mut Vec<Element>) {
        out.extend(self.iter().map(|item| item.to_element(tag)));
    }
    fn take(tag: &str, fields: &mut Fields) -> Result<Self, Invalid> {
        let mut found = fields.named(tag).into_iter();
        let first = found.next().map(T::from_element).transpose()?;
        if found.next().is_some() { Err(Invalid::Field(tag.to_owned())) } else { Ok(first) }
    }
}

impl<T: Item> Field for Vec<T> {
    fn put(&self, tag: &str, out: &mut Vec<Element>) {
        out.extend(self.iter().map(|item| item.to_element(tag)));
    }
    fn take(tag: &str, fields: &mut Fields) -> Result<Self, Invalid> {
        fields.named(tag).into_iter().map(T::from_element).collect()
    }
}

pub(crate) fn text_of(element: Element) -> Result<String, Invalid> {
    if element.children.is_empty() { Ok(element.text) } else { Err(Invalid::Field(element.name)) }
}

macro_rules! text_item {
    ($($type:ty: $show:expr, $read:expr;)*) => {$(
        impl Item for $type {
            fn to_element(&self, tag: &str) -> Element {
                let show: fn(&$type) -> String = $show;
                Element { text: show(self), ..Element::new(tag) }
            }
            fn from_element(element: Element) -> Result<Self, Invalid> {
                let read: fn(&str) -> Result<$type, Invalid> = $read;
                read(&text_of(element)?)
            }
        }
    )*};
}

text_item! {
    Text: |v| v.to_string(), Text::new;
    Name: |v| v.to_string(), Name::new;
    FileName: |v| v.to_string(), FileName::new;
    Cursor: |v| v.to_string(), Cursor::new;
    Secret: |v| v.expose().to_owned(), Secret::new;
    Id: |v| v.to_string(), |s| s.parse();
    Sha256: |v| v.to_string(), |s| s.parse();
    Timestamp: |v| v.to_string(), |s| s.parse();
    u64: |v| v.to_string(), values::number;
    bool: |v| if *v { "YES" } else { "NO" }.to_owned(), |s| match s {
        "YES" => Ok(true),
        "NO" => Ok(false),
        _ => Err(Invalid::Value { what: "flag", why: "is neither YES nor NO" }),
    };
}

/// A struct whose fields are elements.
macro_rules! record {
    ($($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $fdoc:literal])* $tag:literal $field:ident: $type:ty,)* })*) => {
        #[cfg(test)]
        pub(crate) const RECORDS: &[$crate::sample::Described] = &[$($crate::sample::Described {
            name: stringify!($name),
            tag: "",
            doc: &[$($doc),*],
            fields: &[$(($tag, stringify!($type), &[$($fdoc),*])),*],
        }),*];
        $(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[doc = $fdoc])* pub $field: $type,)* }

        #[cfg(test)]
        impl $crate::sample::Sample for $name {
            fn sample() -> Self {
                Self { $($field: $crate::sample::Sample::sample(),)* }
            }
        }

        impl $crate::message::Item for $name {
            fn to_element(&self, tag: &str) -> $crate::element::Element {
                let mut element = $crate::element::Element::new(tag);
                $($crate::message::Field::put(&self.$field, $tag, &mut element.children);)*
                element
            }
            fn from_element(element: $crate::element::Element) -> Result<Self, $crate::Invalid> {
                let mut fields = $crate::message::Fields::of(element)?;
                let record = Self { $($field: $crate::message::Field::take($tag, &mut fields)?,)* };
                fields.end()?;
                Ok(record)
            }
        }
    )*};
}

/// An enumeration whose values are words.
macro_rules! word {
    ($($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $word:literal $value:ident,)* })*) => {$(
        #[cfg(test)]
        impl $crate::sample::Sample for $name {
            fn sample() -> Self {
                Self::ALL[0]
            }
        }

        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $value,)* }

        impl $name {
            /// Every value there is.
            pub const ALL: &'static [Self] = &[$(Self::$value),*];

            /// The word that stands for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Invalid;
            fn from_str(s: &str) -> Result<Self, $crate::Invalid> {
                match s {
                    $($word => Ok(Self::$value),)*
                    _ => Err($crate::Invalid::Value { what: stringify!($name), why: "is not one of its words" }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::message::Item for $name {
            fn to_element(&self, tag: &str) -> $crate::element::Element {
                $crate::element::Element { text: self.as_str().to_owned(), ..$crate::element::Element::new(tag) }
            }
            fn from_element(element: $crate::element::Element) -> Result<Self, $crate::Invalid> {
                $crate::message::text_of(element)?.parse()
            }
        }
    )*};
}

/// An enumeration of Tobj types, with a second one that holds only the tags.
macro_rules! types {
    ($(#[$meta:meta])* $name:ident $tags:ident {
        $($(#[doc = $doc:literal])* $tag:literal $value:ident { $($(#[doc = $fdoc:literal])* $ftag:literal $field:ident: $type:ty,)* })*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $doc])* $value { $($(#[doc = $fdoc])* $field: $type,)* },)* }

        #[cfg(test)]
        impl $tags {
            /// What the documentation says.
            pub(crate) const DESCRIBED: &[$crate::sample::Described] = &[$($crate::sample::Described {
                name: stringify!($value),
                tag: $tag,
                doc: &[$($doc),*],
                fields: &[$(($ftag, stringify!($type), &[$($fdoc),*])),*],
            }),*];

            /// One of this type with every field.
            pub(crate) fn sample(self) -> $name {
                match self { $(Self::$value => $name::$value { $($field: $crate::sample::Sample::sample(),)* },)* }
            }
        }

        word! {
            #[doc = concat!("The types of [`", stringify!($name), "`], as in the attribute `TYPE`.")]
            $tags { $(#[doc = concat!("[`", stringify!($name), "::", stringify!($value), "`]")] $tag $value,)* }
        }

        impl $name {
            /// Its type.
            pub fn tag(&self) -> $tags {
                match self { $(Self::$value { .. } => $tags::$value,)* }
            }

            #[allow(unused_mut, clippy::vec_init_then_push, reason = "some types have no fields")]
            pub(crate) fn fields(&self) -> Vec<$crate::element::Element> {
                let mut out = Vec::new();
                match self {
                    $(Self::$value { $($field,)* } => { $($crate::message::Field::put($field, $ftag, &mut out);)* })*
                }
                out
            }

            pub(crate) fn take(tag: &str, fields: &mut $crate::message::Fields) -> Result<Option<Self>, $crate::Invalid> {
                Ok(Some(match tag {
                    $($tag => Self::$value { $($field: $crate::message::Field::take($ftag, fields)?,)* },)*
                    _ => return Ok(None),
                }))
            }
        }
    };
}

pub(crate) use {record, types, word};

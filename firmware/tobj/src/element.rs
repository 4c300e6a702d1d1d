//! The tree of elements behind a Tobj, and its text form.

use crate::Invalid;
use quick_xml::XmlVersion;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

/// Most bytes of one Tobj as text.
pub const MAX_BYTES: usize = 256 << 10;
/// Most elements in one Tobj, the root included.
pub const MAX_ELEMENTS: usize = 8192;
/// Most levels of elements, the root included.
pub const MAX_DEPTH: usize = 4;

/// An element: a name, attributes, and either text or elements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Reads one element and nothing after it.
    ///
    /// # Errors
    /// [`Invalid::Malformed`] and [`Invalid::TooLarge`], by the rules of the [wire format](crate).
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > MAX_BYTES {
            return Err(Invalid::TooLarge { what: "bytes", limit: MAX_BYTES });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Invalid::Malformed("not UTF-8"))?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_end_names = true;
        let mut open: Vec<Element> = Vec::with_capacity(MAX_DEPTH);
        let mut count = 0;
        loop {
            let event = reader.read_event().map_err(|_| Invalid::Malformed("tags do not match"))?;
            let closed = match event {
                Event::Start(start) => {
                    open.push(begin(&start, &mut count, open.len())?);
                    None
                }
                Event::Empty(start) => Some(begin(&start, &mut count, open.len())?),
                Event::End(_) => open.pop(),
                Event::Text(piece) => {
                    append(&mut open, &piece)?;
                    None
                }
                Event::GeneralRef(reference) => {
                    append_reference(&mut open, &reference)?;
                    None
                }
                Event::Eof => return Err(Invalid::Malformed("ends too early")),
                Event::CData(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {
                    return Err(Invalid::Malformed("only elements and text are allowed"));
                }
            };
            let Some(element) = closed else { continue };
            if !element.children.is_empty() && !element.text.is_empty() {
                return Err(Invalid::Malformed("text and elements mixed"));
            }
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                None if matches!(reader.read_event(), Ok(Event::Eof)) => return Ok(element),
                None => return Err(Invalid::Malformed("something follows the end")),
            }
        }
    }

    /// The text form.
    ///
    /// # Errors
    /// The same as [`Element::parse`]: what could not be read back is not written.
    pub fn render(&self) -> Result<String, Invalid> {
        let mut out = String::with_capacity(256);
        let mut count = 0;
        self.write(&mut out, &mut count, 0)?;
        if out.len() > MAX_BYTES {
            return Err(Invalid::TooLarge { what: "bytes", limit: MAX_BYTES });
        }
        Ok(out)
    }

    fn write(&self, out: &mut String, count: &mut usize, depth: usize) -> Result<(), Invalid> {
        tally(count, depth)?;
        out.push('<');
        out.push_str(&self.name);
        for (key, value) in &self.attributes {
            allowed(value)?;
            for piece in [" ", key, "=\"", &escape(value.as_str()), "\""] {
                out.push_str(piece);
            }
        }
        out.push('>');
        allowed(&self.text)?;
        out.push_str(&escape(self.text.as_str()));
        for child in &self.children {
            child.write(out, count, depth + 1)?;
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
        Ok(())
    }

    pub(crate) fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

fn begin(start: &BytesStart<'_>, count: &mut usize, depth: usize) -> Result<Element, Invalid> {
    tally(count, depth)?;
    let name = start.name().0;
    let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Invalid::Malformed("name of an element"));
    }
    let mut element = Element::new(name);
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|_| Invalid::Malformed("attribute"))?;
        let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|_| Invalid::Malformed("attribute"))?;
        allowed(&value)?;
        element.attributes.push((attribute.key.0.to_owned(), value.into_owned()));
    }
    if depth > 0 && !element.attributes.is_empty() {
        return Err(Invalid::Malformed("only the root has attributes"));
    }
    Ok(element)
}

fn tally(count: &mut usize, depth: usize) -> Result<(), Invalid> {
    *count += 1;
    if *count > MAX_ELEMENTS {
        return Err(Invalid::TooLarge { what: "elements", limit: MAX_ELEMENTS });
    }
    if depth >= MAX_DEPTH {
        return Err(Invalid::TooLarge { what: "levels", limit: MAX_DEPTH });
    }
    Ok(())
}

fn append(open: &mut [Element], piece: &str) -> Result<(), Invalid> {
    allowed(piece)?;
    match open.last_mut() {
        Some(element) => element.text.push_str(piece),
        None if piece.is_empty() => {}
        None => return Err(Invalid::Malformed("text outside of the root")),
    }
    Ok(())
}

fn append_reference(open: &mut [Element], reference: &BytesRef<'_>) -> Result<(), Invalid> {
    let bad = Invalid::Malformed("reference");
    let named: &str = reference;
    match reference.resolve_char_ref().map_err(|_| bad.clone())? {
        Some(c) => append(open, c.encode_utf8(&mut [0; 4])),
        None => append(open, resolve_predefined_entity(named).ok_or(bad)?),
    }
}

fn allowed(text: &str) -> Result<(), Invalid> {
    let bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    if text.contains(bad) { Err(Invalid::Malformed("control character")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_allowed() {
        for bad in [
            "",
            "A",
            "<A>",
            "<A></B>",
            "<A></A><B></B>",
            "<A></A> ",
            "<A>x<B></B></A>",
            "<a></a>",
            "<A B=\"1\" B=\"2\"></A>",
            "<A><B C=\"1\"></B></A>",
            "<A>&nbsp;</A>",
            "<A>&#0;</A>",
            "<A>\u{7}</A>",
            "<A>\n</A>",
            "<?xml version=\"1.0\"?><A></A>",
            "<!DOCTYPE A><A></A>",
            "<A><!-- c --></A>",
            "<A><![CDATA[x]]></A>",
            "<A><B><C><D><E></E></D></C></B></A>",
        ] {
            assert!(Element::parse(bad.as_bytes()).is_err(), "{bad:?} was accepted");
        }
        assert!(Element::parse(b"<A>\xff</A>").is_err());
    }

    #[test]
    fn limits_at_their_edge() {
        let of = |n: usize| format!("<A>{}</A>", "<B></B>".repeat(n - 1));
        assert!(Element::parse(of(MAX_ELEMENTS).as_bytes()).is_ok());
        assert!(Element::parse(of(MAX_ELEMENTS + 1).as_bytes()).is_err());
        let long = |n: usize| format!("<A>{}</A>", "x".repeat(n - 7));
        assert!(Element::parse(long(MAX_BYTES).as_bytes()).is_ok());
        assert!(Element::parse(long(MAX_BYTES + 1).as_bytes()).is_err());
        let mut deep = Element::new("A");
        for _ in 1..MAX_DEPTH {
            deep = Element { children: vec![deep], ..Element::new("A") };
        }
        assert!(deep.render().is_ok());
        assert!(Element { children: vec![deep], ..Element::new("A") }.render().is_err());
    }

    #[test]
    fn entities_and_references() {
        let e = Element::parse("<A>&lt;&gt;&amp;&quot;&apos;&#228;&#xe4;</A>".as_bytes()).unwrap();
        assert_eq!(e.text, "<>&\"'ää");
    }

    fn tree() -> impl Strategy<Value = Element> {
        let name = "[A-Z][A-Z0-9-]{0,8}";
        let leaf = (name, "\\PC{0,40}").prop_map(|(name, text)| Element { text, ..Element::new(&name) });
        leaf.prop_recursive(2, 32, 8, move |inner| {
            (name, proptest::collection::vec(inner, 1..8))
                .prop_map(|(name, children)| Element { children, ..Element::new(&name) })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(e in tree()) {
            prop_assume!(allowed(&format!("{e:?}")).is_ok());
            if let Ok(text) = e.render() {
                prop_assert_eq!(Element::parse(text.as_bytes()).unwrap(), e);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Element::parse(&bytes);
        }

        #[test]
        fn markup_like_garbage_never_panics(text in "[<>/&;#x\"=A-C !?\\[\\]-]{0,80}") {
            let _ = Element::parse(text.as_bytes());
        }
    }
}

//! The golden vectors of the transactions: one message of each type. If a test in here fails, do not change the vectors.

use crate::Message;
use crate::sample::messages;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    /// `TYPE`.
    r#type: String,
    id: String,
    literal: Option<u64>,
    /// Each field that holds text: its path below the root and the text.
    fields: Vec<(String, String)>,
    text: String,
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/v1/tobj.json")
}

fn load() -> Vec<Vector> {
    serde_json::from_slice(&std::fs::read(path()).unwrap_or_else(|_| b"[]".to_vec())).unwrap()
}

fn fields(element: &crate::Element, at: &str, out: &mut Vec<(String, String)>) {
    for child in &element.children {
        let at = if at.is_empty() { child.name.clone() } else { format!("{at}/{}", child.name) };
        if child.children.is_empty() {
            out.push((at, child.text.clone()));
        } else {
            fields(child, &at, out);
        }
    }
}

fn make(tag: &str, message: &Message) -> Vector {
    let text = message.encode().unwrap();
    let mut all = Vec::new();
    fields(&crate::Element::parse(text.as_bytes()).unwrap(), "", &mut all);
    Vector { r#type: tag.to_owned(), id: message.id.to_string(), literal: message.literal, fields: all, text }
}

#[test]
fn each_type_has_a_vector() {
    let mut kept = load();
    for (tag, message) in messages() {
        if kept.iter().any(|vector| vector.r#type == tag) {
            continue;
        }
        assert!(std::env::var_os("FFS_BLESS").is_some(), "{tag} has none: run the test with FFS_BLESS=1 to add it");
        kept.push(make(tag, &message));
        let lines: Vec<String> = kept.iter().map(|vector| serde_json::to_string(vector).unwrap()).collect();
        // Another test may be reading.
        let new = path().with_extension("new");
        std::fs::write(&new, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
        std::fs::rename(new, path()).unwrap();
    }
}

#[test]
fn read_and_written_as_the_vectors_are() {
    for vector in load() {
        let message = Message::decode(vector.text.as_bytes()).unwrap();
        assert_eq!(message.encode().as_deref(), Ok(&*vector.text), "{}", vector.r#type);
        let again = make(&vector.r#type, &message);
        assert_eq!(
            (again.id, again.literal, again.fields),
            (vector.id, vector.literal, vector.fields),
            "{}",
            vector.r#type
        );
        assert!(vector.text.contains(&format!("TYPE=\"{}\"", vector.r#type)));
    }
}

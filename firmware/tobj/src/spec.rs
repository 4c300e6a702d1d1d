#![doc = include_str!("spec.md")]

#[cfg(test)]
mod tests {
    use crate::records::RECORDS;
    use crate::sample::{Described, messages};
    use crate::{
        AuditEvent, BagKind, Fault, LeaseKind, LeaseState, ObjectState, Priority, ReplyTag, RequestTag, TlsVersion,
    };
    use std::fmt::Write;
    use std::path::Path;

    const HEAD: &str = include_str!("spec-head.md");

    /// References to items become the words that stand on the wire.
    fn plain(doc: &[&str]) -> String {
        let mut text = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        for (kind, all) in [("Request", RequestTag::DESCRIBED), ("Reply", ReplyTag::DESCRIBED)] {
            for Described { name, tag, .. } in all {
                for form in [format!("[`{kind}::{name}`](crate::{kind}::{name})"), format!("[`{kind}::{name}`]")] {
                    text = text.replace(&form, &format!("`{tag}`"));
                }
            }
        }
        text
    }

    /// A type as the text names it, and how often the field may stand.
    fn kind(rust: &str) -> (String, &'static str) {
        let rust: String = rust.split_whitespace().collect();
        let inner = |outer: &str| rust.strip_prefix(outer).and_then(|r| r.strip_suffix('>')).map(str::to_owned);
        let (inner, times) = match (inner("Option<"), inner("Vec<")) {
            (Some(inner), _) => (inner, "0–1"),
            (_, Some(inner)) => (inner, "0–n"),
            _ => (rust, "1"),
        };
        let name = match &*inner {
            "u64" => "number".to_owned(),
            "bool" => "flag".to_owned(),
            "FileName" => "file name".to_owned(),
            "Sha256" => "SHA-256".to_owned(),
            "Text" | "Name" | "Cursor" | "Secret" | "Id" | "Timestamp" => inner.to_lowercase(),
            // A record or a word, which has a heading of its own.
            other => format!("[{other}](#{})", other.to_lowercase()),
        };
        (name, times)
    }

    fn entry(out: &mut String, title: &str, described: &Described) {
        writeln!(out, "## {title}\n\n{}\n", plain(described.doc)).unwrap();
        if described.fields.is_empty() {
            return;
        }
        out.push_str("| element | times | value | what |\n|---|---|---|---|\n");
        for (tag, rust, doc) in described.fields {
            let (kind, times) = kind(rust);
            writeln!(out, "| `{tag}` | {times} | {kind} | {} |", plain(doc)).unwrap();
        }
        out.push('\n');
    }

    fn render() -> String {
        let mut out = HEAD.to_owned();
        let example = |tag: &str| {
            let (_, message) = messages().find(|(t, _)| *t == tag).unwrap();
            message.encode().unwrap()
        };
        for (title, all) in [("Requests", RequestTag::DESCRIBED), ("Replies", ReplyTag::DESCRIBED)] {
            writeln!(out, "# {title}\n").unwrap();
            for described in all {
                entry(&mut out, described.tag, described);
                writeln!(out, "```text\n{}\n```\n", example(described.tag)).unwrap();
            }
        }
        out.push_str("# Records\n\n");
        for described in RECORDS {
            entry(&mut out, described.name, described);
        }
        out.push_str("# Words\n\n");
        let join = |words: Vec<&str>| words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
        for (name, words) in [
            ("Fault", Fault::ALL.iter().map(|w| w.as_str()).collect()),
            ("LeaseKind", LeaseKind::ALL.iter().map(|w| w.as_str()).collect()),
            ("LeaseState", LeaseState::ALL.iter().map(|w| w.as_str()).collect()),
            ("ObjectState", ObjectState::ALL.iter().map(|w| w.as_str()).collect()),
            ("TlsVersion", TlsVersion::ALL.iter().map(|w| w.as_str()).collect()),
            ("AuditEvent", AuditEvent::ALL.iter().map(|w| w.as_str()).collect()),
            ("Priority", Priority::ALL.iter().map(|w| w.as_str()).collect()),
            ("BagKind", BagKind::ALL.iter().map(|w| w.as_str()).collect()),
        ] {
            writeln!(out, "## {name}\n\n{}\n", join(words)).unwrap();
        }
        // Whatever a field holds is told somewhere.
        for link in out.split("](#").skip(1) {
            let name = link.split(')').next().unwrap();
            let told = out.lines().any(|line| line.strip_prefix("## ").is_some_and(|h| h.to_lowercase() == name));
            assert!(told, "{name} is in no list above: add it to the words");
        }
        out.trim_end().to_owned() + "\n"
    }

    #[test]
    fn the_text_is_that_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec.md");
        let now = render();
        if std::env::var_os("FFS_BLESS").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(
            kept == now,
            "spec.md is not what the code says: run the test with FFS_BLESS=1 and look at the difference"
        );
    }
}

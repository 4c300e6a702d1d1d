//! The lines of the screen. Pure: facts come in, lines go out.

use super::facts::Facts;

/// Columns of the smallest screen, less one: a terminal may begin a new line after a full one.
pub const WIDTH: usize = 79;
/// Lines of the smallest screen, less one for the cursor.
pub const HEIGHT: usize = 24;
/// Most lines of one subject; what is beyond is counted.
pub const MOST: usize = 5;
/// Width of the words at the left.
const LABEL: usize = 13;

/// The lines: at most [`HEIGHT`] of at most [`WIDTH`] characters, all of them printable ASCII.
pub fn lines(facts: &Facts) -> Vec<String> {
    let mut out = Lines::default();
    let who = match (&facts.name, &facts.role) {
        (Some(name), Some(role)) => format!("{name}, a {role} machine"),
        _ => "a machine that is not set up".to_owned(),
    };
    out.plain(&format!("FFS {}: {who}", facts.version.as_deref().unwrap_or("of an unknown version")));
    out.plain("Administered over the commlink (ffsctl); nobody logs in here.");
    out.plain("");
    out.about("Health", &facts.health, "nothing is known yet");
    out.about("Addresses", &facts.addresses, "none");
    out.about("Commlink keys", &facts.keys, "none in use");
    if let Some(certificate) = &facts.certificate {
        out.about("Certificate", std::slice::from_ref(certificate), "");
    }
    if !facts.updates.is_empty() {
        out.about("Updates", &facts.updates, "");
    }
    out.about("Last error", facts.error.as_slice(), "none since the start");
    out.0.truncate(HEIGHT);
    out.0
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn plain(&mut self, text: &str) {
        self.0.push(clean(text).chars().take(WIDTH).collect());
    }

    /// A subject with what is to be said of it, or with the words for nothing.
    fn about(&mut self, label: &str, items: &[String], nothing: &str) {
        let mut all: Vec<String> = items.iter().map(|item| clean(item)).collect();
        if all.is_empty() {
            all.push(nothing.to_owned());
        }
        let beyond = all.len().saturating_sub(MOST);
        if beyond > 0 {
            all.truncate(MOST - 1);
            all.push(format!("and {} more", beyond + 1));
        }
        let mut label = label;
        for item in &all {
            for part in wrapped(item) {
                self.0.push(format!("{label:LABEL$} {part}"));
                label = "";
            }
        }
    }
}

/// A text in lines that fit beside the label, two at most.
fn wrapped(text: &str) -> Vec<String> {
    const ROOM: usize = WIDTH - LABEL - 1;
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= ROOM {
        return vec![text.to_owned()];
    }
    // At the last blank, if there is one that is not far.
    let at = chars[..ROOM].iter().rposition(|c| *c == ' ').filter(|at| *at > ROOM / 2).unwrap_or(ROOM);
    let rest: String = chars[at..].iter().collect();
    let mut rest: Vec<char> = rest.trim_start().chars().collect();
    if rest.len() > ROOM {
        rest.truncate(ROOM - 3);
        rest.extend("...".chars());
    }
    vec![chars[..at].iter().collect(), rest.into_iter().collect()]
}

/// The text without anything that a terminal could take for an order: what is not printable ASCII becomes a question mark.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> Facts {
        Facts {
            name: Some("web".into()),
            role: Some("web".into()),
            version: Some("0.1.0".into()),
            health: vec!["healthy".into()],
            addresses: vec!["enp1s0 10.83.101.15/24".into(), "enp2s0 10.83.1.1/24".into()],
            keys: vec!["00112233445566778899aabbccddeeff generation 1 of web-database".into()],
            certificate: Some("5f".repeat(32)),
            updates: vec!["0.1.2 failed: portald.service does not run".into()],
            error: None,
        }
    }

    #[test]
    fn a_machine_that_is_well() {
        let expected = "\
FFS 0.1.0: web, a web machine
Administered over the commlink (ffsctl); nobody logs in here.

Health        healthy
Addresses     enp1s0 10.83.101.15/24
              enp2s0 10.83.1.1/24
Commlink keys 00112233445566778899aabbccddeeff generation 1 of web-database
Certificate   5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f
Updates       0.1.2 failed: portald.service does not run
Last error    none since the start";
        assert_eq!(lines(&facts()).join("\n"), expected);
    }

    #[test]
    fn a_machine_of_which_nothing_is_known() {
        let text = lines(&Facts::default()).join("\n");
        assert!(text.starts_with("FFS of an unknown version: a machine that is not set up\n"), "{text}");
        assert!(text.contains("Health        nothing is known yet\nAddresses     none\n"), "{text}");
    }

    #[test]
    fn orders_to_a_terminal_are_none() {
        let nasty = "\x1b[2J\x07\r\n\u{9b}31mred\u{202e}ä\0end";
        let error = Some(nasty.to_owned());
        let name = Some("w\x1bc".to_owned());
        let all = lines(&Facts { error, name, ..facts() });
        assert!(all.iter().any(|l| l.ends_with("?[2J????31mred???end")), "{all:?}");
        assert!(all[0].contains("w?c"));
    }

    #[test]
    fn long_texts_and_long_lists() {
        let error = Some(format!("{} {}", "word ".repeat(20), "x".repeat(500)));
        let addresses = (0..9).map(|n| format!("eth{n} 10.0.0.{n}/24")).collect();
        let all = lines(&Facts { error, addresses, ..facts() });
        assert!(all.last().unwrap().ends_with("x..."), "{all:?}");
        assert_eq!(all.iter().filter(|l| l.contains("/24")).count(), MOST - 1);
        assert!(all.iter().any(|l| l.trim() == "and 5 more"), "{all:?}");
        let exact = (0..MOST).map(|n| format!("eth{n}")).collect();
        let all = lines(&Facts { addresses: exact, ..facts() });
        assert!(!all.iter().any(|l| l.contains("more")), "{all:?}");
    }

    proptest! {
        #[test]
        fn whatever_comes_in_it_stays_on_the_screen(
            texts in proptest::collection::vec(".{0,300}", 0..12),
            name in proptest::option::of(".{0,100}"),
        ) {
            let error = texts.first().cloned();
            let facts = Facts {
                name: name.clone(), role: name, version: error.clone(), health: texts.clone(), addresses: texts.clone(),
                keys: texts.clone(), certificate: error.clone(), updates: texts, error,
            };
            let lines = lines(&facts);
            prop_assert!(lines.len() <= HEIGHT);
            for line in lines {
                prop_assert!(line.len() <= WIDTH && line.bytes().all(|b| (0x20..0x7f).contains(&b)), "{:?}", line);
            }
        }
    }
}

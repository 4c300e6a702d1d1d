//! Where packages come from: the mirrors of the host's own apt, with the suites of the release that images are made of.
//!
//! No mirror is named here. Where the host has no Debian sources, `FFS_MIRROR` names the folder that holds `debian` and
//! `debian-security`.

use std::collections::BTreeSet;

/// The Debian release of the images.
pub(crate) const RELEASE: &str = "trixie";
/// What is taken of it: non-free-firmware for network adapters.
const COMPONENTS: &str = "main non-free-firmware";
/// The keys of Debian's archives on a Debian host.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite on a mirror.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    uri: String,
    suite: String,
    keyring: String,
}

impl Source {
    /// The line of it in a sources.list.
    pub(crate) fn line(&self) -> String {
        format!("deb [signed-by={}] {} {} {COMPONENTS}\n", self.keyring, self.uri, self.suite)
    }
}

/// The sources on a mirror that the user names.
pub(crate) fn of_mirror(mirror: &str) -> BTreeSet<Source> {
    let mirror = mirror.trim_end_matches('/');
    let source =
        |folder: &str, suite: String| Source { uri: format!("{mirror}/{folder}"), suite, keyring: KEYRING.into() };
    [source("debian", RELEASE.into()), source("debian-security", format!("{RELEASE}-security"))].into()
}

/// The suite of ours that corresponds to one of the host's, whose release is `codename`.
fn translate(suite: &str, codename: &str) -> Option<String> {
    [codename, "stable", "oldstable", RELEASE].iter().find_map(|name| match suite.strip_prefix(name)? {
        "" => Some(RELEASE.to_owned()),
        "-security" | "/updates" => Some(format!("{RELEASE}-security")),
        _ => None,
    })
}

/// The fields of the stanzas of a `.sources` file (deb822).
fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let last = all.last_mut().filter(|stanza| !stanza.is_empty());
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if let (true, Some((_, value))) = (line.starts_with([' ', '\t']), last.and_then(|s| s.last_mut())) {
            value.push('\n');
            value.push_str(line.trim());
        } else if let (Some((key, value)), Some(stanza)) = (line.split_once(':'), all.last_mut()) {
            stanza.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    all
}

/// Our sources from what a host has: the texts of its `.list` and `.sources` files.
pub(crate) fn of_host(lists: &[String], deb822: &[String], codename: &str) -> BTreeSet<Source> {
    let mut found = BTreeSet::new();
    let mut add = |uri: &str, suite: &str, keyring: Option<&str>| {
        if let Some(suite) = translate(suite, codename) {
            let keyring = keyring.filter(|k| k.starts_with('/')).unwrap_or(KEYRING).to_owned();
            found.insert(Source { uri: uri.trim_end_matches('/').to_owned(), suite, keyring });
        }
    };
    for line in lists.iter().flat_map(|text| text.lines()) {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let (options, rest) = match rest.trim_start().strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [uri, suite, components @ ..] = &words[..]
            && components.contains(&"main")
        {
            add(uri, suite, options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")));
        }
    }
    for stanza in deb822.iter().flat_map(|text| stanzas(text)) {
        let field = |name: &str| stanza.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
        let has = |name: &str, word: &str| field(name).is_some_and(|v| v.split_whitespace().any(|w| w == word));
        if !has("types", "deb") || !has("components", "main") || field("enabled").is_some_and(|e| e == "no") {
            continue;
        }
        for uri in field("uris").unwrap_or_default().split_whitespace() {
            for suite in field("suites").unwrap_or_default().split_whitespace() {
                add(uri, suite, field("signed-by").filter(|k| !k.contains('\n')));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(sources: &BTreeSet<Source>) -> Vec<String> {
        sources.iter().map(Source::line).collect()
    }

    #[test]
    fn a_host_with_deb822() {
        let text = "# comment\nTypes: deb\n# another\nURIs: https://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nSigned-By: /k.gpg\n\nTypes: deb deb-src\nURIs: https://mirror.test/sec/\n\
            Suites: bookworm-security\nComponents: main contrib\nSigned-By:\n -----BEGIN PGP\n .\n x\n\n\
            Types: deb\nURIs: https://other.test\nSuites: nodistro\nComponents: main\n\n\
            Types: deb\nEnabled: no\nURIs: https://off.test\nSuites: bookworm\nComponents: main\n";
        assert_eq!(
            lines(&of_host(&[], &[text.into()], "bookworm")),
            [
                "deb [signed-by=/k.gpg] https://mirror.test/debian trixie main non-free-firmware\n".to_owned(),
                format!("deb [signed-by={KEYRING}] https://mirror.test/sec trixie-security main non-free-firmware\n"),
            ]
        );
    }

    #[test]
    fn a_host_with_lines() {
        let text = "deb [arch=amd64 signed-by=/k.gpg] http://m.test/debian stable main contrib\n# deb http://x trixie main\n\
            deb http://m.test/debian-security bookworm-security main\ndeb-src http://m.test/debian stable main\n\
            deb http://apps.test/apt cloud-bookworm main\ndeb http://m.test/debian bookworm-backports main\n";
        assert_eq!(
            lines(&of_host(&[text.into()], &[], "bookworm")),
            [
                "deb [signed-by=/k.gpg] http://m.test/debian trixie main non-free-firmware\n".to_owned(),
                format!(
                    "deb [signed-by={KEYRING}] http://m.test/debian-security trixie-security main non-free-firmware\n"
                ),
            ]
        );
        assert!(of_host(&["deb http://u.test/ubuntu noble main".into()], &[], "noble").len() == 1);
        assert!(of_host(&["deb http://u.test/ubuntu noble-updates main".into()], &[], "noble").is_empty());
    }

    #[test]
    fn a_mirror_by_name() {
        let found = of_mirror("http://m.test/");
        assert!(lines(&found)[0].contains(" http://m.test/debian trixie main"));
        assert!(lines(&found)[1].contains(" http://m.test/debian-security trixie-security main"));
    }
}

//! The facts of MLST and MLSD (RFC 3659 section 7): which there are, which the client wants.

/// The facts that are offered, in the order in which they are sent.
pub const ALL: [&str; 3] = ["type", "size", "modify"];

/// The client's choice among [`ALL`], made by OPTS MLST; all of them until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts([bool; ALL.len()]);

impl Default for Facts {
    fn default() -> Self {
        Self([true; ALL.len()])
    }
}

impl Facts {
    /// What OPTS MLST with this list asks for; unknown facts are passed over (section 7.9).
    pub fn chosen(list: &str) -> Self {
        Self(ALL.map(|fact| list.split(';').any(|f| f.trim().eq_ignore_ascii_case(fact))))
    }

    fn names(self) -> impl Iterator<Item = (&'static str, bool)> {
        ALL.into_iter().zip(self.0)
    }

    /// The list in the reply to OPTS MLST.
    pub fn list(self) -> String {
        self.names().filter(|(_, on)| *on).map(|(f, _)| format!("{f};")).collect()
    }

    /// The list in the reply to FEAT: what is on is marked by an asterisk.
    pub fn feature(self) -> String {
        self.names().map(|(f, on)| format!("{f}{};", if on { "*" } else { "" })).collect()
    }

    /// An entry `fact=value;fact=value; name` with only the wanted facts left.
    pub fn filter(self, entry: &str) -> String {
        let Some((facts, name)) = entry.split_once(' ') else { return entry.to_owned() };
        let wanted = |fact: &&str| {
            fact.split_once('=').is_some_and(|(key, _)| self.names().any(|(f, on)| on && f.eq_ignore_ascii_case(key)))
        };
        format!("{} {name}", facts.split_inclusive(';').filter(wanted).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let rows = [
            ("size;type;", "type;size;", "type*;size*;modify;"),
            ("SIZE", "size;", "type;size*;modify;"),
            ("", "", "type;size;modify;"),
            ("UNIX.mode;modify;", "modify;", "type;size;modify*;"),
        ];
        for (list, reply, feature) in rows {
            assert_eq!(Facts::chosen(list).list(), reply, "{list:?}");
            assert_eq!(Facts::chosen(list).feature(), feature, "{list:?}");
        }
        assert_eq!(Facts::default().list(), "type;size;modify;");
    }

    #[test]
    fn entries_are_filtered_and_names_left_alone() {
        let entry = "type=file;size=3;modify=20200101000000;unix.uid=7; a size=9; b\r\n";
        let rows = [
            (Facts::default(), "type=file;size=3;modify=20200101000000; a size=9; b\r\n"),
            (Facts::chosen("size;"), "size=3; a size=9; b\r\n"),
            (Facts::chosen(""), " a size=9; b\r\n"),
        ];
        for (facts, line) in rows {
            assert_eq!(facts.filter(entry), line);
        }
        assert_eq!(Facts::default().filter("noname"), "noname");
    }
}

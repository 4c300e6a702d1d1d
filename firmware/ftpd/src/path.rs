//! Names as the client writes them, made absolute. Without I/O; the file system is asked with the result only.

/// The absolute path that `name` stands for in the working directory `cwd` (absolute). `..` of the root is the root.
///
/// This is arithmetic on text, not protection: that is the chroot and openat2(2)'s RESOLVE_BENEATH.
pub fn resolve(cwd: &str, name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let before = if name.starts_with('/') { "" } else { cwd };
    for part in before.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The path in the double quotes of reply 257 (RFC 959 appendix II): a quote inside is doubled.
pub fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('"', "\"\""))
}

/// What is left of the argument of LIST or NLST without the options that many clients send (`-la`, `-a -l name`).
pub fn without_options(argument: &str) -> &str {
    let mut rest = argument;
    while rest.starts_with('-') {
        let (option, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after;
        if option == "--" {
            break;
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resolves() {
        let rows = [
            ("/", "a", "/a"),
            ("/a", "b", "/a/b"),
            ("/a", "/b", "/b"),
            ("/a/b", "..", "/a"),
            ("/a/b", "../..", "/"),
            ("/a", "../../../etc/passwd", "/etc/passwd"),
            ("/a", "./b/./c/", "/a/b/c"),
            ("/", "//a//b", "/a/b"),
            ("/a", "", "/a"),
            ("/a", "...", "/a/..."),
            ("/a", " b ", "/a/ b "),
            ("/", "Zürich/Straße", "/Zürich/Straße"),
        ];
        for (cwd, name, path) in rows {
            assert_eq!(resolve(cwd, name), path, "{cwd:?} {name:?}");
        }
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(quoted("/a\"b"), "\"/a\"\"b\"");
    }

    #[test]
    fn options_are_dropped() {
        let rows = [
            ("", ""),
            ("-la", ""),
            ("-a -l x y", "x y"),
            ("x -l", "x -l"),
            ("-- -x", "-x"),
            ("--", ""),
            ("-l  x", " x"),
        ];
        for (argument, name) in rows {
            assert_eq!(without_options(argument), name, "{argument:?}");
        }
    }

    proptest! {
        #[test]
        fn a_result_is_absolute_and_normal(cwd in "(/[a-c.]{0,3}){0,4}", name in "[a-c./]{0,20}") {
            let path = resolve(&resolve("/", &cwd), &name);
            prop_assert!(path.starts_with('/'));
            prop_assert!(path == "/" || path[1..].split('/').all(|p| !matches!(p, "" | "." | "..")));
            prop_assert_eq!(resolve("/", &path), path);
        }
    }
}

use super::*;
use std::fs;

/// The parts of a role, of one package.
fn parts(role: Role) -> Parts {
    let home = tempfile::tempdir().unwrap();
    let docs = home.path().join("usr/share/doc/libx1");
    fs::create_dir_all(&docs).unwrap();
    fs::write(docs.join("copyright"), "Format: y\n\nFiles: *\nLicense: GPL-2+\n\nFiles: z\nLicense: own terms\n")
        .unwrap();
    let text = |t: &str| t.to_owned();
    let package =
        Locked { name: text("libx1"), version: text("1:2+b1~x"), arch: text("amd64"), sha256: "0".repeat(64) };
    Parts::of(role, "1.2.3", &[(package, home.path().to_owned())], &[]).unwrap()
}

fn names(sbom: &Value) -> Vec<&str> {
    sbom["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
}

#[test]
fn what_is_linked_is_listed() {
    let parts = parts(Role::Database);
    assert_eq!(parts.unknown(), [""; 0]);
    let sbom: Value = serde_json::from_slice(&parts.sbom().unwrap()).unwrap();
    let names = names(&sbom);
    for name in ["masterd", "commlinkd", "admind", "libx1", "tokio", "snow", "redb"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    // Another role's, what only tests need, and what runs in the compiler.
    for name in ["ftpd", "libunftp", "proptest", "serde_derive", "syn"] {
        assert!(!names.contains(&name), "{name}");
    }
    let component = |name: &str| sbom["components"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
    assert_eq!(component("libx1")["purl"], "pkg:deb/debian/libx1@1%3A2%2Bb1~x?arch=amd64&distro=trixie");
    assert_eq!(
        component("libx1")["licenses"],
        json!([{"license": {"id": "GPL-2.0-or-later"}}, {"license": {"name": "own terms"}}])
    );
    assert_eq!(component("tokio")["licenses"], json!([{"expression": "MIT"}]));
    assert_eq!(component("tokio")["hashes"][0]["content"].as_str().unwrap().len(), 64);
    let licenses = parts.licenses();
    assert!(
        licenses.contains("libx1 1:2+b1~x: GPL-2+; own terms\n") && licenses.contains("Permission is hereby granted")
    );
}

#[test]
fn every_reference_leads_somewhere() {
    let sbom: Value = serde_json::from_slice(&parts(Role::Download).sbom().unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut known: BTreeSet<_> = sbom["components"].as_array().unwrap().iter().map(|c| text(&c["bom-ref"])).collect();
    assert_eq!(known.len(), sbom["components"].as_array().unwrap().len(), "each once");
    known.insert(text(&sbom["metadata"]["component"]["bom-ref"]));
    let mut reached = BTreeSet::from([text(&sbom["metadata"]["component"]["bom-ref"])]);
    for dependency in sbom["dependencies"].as_array().unwrap() {
        assert!(known.contains(dependency["ref"].as_str().unwrap()), "{dependency}");
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(known.contains(on.as_str().unwrap()), "{on}");
            reached.insert(text(on));
        }
    }
    assert_eq!(reached, known, "nothing is there without something that needs it");
}

#[test]
fn the_same_parts_give_the_same_document() {
    let (one, other) = (parts(Role::Web), parts(Role::Web));
    assert_eq!(one.sbom().unwrap(), other.sbom().unwrap());
    assert_eq!(one.licenses(), other.licenses());
    assert!(!String::from_utf8(one.sbom().unwrap()).unwrap().contains(root().to_str().unwrap()));
}

#[test]
fn the_document_is_what_cyclonedx_says() {
    const VALIDATE: &str = "import sys\nfrom cyclonedx.schema import SchemaVersion\n\
        from cyclonedx.validation.json import JsonStrictValidator\n\
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())\n\
        sys.exit(str(error) if error else 0)\n";
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("sbom.cdx.json");
    let python = crate::buildroot::venv::provide().unwrap().join("python");
    let validate = |document: &[u8]| {
        fs::write(&file, document).unwrap();
        let output = std::process::Command::new(&python).args(["-c", VALIDATE]).arg(&file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let sbom = parts(Role::Download).sbom().unwrap();
    let (valid, said) = validate(&sbom);
    assert!(valid, "{said}");
    let mut wrong: Value = serde_json::from_slice(&sbom).unwrap();
    wrong["components"][0]["type"] = json!("thing");
    assert!(!validate(&serde_json::to_vec(&wrong).unwrap()).0);
}

use super::*;
use std::fs::Permissions;

fn paths(home: &Path) -> [PathBuf; 2] {
    [home.join("sb/x.key"), home.join("sb/x.crt")]
}

fn key(home: &Path) -> Key {
    let paths = paths(home);
    make(&paths).unwrap();
    assert_eq!(fs::metadata(home.join("sb")).unwrap().permissions(), Permissions::from_mode(0o40700));
    Key::read(&paths[0], &paths[1]).unwrap()
}

/// A program for UEFI as small as they get: one section of 512 bytes.
fn program() -> Vec<u8> {
    let mut pe = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80u32.to_le_bytes());
    put(0x80, b"PE\0\0\x64\x86\x01\0");
    // Size of the optional header and characteristics; magic; alignments; sizes of image and headers; subsystem; directories.
    put(0x94, &[240, 0, 0x0e, 2]);
    put(0x98, &[0x0b, 2]);
    put(0x98 + 32, &0x1000u32.to_le_bytes());
    put(0x98 + 36, &0x200u32.to_le_bytes());
    put(0x98 + 56, &0x2000u32.to_le_bytes());
    put(0x98 + 60, &0x200u32.to_le_bytes());
    put(0x98 + 68, &[10]);
    put(0x98 + 108, &[16]);
    let entry = 0x98 + 240;
    put(entry, b".text");
    for (at, value) in [(8, 16u32), (12, 0x1000), (16, 0x200), (20, 0x200), (36, 0x6000_0020)] {
        put(entry + at, &value.to_le_bytes());
    }
    put(0x200, b"a program");
    pe
}

/// What openssl says about a signature: it is asked as somebody else who knows the formats.
fn openssl(home: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(args).current_dir(home).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn programs_are_signed() {
    let home = tempfile::tempdir().unwrap();
    let (key, pe) = (key(home.path()), program());
    let signed = key.program(&pe).unwrap();
    assert_eq!(key.program(&pe).unwrap(), signed, "the same again");
    assert!(key.program(&signed).unwrap_err().to_string().contains("signed already"));
    let directory = 0x98 + 112 + 32;
    assert_eq!(signed[..directory], pe[..directory]);
    assert_eq!(signed[directory + 8..pe.len()], pe[directory + 8..]);

    let parsed = goblin::pe::PE::parse(&signed).unwrap();
    let goblin::pe::certificate_table::AttributeCertificate { certificate, .. } = &parsed.certificates[0];
    fs::write(home.path().join("p7"), certificate).unwrap();
    // What is signed is the hash of what goblin would hash, and the signature is good for it.
    let hashed: Vec<u8> = parsed.authenticode_ranges().flatten().copied().collect();
    let hash = ring::digest::digest(&ring::digest::SHA256, &hashed);
    let mut content = authenticode::indirect_data(hash.as_ref().try_into().unwrap());
    assert!(certificate.windows(content.len()).any(|window| window == content));
    let (good, said) = openssl(home.path(), &["asn1parse", "-inform", "DER", "-in", "p7"]);
    assert!(good && said.contains("1.3.6.1.4.1.311.2.1.4"), "{said}");
    let verify = |content: &[u8]| {
        // As firmware does, since openssl does not take content of another kind out of a signature.
        fs::write(home.path().join("content"), content).unwrap();
        let what = ["smime", "-verify", "-inform", "DER", "-in", "p7", "-content", "content", "-binary"];
        openssl(home.path(), &[&what[..], &["-CAfile", "sb/x.crt", "-purpose", "any", "-out", "out"]].concat())
    };
    let (good, said) = verify(&content);
    assert!(good, "{said}");
    *content.last_mut().unwrap() ^= 1;
    assert!(!verify(&content).0);
}

#[test]
fn what_cannot_be_signed() {
    let home = tempfile::tempdir().unwrap();
    let key = key(home.path());
    assert!(key.program(b"MZ").is_err());
    let mut gap = program();
    gap[0x98 + 240 + 20..0x98 + 240 + 24].copy_from_slice(&0x300u32.to_le_bytes());
    gap.resize(0x600, 0);
    assert!(key.program(&gap).unwrap_err().to_string().contains("gap"));
    let mut cut = program();
    cut.truncate(0x3ff);
    assert!(key.program(&cut).is_err());
}

#[test]
fn variables_are_signed() {
    let home = tempfile::tempdir().unwrap();
    let key = key(home.path());
    let all = key.variables().unwrap();
    assert_eq!(all.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["PK.auth", "KEK.auth", "db.auth"]);
    for (name, file) in all {
        let length = usize::try_from(u32::from_le_bytes(file[16..20].try_into().unwrap())).unwrap();
        let (signature, value) = (&file[40..16 + length], &file[16 + length..]);
        assert!(value.ends_with(key.certificate()));
        assert_eq!(value.len(), 28 + 16 + key.certificate().len());
        // openssl wants to be told that it is signed data, and has what is signed beside it.
        let info = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_oid(&ObjectIdentifier::from_slice(oid::SIGNED_DATA));
                w.next().write_tagged(Tag::context(0), |w| w.write_der(signature));
            });
        });
        let vendor =
            if name == "db.auth" { "cbb219d73a3d9645a3bcdad00e67656f" } else { "61dfe48bca93d211aa0d00e098032b8c" };
        let mut signed: Vec<u8> = name.trim_end_matches(".auth").bytes().flat_map(|b| [b, 0]).collect();
        signed.extend(hex::decode(vendor).unwrap());
        signed.extend([0x27, 0, 0, 0]);
        signed.extend(&file[..16]);
        signed.extend(value);
        fs::write(home.path().join("p7"), info).unwrap();
        fs::write(home.path().join("content"), &signed).unwrap();
        let verify = ["smime", "-verify", "-inform", "DER", "-in", "p7", "-content", "content", "-binary"];
        let trust = ["-CAfile", "sb/x.crt", "-purpose", "any", "-out", "out"];
        let (good, said) = openssl(home.path(), &[&verify[..], &trust].concat());
        assert!(good, "{name}: {said}");
        signed[0] ^= 1;
        fs::write(home.path().join("content"), &signed).unwrap();
        assert!(!openssl(home.path(), &[&verify[..], &trust].concat()).0, "{name}");
    }
}

#[test]
fn keys_that_are_none() {
    let home = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let [path, certificate] = paths(home.path());
    make(&paths(home.path())).unwrap();
    make(&paths(other.path())).unwrap();
    assert!(Key::read(&certificate, &certificate).is_err() && Key::read(&path, &path).is_err());
    let error = Key::read(&path, &paths(other.path())[1]).err().unwrap().to_string();
    assert!(error.contains("is not of the key"), "{error}");
    assert_eq!(named(None, None).unwrap(), None);
    assert!(named(Some("k".into()), Some("c".into())).unwrap().is_some());
    assert!(named(Some("k".into()), None).is_err() && named(None, Some("c".into())).is_err());
}

use super::*;
use pasetors::keys::{AsymmetricKeyPair, Generate};
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn pair() -> AsymmetricKeyPair<V4> {
    AsymmetricKeyPair::generate().unwrap()
}

pub(crate) fn stamp(seconds: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap().to_string()
}

pub(crate) fn claims(id: Id, kind: LeaseKind) -> Value {
    json!({
        "jti": id.to_string(), "sub": "alice", "aud": "download", "iat": stamp(NOW), "nbf": stamp(NOW),
        "exp": stamp(NOW + 60), "product": "maps", "version": "1.0", "file": "grüße 1.iso",
        "sha256": Sha256::from([7; 32]).to_string(), "size": "100", "kind": kind.as_str(),
        "lease_expires": (NOW + 3600).to_string(),
    })
}

pub(crate) fn sign(pair: &AsymmetricKeyPair<V4>, claims: &Value) -> Secret {
    let token = PublicToken::sign(&pair.secret, claims.to_string().as_bytes(), None, Some(ASSERTION)).unwrap();
    Secret::new(&token).unwrap()
}

fn at(at: u64) -> Now {
    Now { at, trusted: true }
}

#[test]
fn a_good_grant() {
    let pair = pair();
    let verifier = Verifier::new(pair.public.clone(), "download".parse().unwrap());
    let token = sign(&pair, &claims([1; 16].into(), LeaseKind::OneTime));
    let grant = verifier.verify(&token, at(NOW)).unwrap();
    assert_eq!((grant.customer.as_str(), grant.size, grant.kind), ("alice", 100, LeaseKind::OneTime));
    assert_eq!((grant.use_by, grant.lease_expires), (NOW + 60, NOW + 3600));
    assert!(verifier.verify(&token, at(NOW + 59)).is_ok());
    assert_eq!(verifier.verify(&token, at(NOW + 60)), Err(GrantError::Expired));
    assert!(verifier.verify(&token, at(NOW - PLAUSIBLE)).is_ok());
    assert_eq!(verifier.verify(&token, at(NOW - PLAUSIBLE - 1)), Err(GrantError::Early));
    assert!(verifier.verify(&token, Now { at: 5, trusted: false }).is_ok(), "our clock is behind");
}

#[test]
fn bad_claims() {
    let pair = pair();
    let verifier = Verifier::new(pair.public.clone(), "download".parse().unwrap());
    let good = claims([1; 16].into(), LeaseKind::Standing);
    for (claim, bad) in [
        ("jti", json!("1")),
        ("sub", json!("../alice")),
        ("sub", json!("")),
        ("product", json!("a/b")),
        ("version", json!("..")),
        ("file", json!("../x")),
        ("file", json!("..")),
        ("file", json!("")),
        ("sha256", json!("07")),
        ("size", json!(100)),
        ("size", json!("-1")),
        ("size", json!("1e3")),
        ("kind", json!("FOREVER")),
        ("kind", json!("standing")),
        ("lease_expires", json!("")),
        ("exp", json!("tomorrow")),
        ("exp", json!("1969-01-01T00:00:00Z")),
        ("iat", json!(NOW)),
        ("restricted_to", json!("10.0.0.1")),
    ] {
        let mut claims = good.clone();
        claims[claim] = bad.clone();
        let verdict = verifier.verify(&sign(&pair, &claims), at(NOW));
        assert!(matches!(verdict, Err(GrantError::Claim(_))), "{claim} {bad}: {verdict:?}");
    }
    for claim in good.as_object().unwrap().keys().filter(|claim| *claim != "nbf") {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(claim);
        assert!(matches!(verifier.verify(&sign(&pair, &claims), at(NOW)), Err(GrantError::Claim(_))), "{claim}");
    }
    let mut elsewhere = good.clone();
    elsewhere["aud"] = json!("download-2");
    assert_eq!(verifier.verify(&sign(&pair, &elsewhere), at(NOW)), Err(GrantError::Elsewhere("download-2".into())));
    let mut dead = good.clone();
    dead["lease_expires"] = json!(NOW.to_string());
    assert_eq!(verifier.verify(&sign(&pair, &dead), at(NOW)), Err(GrantError::Expired));
    for (life, fine) in [(MAX_LIFE, true), (MAX_LIFE + 1, false)] {
        let mut long = good.clone();
        long["exp"] = json!(stamp(NOW + life));
        assert_eq!(verifier.verify(&sign(&pair, &long), at(NOW)).is_ok(), fine, "to be used for {life} s");
    }
    // A claim given twice could be read in two ways.
    let twice = good.to_string().replacen('{', "{\"sub\":\"bob\",", 1);
    let token = PublicToken::sign(&pair.secret, twice.as_bytes(), None, Some(ASSERTION)).unwrap();
    let verdict = verifier.verify(&Secret::new(&token).unwrap(), at(NOW));
    assert!(matches!(verdict, Err(GrantError::Claim(_))), "{verdict:?}");
}

#[test]
fn forgeries() {
    let (pair, other) = (pair(), self::pair());
    let verifier = Verifier::new(pair.public.clone(), "download".parse().unwrap());
    let claims = claims([1; 16].into(), LeaseKind::Standing);
    let good = sign(&pair, &claims);
    let text = claims.to_string();
    let signed = |footer: Option<&[u8]>, assertion: Option<&[u8]>| {
        PublicToken::sign(&pair.secret, text.as_bytes(), footer, assertion).unwrap()
    };
    let mut flipped = good.expose().to_owned().into_bytes();
    let at_ = flipped.len() / 2;
    flipped[at_] = if flipped[at_] == b'A' { b'B' } else { b'A' };
    for (what, token) in [
        ("another key", sign(&other, &claims).expose().to_owned()),
        ("no assertion", signed(None, None)),
        ("another assertion", signed(None, Some(b"ffs-grant-2"))),
        ("a footer", signed(Some(b"x"), Some(ASSERTION))),
        ("one character", String::from_utf8(flipped).unwrap()),
        ("cut", good.expose()[..good.expose().len() - 1].to_owned()),
        ("another version", good.expose().replacen("v4.public", "v2.public", 1)),
        ("another purpose", good.expose().replacen("v4.public", "v4.local", 1)),
        ("nothing", String::new()),
        ("words", "let me in".to_owned()),
    ] {
        let verdict = verifier.verify(&Secret::new(&token).unwrap(), at(NOW));
        assert_eq!(verdict, Err(GrantError::Forged), "{what}");
    }
}

#[test]
fn key_files() {
    use pasetors::paserk::FormatAsPaserk;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grant.pub");
    let load = || Verifier::load(&path, "download".parse().unwrap());
    assert!(matches!(load(), Err(KeyError::Read { .. })));
    let pair = pair();
    let (mut public, mut secret) = (String::new(), String::new());
    FormatAsPaserk::fmt(&pair.public, &mut public).unwrap();
    FormatAsPaserk::fmt(&pair.secret, &mut secret).unwrap();
    for bad in ["", "k4.public.", &secret] {
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(load(), Err(KeyError::NotAKey(_))));
    }
    std::fs::write(&path, format!("{public}\n")).unwrap();
    assert!(load().unwrap().verify(&sign(&pair, &claims([1; 16].into(), LeaseKind::Standing)), at(NOW)).is_ok());
}

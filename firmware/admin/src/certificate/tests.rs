use super::*;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// Noon of the day on which what [`Authority`] makes is looked at.
const NOW: i64 = 1_800_014_400;

type Signer = Issuer<'static, KeyPair>;

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    params
}

/// An authority, signed by another or by itself.
fn authority(name: &str, by: Option<&Signer>) -> (Certificate, Signer) {
    let key = KeyPair::generate().unwrap();
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = by.map_or_else(|| params.self_signed(&key), |by| params.signed_by(&key, by)).unwrap();
    (certificate, Issuer::new(params, key))
}

/// A server's certificate and key.
fn server(by: &Signer, change: fn(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = params("server", &["ftp.example.net", "192.0.2.7"]);
    change(&mut params);
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

fn refused(chain: &[&str], key: &str) -> Unfit {
    Pair::new(&chain.concat(), key).and_then(|pair| pair.check(NOW, None)).unwrap_err()
}

#[test]
fn a_chain_of_a_public_authority() {
    let (root, root_key) = authority("root", None);
    let (between, between_key) = authority("between", Some(&root_key));
    let (own, key) = server(&between_key, |_| {});
    // With what people and programs write around it, and the key in the same file.
    let file = format!("subject=CN = server\r\n{}\r\n\t\n{key}{}", own.replace('\n', "\r\n"), between.pem());
    let pair = Pair::new(&file, &file).unwrap();
    assert_eq!((pair.chain(), pair.key()), (&*[&*own, &between.pem()].concat(), &*key), "and nothing else");
    let facts = pair.check(NOW, None).unwrap();
    assert_eq!(day(facts.ends), "2030-01-01");
    assert_eq!(facts.fingerprint, hex::encode(Sha256::digest(CertificateDer::from_pem_slice(own.as_bytes()).unwrap())));
    assert!(pair.covers("ftp.example.net") && pair.covers("192.0.2.7"));
    assert!(!pair.covers("www.example.net") && !pair.covers("192.0.2.8") && !pair.covers(""));
    let with_root = Pair::new(&[own.as_str(), &between.pem(), &root.pem()].concat(), &key).unwrap();
    assert_eq!(with_root.check(NOW, None).unwrap(), facts);
    // One alone, whose issuer only its customers know, or the site.
    let alone = Pair::new(&own, &key).unwrap();
    assert_eq!(alone.check(NOW, None).unwrap(), facts);
    assert_eq!(alone.check(NOW, Some(&between.pem())).unwrap(), facts);
    assert!(matches!(alone.check(NOW, Some(&root.pem())), Err(Unfit::Order(2))));
}

#[test]
fn what_cannot_be_served() {
    let (root, root_key) = authority("root", None);
    let (namesake, _) = authority("root", None);
    let (other, _) = authority("other", None);
    let (own, key) = server(&root_key, |_| {});
    let (second, second_key) = server(&root_key, |_| {});
    assert!(matches!(refused(&[], &key), Unfit::NoCertificate));
    assert!(matches!(refused(&[&key], &key), Unfit::NoCertificate));
    assert!(matches!(
        refused(&["-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"], &key),
        Unfit::NoCertificate
    ));
    assert!(matches!(
        refused(&["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"], &key),
        Unfit::Unreadable(1)
    ));
    assert!(matches!(refused(&[&own], ""), Unfit::NoKey));
    assert!(matches!(refused(&[&own], &key.replace("PRIVATE", "ENCRYPTED PRIVATE")), Unfit::NoKey));
    assert!(matches!(refused(&[&own], &second_key), Unfit::Foreign(_)));
    assert!(matches!(refused(&[&root.pem(), &own], &key), Unfit::Foreign(_)), "the wrong way round");
    assert!(matches!(refused(&[&own, &other.pem()], &key), Unfit::Order(2)));
    assert!(matches!(refused(&[&own, &second], &key), Unfit::Order(2)));
    assert!(matches!(refused(&[&own, &namesake.pem()], &key), Unfit::Chain(_)), "by the name only");
    let (early, early_key) = server(&root_key, |p| p.not_before = date_time_ymd(2028, 1, 1));
    let why = refused(&[&early, &root.pem()], &early_key).to_string();
    assert_eq!(why, "certificate 1 of the chain is valid from 2028-01-01 to 2030-01-01 only");
    let (late, late_key) = server(&root_key, |p| p.not_after = date_time_ymd(2027, 1, 1));
    assert!(matches!(refused(&[&late, &root.pem()], &late_key), Unfit::Invalid { number: 1, .. }));
    // What is out of date is served on where there is nothing better.
    assert_eq!(day(Pair::new(&late, &late_key).unwrap().fits().unwrap().ends), "2027-01-01");
    assert!(matches!(Pair::new(&own, &second_key).unwrap().fits(), Err(Unfit::Foreign(_))));
}

#[test]
fn sizes_at_their_edges() {
    let block = |label: &str, bytes: usize| {
        let (begin, end) = (format!("-----BEGIN {label}-----\n"), format!("-----END {label}-----\n"));
        let mut text = "A".repeat(bytes - begin.len() - end.len());
        // In lines of 64 characters, their ends included.
        (63..text.len()).step_by(64).for_each(|at| text.replace_range(at..=at, "\n"));
        text.replace_range(text.len() - 1.., "\n");
        [begin, text, end].concat()
    };
    let (chain, key) = (block("CERTIFICATE", MAX_CHAIN), block("PRIVATE KEY", MAX_KEY));
    assert_eq!((chain.len(), key.len()), (MAX_CHAIN, MAX_KEY));
    let largest = Pair::new(&chain, &key).unwrap();
    // It fits one message.
    assert!(tobj::Message::request(largest.request().unwrap()).unwrap().encode().is_ok());
    let more = |label, bytes| block(label, bytes + 1);
    assert!(matches!(Pair::new(&more("CERTIFICATE", MAX_CHAIN), &key), Err(Unfit::TooLarge { limit: MAX_CHAIN, .. })));
    assert!(matches!(Pair::new(&chain, &more("PRIVATE KEY", MAX_KEY)), Err(Unfit::TooLarge { limit: MAX_KEY, .. })));
    // A line that no PEM has.
    let long = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----", "A".repeat(Text::MAX + 1));
    assert!(Pair::new(&long, &key).unwrap().request().is_err());
}

#[test]
fn a_pair_is_sent_and_kept_as_it_is() {
    let (root, root_key) = authority("root", None);
    let (own, key) = server(&root_key, |_| {});
    let pair = Pair::new(&[own, root.pem()].concat(), &key).unwrap();
    let request = pair.request().unwrap();
    assert!(!format!("{request:?}").contains(key.lines().nth(1).unwrap()), "a key is not shown");
    let Request::TlsRenew { certificate, key } = request else { panic!("another request") };
    let received = Pair::received(&certificate, &key).unwrap();
    let kept = Pair::parse(&received.to_text()).unwrap();
    assert_eq!((kept.chain(), kept.key()), (pair.chain(), pair.key()));
    assert!(matches!(Pair::parse("half of it").unwrap().fits(), Err(Unfit::NoCertificate)));
}

//! The customer's session as his browser carries it.
//!
//! The portal keeps nothing: the cookie holds the database's session token (128 random bits) and the customer's name for the pages,
//! which is shown to nobody but him and decides nothing. What a form must prove is derived from the token, so it survives a
//! restart, needs no key, and can be computed only by who has the token already.

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tobj::{Name, Secret};

/// The name of the cookie. With this prefix browsers take it only over TLS, for this host alone and for every path.
const COOKIE_NAME: &str = "__Host-session";
/// Who follows a link from another site comes with the cookie and is logged in; a form of another site comes without it, and is refused
/// besides.
const SAME_SITE: &str = "SameSite=Lax";
/// What the token of forms is derived for.
const FORM_LABEL: &[u8] = b"portal form token v1";
/// Shortest token that is taken for one.
const MIN_TOKEN: usize = 16;
/// Longest token that is taken for one.
const MAX_TOKEN: usize = 128;

/// A customer who has logged in, as far as his browser says; the database decides whether it is so.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The database's token.
    pub token: Secret,
    /// His name, for the pages only.
    pub customer: Name,
}

impl Session {
    /// A session with a token of the database; `None` for one that cannot stand in a cookie.
    pub(crate) fn new(token: Secret, customer: Name) -> Option<Self> {
        let text = token.expose();
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (plain && (MIN_TOKEN..=MAX_TOKEN).contains(&text.len())).then_some(Self { token, customer })
    }

    /// The session in the cookies of a request.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(COOKIE).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
        let value = cookies.filter_map(|c| c.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('=')).next()?;
        let (token, customer) = value.split_once(':')?;
        Self::new(Secret::new(token).ok()?, Name::new(customer).ok()?)
    }

    /// The `Set-Cookie` that gives it to the browser, until that is closed.
    pub(crate) fn cookie(&self) -> String {
        let (token, customer) = (self.token.expose(), &self.customer);
        format!("{COOKIE_NAME}={token}:{customer}; Path=/; Secure; HttpOnly; {SAME_SITE}")
    }

    fn mac(&self) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(self.token.expose().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(FORM_LABEL);
        mac
    }

    /// What a form of this session carries as `csrf`.
    pub(crate) fn csrf(&self) -> String {
        hex::encode(self.mac().finalize().into_bytes())
    }

    /// Whether a form is one of this session; compares in constant time.
    pub(crate) fn owns_form(&self, csrf: &str) -> bool {
        hex::decode(csrf).is_ok_and(|given| self.mac().verify_slice(&given).is_ok())
    }
}

/// The `Set-Cookie` that takes the session from the browser.
pub(crate) fn removal() -> String {
    format!("{COOKIE_NAME}=; Path=/; Secure; HttpOnly; {SAME_SITE}; Max-Age=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(token: &str) -> Option<Session> {
        Session::new(Secret::new(token).unwrap(), Name::new("alice@example").unwrap())
    }

    fn of(cookie: &str) -> Option<Session> {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, cookie.parse().unwrap());
        Session::of(&headers)
    }

    #[test]
    fn the_cookie_comes_back() {
        let session = session("0123456789abcdef").unwrap();
        let set = session.cookie();
        assert!(set.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{set}");
        let sent = set.split(';').next().unwrap();
        for cookie in [sent.to_owned(), format!("a=b; {sent}; c=d"), format!("x__Host-session=1;{sent}")] {
            let back = of(&cookie).unwrap();
            assert_eq!((back.token, back.customer), (session.token.clone(), session.customer.clone()), "{cookie}");
        }
        assert!(removal().contains("Max-Age=0"));
    }

    proptest::proptest! {
        #[test]
        fn every_customer_comes_back(token in "[A-Za-z0-9_-]{16,128}", customer in "[A-Za-z0-9_@+][A-Za-z0-9._@+-]{0,63}") {
            let session = Session::new(Secret::new(&token).unwrap(), Name::new(&customer).unwrap()).unwrap();
            let cookie = session.cookie();
            let back = of(cookie.split(';').next().unwrap()).unwrap();
            proptest::prop_assert_eq!((back.token.expose(), back.customer.as_str()), (token.as_str(), customer.as_str()));
        }
    }

    #[test]
    fn what_is_no_session() {
        for cookie in [
            "",
            "a=b",
            "__Host-session=",
            "__Host-session=:alice",
            "__Host-session=0123456789abcdef",
            "__Host-session=0123456789abcdef:",
            "__Host-session=0123456789abcdef:a b",
            "__Host-session=0123456789abcde:alice",
            "__Host-session=0123456789abcde\u{e4}:alice",
            "session=0123456789abcdef:alice",
        ] {
            assert!(of(cookie).is_none(), "{cookie}");
        }
        assert!(session(&"x".repeat(MAX_TOKEN)).is_some() && session(&"x".repeat(MAX_TOKEN + 1)).is_none());
        assert!(session(&"x".repeat(MIN_TOKEN)).is_some() && session(&"x".repeat(MIN_TOKEN - 1)).is_none());
        assert!(session("0123456789abcdef;").is_none());
    }

    #[test]
    fn forms_belong_to_one_session() {
        let (one, other) = (session("0123456789abcdef").unwrap(), session("0123456789abcdeg").unwrap());
        assert!(one.owns_form(&one.csrf()));
        for wrong in ["", "00", "x", &other.csrf(), &one.csrf()[2..], &format!("{}00", one.csrf())] {
            assert!(!one.owns_form(wrong), "{wrong}");
        }
        assert!(!one.csrf().contains(one.token.expose()));
    }
}

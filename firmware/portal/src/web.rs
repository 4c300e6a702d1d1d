//! The pages behind the TLS listener: addresses, what every request passes first, what every answer carries.

mod handlers;
mod json;
mod pages;
mod problem;
mod views;

use crate::backend::Backend;
use crate::config::Download;
use crate::limits::Slot;
use crate::links;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Query, Request};
use axum::http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use daemon::RateLimit;
use problem::Problem;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tobj::Name;
use tokio::time::Instant;

/// Longest body of a request in bytes: name and password at their longest, every byte percent-encoded, fit.
pub const MAX_BODY: usize = 32 * 1024;
/// How long the body of a request may take to arrive.
pub const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Where the certificate of the site's authority is to be had.
pub(crate) const AUTHORITY: &str = "/ca.pem";

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) backend: Arc<Backend>,
    pub(crate) downloads: BTreeMap<String, Download>,
    /// The certificate of the site's authority, where there is one to be had.
    pub(crate) authority: Option<String>,
}

/// The address of the client, an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) IpAddr);

/// The product that a link from elsewhere leads to, an extension of every request. It is kept over the login: as a name, of which no
/// address is made but that of a page of ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted(Option<Name>);

impl Wanted {
    /// What the address names, if it could be a product.
    fn of(uri: &Uri) -> Self {
        #[derive(Deserialize)]
        struct Wish {
            product: String,
        }
        let wish = Query::<Wish>::try_from_uri(uri).ok();
        Self(wish.and_then(|Query(wish)| Name::new(&wish.product).ok()))
    }

    /// One of our own addresses, with the product.
    pub(crate) fn at(&self, path: &str) -> String {
        match &self.0 {
            Some(product) => format!("{path}?product={}", links::encode(product.as_str(), false)),
            None => path.to_owned(),
        }
    }
}

/// How a client wants its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Page,
    Json,
}

impl Format {
    /// JSON where it is asked for by name and HTML is not.
    fn of(headers: &HeaderMap) -> Self {
        let accepted =
            || headers.get_all(ACCEPT).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        let names =
            |kind: &str| accepted().any(|a| a.split(';').next().is_some_and(|a| a.trim().eq_ignore_ascii_case(kind)));
        if names("application/json") && !names("text/html") { Self::Json } else { Self::Page }
    }
}

/// All pages. Requests need the extension [`Client`]; with a [`Slot`] of theirs, their connection is not closed for another.
pub(crate) fn router(app: Arc<App>) -> Router {
    use handlers::{authority, downloads, healthz, home, index, login, logout, stage, style};
    Router::new()
        .route("/", get(index))
        .route("/login", post(login).get(home))
        .route("/downloads", get(downloads))
        .route("/stage", post(stage).get(home))
        .route("/logout", post(logout).get(home))
        .route("/healthz", get(healthz))
        .route("/style.css", get(style))
        .route(AUTHORITY, get(authority))
        .layer(from_fn(work))
        .layer(from_fn(guard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(dress))
        .with_state(app)
}

/// Whether a form comes from this site, as far as the browser says: scripts say nothing.
fn from_here(headers: &HeaderMap) -> bool {
    let origin = headers.get(ORIGIN).is_none_or(|origin| {
        let host = headers.get(HOST).and_then(|h| h.to_str().ok());
        let origin = origin.to_str().ok().and_then(|o| o.strip_prefix("https://"));
        host.is_some() && host.map(str::to_ascii_lowercase) == origin.map(str::to_ascii_lowercase)
    });
    let site = headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    origin && site
}

/// The lines about forms of other sites.
static FOREIGN: RateLimit = RateLimit::new(1);

/// Lets through only forms of this site that arrive in time and within their limit.
async fn guard(request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    if !from_here(request.headers()) {
        if let Some(suppressed) = FOREIGN.pass(Instant::now()) {
            let address = request.extensions().get::<Client>().map(|client| client.0);
            tracing::info!(?address, suppressed, "a form of another site was refused");
        }
        return Problem::ForeignForm.into_response();
    }
    let (parts, body) = request.into_parts();
    let whole = Bytes::from_request(Request::from_parts(parts.clone(), body), &());
    match tokio::time::timeout(BODY_WITHIN, whole).await {
        Err(_) => Problem::TooSlow.into_response(),
        Ok(Err(rejection)) => Problem::of(rejection.status()).into_response(),
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
    }
}

/// Has the connection stay while its request is answered. One that has not arrived in full is not under way: it may never be.
async fn work(request: Request, next: Next) -> Response {
    let slot = request.extensions().get::<Arc<Slot>>().cloned();
    let _busy = slot.as_ref().map(|slot| slot.busy());
    next.run(request).await
}

/// The headers of every answer. `same-origin` rather than `no-referrer`: under the latter browsers send `Origin: null` with our
/// own forms (Fetch, "append a request Origin header"), which then could not be told from those of others.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
    (VARY, "accept, cookie"),
];

/// Turns problems into what the client understands and gives every answer its headers.
async fn dress(mut request: Request, next: Next) -> Response {
    let (format, wanted) = (Format::of(request.headers()), Wanted::of(request.uri()));
    request.extensions_mut().insert(format);
    request.extensions_mut().insert(wanted.clone());
    let mut response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let problem = response.extensions().get::<Problem>().copied().unwrap_or(Problem::of(status));
        let allow = response.headers_mut().remove(ALLOW);
        response = problem.render(format, &wanted);
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn formats() {
        for (accept, format) in [
            ("application/json", Format::Json),
            ("Application/JSON; q=0.5", Format::Json),
            ("text/plain, application/json", Format::Json),
            ("text/html, application/json", Format::Page),
            ("*/*", Format::Page),
            ("application/jsonx", Format::Page),
        ] {
            assert_eq!(Format::of(&headers(&[("accept", accept)])), format, "{accept}");
        }
        assert_eq!(Format::of(&HeaderMap::new()), Format::Page);
    }

    #[test]
    fn what_a_link_wants_is_a_name_or_nothing() {
        let at = |query: &str| Wanted::of(&format!("/downloads?{query}").parse().unwrap()).at("/login");
        for (query, expected) in [
            ("", "/login"),
            ("product=maps", "/login?product=maps"),
            ("offset=5&product=maps", "/login?product=maps"),
            // What stands for something else in an address is none of it afterwards.
            ("product=a%2Bb", "/login?product=a%2Bb"),
            ("product=%40evil.example", "/login?product=%40evil.example"),
        ] {
            assert_eq!(at(query), expected, "{query}");
        }
        for hostile in [
            "product=",
            "product=//evil.example",
            "product=%2F%2Fevil.example",
            "product=https%3A%2F%2Fevil.example",
            "product=%5Cevil.example",
            "product=..",
            "product=maps%0d%0aSet-Cookie:x",
            "product=maps%26next%3D//evil.example",
            "product=%22%3E%3Cscript%3E",
            "product=maps&product=maps",
            "product=%ff",
            "next=//evil.example",
        ] {
            assert_eq!(at(hostile), "/login", "{hostile}");
        }
        let long = "x".repeat(Name::MAX);
        assert_eq!(at(&format!("product={long}")), format!("/login?product={long}"));
        assert_eq!(at(&format!("product={long}x")), "/login");
    }

    #[test]
    fn where_forms_come_from() {
        let host = ("host", "shop.example:8443");
        for good in [
            headers(&[host]),
            headers(&[]),
            headers(&[host, ("origin", "https://shop.example:8443")]),
            headers(&[host, ("origin", "https://Shop.example:8443"), ("sec-fetch-site", "same-origin")]),
            headers(&[host, ("sec-fetch-site", "none")]),
        ] {
            assert!(from_here(&good), "{good:?}");
        }
        for bad in [
            headers(&[("origin", "https://shop.example:8443")]),
            headers(&[host, ("origin", "null")]),
            headers(&[host, ("origin", "http://shop.example:8443")]),
            headers(&[host, ("origin", "https://shop.example")]),
            headers(&[host, ("origin", "https://other.example:8443")]),
            headers(&[host, ("sec-fetch-site", "same-site")]),
            headers(&[host, ("origin", "https://shop.example:8443"), ("sec-fetch-site", "cross-site")]),
        ] {
            assert!(!from_here(&bad), "{bad:?}");
        }
    }
}

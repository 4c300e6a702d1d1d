//! One function for each address.

use super::views::{Listing, Staged, Until};
use super::{AUTHORITY, App, Client, Format, Problem, Wanted, json, pages};
use crate::backend::BackendError;
use crate::session::{self, Session};
use axum::Extension;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};
use daemon::RateLimit;
use serde::Deserialize;
use std::sync::Arc;
use tobj::{Fault, LeaseKind, Name, RequestTag, Secret, Text};
use tokio::time::Instant;

/// Most lines a minute about customers who were refused; anybody can cause them.
const REFUSALS_SAID: u32 = 60;
/// Those lines.
static REFUSED: RateLimit = RateLimit::new(REFUSALS_SAID);

/// What the login form sends.
#[derive(Deserialize)]
pub(super) struct LoginForm {
    user: String,
    password: String,
}

/// What a form of a session sends.
#[derive(Deserialize)]
pub(super) struct SessionForm {
    #[serde(default)]
    csrf: String,
}

/// What the choice of a file sends.
#[derive(Deserialize)]
pub(super) struct StageForm {
    #[serde(default)]
    csrf: String,
    product: String,
    version: String,
}

/// Where in the list a page starts.
#[derive(Deserialize)]
pub(super) struct Place {
    offset: Option<u64>,
    /// The one product that it shows.
    product: Option<String>,
}

/// Puts a cookie into a response; [`Session`] and [`session::removal`] make only such as fit.
fn set_cookie(response: &mut Response, cookie: &str) -> Result<(), Problem> {
    let value = HeaderValue::from_str(cookie).map_err(|_| Problem::Internal)?;
    response.headers_mut().insert(SET_COOKIE, value);
    Ok(())
}

/// The session of a form that is its own.
fn session_of_form(headers: &HeaderMap, csrf: &str) -> Result<Session, Problem> {
    let session = Session::of(headers).ok_or(Problem::NotSignedIn)?;
    if session.owns_form(csrf) { Ok(session) } else { Err(Problem::ForeignForm) }
}

/// What a customer is told of a failure, which goes into the log in full.
fn explain(error: &BackendError, client: &Client) -> Problem {
    use Fault::{Busy, Denied, Expired, Invalid, NotFound};
    let problem = match error {
        BackendError::Fault { request, fault, .. } => match (request, fault) {
            (RequestTag::Login, Denied | NotFound | Invalid) => Problem::WrongLogin,
            (RequestTag::Login, Busy) => Problem::SlowDown,
            (RequestTag::Catalogue | RequestTag::Grant, Expired) | (RequestTag::Catalogue, Denied) => Problem::Expired,
            (RequestTag::Grant, Denied | NotFound) => Problem::Refused,
            (RequestTag::Stage, NotFound) => Problem::NotThere,
            (_, Denied | Expired | Invalid | NotFound) => Problem::Internal,
            (_, Fault::Unavailable | Busy) => Problem::Unavailable,
        },
        BackendError::Transport { .. } | BackendError::Late { .. } => Problem::Unavailable,
        BackendError::TooManyLogins => Problem::Crowded,
        BackendError::Nonsense { .. } | BackendError::Random(_) | BackendError::Lost(_) => Problem::Internal,
    };
    let (address, reason) = (client.0, daemon::report(error));
    if problem.status().is_server_error() {
        tracing::warn!(%address, "a customer could not be served: {reason}");
    } else if let Some(suppressed) = REFUSED.pass(Instant::now()) {
        tracing::info!(%address, suppressed, "a customer was refused: {reason}");
    }
    problem
}

pub(super) async fn index(Extension(wanted): Extension<Wanted>, headers: HeaderMap) -> Response {
    match Session::of(&headers) {
        Some(_) => Redirect::to(&wanted.at("/downloads")).into_response(),
        None => pages::login(None, &wanted).into_response(),
    }
}

pub(super) async fn home(Extension(wanted): Extension<Wanted>) -> Redirect {
    Redirect::to(&wanted.at("/"))
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "max-age=3600")], pages::STYLE).into_response()
}

/// The certificate by which customers know the site's servers: no secret, and the same for everybody.
pub(super) async fn authority(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let pem = app.authority.clone().ok_or(Problem::NotFound)?;
    let headers = [
        (CONTENT_TYPE, "application/x-pem-file"),
        (CONTENT_DISPOSITION, "attachment; filename=\"ca.pem\""),
        (CACHE_CONTROL, "max-age=3600"),
    ];
    Ok((headers, pem).into_response())
}

pub(super) async fn login(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Extension(format): Extension<Format>,
    Extension(wanted): Extension<Wanted>,
    form: Result<Form<LoginForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(LoginForm { user, password }) = form.map_err(|_| Problem::Invalid)?;
    // What cannot be a name or a password is a wrong one.
    let (Ok(user), Ok(password)) = (Text::new(&user), Secret::new(&password)) else { return Err(Problem::WrongLogin) };
    if user.as_str().is_empty() || password.expose().is_empty() {
        return Err(Problem::WrongLogin);
    }
    let (session, expires) =
        app.backend.login(user, password, client.0).await.map_err(|error| explain(&error, &client))?;
    tracing::info!(customer = %session.customer, address = %client.0, "login");
    let mut response = match format {
        Format::Page => Redirect::to(&wanted.at("/downloads")).into_response(),
        Format::Json => json::welcome(session.customer.as_str(), &session.csrf(), &Until::from(expires)),
    };
    set_cookie(&mut response, &session.cookie())?;
    Ok(response)
}

pub(super) async fn logout(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    form: Result<Form<SessionForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(SessionForm { csrf }) = form.map_err(|_| Problem::Invalid)?;
    let session = session_of_form(&headers, &csrf)?;
    if let Err(error) = app.backend.logout(&session).await {
        // The browser forgets the token in any case; in the database it ends by itself.
        explain(&error, &client);
    }
    let mut response = Redirect::to("/").into_response();
    set_cookie(&mut response, &session::removal())?;
    Ok(response)
}

pub(super) async fn downloads(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Extension(format): Extension<Format>,
    headers: HeaderMap,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Place { offset, product }) = place.map_err(|_| Problem::Invalid)?;
    let product = product.map(|product| Name::new(&product)).transpose().map_err(|_| Problem::Invalid)?;
    let session = Session::of(&headers).ok_or(Problem::NotSignedIn)?;
    let (offset, page) = match (&product, offset) {
        (Some(product), None) => app.backend.find(&session, product).await,
        (_, offset) => {
            let offset = offset.unwrap_or(0);
            app.backend.catalogue(&session, offset).await.map(|page| (offset, page))
        }
    }
    .map_err(|error| explain(&error, &client))?;
    let listing = Listing::new(&session, offset, &page, product.as_ref());
    Ok(match format {
        Format::Page => pages::downloads(&listing).into_response(),
        Format::Json => json::body(&listing),
    })
}

pub(super) async fn stage(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Extension(format): Extension<Format>,
    headers: HeaderMap,
    form: Result<Form<StageForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(StageForm { csrf, product, version }) = form.map_err(|_| Problem::Invalid)?;
    let session = session_of_form(&headers, &csrf)?;
    let (Ok(product), Ok(version)) = (Name::new(&product), Name::new(&version)) else { return Err(Problem::Refused) };
    let (once, standing) = tokio::join!(
        app.backend.stage(&session, &product, &version, LeaseKind::OneTime),
        app.backend.stage(&session, &product, &version, LeaseKind::Standing),
    );
    let (once, standing) = once.and_then(|once| Ok((once, standing?))).map_err(|error| explain(&error, &client))?;
    let Some(at) = app.downloads.get(once.download.as_str()) else {
        tracing::error!(download = %once.download, "the configuration does not say where customers find this appliance");
        return Err(Problem::Unavailable);
    };
    let Some(staged) = Staged::new(&session.customer, &product, &version, at, &once, &standing) else {
        tracing::error!(once = %once.id, standing = %standing.id, "two leases of one file do not agree");
        return Err(Problem::Internal);
    };
    let staged = Staged { ca_path: staged.ca.as_ref().and(app.authority.as_ref()).map(|_| AUTHORITY), ..staged };
    tracing::info!(customer = %session.customer, %product, %version, lease = %once.id, "staged");
    Ok(match format {
        Format::Page => pages::staged(&staged, session.customer.as_str(), &session.csrf()).into_response(),
        Format::Json => json::body(&staged),
    })
}

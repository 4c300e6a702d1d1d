//! What can go wrong for a customer, and what he is told.
//!
//! Handlers return a [`Problem`]; it travels as an extension of an empty response to the outermost layer, which knows whether a page or
//! JSON was asked for. The reason in full is in the log, where it arose.

use super::{Format, Wanted, json, pages};
use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// Why a customer does not get what he asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Name or password is wrong.
    WrongLogin,
    /// Too many tries.
    SlowDown,
    /// Too many others log in.
    Crowded,
    /// There is no session; not worth a message.
    NotSignedIn,
    /// The session has ended.
    Expired,
    /// The form is not one that this portal gave to this session, or comes from another site.
    ForeignForm,
    /// Not entitled, or there is no such thing.
    Refused,
    /// The request makes no sense.
    Invalid,
    /// No such page.
    NotFound,
    /// Not by this method.
    Method,
    /// The request is too long.
    TooLarge,
    /// The request took too long to arrive.
    TooSlow,
    /// The file is not on its download server at present.
    NotThere,
    /// Another machine cannot be reached or is too busy.
    Unavailable,
    /// Something is wrong on our side.
    Internal,
}

/// Seconds after which another try makes sense.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

impl Problem {
    /// The problem behind a response that a library made.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::Method,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            status if status.is_server_error() => Self::Internal,
            _ => Self::Invalid,
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::WrongLogin | Self::NotSignedIn | Self::Expired => StatusCode::UNAUTHORIZED,
            Self::SlowDown | Self::Crowded => StatusCode::TOO_MANY_REQUESTS,
            Self::ForeignForm | Self::Refused => StatusCode::FORBIDDEN,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NotThere | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A word for scripts.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::WrongLogin => "wrong-login",
            Self::SlowDown => "slow-down",
            Self::Crowded => "too-many-logins",
            Self::NotSignedIn => "not-signed-in",
            Self::Expired => "session-expired",
            Self::ForeignForm => "foreign-form",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Method => "method",
            Self::TooLarge => "too-large",
            Self::TooSlow => "too-slow",
            Self::NotThere => "file-unavailable",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::WrongLogin | Self::SlowDown | Self::Crowded | Self::NotSignedIn | Self::Expired => "Log in",
            Self::ForeignForm => "Please try again",
            Self::Refused => "Not available to you",
            Self::Invalid | Self::Method | Self::TooLarge | Self::TooSlow => "Request not understood",
            Self::NotFound => "No such page",
            Self::NotThere | Self::Unavailable => "Not available at the moment",
            Self::Internal => "Something went wrong",
        }
    }

    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::WrongLogin => "The name or the password is wrong.",
            Self::SlowDown => "There were too many tries. Please wait a moment, then try again.",
            Self::Crowded => "Too many logins are under way at the moment. Please wait a moment, then try again.",
            Self::NotSignedIn => "Please log in.",
            Self::Expired => "Your session has ended. Please log in again.",
            Self::ForeignForm => "This form is out of date or does not come from this site. Nothing was done.",
            Self::Refused => "There is no such download, or it is not among those you are entitled to.",
            Self::Invalid => "The server cannot make sense of this request.",
            Self::NotFound => "There is no page at this address.",
            Self::Method => "This address does not take such a request.",
            Self::TooLarge => "The request is too long.",
            Self::TooSlow => "The request took too long to arrive.",
            Self::NotThere => "This file is not on its download server at the moment. Please try again later.",
            Self::Unavailable => "A part of the service cannot be reached at the moment. Please try again shortly.",
            Self::Internal => "The request could not be completed. The operators can find the reason in the log.",
        }
    }

    /// Whether the answer is the login form with a message.
    fn shows_login(self) -> bool {
        matches!(self, Self::WrongLogin | Self::SlowDown | Self::Crowded | Self::Expired)
    }

    /// The whole answer to who wants this.
    pub(crate) fn render(self, format: Format, wanted: &Wanted) -> Response {
        let mut response = match format {
            Format::Json => json::problem(self).into_response(),
            Format::Page if self == Self::NotSignedIn => {
                return (StatusCode::SEE_OTHER, [(LOCATION, wanted.at("/"))]).into_response();
            }
            Format::Page if self.shows_login() => pages::login(Some(self), wanted).into_response(),
            Format::Page => pages::problem(self).into_response(),
        };
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if matches!(self, Self::SlowDown | Self::Crowded | Self::NotThere | Self::Unavailable) {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        if self == Self::Expired
            && let Ok(removal) = crate::session::removal().parse()
        {
            headers.insert(SET_COOKIE, removal);
        }
        debug_assert!(headers.contains_key(CONTENT_TYPE));
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

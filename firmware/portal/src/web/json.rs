//! The same answers for scripts, which ask with `Accept: application/json`.

use super::Problem;
use super::views::Until;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Any value as a response.
pub(crate) fn body<T: Serialize>(value: &T) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            Problem::Internal.into_response()
        }
    }
}

/// A problem.
pub(crate) fn problem(problem: Problem) -> Response {
    #[derive(Serialize)]
    struct Body {
        error: &'static str,
        message: &'static str,
    }
    body(&Body { error: problem.code(), message: problem.message() })
}

/// A login that was accepted.
pub(crate) fn welcome(customer: &str, csrf: &str, expires: &Until) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        customer: &'a str,
        csrf: &'a str,
        expires: &'a Until,
    }
    body(&Body { customer, csrf, expires })
}

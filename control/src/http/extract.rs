//! What do handlers take from a request?

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use caracal_model::SubjectId;
use caracal_storage::page::Page;
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::body::Body;
use crate::caller::Caller;
use crate::cursor::{self, CURSOR_CHARACTERS_MAX};
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

/// The ids in the path, checked.
#[derive(Debug)]
pub(super) struct Ids<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Ids<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(ids)) => Ok(Self(ids)),
            Err(_not_an_id) => Err(Code::InvalidParams.into()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        // Without the admission there is no caller: a route that is not behind it answers nothing.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Code::InvalidAdminToken.into())
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| unreadable(&rejection))?;
        Self::parse(&bytes)
    }
}

/// A body that is not JSON.
#[derive(Debug)]
pub(super) struct Raw(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await;
        bytes.map(Self).map_err(|rejection| unreadable(&rejection))
    }
}

fn unreadable(rejection: &BytesRejection) -> Refusal {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Refusal::because(Code::PayloadTooLarge, "The request body is too large");
    }
    Refusal::because(Code::InvalidBody, "The request body could not be read")
}

/// The query of a request, member by member. A member that is given twice is refused.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let raw = parts.uri.query().unwrap_or_default();
        let members: Vec<(String, String)> = url::form_urlencoded::parse(raw.as_bytes())
            .into_owned()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let twice = members
            .iter()
            .enumerate()
            .find(|(at, (name, _))| members.iter().take(*at).any(|(earlier, _)| earlier == name));
        match twice {
            Some((_, (name, _))) => Err(invalid(name, "is given twice")),
            None => Ok(Self(members)),
        }
    }
}

impl Query {
    /// A member that was given and is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| value.as_str())
    }

    /// A text of at most `characters_max` characters.
    ///
    /// # Errors
    /// [`Code::InvalidQuery`].
    pub(super) fn text(&self, name: &str, characters_max: usize) -> Result<Option<String>, Refusal> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        if text.chars().count() > characters_max || text.contains('\0') {
            return Err(invalid(name, "is too long or not a text"));
        }
        Ok(Some(text.to_owned()))
    }

    /// One of a fixed set of words.
    ///
    /// # Errors
    /// [`Code::InvalidQuery`].
    pub(super) fn word(&self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, Refusal> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let found = words.iter().copied().find(|word| *word == text);
        found
            .map(Some)
            .ok_or_else(|| invalid(name, &format!("is none of {}", words.join(", "))))
    }

    /// An RFC 3339 time.
    ///
    /// # Errors
    /// [`Code::InvalidQuery`].
    pub(super) fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, Refusal> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let read = Timestamp::parse(text).map(|time| Some(time.0));
        read.ok_or_else(|| invalid(name, "is not an RFC 3339 time"))
    }

    /// Which part of a list is wanted.
    ///
    /// # Errors
    /// [`Code::InvalidQuery`] or [`Code::InvalidCursor`].
    pub(super) fn page(&self, default: i64, max: i64) -> Result<Page, Refusal> {
        let limit = match self.get("limit") {
            None => default,
            Some(text) => {
                let read = text.parse::<i64>().ok().filter(|limit| (1..=max).contains(limit));
                read.ok_or_else(|| invalid("limit", &format!("is not a whole number from 1 to {max}")))?
            }
        };
        let after = match self.text("cursor", CURSOR_CHARACTERS_MAX)? {
            None => None,
            Some(text) => Some(cursor::decode(&text).ok_or(Code::InvalidCursor)?),
        };
        Ok(Page { limit, after })
    }

    /// A member that must be a subject.
    ///
    /// # Errors
    /// [`Code::InvalidQuery`].
    pub(super) fn subject(&self, name: &str) -> Result<SubjectId, Refusal> {
        let subject = SubjectId::try_from(self.get(name).unwrap_or_default());
        subject.map_err(|_not_one| invalid(name, "is not a subject"))
    }

    /// A page of a list of things: 200 by default, at most 500.
    ///
    /// # Errors
    /// As [`Query::page`].
    pub(super) fn list_page(&self) -> Result<Page, Refusal> {
        self.page(200, 500)
    }

    /// A page of a list of events: 100 by default, at most 1000.
    ///
    /// # Errors
    /// As [`Query::page`].
    pub(super) fn event_page(&self) -> Result<Page, Refusal> {
        self.page(100, 1000)
    }
}

fn invalid(name: &str, problem: &str) -> Refusal {
    Refusal::because(Code::InvalidQuery, format!("{name} {problem}"))
}

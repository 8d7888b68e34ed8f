//! The typed resources: one handle for each data type, whose methods are the contract's operations.
//!
//! A handle borrows its session and holds the resource's path. Reads answer [`Read`]: what was
//! found, with the context to write back against. A thing that is not there is `None`, not an
//! error. Writes answer [`Written`]; one whose write level was not reached in time still stands,
//! and says so in [`Written::acked`].

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{
    BatchRequest, BatchResults, CounterAdd, CounterValue, DataType, ErrorCode, FlagChange, FlagState, Key, KeysPage,
    MapPatch, Namespace, Problem, RegisterSiblings, Rejection, SetChange, SetPage, SetSize, headers, push_query_value,
    push_segment,
};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::request::{Acked, Response};
use crate::session::{Kind, Session};

/// What a read showed; opaque. A write that brings it replaces exactly that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context(String);

impl Context {
    /// The context that an earlier read's [`as_str`](Self::as_str) gave.
    ///
    /// # Errors
    /// `bad_parameter` for what cannot be a header's value.
    pub fn new(text: impl Into<String>) -> Result<Self, Rejection> {
        let text = text.into();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(Rejection::new(
                ErrorCode::BadParameter,
                "a context is what a read answered in Atoll-Context: printable ASCII",
            ))
        }
    }

    /// The context as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A read's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Read<T> {
    /// What was found.
    pub value: T,
    /// What to send with a write that shall replace exactly this.
    pub context: Option<Context>,
    /// The region that answered.
    pub region: Option<String>,
    /// How old the oldest acknowledged write of another region that it misses can be.
    pub staleness: Option<Duration>,
}

impl<T> Read<T> {
    fn new(response: &Response, value: T) -> Self {
        Self {
            value,
            context: response.context().map(|text| Context(text.to_owned())),
            region: response.region().map(str::to_owned),
            staleness: response.staleness(),
        }
    }
}

/// A write's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<T> {
    /// What it answers.
    pub value: T,
    /// How far it got, if its write level was not reached in time. It stands and goes on spreading.
    pub acked: Option<Acked>,
}

/// A register's winning value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterValue {
    /// The bytes as they were put. A slice of a read buffer: copy what is kept for long.
    pub body: Bytes,
    /// The media type they were put with.
    pub content_type: Option<String>,
    /// How many concurrent values there are, this one included.
    pub siblings: u32,
}

/// Where a page begins and how long it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many entries; the server's default when `None`.
    pub limit: Option<u32>,
    /// The previous page's `next`.
    pub after: Option<String>,
}

impl Page {
    fn push_parameters(&self, target: &mut Target) {
        if let Some(limit) = self.limit {
            target.parameter("limit", &limit.to_string());
        }
        if let Some(after) = &self.after {
            target.parameter("after", after);
        }
    }
}

/// Which keys to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysQuery {
    /// Of this type only.
    pub data_type: Option<DataType>,
    /// Those that begin with this.
    pub prefix: Option<String>,
    /// The page.
    pub page: Page,
}

/// A path to which query parameters are appended.
struct Target(String);

impl Target {
    fn parameter(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        push_query_value(&mut self.0, value);
    }
}

impl Session {
    /// The register called `key`.
    #[must_use]
    pub fn register(&self, namespace: &Namespace, key: &Key) -> Register<'_> {
        Register(Resource::new(self, DataType::Registers, namespace, key))
    }

    /// The counter called `key`.
    #[must_use]
    pub fn counter(&self, namespace: &Namespace, key: &Key) -> Counter<'_> {
        Counter(Resource::new(self, DataType::Counters, namespace, key))
    }

    /// The set called `key`.
    #[must_use]
    pub fn set(&self, namespace: &Namespace, key: &Key) -> Set<'_> {
        Set(Resource::new(self, DataType::Sets, namespace, key))
    }

    /// The map called `key`.
    #[must_use]
    pub fn map(&self, namespace: &Namespace, key: &Key) -> Map<'_> {
        Map(Resource::new(self, DataType::Maps, namespace, key))
    }

    /// The flag called `key`.
    #[must_use]
    pub fn flag(&self, namespace: &Namespace, key: &Key) -> Flag<'_> {
        Flag(Resource::new(self, DataType::Flags, namespace, key))
    }

    /// Applies every op of `batch` or none; one result per op, in order.
    ///
    /// # Errors
    /// When it was refused, could not be sent, or its fate is unknown.
    pub async fn batch(&self, namespace: &Namespace, batch: &BatchRequest) -> Result<Written<BatchResults>, Error> {
        let target = format!("/v1/{namespace}/_batch");
        let json = [(headers::CONTENT_TYPE, headers::JSON)];
        let (response, endpoint) = self.call(Kind::Write, Method::POST, target, &json, body(batch)?).await?;
        let written: Written<BatchResults> = write_answer(response, endpoint)?;
        let (asked, told) = (batch.ops.len(), written.value.results.len());
        if asked != told {
            return Err(Error::Protocol {
                endpoint: endpoint.clone(),
                cause: format!("{told} results for {asked} ops"),
            });
        }
        Ok(written)
    }

    /// A page of the namespace's keys.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn keys(&self, namespace: &Namespace, query: &KeysQuery) -> Result<Read<KeysPage>, Error> {
        let mut target = Target(format!("/v1/{namespace}/_keys"));
        if let Some(data_type) = query.data_type {
            target.parameter("type", data_type.as_str());
        }
        if let Some(prefix) = &query.prefix {
            target.parameter("prefix", prefix);
        }
        query.page.push_parameters(&mut target);
        let (response, endpoint) = self.call(Kind::Read, Method::GET, target.0, &[], Bytes::new()).await?;
        if !response.is_success() {
            return Err(response.into_refusal(endpoint));
        }
        let page = response.json(endpoint)?;
        Ok(Read::new(&response, page))
    }
}

/// What the handles have in common.
struct Resource<'s> {
    session: &'s Session,
    path: String,
    context: Option<Context>,
}

impl<'s> Resource<'s> {
    fn new(session: &'s Session, data_type: DataType, namespace: &Namespace, key: &Key) -> Self {
        Self { session, path: data_type.path(namespace, key), context: None }
    }

    fn target(&self) -> Target {
        Target(self.path.clone())
    }

    /// Sends a read; `None` when there is nothing.
    async fn read(&self, target: Target) -> Result<(Response, Option<&'s Endpoint>), Error> {
        let (response, endpoint) = self.session.call(Kind::Read, Method::GET, target.0, &[], Bytes::new()).await?;
        if response.is_success() {
            return Ok((response, Some(endpoint)));
        }
        if response.status() == 404 {
            // A missing route is a 404 too, but a refusal rather than an answer.
            let problem = Problem::from_answer(404, response.body());
            if problem.code == ErrorCode::NotFound {
                return Ok((response, None));
            }
        }
        Err(response.into_refusal(endpoint))
    }

    async fn read_json<T: DeserializeOwned>(&self, target: Target) -> Result<Read<Option<T>>, Error> {
        let (response, endpoint) = self.read(target).await?;
        let value = endpoint.map(|endpoint| response.json(endpoint)).transpose()?;
        Ok(Read::new(&response, value))
    }

    async fn write(
        &self,
        method: Method,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<(Response, &'s Endpoint), Error> {
        let mut sent = Vec::with_capacity(2);
        if let Some(content_type) = content_type {
            sent.push((headers::CONTENT_TYPE, content_type));
        }
        if let Some(context) = &self.context {
            sent.push((headers::CONTEXT, context.as_str()));
        }
        self.session.call(Kind::Write, method, self.path.clone(), &sent, body).await
    }

    async fn write_json(&self, method: Method, change: &impl Serialize) -> Result<(Response, &'s Endpoint), Error> {
        self.write(method, Some(headers::JSON), body(change)?).await
    }

    async fn delete(&self) -> Result<Written<()>, Error> {
        let (response, endpoint) = self.write(Method::DELETE, None, Bytes::new()).await?;
        silent_answer(response, endpoint)
    }
}

fn body(value: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Error::bad_input(format!("the body: {error}")))
}

/// The answer to a write that has something to tell.
fn write_answer<T: DeserializeOwned>(response: Response, endpoint: &Endpoint) -> Result<Written<T>, Error> {
    if !response.is_success() {
        return Err(response.into_refusal(endpoint));
    }
    Ok(Written { value: response.json(endpoint)?, acked: response.acked() })
}

/// The answer to a write that has nothing to tell.
fn silent_answer(response: Response, endpoint: &Endpoint) -> Result<Written<()>, Error> {
    if !response.is_success() {
        return Err(response.into_refusal(endpoint));
    }
    Ok(Written { value: (), acked: response.acked() })
}

/// Gives each handle what all have: `with_context` and `delete`.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<'s>(Resource<'s>);

        impl $name<'_> {
            /// Writes through this handle replace exactly what the read of `context` showed;
            /// without one, what the answering region holds.
            #[must_use]
            pub fn with_context(mut self, context: Context) -> Self {
                self.0.context = Some(context);
                self
            }

            /// Deletes it; done too when it is not there.
            ///
            /// # Errors
            /// When it was refused, could not be sent, or its fate is unknown.
            pub async fn delete(&self) -> Result<Written<()>, Error> {
                self.0.delete().await
            }
        }

        impl std::fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.0.path).finish()
            }
        }
    };
}

handle! {
    /// One register.
    Register
}

impl Register<'_> {
    /// Puts `value`.
    ///
    /// # Errors
    /// When it was refused, could not be sent, or its fate is unknown.
    pub async fn put(&self, value: impl Into<Bytes>, content_type: Option<&str>) -> Result<Written<()>, Error> {
        let (response, endpoint) = self.0.write(Method::PUT, content_type, value.into()).await?;
        silent_answer(response, endpoint)
    }

    /// Reads the winning value.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn get(&self) -> Result<Read<Option<RegisterValue>>, Error> {
        let (response, found) = self.0.read(self.0.target()).await?;
        let value = found.map(|_| RegisterValue {
            body: response.body().clone(),
            content_type: response.content_type().map(str::to_owned),
            siblings: response.siblings().unwrap_or(1),
        });
        Ok(Read::new(&response, value))
    }

    /// Reads every concurrent value, the winner first.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn siblings(&self) -> Result<Read<Option<RegisterSiblings>>, Error> {
        let mut target = self.0.target();
        target.parameter("siblings", "all");
        self.0.read_json(target).await
    }
}

handle! {
    /// One counter.
    Counter
}

impl Counter<'_> {
    /// Adds `n` and answers the value after it.
    ///
    /// # Errors
    /// When it was refused (`out_of_range` among others), could not be sent, or its fate is
    /// unknown: then adding again may count twice.
    pub async fn add(&self, n: i64) -> Result<Written<i64>, Error> {
        let (response, endpoint) = self.0.write_json(Method::POST, &CounterAdd { add: n }).await?;
        let Written { value: CounterValue { value }, acked } = write_answer(response, endpoint)?;
        Ok(Written { value, acked })
    }

    /// Reads the value; 0 is a value.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn get(&self) -> Result<Read<Option<i64>>, Error> {
        let read = self.0.read_json::<CounterValue>(self.0.target()).await?;
        let value = read.value.map(|CounterValue { value }| value);
        Ok(Read { value, context: read.context, region: read.region, staleness: read.staleness })
    }
}

handle! {
    /// One set.
    Set
}

impl Set<'_> {
    /// Adds and removes members, and answers the size after it.
    ///
    /// # Errors
    /// When it was refused, could not be sent, or its fate is unknown.
    pub async fn change(&self, change: &SetChange) -> Result<Written<u64>, Error> {
        let (response, endpoint) = self.0.write_json(Method::POST, change).await?;
        let Written { value: SetSize { size }, acked } = write_answer(response, endpoint)?;
        Ok(Written { value: size, acked })
    }

    /// Reads a page of the members.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn members(&self, page: &Page) -> Result<Read<Option<SetPage>>, Error> {
        let mut target = self.0.target();
        page.push_parameters(&mut target);
        self.0.read_json(target).await
    }

    /// Whether `member` is in the set.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn has(&self, member: &str) -> Result<Read<bool>, Error> {
        let mut target = self.0.target();
        target.0.push('/');
        push_segment(&mut target.0, member);
        let (response, found) = self.0.read(target).await?;
        Ok(Read::new(&response, found.is_some()))
    }
}

handle! {
    /// One map.
    Map
}

impl Map<'_> {
    /// Changes the map.
    ///
    /// # Errors
    /// When it was refused, could not be sent, or its fate is unknown.
    pub async fn patch(&self, patch: &MapPatch) -> Result<Written<()>, Error> {
        let (response, endpoint) = self.0.write_json(Method::PATCH, patch).await?;
        silent_answer(response, endpoint)
    }

    /// Reads the map as nested JSON, or what is at `path`, a JSON Pointer.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn get(&self, path: Option<&str>) -> Result<Read<Option<Value>>, Error> {
        let mut target = self.0.target();
        if let Some(path) = path {
            target.parameter("path", path);
        }
        self.0.read_json(target).await
    }
}

handle! {
    /// One flag.
    Flag
}

impl Flag<'_> {
    /// Turns the flag on or off.
    ///
    /// # Errors
    /// When it was refused, could not be sent, or its fate is unknown.
    pub async fn put(&self, enabled: bool) -> Result<Written<()>, Error> {
        let (response, endpoint) = self.0.write_json(Method::PUT, &FlagChange { enabled }).await?;
        silent_answer(response, endpoint)
    }

    /// Reads the flag.
    ///
    /// # Errors
    /// When it was refused or nobody answered.
    pub async fn get(&self) -> Result<Read<Option<bool>>, Error> {
        let read = self.0.read_json::<FlagState>(self.0.target()).await?;
        let value = read.value.map(|FlagState { enabled }| enabled);
        Ok(Read { value, context: read.context, region: read.region, staleness: read.staleness })
    }
}

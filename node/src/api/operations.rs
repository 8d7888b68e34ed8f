//! The one table of what exists: the router, the checks of parameters and the OpenAPI document are made from it.

use super::Failure;
use super::call::Call;
use super::handlers::{batch, counters, flags, keys, maps, registers, sets, system};
use atoll_client::api::ErrorCode;
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;

/// What carries out an operation.
pub(super) type Handler = fn(Call) -> BoxFuture<'static, Result<Response, Failure>>;

/// What kind of thing an operation is: decides its headers, and which refusals it shares with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads data.
    Read,
    /// Writes data; the type that it is counted under.
    Write(&'static str),
    /// Asks the node itself.
    System,
}

/// A query parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    /// Its grammar: an OpenAPI schema of a string or integer, as JSON.
    pub(super) schema: &'static str,
}

/// What a body is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// Any bytes, with their media type.
    Bytes,
    /// JSON of a schema of the document.
    Json(&'static str),
    /// Plain text.
    Text,
}

/// A success.
#[derive(Debug, Clone, Copy)]
pub(super) struct Success {
    pub(super) status: u16,
    pub(super) doc: &'static str,
    pub(super) content: Option<Content>,
}

/// One method of one path.
pub(super) struct Operation {
    pub(super) id: &'static str,
    pub(super) method: Method,
    /// As the router and the document spell it.
    pub(super) path: &'static str,
    pub(super) doc: &'static str,
    pub(super) kind: Kind,
    pub(super) parameters: &'static [&'static [Parameter]],
    pub(super) body: Option<Content>,
    pub(super) success: &'static [Success],
    /// Its own refusals, beyond those of its kind.
    pub(super) refusals: &'static [ErrorCode],
    pub(super) handler: Handler,
}

impl Operation {
    /// Its parameters.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &'static Parameter> + Clone {
        self.parameters.iter().flat_map(|list| list.iter())
    }

    /// The names of its parameters.
    pub(super) fn parameter_names(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.parameters().map(|parameter| parameter.name)
    }

    /// The paths of the router: the last part of one may be empty where that means something.
    pub(super) fn routes(&self) -> impl Iterator<Item = &'static str> {
        let with_empty_member = self.path.strip_suffix("{member}");
        std::iter::once(self.path).chain(with_empty_member)
    }

    /// Every refusal it can answer, those of its kind included.
    pub(super) fn all_refusals(&self) -> Vec<ErrorCode> {
        use ErrorCode as C;
        let shared: &[C] = match self.kind {
            Kind::Read => READ_REFUSALS,
            Kind::Write(_) => WRITE_REFUSALS,
            Kind::System => &[C::BadParameter, C::NotSupported, C::Internal],
        };
        let mut all = [shared, self.refusals].concat();
        if self.path.contains("{key}") {
            all.push(C::BadKey);
        }
        match self.body {
            Some(Content::Json(_)) => all.extend([C::TooLarge, C::UnsupportedMediaType]),
            Some(_) => all.push(C::TooLarge),
            None => {}
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

const READ_REFUSALS: &[ErrorCode] = &[
    ErrorCode::Malformed,
    ErrorCode::BadNamespace,
    ErrorCode::BadParameter,
    ErrorCode::Unauthenticated,
    ErrorCode::SessionWriteLost,
    ErrorCode::Internal,
    ErrorCode::NotSupported,
    ErrorCode::SessionBehind,
    ErrorCode::NotReady,
    ErrorCode::Overloaded,
];

const WRITE_REFUSALS: &[ErrorCode] = &[
    ErrorCode::Malformed,
    ErrorCode::BadNamespace,
    ErrorCode::BadParameter,
    ErrorCode::Unauthenticated,
    ErrorCode::Forbidden,
    ErrorCode::SessionWriteLost,
    ErrorCode::Internal,
    ErrorCode::NotSupported,
    ErrorCode::SessionBehind,
    ErrorCode::Draining,
    ErrorCode::NotReady,
    // A clock that stepped back gives no stamp to any record.
    ErrorCode::ClockSkew,
    ErrorCode::Overloaded,
    ErrorCode::StoreReadOnly,
];

const fn parameter(name: &'static str, schema: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, doc, schema }
}

const DURATION: &str = r#"{"type":"string","pattern":"^[0-9]+(ms|s|m|h)$"}"#;
const LIMIT: &str = r#"{"type":"integer","minimum":1,"maximum":10000,"default":100}"#;
const TEXT: &str = r#"{"type":"string"}"#;

const READ: &[Parameter] = &[
    parameter("wait", DURATION, "How long to wait until this node has seen what the session has; 200ms, at most 30s."),
    parameter(
        "consistency",
        r#"{"type":"string","enum":["session","eventual"],"default":"session"}"#,
        "session: everything that the token has seen. eventual: what this node holds.",
    ),
];
const WRITE: &[Parameter] = &[
    parameter("wait", DURATION, "How long to wait until this node has seen what the session has; 200ms, at most 30s."),
    parameter(
        "w",
        r#"{"type":"string","pattern":"^(local|majority|all|[1-9][0-9]*)$","default":"local"}"#,
        "How many regions hold the write durably before the answer.",
    ),
    parameter("wtimeout", DURATION, "How long to wait for that; 1s, at most 10m. Then 202: the write stands."),
];
const PAGE: &[Parameter] = &[
    parameter("limit", LIMIT, "At most so many; a page may hold fewer and still not be the last."),
    parameter("after", TEXT, "The next of the page before."),
];
const SIBLINGS: &[Parameter] =
    &[parameter("siblings", r#"{"type":"string","enum":["all"]}"#, "all: every concurrent value, the winner first.")];
const PATH: &[Parameter] = &[parameter("path", TEXT, "A JSON Pointer; absent: the whole map.")];
const KEYS: &[Parameter] = &[
    parameter("type", r##"{"$ref":"#/components/schemas/DataType"}"##, "Keys of this type only."),
    parameter("prefix", TEXT, "Keys that begin with this."),
];
const MAX_LAG: &[Parameter] =
    &[parameter("max_lag", DURATION, "Not ready when a write of another region may be missing for longer.")];

const fn success(status: u16, doc: &'static str, content: Option<Content>) -> Success {
    Success { status, doc, content }
}

const DONE: Success = success(204, "Done.", None);
const BELOW_LEVEL: Success =
    success(202, "Done here; the write level was not reached in time. Atoll-Acked tells how far it got.", None);
const BELOW_LEVEL_COUNTER: Success = Success { content: Some(Content::Json("CounterValue")), ..BELOW_LEVEL };
const BELOW_LEVEL_SET: Success = Success { content: Some(Content::Json("SetSize")), ..BELOW_LEVEL };
const BELOW_LEVEL_BATCH: Success = Success { content: Some(Content::Json("BatchResults")), ..BELOW_LEVEL };

const NOT_FOUND: &[ErrorCode] = &[ErrorCode::NotFound];

macro_rules! handler {
    ($function:path) => {
        |call| $function(call).boxed()
    };
}

macro_rules! delete {
    ($id:literal, $path:literal, $label:literal, $function:path) => {
        Operation {
            id: $id,
            method: Method::DELETE,
            path: $path,
            doc: "Deletes it; done too when nothing is there. With Atoll-Context: exactly what that read showed.",
            kind: Kind::Write($label),
            parameters: &[WRITE],
            body: None,
            success: &[DONE, BELOW_LEVEL],
            refusals: &[],
            handler: handler!($function),
        }
    };
}

/// Everything there is.
pub(super) static OPERATIONS: &[Operation] = &[
    Operation {
        id: "register_get",
        method: Method::GET,
        path: "/v1/{namespace}/registers/{key}",
        doc: "The winning value as it was put; with siblings=all a JSON object of all concurrent values.",
        kind: Kind::Read,
        parameters: &[READ, SIBLINGS],
        body: None,
        success: &[success(200, "The value, or RegisterSiblings.", Some(Content::Bytes))],
        refusals: &[ErrorCode::NotFound, ErrorCode::TooLarge],
        handler: handler!(registers::get),
    },
    Operation {
        id: "register_put",
        method: Method::PUT,
        path: "/v1/{namespace}/registers/{key}",
        doc: "Puts a value of at most 1 MiB with its media type.",
        kind: Kind::Write("registers"),
        parameters: &[WRITE],
        body: Some(Content::Bytes),
        success: &[DONE, BELOW_LEVEL],
        refusals: &[],
        handler: handler!(registers::put),
    },
    delete!("register_delete", "/v1/{namespace}/registers/{key}", "registers", registers::delete),
    Operation {
        id: "counter_get",
        method: Method::GET,
        path: "/v1/{namespace}/counters/{key}",
        doc: "The sum, clamped to 64 bits.",
        kind: Kind::Read,
        parameters: &[READ],
        body: None,
        success: &[success(200, "The sum.", Some(Content::Json("CounterValue")))],
        refusals: NOT_FOUND,
        handler: handler!(counters::get),
    },
    Operation {
        id: "counter_add",
        method: Method::POST,
        path: "/v1/{namespace}/counters/{key}",
        doc: "Adds, and answers the sum.",
        kind: Kind::Write("counters"),
        parameters: &[WRITE],
        body: Some(Content::Json("CounterAdd")),
        success: &[success(200, "The sum.", Some(Content::Json("CounterValue"))), BELOW_LEVEL_COUNTER],
        refusals: &[ErrorCode::OutOfRange],
        handler: handler!(counters::add),
    },
    delete!("counter_delete", "/v1/{namespace}/counters/{key}", "counters", counters::delete),
    Operation {
        id: "set_get",
        method: Method::GET,
        path: "/v1/{namespace}/sets/{key}",
        doc: "A page of the members, in order of their bytes.",
        kind: Kind::Read,
        parameters: &[READ, PAGE],
        body: None,
        success: &[success(200, "A page.", Some(Content::Json("SetPage")))],
        refusals: NOT_FOUND,
        handler: handler!(sets::get),
    },
    Operation {
        id: "set_change",
        method: Method::POST,
        path: "/v1/{namespace}/sets/{key}",
        doc: "Removes and adds members, and answers the size.",
        kind: Kind::Write("sets"),
        parameters: &[WRITE],
        body: Some(Content::Json("SetChange")),
        success: &[success(200, "The size.", Some(Content::Json("SetSize"))), BELOW_LEVEL_SET],
        refusals: &[ErrorCode::BadPath],
        handler: handler!(sets::change),
    },
    delete!("set_delete", "/v1/{namespace}/sets/{key}", "sets", sets::delete),
    Operation {
        id: "set_has",
        method: Method::GET,
        path: "/v1/{namespace}/sets/{key}/{member}",
        doc: "Whether a member is in the set.",
        kind: Kind::Read,
        parameters: &[READ],
        body: None,
        success: &[success(204, "It is.", None)],
        refusals: &[ErrorCode::NotFound, ErrorCode::BadPath],
        handler: handler!(sets::has),
    },
    Operation {
        id: "map_get",
        method: Method::GET,
        path: "/v1/{namespace}/maps/{key}",
        doc: "The map, or what is at a place in it, as JSON.",
        kind: Kind::Read,
        parameters: &[READ, PATH],
        body: None,
        success: &[success(200, "What is shown.", Some(Content::Json("MapValue")))],
        refusals: &[ErrorCode::NotFound, ErrorCode::BadPath, ErrorCode::TooLarge],
        handler: handler!(maps::get),
    },
    Operation {
        id: "map_patch",
        method: Method::PATCH,
        path: "/v1/{namespace}/maps/{key}",
        doc: "Removes places, sets values, adds to counters, changes member sets, in this order.",
        kind: Kind::Write("maps"),
        parameters: &[WRITE],
        body: Some(Content::Json("MapPatch")),
        success: &[DONE, BELOW_LEVEL],
        refusals: &[ErrorCode::BadPath, ErrorCode::OutOfRange],
        handler: handler!(maps::patch),
    },
    delete!("map_delete", "/v1/{namespace}/maps/{key}", "maps", maps::delete),
    Operation {
        id: "flag_get",
        method: Method::GET,
        path: "/v1/{namespace}/flags/{key}",
        doc: "Whether it is on.",
        kind: Kind::Read,
        parameters: &[READ],
        body: None,
        success: &[success(200, "Its state.", Some(Content::Json("FlagState")))],
        refusals: NOT_FOUND,
        handler: handler!(flags::get),
    },
    Operation {
        id: "flag_put",
        method: Method::PUT,
        path: "/v1/{namespace}/flags/{key}",
        doc: "Turns it on or off.",
        kind: Kind::Write("flags"),
        parameters: &[WRITE],
        body: Some(Content::Json("FlagState")),
        success: &[DONE, BELOW_LEVEL],
        refusals: &[],
        handler: handler!(flags::put),
    },
    delete!("flag_delete", "/v1/{namespace}/flags/{key}", "flags", flags::delete),
    Operation {
        id: "batch",
        method: Method::POST,
        path: "/v1/{namespace}/_batch",
        doc: "Several writes that happen together or not at all, here and in every region.",
        kind: Kind::Write("batch"),
        parameters: &[WRITE],
        body: Some(Content::Json("Batch")),
        success: &[success(200, "One result an op, in order.", Some(Content::Json("BatchResults"))), BELOW_LEVEL_BATCH],
        refusals: &[ErrorCode::BadType, ErrorCode::BadKey, ErrorCode::BadPath, ErrorCode::OutOfRange],
        handler: handler!(batch::post),
    },
    Operation {
        id: "keys",
        method: Method::GET,
        path: "/v1/{namespace}/_keys",
        doc: "A page of the keys that a read would find, in order of type and key.",
        kind: Kind::Read,
        parameters: &[READ, PAGE, KEYS],
        body: None,
        success: &[success(200, "A page.", Some(Content::Json("KeysPage")))],
        refusals: &[ErrorCode::BadType],
        handler: handler!(keys::get),
    },
    Operation {
        id: "healthz",
        method: Method::GET,
        path: "/healthz",
        doc: "Whether the process answers.",
        kind: Kind::System,
        parameters: &[],
        body: None,
        success: &[success(200, "It does.", Some(Content::Text))],
        refusals: &[],
        handler: handler!(system::healthz),
    },
    Operation {
        id: "readyz",
        method: Method::GET,
        path: "/readyz",
        doc: "Whether clients should be sent here.",
        kind: Kind::System,
        parameters: &[MAX_LAG],
        body: None,
        success: &[
            success(200, "They should.", Some(Content::Json("Readiness"))),
            success(503, "They should not, with the reasons.", Some(Content::Json("Readiness"))),
        ],
        refusals: &[],
        handler: handler!(system::readyz),
    },
    Operation {
        id: "openapi",
        method: Method::GET,
        path: "/openapi.json",
        doc: "This document.",
        kind: Kind::System,
        parameters: &[],
        body: None,
        success: &[success(200, "An OpenAPI 3.1 document.", Some(Content::Json("OpenApi")))],
        refusals: &[ErrorCode::Unauthenticated, ErrorCode::Overloaded],
        handler: handler!(system::openapi),
    },
];

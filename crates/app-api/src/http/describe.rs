//! The description of a call in the API's document. The handler's own signature yields the description: each extractor describes
//! what it takes from the request, the return type what the response is. A handler with a type that describes nothing
//! does not compile in the route table.

use axum::extract::{RawPathParams, State};
use axum::http::{HeaderMap, Method};
use service::api_error::ApiError;
use service::websocket::WebSocketUpgrade;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{
    Array, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type,
};
use utoipa::openapi::{Content, Ref, RefOr, Required};
use utoipa::{IntoParams, ToSchema};

use super::extract::{AppPath, ClientAddress, IdPath, Json, Query};
use super::request_headers::{IdempotencyKey, IfMatch, LastEventId};
use crate::access::layer::StillAdmitted;
use crate::access::{Account, AuthorizedTenant, Caller, Person};

/// The description of one call.
#[derive(Default)]
pub struct Call {
    pub parameters: Vec<Parameter>,
    pub request_body: Option<RequestBody>,
    /// By status.
    pub responses: Vec<(u16, Response)>,
    /// The schemas that the others refer to, by name.
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

impl Call {
    fn header_parameter(&mut self, name: &str) {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .schema(Some(Object::with_type(Type::String)));
        self.parameters.push(parameter.build());
    }

    /// Adds the schema of `T` and returns JSON content that refers to it.
    fn json<T: ToSchema>(&mut self) -> Content {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        ContentBuilder::new().schema(Some(Ref::from_schema_name(T::name()))).build()
    }

    /// Adds a response with a body of `T`.
    pub fn json_response<T: ToSchema>(&mut self, status: u16) {
        let content = self.json::<T>();
        let response = response(status).content("application/json", content);
        self.responses.push((status, with_headers(status, response).build()));
    }

    /// Adds a response without a body.
    pub fn empty_response(&mut self, status: u16) {
        self.responses.push((status, with_headers(status, response(status)).build()));
    }

    /// Adds a 200 whose body is an array of `T` as JSON, or text of another type.
    pub fn export_response<T: ToSchema>(&mut self, text_type: &str) {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        let items = Schema::Array(Array::new(Ref::from_schema_name(T::name())));
        let items = ContentBuilder::new().schema(Some(RefOr::T(items))).build();
        let text = ContentBuilder::new().schema(Some(Object::with_type(Type::String))).build();
        let response = response(200).content("application/json", items).content(text_type, text);
        self.responses.push((200, response.build()));
    }

    /// Adds a 200 whose body is a stream of events; the data of each is a `T` as JSON.
    pub fn event_stream_response<T: ToSchema>(&mut self) {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        self.text_response(&["text/event-stream"]);
    }

    /// Adds a 200 whose body is bytes of this type.
    pub fn binary_response(&mut self, content_type: &str) {
        let content = ContentBuilder::new().schema(Some(binary())).build();
        let response = response(200).content(content_type, content);
        self.responses.push((200, response.build()));
    }

    /// Adds a 200 whose body is text of these types.
    pub fn text_response(&mut self, content_types: &[&str]) {
        let text = || ContentBuilder::new().schema(Some(Object::with_type(Type::String))).build();
        let add = |response: ResponseBuilder, kind: &&str| response.content(*kind, text());
        let response = content_types.iter().fold(response(200), add);
        self.responses.push((200, response.build()));
    }
}

/// The schema of any bytes.
pub fn binary() -> Object {
    let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
    ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build()
}

fn response(status: u16) -> ResponseBuilder {
    ResponseBuilder::new().description(protocol::problem::reason_phrase(status))
}

/// 201 and 303 say where to go on.
fn with_headers(status: u16, response: ResponseBuilder) -> ResponseBuilder {
    if matches!(status, 201 | 303) {
        response.header("Location", Header::new(Object::with_type(Type::String)))
    } else {
        response
    }
}

/// An extractor. The default describes nothing, for what is no part of the API: the caller, the process.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how it appears in the API's description",
    note = "take an extractor of `http::extract`, or implement `DescribeInput`"
)]
pub trait DescribeInput {
    fn describe(_: &mut Call) {}
}

impl<S> DescribeInput for State<S> {}
impl DescribeInput for Caller {}
impl DescribeInput for Person {}
impl DescribeInput for Account {}
impl DescribeInput for Method {}
impl DescribeInput for ClientAddress {}
/// For what every request may have; a header that changes the meaning of a call has an extractor of its own.
impl DescribeInput for HeaderMap {}
/// Parameters of the path follow from the path.
impl DescribeInput for AuthorizedTenant {}
impl DescribeInput for IdPath {}
impl DescribeInput for AppPath {}
impl DescribeInput for RawPathParams {}
impl DescribeInput for WebSocketUpgrade {}
impl DescribeInput for StillAdmitted {}

impl DescribeInput for IdempotencyKey {
    fn describe(call: &mut Call) {
        call.header_parameter("Idempotency-Key");
    }
}

impl DescribeInput for LastEventId {
    fn describe(call: &mut Call) {
        call.header_parameter("Last-Event-ID");
    }
}

impl DescribeInput for IfMatch {
    fn describe(call: &mut Call) {
        call.header_parameter("If-Match");
    }
}

impl<T: ToSchema> DescribeInput for Json<T> {
    fn describe(call: &mut Call) {
        let content = call.json::<T>();
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        call.request_body = Some(body.content("application/json", content).build());
    }
}

impl<T: IntoParams> DescribeInput for Query<T> {
    fn describe(call: &mut Call) {
        call.parameters.extend(T::into_params(|| Some(ParameterIn::Query)));
    }
}

/// A return type of handlers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how it appears in the API's description",
    note = "return a type of `http::reply`, or implement `DescribeOutput`"
)]
pub trait DescribeOutput {
    fn describe(call: &mut Call);
}

impl<T: DescribeOutput> DescribeOutput for Result<T, ApiError> {
    fn describe(call: &mut Call) {
        T::describe(call);
    }
}

impl<T: ToSchema> DescribeOutput for axum::Json<T> {
    fn describe(call: &mut Call) {
        call.json_response::<T>(200);
    }
}

/// A handler, by the tuple of its arguments.
pub trait DescribeHandler<Arguments> {
    fn describe(call: &mut Call);
}

/// Describes a handler.
pub fn describe_handler<A, H: DescribeHandler<A>>(_: H, call: &mut Call) {
    H::describe(call);
}

macro_rules! describe_functions {
    ($(($($argument:ident),*);)+) => {
        $(impl<F, R, $($argument),*> DescribeHandler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R,
            R: Future<Output: DescribeOutput>,
            $($argument: DescribeInput),*
        {
            fn describe(call: &mut Call) {
                $($argument::describe(call);)*
                R::Output::describe(call);
            }
        })+
    };
}

describe_functions! {
    ();
    (A);
    (A, B);
    (A, B, C);
    (A, B, C, D);
    (A, B, C, D, E);
    (A, B, C, D, E, G);
}

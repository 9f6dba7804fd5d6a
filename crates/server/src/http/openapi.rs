//! The OpenAPI document of the service, made from the same list of endpoints as its router.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;
use longreel_jobs::JobState;
use serde_json::{Map, Value, json};

use super::schemas;
use crate::films::ModelInfo;
use crate::shared::Shared;

/// What a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    Nothing,
    /// JSON of a named schema.
    Json(&'static str),
    /// The same as JSON or as a form, which may carry files.
    JsonOrForm(&'static str),
}

/// What an answer's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// There is none.
    Nothing,
    /// JSON of a named schema.
    Json(&'static str),
    /// Something else, by its content type.
    Of(&'static str),
}

/// One address and method: who answers, and what a client may know of it.
pub struct Endpoint {
    method: &'static str,
    path: &'static str,
    name: &'static str,
    summary: &'static str,
    query: &'static [Query],
    body: Body,
    answers: Vec<(u16, Answer)>,
    problems: &'static [u16],
    is_open: bool,
    handler: MethodRouter<Arc<Shared>>,
}

/// A parameter in an address, behind the question mark: its name, what it can be, and its meaning.
pub type Query = (&'static str, Values, &'static str);

/// What a parameter can be.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// Any text.
    Text,
    /// A whole number between these, both included.
    Whole(u64, u64),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Some of the states of a job, with commas between them.
    States,
}

impl Values {
    fn schema(self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::Whole(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            Self::OneOf(texts) => json!({"type": "string", "enum": texts}),
            Self::States => {
                let states = JobState::ALL.map(JobState::as_str);
                json!({"type": "array", "items": {"type": "string", "enum": states}})
            }
        }
    }
}

impl Endpoint {
    /// An endpoint without parameters; `name` is what generated clients call it.
    pub fn new(
        method: &'static str,
        path: &'static str,
        name: &'static str,
        summary: &'static str,
        handler: MethodRouter<Arc<Shared>>,
    ) -> Self {
        let answers = Vec::new();
        let (query, problems) = (&[] as &[Query], &[] as &[u16]);
        let (body, is_open) = (Body::Nothing, false);
        Self { method, path, name, summary, query, body, answers, problems, is_open, handler }
    }

    /// Whoever may connect may call it.
    pub fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    /// Takes these parameters.
    pub fn query(self, query: &'static [Query]) -> Self {
        Self { query, ..self }
    }

    /// Takes this body.
    pub fn takes(self, body: Body) -> Self {
        Self { body, ..self }
    }

    /// Answers so when it goes well.
    pub fn gives(mut self, status: u16, answer: Answer) -> Self {
        self.answers.push((status, answer));
        self
    }

    /// Answers with a file, or with a part of it, or that it is as the client has it.
    pub fn gives_file(self, content_type: &'static str) -> Self {
        let file = Answer::Of(content_type);
        self.gives(200, file).gives(206, file).gives(304, Answer::Nothing)
    }

    /// Answers with what was taken in, or was known already by its idempotency key.
    pub fn gives_new(self, answer: Answer) -> Self {
        self.gives(201, answer).gives(200, answer)
    }

    /// Answers with a problem of one of these statuses when it does not.
    pub fn fails(self, problems: &'static [u16]) -> Self {
        Self { problems, ..self }
    }
}

/// The routers of the endpoints that are open and of those that want a caller who may.
pub fn routers(endpoints: Vec<Endpoint>) -> [Router<Arc<Shared>>; 2] {
    let (open, admitted): (Vec<_>, Vec<_>) = endpoints.into_iter().partition(|e| e.is_open);
    [open, admitted].map(|endpoints| {
        let add =
            |router: Router<_>, endpoint: Endpoint| router.route(endpoint.path, endpoint.handler);
        endpoints.into_iter().fold(Router::new(), add)
    })
}

/// The document. `film` is the schema of what a film can be asked for by.
pub fn document(endpoints: &[Endpoint], model: &ModelInfo, film: &Value) -> Value {
    let mut paths = BTreeMap::<&str, Map<String, Value>>::new();
    for endpoint in endpoints {
        let methods = paths.entry(endpoint.path).or_default();
        methods.insert(endpoint.method.to_ascii_lowercase(), operation(endpoint));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Longreel",
            "version": model.program_version,
            "description": "Films of any length by SkyReels-V2 on your own machine. The addresses \
                under /v1/videos are those of the OpenAI videos API, with what goes beyond it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(film),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "longreel_session"},
            },
        },
        // On this machine alone the server may want no key.
        "security": [{"key": []}, {"session": []}, {}],
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut parameters: Vec<Value> = endpoint.path.split('/').filter_map(in_path).collect();
    parameters.extend(endpoint.query.iter().map(|(name, values, meaning)| {
        // A list is one value with commas.
        json!({"name": name, "in": "query", "description": meaning, "explode": false,
            "schema": values.schema()})
    }));
    let mut responses = Map::new();
    for (status, answer) in &endpoint.answers {
        responses.insert(status.to_string(), response(*status, *answer));
    }
    for status in endpoint.problems {
        responses.insert(status.to_string(), problem());
    }
    // Limits, keys, and what is wrong with the machine: any address may say so.
    responses.insert("default".into(), problem());
    let mut operation = json!({
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if endpoint.is_open {
        operation["security"] = json!([]);
    }
    let content = match endpoint.body {
        Body::Nothing => return operation,
        Body::Json(name) => json!({"application/json": {"schema": reference(name)}}),
        Body::JsonOrForm(name) => json!({
            "application/json": {"schema": reference(name)},
            "multipart/form-data": {"schema": reference(name)},
        }),
    };
    operation["requestBody"] = json!({"required": true, "content": content});
    operation
}

fn in_path(part: &str) -> Option<Value> {
    let name = part.strip_prefix('{')?;
    // `{n}.m4s` is a parameter with an ending.
    let name = name.split('}').next()?;
    let schema = match name {
        "id" => json!({"type": "string", "format": "uuid"}),
        "n" => json!({"type": "integer", "minimum": 0}),
        _ => json!({"type": "string"}),
    };
    Some(json!({"name": name, "in": "path", "required": true, "schema": schema}))
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn response(status: u16, answer: Answer) -> Value {
    let description = match status {
        201 => "Taken in",
        204 => "Done, nothing to say",
        206 => "A part of it",
        _ => "As asked",
    };
    match answer {
        Answer::Nothing => json!({"description": description}),
        Answer::Json(name) => json!({
            "description": description,
            "content": {"application/json": {"schema": reference(name)}},
        }),
        Answer::Of(content_type) => {
            json!({"description": description, "content": {content_type: {}}})
        }
    }
}

fn problem() -> Value {
    json!({
        "description": "A problem, with a stable code",
        "content": {"application/problem+json": {"schema": reference("Problem")}},
    })
}

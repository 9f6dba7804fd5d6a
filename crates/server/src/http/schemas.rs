//! The shapes of what goes over HTTP, as JSON Schema. [`super::view`] and its like write them; that they
//! are what is written is tested by validating real answers.

use serde_json::{Value, json};

use crate::code::Code;

fn maybe(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// Extra properties beside those of an object's schema.
fn with(schema: &Value, more: Value) -> Value {
    let mut schema = schema.clone();
    if let (Some(all), Value::Object(more)) = (schema["properties"].as_object_mut(), more) {
        all.extend(more);
    }
    schema
}

/// A request of the videos API: `film`, with files and with what concerns the job.
fn video_request(film: &Value) -> Value {
    let file = |what: &str| {
        json!({
            "type": "string",
            "description": format!("{what}: a file of a form, or a data: or https address in JSON"),
        })
    };
    let more = json!({
        "model": {"type": "string", "description": "The name of a model that the server has"},
        "input_reference": file("The first frame, or a video to go on from"),
        "image": file("The first frame"),
        "end_image": file("The last frame"),
        "video": file("A video to go on from"),
    });
    with(&with(film, more), terms())
}

/// What a request says that is not about the film.
fn terms() -> Value {
    json!({
        "priority": {"type": "integer", "description": "Higher goes first; 0 is usual"},
        "deadline_seconds": {"type": "number", "description": "Fails when it takes longer"},
        "webhook_url": {"type": "string", "description": "Where its end is reported"},
    })
}

/// A request for a film that goes on from another one.
fn going_on(required: Value, more: Value) -> Value {
    let keys = json!({
        "prompt": some_prompt(),
        "seed": {"type": "integer", "minimum": 0},
        "seconds": {"type": ["number", "string"], "description": "Added length"},
        "num_frames": {"type": "integer", "description": "Added frames"},
    });
    with(&with(&request(required, keys), terms()), more)
}

/// A prompt that says something.
fn some_prompt() -> Value {
    json!({"type": "string", "pattern": r"\S", "description": "What it shows"})
}

/// A request that has these keys and no others.
fn request(required: Value, properties: Value) -> Value {
    json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
}

/// All of them by name. `film` is what a film can be asked for by, the program's own.
pub fn all(film: &Value) -> Value {
    let segment = json!({
        "type": "integer", "minimum": 0, "maximum": u32::MAX, "description": "From 0",
    });
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    let models = |what: &str| json!({"type": "array", "description": what, "items": {"$ref": "#/components/schemas/Model"}});
    let object = |required: Value, properties: Value| json!({"type": "object", "required": required, "properties": properties});
    json!({
        "VideoRequest": video_request(film),
        "TaskRequest": with(&video_request(film), json!({
            "duration": {"type": ["number", "string"], "description": "As seconds"},
            "num_inference_steps": {"type": "integer", "description": "As steps"},
            "resolution": {"type": "string", "description": "480p, 540p, 720p or 1080p"},
        })),
        "SteerRequest": request(json!(["prompt"]), json!({"prompt": some_prompt(), "from_segment": segment})),
        "ExtendRequest": going_on(json!([]), json!({})),
        "BranchRequest": going_on(json!(["segment"]), json!({"segment": segment})),
        "SessionRequest": object(json!(["key"]), json!({"key": {"type": "string"}})),
        "Plan": object(json!(["object", "segments", "expected_seconds", "warnings"]), json!({
            "object": {"const": "plan"},
            "segments": maybe("integer"),
            "film_size": {"type": "string", "description": "Of the film, which may be enlarged"},
            "film_fps": {"type": "integer", "description": "With the frames between"},
            "expected_seconds": maybe("number"),
            "memory_bytes": maybe("integer"),
            "finish_bytes": {
                "type": "integer",
                "description": "What of the memory larger frames and those between take",
            },
            "warnings": {"type": "array", "items": {"type": "string"}},
        })),
        "SegmentList": object(json!(["object", "data", "has_more"]), json!({
            "object": {"const": "list"},
            "has_more": {"type": "boolean"},
            "data": {"type": "array", "items": object(
                json!(["segment", "first_frame", "frames", "prompt", "state", "can_branch"]),
                json!({
                    "segment": segment,
                    "first_frame": {"type": "integer"},
                    "frames": {"type": "integer"},
                    "prompt": {"type": "string"},
                    "seed": maybe("integer"),
                    "state": {"enum": ["done", "running", "waiting"]},
                    "thumbnail": maybe("string"),
                    "drift": {"type": ["object", "null"]},
                    "can_branch": {"type": "boolean"},
                }),
            )},
        })),
        "ModelList": object(json!(["object", "data", "installed", "available"]), json!({
            "object": {"const": "list"},
            "data": models("Those that requests can name"),
            "installed": models("Those on this machine that could be served"),
            "available": models("Those that could be fetched"),
            "can_serve": {"type": "boolean", "description": "Whoever asks may have one served"},
            "can_stop": {"type": "boolean", "description": "Whoever asks may have one served no longer"},
        })),
        "Model": object(json!(["id", "object", "created", "owned_by"]), json!({
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
            "state": {"enum": ["served", "leaving", "stopped", "installed", "available"]},
            "revision": {"type": "string"},
            "kind": {"type": "string"},
            "problem": {"type": "string", "description": "Why it cannot be served"},
            "pull": {"type": "string", "description": "The command that fetches it"},
            "defaults": {"type": "object"},
            "is_default": {"type": "boolean", "description": "Makes what names no model"},
            "workers": {"type": "integer", "description": "Workers that have it loaded"},
            "enhance_prompt": {"type": "boolean", "description": "Prompts can be made longer"},
            "upscaler": {"type": "string", "description": "What enlarges: lanczos, or a network"},
            "memory": {
                "type": "object",
                "description": "Of a film as it is made when nothing else is asked for; of a model \
                    that is not served, of its weights where the processor makes the films",
                "properties": {
                    "bytes": {"type": ["integer", "null"]},
                    "available_bytes": {"type": ["integer", "null"]},
                    "fits": {"type": ["boolean", "null"]},
                    "on_gpu": {
                        "type": "boolean",
                        "description": "Of the GPU that makes the films, else of the machine",
                    },
                },
            },
        })),
        "Problem": {
            "type": "object",
            "description": "RFC 9457, with what clients of the OpenAI API look for",
            "required": ["type", "title", "status", "code", "detail", "error"],
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "code": {"enum": codes, "description": "Stable, for programs"},
                "detail": {"type": "string", "description": "What is wrong and what would be right"},
                "request_id": {"type": "string"},
                "field": {"type": "string", "description": "What is wrong: a key, parameter or header"},
                "value": {"type": "string", "description": "What it is, cut where it is long"},
                "limit": {"type": "integer", "description": "The most that is taken"},
                "allowed": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Values that would be taken, not always all of them",
                },
                "retry_after": {"type": "integer", "description": "Seconds until another try is worth it"},
                "error": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                },
            },
        },
        "Video": video(),
        "VideoList": {
            "type": "object",
            "required": ["object", "data", "has_more"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"$ref": "#/components/schemas/Video"}},
                "first_id": maybe("string"),
                "last_id": maybe("string"),
                "has_more": {"type": "boolean"},
            },
        },
        "VideoDeleted": {
            "type": "object",
            "required": ["id", "object", "deleted"],
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "video.deleted"},
                "deleted": {"const": true},
            },
        },
        "Task": {
            "type": "object",
            "required": ["task_id", "status", "progress", "error"],
            "properties": {
                "task_id": {"type": "string"},
                "status": {"enum": ["queued", "processing", "completed", "failed"]},
                "progress": {"type": "number", "minimum": 0, "maximum": 1},
                "warnings": {"type": "array", "items": {"type": "string"}},
                "error": maybe("string"),
            },
        },
        "Health": {
            "type": "object",
            "required": ["status", "model_loaded", "model", "version", "workers"],
            "properties": {
                "status": {"enum": ["healthy", "starting", "disk_full"]},
                "model_loaded": {"type": "boolean"},
                "model": {"type": "string"},
                "version": {"type": "string"},
                "workers": {
                    "type": "array",
                    "items": {"enum": ["starting", "idle", "working", "waiting", "down"]},
                },
            },
        },
        "ModelInfo": object(json!(["model", "revision", "kind", "defaults"]), json!({
            "model": {"type": "string"},
            "revision": {"type": "string"},
            "kind": {"type": "string"},
            "defaults": {"type": "object"},
        })),
        "Anything": {"type": "object"},
    })
}

fn video() -> Value {
    json!({
        "type": "object",
        "required": ["id", "object", "model", "status", "progress", "created_at", "prompt", "state"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "object": {"const": "video"},
            "model": {"type": "string"},
            "status": {"enum": ["queued", "in_progress", "completed", "failed"]},
            "progress": {"type": "integer", "minimum": 0, "maximum": 100},
            "created_at": {"type": "integer", "description": "Seconds since 1970"},
            "completed_at": maybe("integer"),
            "expires_at": maybe("integer"),
            "prompt": {"type": "string"},
            "size": maybe("string"),
            "seconds": maybe("string"),
            "remixed_from_video_id": maybe("string"),
            "error": {
                "type": ["object", "null"],
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            },
            "state": {"enum": ["queued", "running", "completed", "failed", "cancelled"]},
            "paused": {"type": "boolean"},
            "stopping": {"enum": ["cancel", "pause", null]},
            "queue_position": maybe("integer"),
            "attempts": {"type": "integer", "description": "Times it was given to a worker"},
            "seed": {"type": "integer"},
            "model_revision": {"type": "string"},
            "num_frames": maybe("integer"),
            "fps": maybe("integer"),
            "steps": maybe("integer"),
            "guidance_scale": maybe("number"),
            "segments": maybe("integer"),
            "segments_done": {"type": "integer"},
            "frames_done": {"type": "integer"},
            "left_seconds": maybe("number"),
            "expected_seconds": maybe("number"),
            "warnings": {"type": ["array", "null"], "items": {"type": "string"}},
            "command": {"type": ["string", "null"], "description": "The command that makes it"},
            "drift": {"type": ["object", "null"]},
            "timings": {"type": "object"},
            "artifacts": {"type": "array", "items": {"type": "object"}},
        },
    })
}

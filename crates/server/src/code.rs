//! Stable names of what is refused and of what films fail for: for programs, and for a page that says
//! it in the language of whoever reads it.

use serde_json::Value;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A stable name of what is refused or of what a film fails for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As programs know it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

codes! {
    /// An address that leads to this machine or its neighbours.
    AddressNotAllowed = "address_not_allowed",
    /// An address that does not answer as it should.
    AddressUnreachable = "address_unreachable",
    /// The state that a film was to begin with cannot be used.
    BeginningUnusable = "beginning_unusable",
    /// A body that ended before its end.
    BodyIncomplete = "body_incomplete",
    /// A body that is too long.
    BodyTooLarge = "body_too_large",
    /// The database is locked.
    Busy = "busy",
    /// A film that was not finished in time.
    DeadlineExceeded = "deadline_exceeded",
    /// There is no room on the disk.
    DiskFull = "disk_full",
    /// The server ends.
    Ending = "ending",
    /// The language model that makes prompts longer does not answer.
    EnhancerFailed = "enhancer_failed",
    /// A file that came with a job is gone.
    FileGone = "file_gone",
    /// There is no store of files.
    FileIdNotSupported = "file_id_not_supported",
    /// A file under a key that takes none.
    FileNotTaken = "file_not_taken",
    /// A file that is nothing that can be used.
    FileNotUsable = "file_not_usable",
    /// A file that is too long.
    FileTooLarge = "file_too_large",
    /// A film that nothing can go on from, since it is gone.
    FilmGone = "film_gone",
    /// A film that failed while it was made.
    GenerationFailed = "generation_failed",
    /// A GPU that could not go on.
    GpuFailed = "gpu_failed",
    /// A GPU whose memory is not enough.
    GpuOutOfMemory = "gpu_out_of_memory",
    /// A host that is not this machine, where only this machine may ask.
    HostNotAllowed = "host_not_allowed",
    /// An idempotency key that was used for something else.
    IdempotencyConflict = "idempotency_conflict",
    /// Something of ours failed.
    Internal = "internal",
    /// A form that cannot be read.
    InvalidForm = "invalid_form",
    /// A body that is no JSON.
    InvalidJson = "invalid_json",
    /// A job that cannot be made with the model as it is.
    InvalidRequest = "invalid_request",
    /// A value that cannot be taken.
    InvalidValue = "invalid_value",
    /// A job that this version cannot read.
    JobUnreadable = "job_unreadable",
    /// A key whose time is over.
    KeyExpired = "key_expired",
    /// A header that is not that of a key.
    KeyMalformed = "key_malformed",
    /// There is no key.
    KeyMissing = "key_missing",
    /// A key that was revoked.
    KeyRevoked = "key_revoked",
    /// A key that nobody made.
    KeyUnknown = "key_unknown",
    /// A limit of the caller's or of a film is reached.
    LimitReached = "limit_reached",
    /// An address that does not take the method.
    MethodNotAllowed = "method_not_allowed",
    /// The model is another one than the one that made the film.
    ModelChanged = "model_changed",
    /// A model that cannot be missed, since it makes what names no model.
    ModelIsDefault = "model_is_default",
    /// There is no model of this name.
    ModelNotFound = "model_not_found",
    /// A job's model is not served any more.
    ModelNotServed = "model_not_served",
    /// A model that cannot be loaded.
    ModelUnusable = "model_unusable",
    /// Another film that is not finished needs this one.
    NeededByAnother = "needed_by_another",
    /// A stream without a part yet.
    NoPartYet = "no_part_yet",
    /// Not in this state.
    NotAllowedInState = "not_allowed_in_state",
    /// A film that is not finished.
    NotCompleted = "not_completed",
    /// There is nothing of this name.
    NotFound = "not_found",
    /// Nothing of a film can be kept.
    NothingToKeep = "nothing_to_keep",
    /// A page of another origin.
    OriginNotAllowed = "origin_not_allowed",
    /// Memory ran out.
    OutOfMemory = "out_of_memory",
    /// The model's answer is no number.
    OutputNotFinite = "output_not_finite",
    /// A priority that is not the caller's to ask for.
    PriorityNotAllowed = "priority_not_allowed",
    /// The queue of all is full.
    QueueFull = "queue_full",
    /// A range that is not in the file.
    RangeNotSatisfiable = "range_not_satisfiable",
    /// Too many calls.
    RateLimited = "rate_limited",
    /// A key that may not do that.
    ScopeMissing = "scope_missing",
    /// A segment that is begun already.
    SegmentBegun = "segment_begun",
    /// A segment whose state is not kept.
    SegmentNotKept = "segment_not_kept",
    /// A segment that is not made yet.
    SegmentNotMade = "segment_not_made",
    /// No worker has its model loaded yet.
    Starting = "starting",
    /// A film's files could not be read or written.
    StorageFailed = "storage_failed",
    /// A key that nothing is asked for by.
    UnknownKey = "unknown_key",
    /// A content type that is not taken.
    UnsupportedMediaType = "unsupported_media_type",
    /// A worker died again and again.
    WorkerDied = "worker_died",
}

/// What a refusal is about, as data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct About {
    /// The key, parameter or header.
    pub field: Option<String>,
    /// What was given, cut.
    pub value: Option<String>,
    /// The most that is taken.
    pub limit: Option<u64>,
    /// Values that would be taken; not always all of them.
    pub allowed: Vec<String>,
}

/// Longest value that is told, in characters.
const SHOWN: usize = 200;

impl About {
    /// Of a field that is not there, or is wrong whatever it is.
    pub fn field(field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::default() }
    }

    /// Of a field and its value.
    pub fn value(field: impl Into<String>, value: impl ToString) -> Self {
        let value = value.to_string().chars().take(SHOWN).collect();
        Self { field: Some(field.into()), value: Some(value), ..Self::default() }
    }

    /// Writes it beside the other members of a problem.
    pub(crate) fn write(&self, problem: &mut Value) {
        if let Some(field) = &self.field {
            problem["field"] = field.as_str().into();
        }
        if let Some(value) = &self.value {
            problem["value"] = value.as_str().into();
        }
        if let Some(limit) = self.limit {
            problem["limit"] = limit.into();
        }
        if !self.allowed.is_empty() {
            problem["allowed"] = self.allowed.clone().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longreel_jobs::JobError;

    #[test]
    fn each_code_has_a_name_of_its_own_and_those_of_the_store_are_among_them() {
        let names: std::collections::HashSet<_> =
            Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for (code, name) in [
            (Code::WorkerDied, JobError::WORKER_DIED),
            (Code::OutOfMemory, JobError::OUT_OF_MEMORY),
            (Code::DeadlineExceeded, JobError::DEADLINE_EXCEEDED),
        ] {
            assert_eq!(code.name(), name);
        }
    }
}

-- Jobs, their events and artifacts, and what owners were given.

CREATE TABLE jobs (
    -- The order in which jobs were taken in, whatever the clocks said.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE CHECK (length(id) = 36),
    owner TEXT NOT NULL,
    idempotency_key TEXT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    stop TEXT CHECK (stop IN ('cancel', 'pause')),

    prompt TEXT NOT NULL,
    request TEXT NOT NULL,
    resolved TEXT NOT NULL,
    seed TEXT NOT NULL,
    model TEXT NOT NULL,
    model_revision TEXT NOT NULL,
    program_version TEXT NOT NULL,
    priority INTEGER NOT NULL,
    frames INTEGER CHECK (frames >= 0),
    parent TEXT,
    relation TEXT CHECK (relation IN ('remix', 'extend', 'branch')),
    parent_segment INTEGER CHECK (parent_segment >= 0),
    webhook_url TEXT,
    deadline_ms INTEGER,

    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    deaths INTEGER NOT NULL DEFAULT 0 CHECK (deaths >= 0),
    deaths_in_row INTEGER NOT NULL DEFAULT 0 CHECK (deaths_in_row BETWEEN 0 AND deaths),
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    first_frame_ms INTEGER,
    finished_ms INTEGER,

    progress TEXT,
    segments_done INTEGER NOT NULL DEFAULT 0 CHECK (segments_done >= 0),
    frames_done INTEGER NOT NULL DEFAULT 0 CHECK (frames_done >= 0),
    prompts TEXT NOT NULL DEFAULT '[]',
    prompts_revision INTEGER NOT NULL DEFAULT 0,
    drift TEXT,
    error_code TEXT,
    error_message TEXT,
    last_event INTEGER NOT NULL DEFAULT 0,

    worker TEXT,
    lease_token TEXT UNIQUE,
    -- How long the lease lasts from a renewal.
    lease_ms INTEGER CHECK (lease_ms > 0),
    lease_renewed_ms INTEGER,
    lease_expires_ms INTEGER,

    CHECK (paused = 0 OR state = 'queued'),
    CHECK (stop IS NULL OR state = 'running'),
    CHECK ((state = 'running') = (lease_token IS NOT NULL)),
    CHECK ((lease_token IS NULL) = (worker IS NULL)),
    CHECK ((lease_token IS NULL) = (lease_ms IS NULL)),
    CHECK ((lease_token IS NULL) = (lease_renewed_ms IS NULL)),
    CHECK ((lease_token IS NULL) = (lease_expires_ms IS NULL)),
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_ms IS NOT NULL)),
    CHECK ((state = 'failed') = (error_code IS NOT NULL)),
    CHECK ((error_code IS NULL) = (error_message IS NULL)),
    CHECK ((parent IS NULL) = (relation IS NULL)),
    CHECK (attempts > 0 OR state NOT IN ('running', 'completed'))
) STRICT;

CREATE UNIQUE INDEX jobs_by_idempotency ON jobs (owner, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
-- Lists of one owner, or of all (by id, which is unique already).
CREATE INDEX jobs_by_owner ON jobs (owner, id);
CREATE INDEX jobs_by_state ON jobs (state, id);
-- The queue: each owner's next job is found without reading any job.
CREATE INDEX jobs_waiting ON jobs (owner, priority DESC, seq, paused, deadline_ms, model)
    WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (owner) WHERE state = 'running';
CREATE INDEX jobs_finished ON jobs (finished_ms) WHERE finished_ms IS NOT NULL;
CREATE INDEX jobs_by_parent ON jobs (parent) WHERE parent IS NOT NULL;
CREATE INDEX jobs_by_deadline ON jobs (deadline_ms)
    WHERE deadline_ms IS NOT NULL AND state = 'queued';

CREATE TRIGGER jobs_begin_queued BEFORE INSERT ON jobs
WHEN NEW.state <> 'queued'
BEGIN
    SELECT RAISE(ABORT, 'a job begins as queued');
END;

-- The table of steps, which is also the function `allows` of the program.
CREATE TRIGGER jobs_steps BEFORE UPDATE OF state ON jobs
WHEN NEW.state <> OLD.state AND NOT (
    (OLD.state = 'queued' AND NEW.state IN ('running', 'failed', 'cancelled'))
    OR (OLD.state = 'running' AND NEW.state IN ('queued', 'completed', 'failed', 'cancelled'))
)
BEGIN
    SELECT RAISE(ABORT, 'a job cannot take this step');
END;

CREATE TRIGGER jobs_keep_running BEFORE DELETE ON jobs
WHEN OLD.state = 'running'
BEGIN
    SELECT RAISE(ABORT, 'a running job is not deleted');
END;

-- What was asked does not change afterwards, and a lease is not handed from worker to worker.
CREATE TRIGGER jobs_keep_request
BEFORE UPDATE OF id, owner, request, resolved, seed, model, model_revision, created_ms ON jobs
WHEN NEW.id <> OLD.id OR NEW.owner <> OLD.owner OR NEW.request <> OLD.request
    OR NEW.resolved <> OLD.resolved OR NEW.seed <> OLD.seed OR NEW.model <> OLD.model
    OR NEW.model_revision <> OLD.model_revision OR NEW.created_ms <> OLD.created_ms
BEGIN
    SELECT RAISE(ABORT, 'what was asked does not change');
END;

CREATE TRIGGER jobs_one_lease BEFORE UPDATE OF lease_token ON jobs
WHEN OLD.lease_token IS NOT NULL AND NEW.lease_token IS NOT NULL
    AND NEW.lease_token <> OLD.lease_token
BEGIN
    SELECT RAISE(ABORT, 'a job that is leased is not leased again');
END;

CREATE TABLE events (
    -- The order over all jobs, never given twice.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL CHECK (seq > 0),
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL
        CHECK (kind IN ('state', 'progress', 'segment', 'preview', 'drift', 'done')),
    data TEXT NOT NULL,
    UNIQUE (job, seq)
) STRICT;

CREATE TABLE artifacts (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    -- 1 for those of which a film has one for each segment; a job's record leaves them out.
    per_segment INTEGER NOT NULL CHECK (per_segment IN (0, 1)),
    PRIMARY KEY (job, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX artifacts_of_record ON artifacts (job) WHERE per_segment = 0;

-- Ids under which files may lie that no job owns: of deleted jobs, due at once, and of jobs that are
-- still being asked for, due when that takes too long.
CREATE TABLE removals (
    job TEXT PRIMARY KEY,
    due_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE owners (
    owner TEXT PRIMARY KEY,
    -- Frames given lately, as they counted at work_ms.
    work REAL NOT NULL DEFAULT 0 CHECK (work >= 0),
    work_ms INTEGER NOT NULL DEFAULT 0,
    -- Limits of its own: all or none.
    queued_limit INTEGER CHECK (queued_limit > 0),
    running_limit INTEGER CHECK (running_limit > 0),
    frames_limit INTEGER CHECK (frames_limit > 0),
    CHECK ((queued_limit IS NULL) = (running_limit IS NULL)),
    CHECK (queued_limit IS NOT NULL OR frames_limit IS NULL)
) STRICT, WITHOUT ROWID;

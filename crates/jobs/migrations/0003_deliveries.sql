-- Webhook deliveries and their log.

CREATE TABLE deliveries (
    id TEXT PRIMARY KEY CHECK (length(id) = 36),
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    event TEXT NOT NULL CHECK (event IN ('job.completed', 'job.failed', 'job.cancelled')),
    url TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'given_up')),
    created_ms INTEGER NOT NULL,
    next_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_status INTEGER,
    lease_token TEXT UNIQUE,
    lease_ms INTEGER,
    leased_ms INTEGER,
    -- A job ends once, so it owes each report once.
    UNIQUE (job, event),
    CHECK (lease_token IS NULL OR state = 'pending'),
    CHECK ((lease_token IS NULL) = (lease_ms IS NULL)),
    CHECK ((lease_token IS NULL) = (leased_ms IS NULL))
) STRICT;

CREATE INDEX deliveries_due ON deliveries (next_ms) WHERE state = 'pending';
CREATE INDEX deliveries_by_state ON deliveries (state, id);

CREATE TABLE delivery_attempts (
    delivery TEXT NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number > 0),
    at_ms INTEGER NOT NULL,
    status INTEGER,
    error TEXT,
    duration_ms INTEGER NOT NULL,
    retry_after_ms INTEGER,
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

-- API keys. Of a secret only the hash is kept, and the beginning to tell keys apart.

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY CHECK (length(id) = 36),
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    prefix TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    scopes TEXT NOT NULL,
    per_minute INTEGER CHECK (per_minute > 0),
    burst INTEGER CHECK (burst > 0),
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    revoked_ms INTEGER,
    last_used_ms INTEGER,
    CHECK ((per_minute IS NULL) = (burst IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX api_keys_by_prefix ON api_keys (prefix);

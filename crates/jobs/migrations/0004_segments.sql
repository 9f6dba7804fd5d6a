-- What a film is made of, a row for each finished segment.

CREATE TABLE segments (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    segment INTEGER NOT NULL CHECK (segment >= 0),
    -- Of the film, with this segment.
    frames INTEGER NOT NULL CHECK (frames >= 0),
    at_ms INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    seed TEXT NOT NULL,
    -- The segment's bytes in the film's file behind its head, when it has such.
    part_start INTEGER CHECK (part_start >= 0),
    part_end INTEGER CHECK (part_end >= part_start),
    drift TEXT,
    PRIMARY KEY (job, segment),
    CHECK ((part_start IS NULL) = (part_end IS NULL))
) STRICT, WITHOUT ROWID;

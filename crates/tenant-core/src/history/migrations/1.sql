CREATE TABLE workspaces (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    name TEXT NOT NULL,
    parent_id BLOB REFERENCES workspaces (id),
    created_at INTEGER NOT NULL,
    role TEXT,
    registered_at INTEGER,
    last_seen_at INTEGER,
    CHECK ((registered_at IS NULL) = (last_seen_at IS NULL))
) STRICT;
CREATE INDEX workspaces_by_parent ON workspaces (parent_id);
CREATE INDEX workspaces_by_time ON workspaces (created_at);

-- An id is never given twice, so that a cursor of a deleted entry stays in its place.
CREATE TABLE activity (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id BLOB NOT NULL REFERENCES workspaces (id),
    kind TEXT NOT NULL,
    source_id BLOB CHECK (length(source_id) = 16),
    target_id BLOB CHECK (length(target_id) = 16),
    method TEXT,
    summary TEXT,
    status TEXT,
    duration_ms INTEGER,
    created_at INTEGER NOT NULL
) STRICT;
-- Each ends with the rowid, which is the id: a page is read from one of them in its order.
CREATE INDEX activity_by_time ON activity (created_at);
CREATE INDEX activity_by_workspace ON activity (workspace_id, created_at);
CREATE INDEX activity_by_kind ON activity (kind, created_at);
CREATE INDEX activity_by_source ON activity (source_id, created_at);
CREATE INDEX activity_by_target ON activity (target_id, created_at);

CREATE TABLE conversations (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    user_id TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX conversations_by_time ON conversations (created_at);

-- An id is never given twice: summaries are collected by it.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversations (seq),
    author TEXT NOT NULL CHECK (author IN ('user', 'app')),
    -- The person who wrote the message, or to whom the app replies.
    user_id TEXT NOT NULL,
    text TEXT NOT NULL,
    -- As the app reports them.
    tokens INTEGER NOT NULL CHECK (tokens >= 0),
    -- 0: the app's reply broke off.
    is_complete INTEGER NOT NULL CHECK (is_complete IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_by_conversation ON messages (conversation, created_at);

-- What the control plane may know of each person's part in a conversation. No text.
CREATE TABLE summaries (
    conversation INTEGER NOT NULL REFERENCES conversations (seq),
    user_id TEXT NOT NULL,
    messages INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    last_activity_at INTEGER NOT NULL,
    -- The id of the last message that is counted.
    position INTEGER NOT NULL UNIQUE,
    PRIMARY KEY (conversation, user_id)
) STRICT, WITHOUT ROWID;

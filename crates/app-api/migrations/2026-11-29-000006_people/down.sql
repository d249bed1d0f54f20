DROP TRIGGER users_rotate_sessions ON users;
DROP FUNCTION users_rotate_sessions();
ALTER TABLE sessions
    DROP CONSTRAINT sessions_rotation,
    DROP COLUMN expires_at,
    DROP COLUMN address,
    DROP COLUMN user_agent,
    DROP COLUMN must_rotate,
    DROP COLUMN previous_token_hash,
    DROP COLUMN rotated_at;
DROP INDEX users_by_role;
CREATE UNIQUE INDEX users_one_owner ON users (role) WHERE role = 'owner';
ALTER TABLE users DROP CONSTRAINT users_role_check;
ALTER TABLE users ADD CONSTRAINT users_role_check CHECK (role IN ('owner'));

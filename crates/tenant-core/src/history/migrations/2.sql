-- A filter by workspace and kind together would read all of the workspace.
CREATE INDEX activity_by_workspace_and_kind ON activity (workspace_id, kind, created_at);
-- The relatives of a workspace are those that are registered, in the order of their numbers.
CREATE INDEX workspaces_registered_by_parent ON workspaces (parent_id) WHERE registered_at IS NOT NULL;

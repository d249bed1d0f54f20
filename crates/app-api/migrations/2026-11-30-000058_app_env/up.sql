-- Variables and secrets of an app, encrypted with a key of the app. The rows of its tenants hold a copy.
ALTER TABLE apps ADD COLUMN sealed_env text;

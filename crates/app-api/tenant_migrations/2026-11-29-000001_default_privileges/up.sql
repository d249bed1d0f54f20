-- Runs as the role of the tenant. Postgres grants PUBLIC the use of every new function and type; here nobody but the
-- tenant gets any right on what the tenant makes.
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC;

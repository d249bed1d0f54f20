-- PostgreSQL database dump
\restrict x7Gh
SET statement_timeout = 0;
CREATE SCHEMA t_a;
CREATE FUNCTION t_a.f() RETURNS integer LANGUAGE sql SET search_path TO 't_a' AS $_$SELECT t_a.g($1);$_$;
CREATE FUNCTION t_a.g() RETURNS integer BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END;
CREATE POLICY p ON t_a.x TO t_a USING (a = E'\'t_a.x');
COPY t_a.x (a) FROM stdin;
1	\\.
\.

SELECT pg_catalog.setval('t_a.s', 5, true);

-- One role per service. Nobody logs in as these; `caracal migrate` attaches a login to each (docs/operating/database.md).
-- Roles belong to the cluster, not to this database: another database's migration may be creating them right now.
SET LOCAL lock_timeout = '5s';

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[
        'caracalapi', 'caracalsts', 'caracalgateway', 'caracalaudit', 'caracalcoordinator', 'caracalauth'
    ] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format(
                    'CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS INHERIT NOCREATEROLE %s',
                    role_name, CASE role_name WHEN 'caracalauth' THEN 'CREATEDB' ELSE 'NOCREATEDB' END);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- somebody else was faster
            END;
        END IF;
    END LOOP;
END
$$;
